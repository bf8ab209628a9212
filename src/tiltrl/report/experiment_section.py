"""What a page tells of an experiment: its tables, its figure, and every cell of its grid."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tiltrl.errors import InputError
from tiltrl.experiments.cell import Cell, log_of
from tiltrl.experiments.figure import picture
from tiltrl.experiments.folder import Asked, asked_of
from tiltrl.experiments.grids import EXPERIMENTS
from tiltrl.experiments.record import Record, kept
from tiltrl.experiments.tables import Results, chapters, preamble, units
from tiltrl.files import read_tail
from tiltrl.report import parts
from tiltrl.report.parts import Duration, Part, Picture, Section, Table
from tiltrl.report.pictures import any_letters
from tiltrl.report.run_section import WALL_CLOCK, machine_table, took
from tiltrl.report.scores import about_scores
from tiltrl.report.stages import StageRecord, read_stages

LOG_BYTES, LOG_LINES = 16_000, 40
"""Of a failed cell's output, at most, from its end."""
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07")


@dataclass(frozen=True)
class ExperimentRecord:
    """What an experiment's folder tells."""

    title: str
    folder: Path
    asked: Asked
    records: dict[str, Record]  # by the cell's key, of those that have ended
    stages: dict[str, list[StageRecord]]  # of each run, by its folder's name

    @property
    def results(self) -> Results:
        """As the experiment's own tables are made of."""
        return Results(self.asked.name, self.asked.cells, self.records)


def read_experiment(folder: Path, title: str) -> ExperimentRecord:
    """Everything of an experiment that a report shows.

    Raises:
        InputError: a file is damaged, or of another version.
    """
    asked = asked_of(folder)
    if asked is None or not asked.cells:
        raise InputError(f"{folder / 'experiment.json'}: cells: there are none; an experiment has one at least")
    found = {cell.key: record for cell in asked.cells if (record := kept(cell, folder)) is not None}
    runs = sorted(path.parent for path in folder.glob("runs/*/run.json"))
    return ExperimentRecord(title, folder, asked, found, {run.name: read_stages(run) for run in runs})


def experiment_section(record: ExperimentRecord) -> Section:
    """All parts of an experiment's section."""
    asked, results = record.asked, record.results
    left = len(asked.cells) - len(record.records)
    warnings = []
    if left:
        warnings.append(f"unfinished: {left} of {len(asked.cells)} cells are still to run")
    if results.failed:
        warnings.append(f"{len(results.failed)} of {len(asked.cells)} cells failed; their errors are below")
    first = asked.cells[0]
    facts = {
        "experiment": f"{asked.name}: {EXPERIMENTS[asked.name].title}",
        "cells": f"{len(results.done)} done, {len(results.failed)} failed, {left} to run",
        "preset": first.preset if first.budget == 1 else f"{first.preset}, {first.budget:g} of its steps",
        "episodes": f"{first.episodes} a policy and seed",
    }
    built = [
        *_scores(record),
        *_failures(record),
        _cells(record),
        *_trust(record),
        *_stages(record),
        *_machines(record),
    ]
    return Section(record.title, "experiment", tuple(warnings), tuple(facts.items()), tuple(built))


# --- Scores -----------------------------------------------------------------------------------------------------------


def _scores(record: ExperimentRecord) -> Iterator[Part]:
    results = record.results
    if not results.done:
        return
    what = "\n\n".join([_plain(preamble(results)), *units(results), about_scores([r.scores_are for r in results.done])])
    for i, one in enumerate(chapters(results)):
        text = "\n\n".join(text for text in (what if i == 0 else "", _plain(one.text)) if text)
        tables = (Table(f"table-{i + 1}", one.title, one.heads, one.lines),) if one.heads else ()
        yield Part(one.title, text, tables, pictures=(_figure(record),) if i == 0 else ())


def _plain(text: str) -> str:
    """Without Markdown's marks, which are the experiments' own."""
    return text.replace("**", "").replace("`", "")


def _figure(record: ExperimentRecord) -> Picture:
    title = EXPERIMENTS[record.asked.name].title
    with any_letters():
        return Picture("figure", f"{title}; the table below has its numbers.", picture(record.results))


# --- Cells ------------------------------------------------------------------------------------------------------------


def _cells(record: ExperimentRecord) -> Part:
    rows: list[tuple[parts.Cell, ...]] = []
    for cell in record.asked.cells:
        found = record.records.get(cell.key)
        state = "to run" if found is None else found.state
        seeds = str(cell.seed) if cell.seeds == 1 else f"{cell.seed} to {cell.seed + cell.seeds - 1}"
        seconds = None if found is None else Duration(found.seconds)
        command = "" if found is None else " ".join(found.command)
        rows.append((cell.data, cell.method, cell.setting, seeds, state, seconds, command))
    headings = ("data set", "method", "setting", "seeds", "state", "wall-clock", "command")
    note = "A command reuses what another of the same folder has trained, so the first of them takes the longest."
    return Part("Cells", tables=(Table("cells", "The grid", headings, tuple(rows), note),), folded=len(rows) > 30)


def _failures(record: ExperimentRecord) -> Iterator[Part]:
    for one in record.results.failed:
        log = _log_tail(one.cell, record.folder)
        yield Part(f"Failed: {one.cell}", one.error or "it did not say why", log=log or "(no log is there)")


def _log_tail(cell: Cell, folder: Path) -> str:
    """The last lines of what the cell's command said, without colors and without what a terminal would overwrite."""
    path = log_of(cell, folder)
    if not path.is_file():
        return ""
    text = _ESCAPES.sub("", read_tail(path, LOG_BYTES).decode(errors="replace"))
    lines = [line.rpartition("\r")[2] for line in text.replace("\r\n", "\n").split("\n")]
    kept_lines = ["".join(c if c.isprintable() or c == "\t" else "?" for c in line) for line in lines[-LOG_LINES:]]
    return "\n".join(kept_lines).strip("\n")


def _trust(record: ExperimentRecord) -> Iterator[Part]:
    rows: list[tuple[parts.Cell, ...]] = []
    for one in record.results.done:
        for i, check in enumerate(one.trust):
            told = {name: check.get(name) for name in ("verdict", "rank", "trust", "reliability")}
            numbers = (value if isinstance(value, float) else None for name, value in told.items() if name != "verdict")
            rows.append((str(one.cell), one.cell.seed + i, str(told["verdict"]), *numbers))
    if rows:
        headings = ("cell", "seed", "verdict", "rank correlation", "trust", "networks agree")
        yield Part(
            "Can the critics be trusted?", tables=(Table("trust", "On held-out episodes", headings, tuple(rows)),)
        )


def _stages(record: ExperimentRecord) -> Iterator[Part]:
    rows: list[tuple[parts.Cell, ...]] = [
        (run, stage.folder, "finished" if stage.done else "unfinished", stage.steps, took(stage))
        for run, stages in record.stages.items()
        for stage in stages
    ]
    if rows:
        headings = ("run", "stage", "state", "steps taken", "wall-clock")
        table = Table("stages", "Stages of the cells' runs", headings, tuple(rows), WALL_CLOCK)
        yield Part("Stages and wall-clock", tables=(table,), folded=len(rows) > 30)


def _machines(record: ExperimentRecord) -> Iterator[Part]:
    told: dict[str, tuple[Table, int]] = {}
    for one in record.results.done:
        facts = {"versions": one.versions, "hardware": one.hardware}
        table = machine_table(facts, f"machine-{len(told) + 1}")
        before = told.get(repr(table.rows), (table, 0))
        told[repr(table.rows)] = (before[0], before[1] + 1)
    for table, count in told.values():
        yield Part(f"Versions and hardware of {count} cell{'' if count == 1 else 's'}", tables=(table,))
    asked = {"versions": record.asked.versions, "hardware": record.asked.machine}
    yield Part("Where it was asked for", tables=(machine_table(asked, "machine-asked"),), folded=True)
