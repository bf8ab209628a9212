"""What a user sees while cells run: one table that changes on a terminal, a line an event in a file."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tiltrl.experiments.cell import Cell, Job
from tiltrl.experiments.local import last_line
from tiltrl.experiments.record import Record


def seconds_left(
    todo: Sequence[Cell], ran: Mapping[str, Sequence[float]], running: Sequence[tuple[Cell, float]], at_once: int
) -> float | None:
    """How long the rest will take, by the seconds of the cells that are done.

    Args:
        todo: cells that have not been started.
        ran: seconds of cells that are done, by method.
        running: cells with the seconds since they were started.
        at_once: cells that run at the same time.

    Returns:
        Seconds; None where nothing is done to go by.
    """
    known = {method: sum(seconds) / len(seconds) for method, seconds in ran.items() if seconds}
    if not known:
        return None
    usual = sum(known.values()) / len(known)
    left = sum(known.get(cell.method, usual) for cell in todo)
    left += sum(max(0.0, known.get(cell.method, usual) - elapsed) for cell, elapsed in running)
    lanes = {cell.folder for cell in todo} | {cell.folder for cell, _ in running}
    return left / max(1, min(at_once, len(lanes)))


def duration(seconds: float) -> str:
    """In the two largest units that say something."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


class LiveBoard:
    """Counts, and what each running cell last said; use as a context manager."""

    def __init__(self, console: Console, cells: Sequence[Cell], done: Sequence[Record], at_once: int):
        """Of a grid.

        Args:
            console: where to print.
            cells: all of the grid.
            done: what is known of some of them.
            at_once: cells that run at the same time.
        """
        self._console, self._at_once = console, at_once
        self._todo = {cell.key: cell for cell in cells}
        self._running: dict[str, tuple[Job, float]] = {}
        self._states: Counter[str] = Counter()
        self._ran: dict[str, list[float]] = {}
        self._total = len(cells)
        for record in done:
            self._count(record)
        # Without a terminal Live would print its last table at the end, which says nothing then.
        self._live = Live(console=console, get_renderable=self._table, refresh_per_second=2, transient=True)
        self._shown = console.is_terminal

    def __enter__(self) -> LiveBoard:
        if self._shown:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown:
            with suppress(OSError):  # a terminal that was closed; what ended the cells is not to be replaced by that
                self._live.stop()

    def started(self, job: Job) -> None:
        """It moves from the cells to do to those that run."""
        self._todo.pop(job.cell.key, None)
        self._running[job.cell.key] = job, time.monotonic()
        if not self._shown:
            self._say(f"started  {job.cell}")

    def ended(self, record: Record) -> None:
        """One line that stays."""
        self._running.pop(record.cell.key, None)
        self._count(record)
        what = record.error if record.state == "failed" else f"in {duration(record.seconds)}"
        self._say(f"{record.state:<8} {record.cell}  {what}  ({self._summary()})")

    def _count(self, record: Record) -> None:
        self._todo.pop(record.cell.key, None)
        self._states[record.state] += 1
        if record.state == "done":
            self._ran.setdefault(record.cell.method, []).append(record.seconds)

    def _summary(self) -> str:
        failures = f", {self._states['failed']} failed" if self._states["failed"] else ""
        running = [(job.cell, time.monotonic() - began) for job, began in list(self._running.values())]
        left = seconds_left(list(self._todo.values()), self._ran, running, self._at_once)
        when = f", about {duration(left)} left" if left is not None and (self._todo or running) else ""
        return f"{self._states['done']} of {self._total} done{failures}{when}"

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, caption=Text(self._summary()), caption_justify="left")
        for heading in ("running", "since", ""):
            table.add_column(heading, no_wrap=True, overflow="ellipsis")
        for job, began in list(self._running.values()):
            said = Text(last_line(job.log), "dim")
            table.add_row(Text(str(job.cell)), duration(time.monotonic() - began), said)
        return table

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, emoji=False, soft_wrap=True)
