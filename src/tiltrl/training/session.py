"""What surrounds a stage's training when it runs from a folder: progress, logs, checkpoints, and a clean stop."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, TypeVar

import jax
import numpy as np

from tiltrl.errors import InputError
from tiltrl.training.checkpoint import Checkpoints
from tiltrl.training.metrics import MetricsLog

State = TypeVar("State")
OnProgress = Callable[[int, int, dict[str, Any]], None]
"""Called with (steps done, steps in all, metrics)."""


class FolderSession:
    """A `Session` that saves by the clock and at the end, and turns Ctrl-C or SIGTERM into a saved stop.

    Use as a context manager: signals are caught only inside.
    """

    def __init__(self, folder: os.PathLike[str] | str, on_progress: OnProgress, save_every: float = 60.0):
        self._checkpoints = Checkpoints(Path(folder) / "checkpoints")
        self._folder = Path(folder)
        self._on_progress = on_progress
        self._save_every = save_every
        self._saved_at = time.monotonic()
        self._stop: int | None = None
        self._log: MetricsLog | None = None
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> FolderSession:
        def request_stop(signum: int, frame: FrameType | None) -> None:
            # A second signal does not wait for the chunk to end.
            if self._stop is not None:
                raise KeyboardInterrupt
            self._stop = signum

        try:
            for signum in (signal.SIGINT, signal.SIGTERM):
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
        self._checkpoints.close()

    def restore(self, state: State) -> tuple[State, int]:
        """The newest checkpoint and its step, or the given state and 0; opens the logs there."""
        state, step = self._checkpoints.restore(state)
        self._log = MetricsLog(self._folder, resume_at=step)
        return state, step

    def record(self, step: int, steps: int, metrics: dict[str, Any], state: Any) -> None:
        """Log and show a chunk's metrics; save when it is time; stop when asked to.

        Raises:
            InputError: a metric is no longer finite: training has diverged, and the last good state is kept.
            KeyboardInterrupt: a signal asked for a stop; the state is saved.
        """
        bad = [name for name, value in metrics.items() if not np.isfinite(value).all()]
        if bad:
            raise InputError(
                f"{self._folder}: {bad[0]} = {np.ravel(metrics[bad[0]]).tolist()} near step {step}: training diverged; "
                "lower the learning rate or look for outliers in the data"
            )
        assert self._log is not None, "restore() opens the log"
        self._log.write(step, metrics)
        self._on_progress(step, steps, metrics)
        due = time.monotonic() - self._saved_at > self._save_every
        if due or step == steps or self._stop is not None:
            self._checkpoints.save(step, jax.block_until_ready(state))
            self._saved_at = time.monotonic()
        if self._stop is not None and step < steps:
            raise KeyboardInterrupt
