"""What surrounds a stage's training when it runs from a folder: progress, logs, checkpoints, and a clean stop."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
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
from tiltrl.training.loop import Diverged, Progress
from tiltrl.training.metrics import MetricsLog
from tiltrl.training.optimizer import rate_scale, slowed

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
            # A second signal does not wait for the steps that are being computed.
            if self._stop is not None:
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
        if self._log is not None:
            self._log.close()
        if error is None and self._stop is not None:
            raise KeyboardInterrupt  # asked for after the last step: it is the run that should stop

    def restore(self, progress: Progress) -> tuple[Progress, int]:
        """The newest checkpoint and its step, or the given progress and 0; opens the logs there.

        Raises:
            InputError: what was saved cannot be continued, or the folder cannot be written.
        """
        progress, step = self._checkpoints.restore(progress)
        if step == 0 and self._saving.recover:
            self._save(0, progress)  # a place to go back to from the very first steps
        self.rate_scale = rate_scale(progress)
        self._log = MetricsLog(self._folder, resume_at=step)
        self._saved_at = time.monotonic()
        return progress, step

    def record(self, step: int, steps: int, metrics: dict[str, Any] | None, progress: Progress) -> None:
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
        if due or step == steps or self._stop is not None:
            self._opened.flush()
            self._save(step, progress)
        if self._stop is not None:
            raise KeyboardInterrupt

    def diverged(self, failure: Diverged) -> tuple[Progress, int]:
        """Write down what happened; go back with half the learning rate, if that may still be done.

        Raises:
            InputError: training has diverged once more than it may be taken back.
        """
        where = self._write_down(failure)
        halvings = round(-np.log2(rate_scale(failure.progress)))
        if halvings >= self._saving.recover:
            advice = "" if halvings else "; --recover 3 goes back up to three times, each with half the learning rate"
            raise InputError(f"{failure}; {where} holds the batch, and checkpoints the last good state{advice}") from (
                failure
            )
        progress, step = self._checkpoints.restore(failure.progress)
        progress = slowed(progress)
        self.rate_scale = rate_scale(progress)
        self._save(step, progress)
        self._opened.close()
        self._log = MetricsLog(self._folder, resume_at=step)
        self._say(f"WARNING: {failure}; going back to step {step} with {self.rate_scale:g} times the learning rate")
        return progress, step

    def _write_down(self, failure: Diverged) -> Path:
        """What there is to look at, in a folder of its own; the metrics of the good steps go to the log."""
        folder = self._folder / "diverged"
        save_arrays(folder / "state.safetensors", jax.device_get(failure.progress))
        facts: dict[str, Any] = {"step": failure.step, "what": failure.what, "values": list(map(str, failure.values))}
        if failure.batch is not None:
            batch = jax.device_get(failure.batch)
            save_arrays(folder / "batch.safetensors", batch)
            facts["batch_fingerprint"] = fingerprint(batch)
        if good := len(next(iter(failure.healthy.values()))):
            means = {name: np.mean(rows, axis=0, dtype=np.float64) for name, rows in failure.healthy.items()}
            self._opened.write(failure.step - 1, means)
            self._opened.flush()
            facts["last_good_steps"] = {name: rows[-10:].tolist() for name, rows in failure.healthy.items()}
        write_json(folder / "diverged.json", facts | {"good_steps_in_last_line": good})
        return folder

    @property
    def _opened(self) -> MetricsLog:
        assert self._log is not None, "restore() opens the log"
        return self._log

    def _save(self, step: int, progress: Progress) -> None:
        self._checkpoints.save(step, jax.device_get(progress))
        self._saved_at = time.monotonic()
