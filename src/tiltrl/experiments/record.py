"""What came of a cell: read from what its command leaves, kept in the experiment's `cells/KEY.json`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tiltrl.config_io import from_json
from tiltrl.errors import InputError
from tiltrl.experiments.cell import BANDIT, BANDIT_COMPARE, Cell, Job
from tiltrl.files import read_json, write_json
from tiltrl.results import PolicyEpisodes
from tiltrl.types import as_json

MEAN_POLICY, TILTED, PERFECT = "mu", "pi", "perfect sample"
"""What is measured of a tilted bandit."""


@dataclass(frozen=True)
class PolicyScores:
    """One row of a command's table."""

    policy: str
    logged: bool
    scores: tuple[tuple[float, ...], ...]  # (seeds, episodes)


@dataclass(frozen=True)
class Record:
    """A cell that ran to its end, or failed."""

    cell: Cell
    state: Literal["done", "failed"]
    command: tuple[str, ...]
    seconds: float
    error: str | None = None  # in one line
    scores_are: str = ""
    rows: tuple[PolicyScores, ...] = ()
    episodes: tuple[PolicyEpisodes, ...] = ()
    trust: tuple[dict[str, Any], ...] = ()
    data: dict[str, Any] = field(default_factory=dict)  # its fingerprint and size
    versions: dict[str, str] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)


def failed(job: Job, seconds: float, error: str) -> Record:
    """Of a command that failed."""
    return Record(job.cell, "failed", job.command, seconds, error)


def finished(job: Job, seconds: float) -> Record:
    """Of a command that says it is done: what it left.

    Raises:
        InputError: it left nothing, or what cannot be read.
    """
    if not job.result.is_file():
        raise InputError("it left no scores: the data names no environment to evaluate in")
    found = read_json(job.result)
    if job.cell.method in (BANDIT, BANDIT_COMPARE):
        found = _of_bandit(job.cell, found)
    known = ("scores_are", "rows", "episodes", "trust", "data", "versions", "hardware")
    of_command = {"cell": job.cell, "state": "done", "command": job.command, "seconds": seconds}
    return _record(of_command | {name: found[name] for name in known if name in found}, str(job.result))


def of_same_data(record: Record, others: Iterable[Record]) -> Record:
    """The record; or that it failed, where its data was not that of another record of the same data set."""
    for other in others:
        if record.cell.data == other.cell.data and record.state == other.state == "done" and record.cell != other.cell:
            here, there = record.data.get("fingerprint"), other.data.get("fingerprint")
            if here and there and here != there:
                error = (
                    f"its data (fingerprint {here}) is not that of {other.cell} ({there}), so the two cannot be "
                    "compared; give another --out"
                )
                return Record(record.cell, "failed", record.command, record.seconds, error)
    return record


def keep(record: Record, out: Path) -> None:
    """Write it to the experiment's folder.

    Raises:
        InputError: the file cannot be written.
    """
    write_json(_path(record.cell, out), record)


def kept(cell: Cell, out: Path) -> Record | None:
    """What is known of a cell; None where it has not ended yet.

    Raises:
        InputError: the file is damaged.
    """
    path = _path(cell, out)
    if not path.is_file():
        return None
    try:
        return _record(read_json(path), str(path))
    except InputError as error:
        raise InputError(f"{error}; delete it to run this cell again") from error


def _path(cell: Cell, out: Path) -> Path:
    return out / "cells" / f"{cell.key}.json"


def _record(value: Any, where: str) -> Record:
    return from_json(Record, as_json(value), where)


def _of_bandit(cell: Cell, found: dict[str, Any]) -> dict[str, Any]:
    """The numbers of one set in the form of scores; there are no episodes, so each is one."""
    numbers = found["sets"][cell.data]
    if cell.method == BANDIT:
        names = {MEAN_POLICY: "distance_mu", TILTED: "distance_pi", PERFECT: "distance_floor"}
        distances = {policy: numbers[name] for policy, name in names.items()}
        to = "the true tilt"
    else:
        distances = {row["model"]: row["distance"] for row in numbers}
        to = "the data"
    rows = [{"policy": name, "logged": False, "scores": [[value]]} for name, value in distances.items()]
    return {"scores_are": f"distance to {to} (sliced Wasserstein-1)", "rows": rows, "versions": found["versions"]}
