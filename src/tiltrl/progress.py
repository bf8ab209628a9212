"""What a user sees while stages run: one line a stage, with the time left."""

from __future__ import annotations

from contextlib import suppress
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Reporter(Protocol):
    """Hears of stages: when one starts, how far it is, and what there is to say."""

    def start(self, stage: str, total: int) -> None:
        """A stage of `total` steps begins."""
        ...

    def update(self, done: int, total: int, metrics: dict[str, Any]) -> None:
        """`done` of `total` steps are taken."""
        ...

    def say(self, message: str) -> None:
        """One line for the user."""
        ...


class LiveProgress:
    """Progress bars on a terminal, plain lines in a file; use as a context manager."""

    def __init__(self, console: Console):
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
            console=console,
            disable=not console.is_terminal,
        )
        self._stage = ""
        self._tenth = 0

    def __enter__(self) -> LiveProgress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # a terminal that was closed; what ended the stages is not to be replaced by that
            self._bars.stop()

    def start(self, stage: str, total: int) -> None:
        """Add the stage's bar."""
        self._stage, self._tenth = stage, 0
        self._task = self._bars.add_task(f"{stage:<10}", total=total, note="")

    def update(self, done: int, total: int, metrics: dict[str, Any]) -> None:
        """Move the bar; without a terminal, print a line every tenth of the way."""
        note = "  ".join(f"{name} {float(np.mean(value)):.4g}" for name, value in list(metrics.items())[:2])
        self._bars.update(self._task, completed=done, total=total, note=note)
        tenth = 10 * done // max(total, 1)
        if not self._console.is_terminal and tenth > self._tenth:
            left = self._bars.tasks[self._task].time_remaining
            when = "" if left is None or done == total else f"  {left:.0f} s left"
            self.say(f"{self._stage:<10} {done}/{total}{when}  {note}")
        self._tenth = tenth

    def say(self, message: str) -> None:
        """Print a line above the bars."""
        self._console.print(message, highlight=False, markup=False, emoji=False, soft_wrap=True)
