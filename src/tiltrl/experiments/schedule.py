"""Which cell runs when: those of one run's folder one after the other, those of different folders side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Protocol

from tiltrl.experiments.cell import Job
from tiltrl.experiments.record import Record

PAUSE = 0.2
"""Seconds between two looks at what runs."""


class Executor(Protocol):
    """Where jobs run."""

    def start(self, job: Job) -> None:
        """Start it, and return at once."""
        ...

    def ended(self) -> list[Record]:
        """What came of the jobs that have ended since this was last asked."""
        ...

    def stop(self) -> list[Record]:
        """Interrupt all that run, and wait for them; what came of those that were done by then."""
        ...


class Board(Protocol):
    """What the user sees of it."""

    def started(self, job: Job) -> None:
        """A job was started."""
        ...

    def ended(self, record: Record) -> None:
        """A job has ended."""
        ...


def startable(waiting: Sequence[Job], busy: Collection[Path], at_once: int) -> list[Job]:
    """The jobs to start now, in order.

    Args:
        waiting: jobs that have not been started.
        busy: run folders that a job works in.
        at_once: jobs that may run at the same time.
    """
    taken, found = set(busy), []
    for job in waiting:
        if len(taken) >= at_once:
            break
        if job.folder not in taken:
            taken.add(job.folder)
            found.append(job)
    return found


def run_jobs(
    jobs: Sequence[Job], executor: Executor, at_once: int, board: Board, keep: Callable[[Record], None]
) -> None:
    """Run all jobs, whatever becomes of some; interrupted, let those that run save their work.

    Args:
        jobs: in order of preference.
        executor: where they run.
        at_once: how many at the same time, at most.
        board: hears of each start and end.
        keep: is given what came of each job, once it has ended.

    Raises:
        BaseException: an interrupt, or what `keep` raises; nothing runs anymore by then.
    """
    waiting, busy = list(jobs), dict[str, Path]()

    def note(record: Record) -> None:
        keep(record)
        board.ended(record)
        busy.pop(record.cell.key, None)

    try:
        while waiting or busy:
            for job in startable(waiting, busy.values(), at_once):
                waiting.remove(job)
                busy[job.cell.key] = job.folder  # first: an interrupt may come as soon as it has started
                executor.start(job)
                board.started(job)
            for record in executor.ended():
                note(record)
            time.sleep(PAUSE)
    except BaseException:
        for record in executor.stop():
            note(record)
        raise
