"""Tables of scores: one folder's, and several side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tiltrl.evaluation.report import Row
from tiltrl.evaluation.scores import Interval, interval
from tiltrl.report.parts import Cell, Picture, Span, Table
from tiltrl.report.pictures import scores_picture
from tiltrl.report.run import Results, RunRecord

NO_D4RL = (
    "These are no D4RL scores: those are of D4RL's own data, in its MuJoCo 2.1 environments. Scores on regenerated "
    "data compare among themselves only."
)
LAST = "Each score is of the end of training (the last checkpoint), none of the best one on the way."


def about_scores(labels: Sequence[str]) -> str:
    """What has to be known to read scores of these kinds."""
    normalized = any(label.startswith("normalized score") for label in labels)
    return f"{LAST} {NO_D4RL}" if normalized else LAST


def rows_by_label(results: Sequence[Results]) -> dict[str, list[Row]]:
    """All policies of a run by what their scores are; the same episodes of one policy count once.

    Several commands in one folder evaluate the same behavior, for one. Where a name stands for different episodes, the
    later one is told with its file.
    """
    found: dict[str, dict[str, Row]] = {}
    for one in results:
        rows = found.setdefault(one.scores_are, {})
        for row in one.rows:
            same = rows.setdefault(row.name, row)
            if not np.array_equal(same.scores, row.scores):
                rows[f"{row.name} ({one.file})"] = replace(row, name=f"{row.name} ({one.file})")
    return {label: list(rows.values()) for label, rows in found.items()}


def scores_table(rows: Sequence[Row], label: str, name: str) -> Table:
    """Mean, 95 % interval, median and number of episodes of each policy."""
    cells: list[tuple[Cell, ...]] = []
    for row in rows:
        known = interval(row.scores)
        seeds, episodes = row.scores.shape
        middle = float(np.median(row.scores))
        cells.append(
            (row.name, known.mean, Span(known.low, known.high), middle, None if row.logged else seeds, episodes)
        )
    headings = ("policy", "mean", "95 % interval", "median", "seeds", "episodes a seed")
    note = "Intervals: bootstrap over episodes within each seed; how far other episodes might have moved the mean."
    return Table(name, label, headings, tuple(cells), note, digits=1)


def comparisons(runs: Sequence[RunRecord]) -> list[Table]:
    """A table for each kind of score, with a row for each run that has it and a column for each policy."""
    by_label: dict[str, list[tuple[RunRecord, dict[str, Interval]]]] = {}
    for run in runs:
        for label, rows in rows_by_label(run.results).items():
            by_label.setdefault(label, []).append((run, {row.name: interval(row.scores) for row in rows}))
    found = []
    for label, known in by_label.items():
        policies = list(dict.fromkeys(name for _, means in known for name in means))
        rows = tuple(
            (run.title, str(run.identity.get("dataset", "")), *(means.get(name) for name in policies))
            for run, means in known
        )
        name = "comparison" if not found else f"comparison-{len(found) + 1}"
        note = "Means, with 95 % intervals in brackets."
        found.append(Table(name, label, ("run", "data set", *policies), rows, note, digits=1))
    return found


def comparison_pictures(runs: Sequence[RunRecord]) -> list[Picture]:
    """A picture for each kind of score that several runs have."""
    found: dict[str, list[Row]] = {}
    for run in runs:
        for label, rows in rows_by_label(run.results).items():
            found.setdefault(label, []).extend(replace(row, name=f"{run.title}: {row.name}") for row in rows)
    several = {label: rows for label, rows in found.items() if sum(row.logged for row in rows) > 1}
    return [
        scores_picture(rows, label, "Scores side by side", "comparison" if i == 0 else f"comparison-{i + 1}")
        for i, (label, rows) in enumerate(several.items())
    ]
