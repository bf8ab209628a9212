"""An experiment from its options to its table: the grid, what is there of it, what has to run, and what comes of it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rich.console import Console

from tiltrl.errors import InputError
from tiltrl.experiments import record as records
from tiltrl.experiments.board import LiveBoard
from tiltrl.experiments.cell import Cell, Job, job_of
from tiltrl.experiments.cluster import Cluster, ray_library
from tiltrl.experiments.figure import draw
from tiltrl.experiments.folder import asked_of, open_folder
from tiltrl.experiments.grids import experiment_named, grid
from tiltrl.experiments.local import Local, Program, child_of
from tiltrl.experiments.options import ExperimentOptions
from tiltrl.experiments.record import Record
from tiltrl.experiments.schedule import Executor, run_jobs
from tiltrl.experiments.statistics import check_library
from tiltrl.experiments.tables import Results, markdown, raw_scores
from tiltrl.files import write_atomically

JobOf = Callable[[Cell, Path], Job]


@dataclass(frozen=True)
class Finished:
    """What an experiment has written."""

    table: Path
    numbers: Path
    picture: Path | None  # None where nothing succeeded
    text: str  # of the table
    failed: int
    cells: int


def run_experiment(
    options: ExperimentOptions, console: Console, *, job_of: JobOf = job_of, program: Program = child_of
) -> Finished:
    """Run what is missing or failed of the grid; write table, numbers and picture.

    Args:
        options: of the command line.
        console: where progress is shown.
        job_of: the command of a cell.
        program: what starts a command's process.

    Raises:
        InputError: an option cannot be used, an extra is not installed, or the folder is another's.
    """
    out = options.folder if options.ray is None else options.folder.absolute()  # the same on whichever machine
    experiment_named(options.name)
    cells = grid(options, together=_together(options))
    check_library()
    if options.ray is not None:
        ray_library()
    lock, every = open_folder(out, options.name, cells)
    try:
        found = {cell.key: known for cell in every if (known := records.kept(cell, out)) is not None}
        todo = [cell for cell in cells if cell.key not in found or found[cell.key].state == "failed"]
        done = [found[cell.key] for cell in cells if cell not in todo]

        def keep(record: Record) -> None:
            record = records.of_same_data(record, found.values())
            records.keep(record, out)
            found[record.cell.key] = record

        results = Results(options.name, tuple(every), found)
        if todo:
            try:
                with ExitStack() as stack:
                    executor, at_once = _executor(options, todo, program, stack)
                    board = stack.enter_context(LiveBoard(console, cells, done, at_once))
                    run_jobs([job_of(cell, out) for cell in todo], executor, at_once, board, keep)
            except KeyboardInterrupt:
                _write(results, out, cells)  # what is there by now
                raise
        return _write(results, out, cells)
    finally:
        lock.close()


def _write(results: Results, out: Path, cells: Sequence[Cell]) -> Finished:
    table, numbers, picture = (out / f"{results.name}.{kind}" for kind in ("md", "csv", "png"))
    write_atomically(numbers, raw_scores(results).encode())  # first, as nothing can be wrong with it
    text = markdown(results, str(out))
    write_atomically(table, text.encode())
    drawn = bool(results.done)
    if drawn:
        draw(results, picture)
    failed = sum(results.records[cell.key].state == "failed" for cell in cells if cell.key in results.records)
    return Finished(table, numbers, picture if drawn else None, text, failed, len(cells))


def _executor(
    options: ExperimentOptions, todo: Sequence[Cell], program: Program, stack: ExitStack
) -> tuple[Executor, int]:
    """Where the cells run, and how many at once."""
    lanes = len({cell.folder for cell in todo})
    if options.ray is not None:
        cluster = stack.enter_context(Cluster(options.ray, options.cpus, options.gpus, program))
        return cluster, min(lanes, options.workers or cluster.at_once)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    at_once = min(lanes, options.workers or (1 if has_gpu() else cores))
    # Gone with this process: another machine, which the folder may be moved to, could not run what this one compiles.
    compilations = stack.enter_context(tempfile.TemporaryDirectory(prefix="tiltrl-compilations-"))
    return Local(max(1, cores // at_once), program, compilations=Path(compilations)), at_once


def _together(options: ExperimentOptions) -> bool:
    """Whether the seeds of a cell are trained in one command."""
    if options.seeds_together is not None:
        return options.seeds_together
    if (before := asked_of(options.folder)) is not None:
        return any(cell.seeds > 1 for cell in before.cells)
    if options.seeds == 1:
        return False
    return options.gpus > 0 if options.ray is not None else has_gpu()


@cache
def has_gpu() -> bool:
    """Whether JAX finds a GPU here; asked in a process of its own, as it would take the GPU's memory in this one."""
    asked = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    found = subprocess.run(asked, capture_output=True, text=True, check=False)
    if found.returncode != 0:
        said = found.stderr.strip().splitlines() or ["it said nothing"]
        raise InputError(f"JAX cannot be used here: {said[-1]}")
    return found.stdout.split()[-1] not in ("cpu",)
