"""What surrounds a stage's training when it runs from a folder: progress, logs, checkpoints, and a clean stop."""

from __future__ import annotations

import importlib.metadata
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import jax
import numpy as np

from tiltrl.errors import InputError
from tiltrl.files import write_json
from tiltrl.serialization import fingerprint, save_arrays
from tiltrl.signals import STOPS
from tiltrl.training.checkpoint import Checkpoints
from tiltrl.training.loop import Diverged, TrainState, metrics_so_far
from tiltrl.training.metrics import MetricsLog
from tiltrl.training.optimizer import rate_scale, slowed
from tiltrl.training.parallel import any_of

OnProgress = Callable[[int, int, dict[str, Any]], None]
"""Called with (steps done, steps in all, metrics)."""


@dataclass(frozen=True)
class Saving:
    """How a run guards against its own end. None of this changes what is trained, unless training diverges."""

    every: float = 60.0  # seconds between checkpoints; 0: after every burst of steps
    recover: int = 0  # how often to go back to the last checkpoint with half the learning rate


class FolderSession:
    """A `Session` that saves by the clock and at the end, and turns Ctrl-C, SIGTERM and SIGHUP into a saved stop.

    Use as a context manager: signals are caught only inside.
    """

    def __init__(
        self,
        folder: os.PathLike[str] | str,
        on_progress: OnProgress,
        say: Callable[[str], None],
        saving: Saving | None = None,
    ):
        self.rate_scale = 1.0
        """What the learning rate was multiplied by in the end; below 1 where training diverged and was taken back."""
        self._checkpoints = Checkpoints(Path(folder) / "checkpoints", say)
        self._folder = Path(folder)
        self._on_progress = on_progress
        self._say = say
        self._saving = saving or Saving()
        self._saved_at = time.monotonic()
        self._stop: int | None = None
        self._log: MetricsLog | None = None
        self._latest: dict[str, Any] = {}
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> FolderSession:
        """Raises InputError where what was saved is of another version."""
        self._checkpoints.check()

        def request_stop(signum: int, frame: FrameType | None) -> None:
            # Before the first step there is nothing to save, and a second signal does not wait for what is computed.
            if self._stop is not None or self._log is None:
                raise KeyboardInterrupt
            self._stop = signum

        try:
            for signum in STOPS:
                if signal.getsignal(signum) is not signal.SIG_IGN:  # as nohup asks for
                    self._handlers[signum] = signal.signal(signum, request_stop)
        except ValueError:
            # Not the main thread: signals are not ours to catch; the clock's checkpoints remain.
            self._handlers = {}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for signum, handler in self._handlers.items():
            signal.signal(signum, handler)
        self._close_log()
        if error is None and self._stop is not None:
            raise KeyboardInterrupt  # asked for after the last step: it is the run that should stop

    def restore(self, train: TrainState) -> tuple[TrainState, int]:
        """The newest checkpoint and its step, or the given state and 0; opens the logs there.

        Raises:
            InputError: what was saved cannot be continued, or the folder cannot be written.
        """
        found = self._checkpoints.restore(train)
        train, step, facts = (train, 0, {}) if found is None else found
        if changed := [name for name, value in _circumstances().items() if facts.get(name, value) != value]:
            before = ", ".join(f"{name} {facts[name]}" for name in changed)
            self._say(f"{self._folder.name}: begun with {before}: equal up to rounding to a run that was not moved")
        self._resume_log(facts)
        if found is None and self._saving.recover:
            self._save(0, train)  # a place to go back to from the very first steps
        self.rate_scale = rate_scale(train)
        self._saved_at = time.monotonic()
        return train, step

    def record(self, step: int, steps: int, metrics: dict[str, Any] | None, train: TrainState) -> None:
        """Log and show a chunk's metrics; save when it is time; stop when asked to.

        Raises:
            InputError: the folder cannot be written.
            KeyboardInterrupt: a signal asked for a stop; the state is saved.
        """
        if metrics is not None:
            self._latest = metrics
            self._opened.write(step, metrics)
        self._on_progress(step, steps, self._latest)
        due = time.monotonic() - self._saved_at > self._saving.every
        stop = any_of(self._stop is not None)  # of one process: all stop, at the same step
        if due or step == steps or stop:
            self._save(step, train)
        if stop:
            raise KeyboardInterrupt

    def diverged(self, failure: Diverged) -> tuple[TrainState, int]:
        """Write down what happened; go back with half the learning rate, if that may still be done.

        Raises:
            InputError: training has diverged once more than it may be taken back.
        """
        where = self._write_down(failure)
        halvings = round(-np.log2(rate_scale(failure.before)))
        if halvings >= self._saving.recover:
            advice = "" if halvings else "; --recover 3 goes back up to three times, each with half the learning rate"
            raise InputError(f"{failure}; {where} holds its batch and the state before it{advice}") from failure
        found = self._checkpoints.restore(failure.before)
        if found is None:
            raise InputError(
                f"{failure}, and there is no checkpoint to go back to; {where} holds its batch"
            ) from failure
        train, step, facts = found
        train = slowed(train)
        self.rate_scale = rate_scale(train)
        self._close_log()
        self._resume_log(facts)
        self._save(step, train)
        self._say(f"WARNING: {failure}; going back to step {step} with {self.rate_scale:g} times the learning rate")
        return train, step

    def _write_down(self, failure: Diverged) -> Path:
        """What there is to look at, in a folder of its own."""
        folder = self._folder / "diverged"
        save_arrays(folder / "state-before.safetensors", failure.before)
        facts: dict[str, Any] = {"step": failure.step, "what": failure.what, "values": list(map(str, failure.values))}
        if failure.batch is not None:
            save_arrays(folder / "batch.safetensors", failure.batch)
            facts["batch_fingerprint"] = fingerprint(failure.batch)
        rows = metrics_so_far(failure.before, failure.step - 1) if failure.step > 1 else {}
        facts["metrics_of_the_steps_before"] = {name: values.tolist() for name, values in rows.items()}
        write_json(folder / "diverged.json", facts)
        return folder

    @property
    def _opened(self) -> MetricsLog:
        assert self._log is not None, "restore() opens the log"
        return self._log

    def _resume_log(self, facts: Mapping[str, str]) -> None:
        self._log = MetricsLog(self._folder, size=int(facts.get("metrics_bytes", 0)))

    def _close_log(self) -> None:
        log, self._log = self._log, None
        if log is not None:
            log.close()

    def _save(self, step: int, train: TrainState) -> None:
        facts = _circumstances() | {"metrics_bytes": str(self._opened.flush())}
        self._checkpoints.save(step, train, facts)
        self._saved_at = time.monotonic()


def _circumstances() -> dict[str, str]:
    """What decides the last bit of a training step beside its arguments."""
    packages = ("tiltrl", "jax", "jaxlib", "equinox", "optax", "numpy")
    devices = {"device": jax.devices()[0].device_kind, "devices": str(jax.device_count())}
    return {name: importlib.metadata.version(name) for name in packages} | devices
