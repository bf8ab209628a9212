"""Metrics of a stage as plain JSON lines and as TensorBoard events."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import SummaryWriter

from tiltrl.files import write_atomically


class MetricsLog:
    """`metrics.jsonl` (one line a chunk; lists hold one number a member) and TensorBoard events beside it."""

    def __init__(self, folder: os.PathLike[str] | str, resume_at: int = 0):
        """Open the log, dropping lines after `resume_at`: the steps after the last checkpoint are taken again."""
        self.path = Path(folder) / "metrics.jsonl"
        lines = self.path.read_text().splitlines(keepends=True) if self.path.exists() else []
        # A killed process may have left half a last line; it is later than any checkpoint.
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= resume_at]
        write_atomically(self.path, "".join(kept).encode())
        self._file = self.path.open("a")
        self._events = SummaryWriter(str(Path(folder) / "tensorboard"), purge_step=resume_at + 1, flush_secs=30)

    def write(self, step: int, metrics: dict[str, Any]) -> None:
        """Append one line; arrays are written per member, and averaged over members for TensorBoard."""
        self._file.write(json.dumps({"step": step} | {k: np.asarray(v).tolist() for k, v in metrics.items()}) + "\n")
        self._file.flush()
        for name, value in metrics.items():
            self._events.add_scalar(name, float(np.mean(value)), step)

    def close(self) -> None:
        """Flush and close both logs."""
        self._file.close()
        self._events.close()
