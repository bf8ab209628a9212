"""Metrics of a stage as plain JSON lines and as TensorBoard events."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue] (made at run time)
from tensorboardX.summary import scalar

from tiltrl.errors import InputError
from tiltrl.files import write_atomically


class MetricsLog:
    """`metrics.jsonl` (one line a chunk; lists hold one number a member) and TensorBoard events made of the same lines.

    Events are written by this thread, so that a disk that is full is told of where it happens.
    """

    def __init__(self, folder: os.PathLike[str] | str, resume_at: int = 0):
        """Open the log, dropping lines after `resume_at`: the steps after the last checkpoint are taken again.

        Raises:
            InputError: a line before is damaged, or the folder cannot be written.
        """
        self.path = Path(folder) / "metrics.jsonl"
        kept = [line for line in _lines(self.path) if line["step"] <= resume_at]
        write_atomically(self.path, "".join(map(_text, kept)).encode())
        with self._reported():
            # Made anew, because events cannot be taken out of a file, and readers differ in what they skip.
            events = Path(folder) / "tensorboard"
            shutil.rmtree(events, ignore_errors=True)
            events.mkdir(parents=True)
            self._file = self.path.open("a")
            self._events = EventsWriter(str(events / "events"))
            for line in kept:
                self._add_events(line)

    def write(self, step: int, metrics: dict[str, Any]) -> None:
        """Append one line; arrays are written per member, and averaged over members for TensorBoard.

        Raises:
            InputError: the operating system refuses (disk full, no permission).
        """
        line = {"step": step} | {name: np.asarray(value).tolist() for name, value in metrics.items()}
        with self._reported():
            self._file.write(_text(line))
            self._file.flush()  # to be seen at once
            self._add_events(line)

    def flush(self) -> None:
        """Have all lines on the disk itself: a checkpoint must not survive a power cut that its metrics do not.

        Raises:
            InputError: the operating system refuses.
        """
        with self._reported():
            os.fsync(self._file.fileno())
            self._events.flush()

    def close(self) -> None:
        """Flush and close both logs.

        Raises:
            InputError: the operating system refuses.
        """
        with self._reported():
            self._file.close()
            self._events.close()

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
            reason = error.strerror or error
            raise InputError(f"{error.filename or self.path}: cannot be written: {reason}") from error


def _text(line: dict[str, Any]) -> str:
    return json.dumps(line) + "\n"


def _lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a log; a killed process may have left half a last one, which is later than any checkpoint."""
    texts = path.read_text().splitlines(keepends=True) if path.exists() else []
    try:
        return [json.loads(text) for text in texts if text.endswith("\n")]
    except ValueError as error:
        raise InputError(f"{path}: is damaged: {error}; delete the stage's folder to start it again") from error
