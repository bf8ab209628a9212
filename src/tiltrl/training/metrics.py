"""Metrics of a stage as plain JSON lines and as TensorBoard events."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue] (made at run time)
from tensorboardX.summary import scalar

from tiltrl.errors import InputError
from tiltrl.files import reason, write_atomically


class MetricsLog:
    """`metrics.jsonl` (one line a chunk; lists hold one number a member) and TensorBoard events made of the same lines.

    Events are written by this thread, so that a disk that is full is told of where it happens.
    """

    def __init__(self, folder: os.PathLike[str] | str, size: int = 0):
        """Open the log and cut it to the size it had at the checkpoint: the steps after are taken again.

        Raises:
            InputError: it is shorter or damaged, so that steps are missing; or the folder cannot be written.
        """
        self.path = Path(folder) / "metrics.jsonl"
        kept = self._cut(size)
        with self._reported():
            # Made anew, because events cannot be taken out of a file, and readers differ in what they skip.
            events = Path(folder) / "tensorboard"
            events.mkdir(parents=True, exist_ok=True)
            for old in events.glob("events*"):
                old.unlink()
            self._file = self.path.open("a")
            self._events = EventsWriter(str(events / "events"))
            for line in kept:
                self._add_events(line)

    def _cut(self, size: int) -> list[dict[str, Any]]:
        """The lines up to that size; what follows is dropped, be it whole lines or what a power cut left."""
        again = f"steps are missing that its checkpoint has; delete {self.path.parent} to do this stage again"
        content = self.path.read_bytes()[:size] if size else b""
        if len(content) < size:
            raise InputError(f"{self.path}: has {len(content)} bytes of at least {size}: {again}")
        try:
            lines = [json.loads(line) for line in content.splitlines()]
        except ValueError as error:
            raise InputError(f"{self.path}: is damaged ({error}): {again}") from error
        write_atomically(self.path, content)
        return lines

    def write(self, step: int, metrics: dict[str, Any]) -> None:
        """Append one line; arrays are written per member, and averaged over members for TensorBoard.

        Raises:
            InputError: the operating system refuses (disk full, no permission).
        """
        line = {"step": step} | {name: np.asarray(value).tolist() for name, value in metrics.items()}
        with self._reported():
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()  # to be seen at once
            self._add_events(line)

    def flush(self) -> int:
        """Have all lines on the disk itself, and return the log's size.

        A checkpoint must not survive a power cut that its metrics do not.

        Raises:
            InputError: the operating system refuses.
        """
        with self._reported():
            os.fsync(self._file.fileno())
            self._events.flush()
            return self._file.tell()

    def close(self) -> None:
        """Flush and close both logs.

        Raises:
            InputError: the operating system refuses.
        """
        with self._reported(), closing(self._events):
            self._file.close()

    def _add_events(self, line: dict[str, Any]) -> None:
        for name, value in line.items():
            if name != "step":
                summary = scalar(name, float(np.mean(value)))
                self._events.write_event(Event(wall_time=time.time(), step=line["step"], summary=summary))

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(f"{error.filename or self.path}: cannot be written: {reason(error)}") from error
