"""A run's folder, read for a report: what it is, its stages, and the scores of every command that ended in it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tiltrl.config_io import from_json
from tiltrl.errors import InputError
from tiltrl.evaluation.report import Row
from tiltrl.experiments.record import PolicyScores
from tiltrl.files import read_json
from tiltrl.report.stages import StageRecord, read_stages
from tiltrl.results import PolicyEpisodes
from tiltrl.runs import FORMAT
from tiltrl.stages.critics.check import TrustCheck
from tiltrl.trust import CriticCheck
from tiltrl.types import Task

Kind = TypeVar("Kind")

FACTS = "config", "tilts", "preset", "method"
"""Of a results file: with what the scores were made."""


@dataclass(frozen=True)
class Results:
    """One file of scores: results.json, or a baseline's."""

    file: str
    scores_are: str
    rows: tuple[Row, ...]
    episodes: tuple[PolicyEpisodes, ...]
    trust: tuple[TrustCheck, ...]
    facts: dict[str, Any]  # of `FACTS`, and `data`, `versions`, `hardware`


@dataclass(frozen=True)
class RunRecord:
    """What a run's folder tells."""

    title: str
    identity: dict[str, Any]  # run.json
    task: Task | None  # None where run.json names none, as a distillation's
    stages: tuple[StageRecord, ...]
    results: tuple[Results, ...]
    checks: tuple[tuple[str, CriticCheck], ...]  # of `tiltrl critic check`, with the file of each


def read_run(folder: Path, title: str) -> RunRecord:
    """Everything of a run that a report shows.

    Raises:
        InputError: a file is damaged, or of another version.
    """
    path = folder / "run.json"
    identity = read_json(path)
    if (found := identity.get("format")) != FORMAT:
        raise InputError(f"{path}: format = {found!r:.100}, this TiltRL reads {FORMAT}; use the version that wrote it")
    task = identity.pop("task", None)
    files = [folder / "results.json", *sorted(folder.glob("baseline-*.json"))]
    checked = [folder / "critic-check.json", *sorted(folder.glob("critic-*/critic-check.json"))]
    return RunRecord(
        title,
        identity,
        None if task is None else from_json(Task, task, f"{path}: task"),
        tuple(read_stages(folder)),
        tuple(read_results(file) for file in files if file.is_file()),
        tuple(
            (file.relative_to(folder).as_posix(), check)
            for file in checked
            if file.is_file()
            for check in _all_of(CriticCheck, read_json(file), "checks", file)
        ),
    )


def read_results(path: Path) -> Results:
    """One file of scores.

    Raises:
        InputError: it is damaged.
    """
    found = read_json(path)
    label = found.get("scores_are")
    if not isinstance(label, str):
        raise InputError(f"{path}: scores_are = {label!r:.100}; it must say what the scores are")
    rows = found.get("rows")
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{path}: rows = {rows!r:.100}; they must be a list of policies with scores")
    return Results(
        path.name,
        label,
        tuple(_row(row, f"{path}: rows[{i}]") for i, row in enumerate(rows)),
        tuple(_all_of(PolicyEpisodes, found, "episodes", path)),
        tuple(_all_of(TrustCheck, found, "trust", path)),
        {name: found[name] for name in (*FACTS, "data", "versions", "hardware") if name in found},
    )


def _row(value: Any, where: str) -> Row:
    found = from_json(PolicyScores, value, where)
    if len({len(seed) for seed in found.scores}) != 1 or not found.scores[0]:
        raise InputError(f"{where}: scores must be as many numbers for each seed, and one at least")
    if not all(math.isfinite(score) for seed in found.scores for score in seed):
        raise InputError(f"{where}: scores must be finite numbers")
    return Row(found.policy, np.array(found.scores, dtype=np.float64), found.logged)


def _all_of(kind: type[Kind], found: dict[str, Any], name: str, path: Path) -> list[Kind]:
    values = found.get(name, [])
    if not isinstance(values, list):
        raise InputError(f"{path}: {name} = {values!r:.100}; it must be a list")
    return [from_json(kind, value, f"{path}: {name}[{i}]") for i, value in enumerate(values)]
