"""Where in an experiment's table a policy's scores belong."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tiltrl.experiments.cell import BANDIT, BANDIT_COMPARE, EDA, Cell, exact
from tiltrl.experiments.options import ExperimentName
from tiltrl.experiments.record import TILTED, Record
from tiltrl.experiments.statistics import Scores
from tiltrl.methods import method_named
from tiltrl.presets import PresetName, preset_named

MAIN, TO_TILT, TO_DATA = "", "Distance to the true tilt (Fig. 3, 8)", "Distance to the data (Fig. 7)"
OURS = "EDA"
_ALIGNED = re.compile(r"aligned, (?:beta (?P<beta>\S+?)|.+?)(?P<way>, (?:best|mean) of \d+)?")


@dataclass(frozen=True)
class Place:
    """A row (beside the data set), a column, and in which table."""

    column: str
    row: str = ""
    table: str = MAIN
    reference: bool = False  # what the others are compared with; it depends on nothing that is swept


Entries = dict[tuple[str, Place], Scores]
"""Scores by data set and place."""


def place(name: ExperimentName, cell: Cell, policy: str) -> Place:
    """Of one row of what a cell's command leaves.

    Args:
        name: of the experiment.
        cell: whose row it is.
        policy: as the command calls it.
    """
    if cell.method == BANDIT:
        return Place(policy, f"agreeing with the {cell.objective}", TO_TILT)
    if cell.method == BANDIT_COMPARE:
        return Place(policy, "", TO_DATA)
    if policy in ("data", "behavior") or policy.startswith("behavior, mean of "):
        return Place(policy, reference=True)
    chosen = policy.removeprefix("behavior") if policy.startswith("behavior, ") else None
    if chosen is not None and name not in ("scores", "critics"):
        return Place(policy, reference=True)
    aligned = _ALIGNED.fullmatch(policy)
    way = (aligned["way"] or "") if aligned else ""
    who = OURS + way if aligned else policy
    match name:
        case "scores":  # where one critic is another's rival, too
            return Place(who if cell.critic is None else f"{who}, on {cell.critic}")
        case "bandit":
            return Place(who)
        case "critics":
            return Place(cell.critic or "", who)
        case "label-fraction":
            return Place(exact(cell.label_fraction), who)
        case "training-curve":
            return Place(str(cell.align_steps), who)
        case "k":
            return Place(str(cell.k), f"{cell.objective}{way}")
        case "beta":
            return Place((aligned["beta"] if aligned else None) or "", who)


def headline(preset: PresetName) -> Place:
    """Of `scores`: EDA's policies as they are saved."""
    averaged = preset_named(preset).averaged
    return Place(OURS if averaged == 1 else f"{OURS}, mean of {averaged}")


def expected(name: ExperimentName, cell: Cell) -> list[Place]:
    """The places that a cell is run for: of EDA's policies by single actions and means, of a rival as it acts."""
    if cell.method == BANDIT:
        policies = [TILTED]
    elif cell.method == BANDIT_COMPARE:
        policies = ["data"]
    elif cell.method == EDA:
        averaged = preset_named(cell.preset).averaged
        ways = ("",) if averaged == 1 else ("", f", mean of {averaged}")
        policies = [f"aligned, beta {beta:g}{way}" for beta in cell.beta or (1.0,) for way in ways]
    else:
        candidates = method_named(cell.method).configs[cell.preset].candidates
        policies = [cell.method if candidates == 1 else f"{cell.method}, best of {candidates}"]
    return [place(name, cell, policy) for policy in policies]


def gather(name: ExperimentName, records: Sequence[Record]) -> Entries:
    """All scores of an experiment, the seeds of a place together.

    What several cells report, as the behavior of their common folder, counts once.

    Args:
        name: of the experiment.
        records: in the order in which places are to come.
    """
    found: dict[tuple[str, Place], dict[int, np.ndarray]] = {}
    for record in records:
        first = record.cell.seed
        for row in record.rows:
            seeds = found.setdefault((record.cell.data, place(name, record.cell, row.policy)), {})
            if row.logged:  # the same whatever the seed
                seeds.setdefault(0, np.array(row.scores[0]))
                continue
            for i, scores in enumerate(row.scores):
                seeds.setdefault(first + i, np.array(scores))
    return {at: _scores(seeds) for at, seeds in found.items()}


def columns(entries: Entries, table: str, *, numbers: bool) -> list[Place]:
    """The columns of a table in order, references first; a column's `row` is left out.

    Args:
        entries: all scores.
        table: which one.
        numbers: whether what is swept are numbers, which are sorted.
    """
    of_table = dict.fromkeys(replace(at, row="") for _, at in entries if at.table == table)
    swept = [at for at in of_table if not at.reference]
    if numbers:
        swept.sort(key=lambda at: float(at.column))
    return [at for at in of_table if at.reference] + swept


def rows(entries: Entries, table: str) -> list[tuple[str, str]]:
    """The rows of a table: data set and what else heads it."""
    return list(dict.fromkeys((data, at.row) for data, at in entries if at.table == table and not at.reference))


def _scores(seeds: dict[int, np.ndarray]) -> Scores:
    order = sorted(seeds)
    fewest = min(len(seeds[seed]) for seed in order)
    return Scores(tuple(order), np.stack([seeds[seed][:fewest] for seed in order]))
