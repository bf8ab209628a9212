"""An experiment's results as tables, in Markdown, and as one CSV; pure functions of records."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tiltrl.evaluation.scores import Interval
from tiltrl.experiments.cell import Cell, exact, log_of
from tiltrl.experiments.grids import EXPERIMENTS
from tiltrl.experiments.options import ExperimentName
from tiltrl.experiments.places import MAIN, OURS, Entries, Place, columns, expected, gather, headline, rows
from tiltrl.experiments.published import D4RL
from tiltrl.experiments.record import Record
from tiltrl.experiments.statistics import Scores, improvement, matrix, mean_and_iqm


@dataclass(frozen=True)
class Results:
    """Everything that is known of an experiment."""

    name: ExperimentName
    cells: tuple[Cell, ...]  # all that belong to it, in order
    records: dict[str, Record]  # by key, of those that have ended

    @property
    def done(self) -> list[Record]:
        """The cells that have scores."""
        return [found for cell in self.cells if (found := self.records.get(cell.key)) and found.state == "done"]

    @property
    def failed(self) -> list[Record]:
        """The cells that have none."""
        return [found for cell in self.cells if (found := self.records.get(cell.key)) and found.state == "failed"]

    @property
    def entries(self) -> Entries:
        """Scores by data set and place in the table."""
        return gather(self.name, self.done)


@dataclass(frozen=True)
class Chapter:
    """A heading, and what stands below it."""

    title: str
    text: str = ""
    heads: tuple[str, ...] = ()  # of the table; (): there is none
    lines: tuple[tuple[str, ...], ...] = ()


# --- What is told -----------------------------------------------------------------------------------------------------


def chapters(results: Results) -> list[Chapter]:
    """Scores, over data sets, last and best checkpoints, beside published scores; those that there are."""
    entries = results.entries
    found = [_scores_table(results, entries, table) for table in dict.fromkeys(at.table for _, at in entries)]
    if results.name != "bandit":
        found += _over_data(results, entries)
    return [*found, *_best_checkpoint(results, entries), *_beside_published(results, entries)]


def number(value: float, digits: int = 1) -> str:
    """A score or distance, with a minus sign that is one; large ones without decimals."""
    digits = 0 if abs(value) >= 1000 else digits
    return f"{round(value, digits) + 0.0:,.{digits}f}"


def spell(known: Interval, digits: int = 1) -> str:
    """Mean and interval; the mean alone where no spread was seen."""
    return number(known.mean, digits) if known.low == known.high else spell_interval(known, digits)


def spell_interval(known: Interval, digits: int = 1) -> str:
    """Mean and interval, whatever that is."""
    return f"{number(known.mean, digits)} ({number(known.low, digits)} to {number(known.high, digits)})"


def runs_are(entries: Iterable[Scores]) -> str:
    """What intervals are over, in words."""
    counts = sorted({len(one.seeds) for one in entries})
    if not counts:
        return "episodes"
    if counts == [1]:
        return "episodes of one seed: another training may differ by more"
    most = f"{counts[-1]} seeds"
    return most if len(counts) == 1 else f"{most}, and over episodes where only one seed is there"


def units(results: Results) -> list[str]:
    """What the scores are, each label once; of bandits the preamble says it."""
    if results.name == "bandit":
        return []
    return list(dict.fromkeys(record.scores_are for record in results.done if record.scores_are))


def preamble(results: Results) -> str:
    """What all of it is, and how far it is done, in Markdown."""
    if results.name == "bandit":
        return "Sliced Wasserstein-1 distances, in units of half the box: smaller is better. One number a seed."
    policies = [scores for (_, at), scores in results.entries.items() if not at.reference]
    cell = results.cells[0]
    left = len(results.cells) - len(results.done) - len(results.failed)
    unfinished = f" **Not finished: {left} of {len(results.cells)} cells are still to run.**" if left else ""
    share = "all" if cell.budget == 1 else f"{cell.budget:g}"
    return (
        f"{cell.preset} preset, {share} of its steps; last checkpoint; {cell.episodes} episodes a seed. Each "
        "acts by a single action, but for `mean of N`, the mean of N sampled ones, and `best of N`, the best by Q of N "
        "(rejection sampling). "
        f"In brackets: 95 % bootstrap intervals over {runs_are(policies)}; those of `data` are over logged "
        f"episodes.{_of_versions(results)}{unfinished}"
    )


def _of_versions(results: Results) -> str:
    """Where cells of several versions stand side by side, that they do."""
    found = sorted({record.versions["tiltrl"] for record in results.done if "tiltrl" in record.versions})
    return f" The cells are of TiltRL {', '.join(found)}; delete a cell's file to run it again." if found[1:] else ""


def _scores_table(results: Results, entries: Entries, table: str) -> Chapter:
    numbers = EXPERIMENTS[results.name].numbers
    heads = columns(entries, table, numbers=numbers)
    planned = dict.fromkeys(
        (cell.data, at) for cell in results.cells for at in expected(results.name, cell) if at.table == table
    )
    failures = {(one.cell.data, at) for one in results.failed for at in expected(results.name, one.cell)}
    heads += [at for at in dict.fromkeys(Place(at.column, "", table) for _, at in planned) if at not in heads]
    if numbers:
        heads.sort(key=lambda at: -math.inf if at.reference else float(at.column))
    sides = list(dict.fromkeys([*rows(entries, table), *((data, at.row) for data, at in planned)]))
    named = any(side for _, side in sides)
    digits = 3 if results.name == "bandit" else 1

    def text(data: str, side: str, head: Place) -> str:
        at = head if head.reference else Place(head.column, side, table)
        if (data, at) in entries:
            return spell(entries[data, at].known, digits)
        return "failed" if (data, at) in failures else "-"

    lines = [(data, *([side] if named else []), *(text(data, side, head) for head in heads)) for data, side in sides]
    swept = EXPERIMENTS[results.name].swept
    names = [at.column if at.reference or not swept else f"{swept} {at.column}" for at in heads]
    order = list(dict.fromkeys(cell.data for cell in results.cells))
    lines.sort(key=lambda line: order.index(line[0]))
    return Chapter(table or "Scores", "", ("data set", *(["policy"] if named else []), *names), tuple(lines))


def _over_data(results: Results, entries: Entries) -> list[Chapter]:
    """Mean, interquartile mean and, of methods, how surely EDA is better, on the data sets that have all of them."""
    wanted = [
        {at for cell in results.cells if cell.data == data for at in expected(results.name, cell)}
        for data in dict.fromkeys(cell.data for cell in results.cells)
    ]
    common = set.intersection(*wanted)
    complete = [
        data
        for data in dict.fromkeys(cell.data for cell in results.cells)
        if common and all((data, at) in entries for at in common)
    ]
    if not complete:
        return []
    raw = any(one.scores_are.startswith("raw return") for one in results.done if one.cell.data in complete)
    if raw and len(complete) > 1:
        return []  # a mean over rewards of different units says nothing
    places = [at for at in dict.fromkeys(at for _, at in entries) if all((data, at) in entries for data in complete)]
    places = [at for at in places if at.column != "data"]
    # Of the same seeds, whatever has failed: means of seeds are not to be compared with episodes.
    seeds = set.intersection(*(set(entries[data, at].seeds) for at in places for data in complete))
    if not seeds:
        return [Chapter("Over data sets", "Nothing is told: no seed is there of all methods and data sets.")]
    runs = {at: matrix([entries[data, at].of(seeds) for data in complete]) for at in places}
    first = headline(results.cells[0].preset)
    ours = runs.get(first) if results.name == "scores" else None
    heads = ["policy", "mean", "interquartile mean"] + (
        [f"probability that {first.column} is better"] if ours is not None else []
    )
    lines = []
    for at, found in runs.items():
        line = [_called(results.name, at), *map(spell, mean_and_iqm(found))]
        if ours is not None:
            line.append("" if at == first else spell_interval(improvement(ours, found), 2))
        lines.append(tuple(line))
    where = complete[0] if len(complete) == 1 else f"the {len(complete)} data sets"
    note = f"On {where}, where every method is finished; 95 % stratified bootstrap intervals, by rliable."
    return [Chapter("Over data sets", note, tuple(heads), tuple(lines))]


def _called(name: ExperimentName, at: Place) -> str:
    swept = EXPERIMENTS[name].swept
    if at.reference or not swept:
        return at.column
    return f"{at.row}, {swept} {at.column}"


def _best_checkpoint(results: Results, entries: Entries) -> list[Chapter]:
    """Of a training curve: its end, which is what counts, beside its best point, and named so."""
    if results.name != "training-curve":
        return []
    lines = []
    for data, side in rows(entries, MAIN):
        curve = [(int(at.column), s.known) for (d, at), s in entries.items() if (d, at.row) == (data, side)]
        points = sorted(curve, key=lambda point: point[0])
        steps, best = max(points, key=lambda point: point[1].mean)
        lines.append((data, side, spell(points[-1][1]), str(points[-1][0]), spell(best), str(steps)))
    heads = ("data set", "policy", "last checkpoint", "at steps", "best checkpoint", "at steps")
    note = (
        "The best is picked by the very episodes that it is reported with, so it is too good. Each number of steps is "
        "a run of its own, with its own learning-rate schedule."
    )
    return [Chapter("Last and best checkpoint", note, heads, tuple(lines))]


def _beside_published(results: Results, entries: Entries) -> list[Chapter]:
    """Ours and the paper's numbers, of D4RL's tasks."""
    tasks = [data for data in dict.fromkeys(data for data, _ in entries) if data in D4RL]
    if results.name != "scores" or not tasks:
        return []
    methods = [m for m in ("eda", "iql", "diffusion-ql", "idql", "qgpo") if any(c.method == m for c in results.cells)]
    lines = []
    for data in tasks:
        line = [data]
        for method in methods:
            theirs = D4RL[data].scores.get(method)
            spread = f" ± {D4RL[data].spread:g}" if method == "eda" and D4RL[data].spread is not None else ""
            line += [_ours(entries, data, method), "-" if theirs is None else f"{theirs:g}{spread}"]
        lines.append(tuple(line))
    heads = ("data set", *(head for method in methods for head in (f"{method}, here", f"{method}, published")))
    note = (
        "Published: Table 1 of Chen et al. 2024, of D4RL's own environments (mujoco-py) and five seeds. Its EDA takes "
        "the best of 4 actions, and so does the column of ours here. Scores of newer environments are not D4RL scores."
    )
    return [Chapter("Beside published scores", note, heads, tuple(lines))]


def _ours(entries: Entries, data: str, method: str) -> str:
    wanted = f"{OURS}, best of" if method == "eda" else method
    found = [s for (d, at), s in entries.items() if d == data and at.column.startswith(wanted)]
    return spell(found[0].known) if found else "-"


# --- Markdown ---------------------------------------------------------------------------------------------------------


def markdown(results: Results, out: str) -> str:
    """All of it, and what failed.

    Args:
        results: of the experiment.
        out: its folder, as named in paths.
    """
    found = chapters(results)
    if results.failed:
        heads = ("cell", "error", "log")
        lines = [(str(one.cell), one.error or "", f"`{log_of(one.cell, Path(out))}`") for one in results.failed]
        found.append(Chapter("Failed", "The same command tries these again.", heads, tuple(lines)))
    parts = [f"# {results.name}: {EXPERIMENTS[results.name].title}", preamble(results)]
    parts.append("\n".join(f"- {label}" for label in units(results)))
    for one in found:
        parts += [f"## {one.title}", one.text, _table(one.heads, one.lines)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    if not heads:
        return ""
    rules = ["---"] * len(heads)
    return "\n".join(f"| {' | '.join(_safe(text) for text in line)} |" for line in (heads, rules, *lines))


def _safe(text: str) -> str:
    """In a table's cell a bar would begin the next one."""
    return text.replace("|", "\\|")


# --- CSV --------------------------------------------------------------------------------------------------------------


def raw_scores(results: Results) -> str:
    """Every score of every row of every cell, one a line; logged episodes once a data set, and failed cells as a line.

    A line has the cell's fields, then state, error, policy, logged, training seed, episode, raw return, score, and
    what the score is.
    """
    fields = [name for name in asdict(results.cells[0]) if name not in ("seed", "seeds")]
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(
        ["key", *fields, "state", "error", "policy", "logged", "train_seed", "episode", "return", "score", "scores_are"]
    )
    logged: set[str] = set()
    for cell in results.cells:
        record = results.records.get(cell.key)
        if record is None:
            continue
        values = asdict(cell)
        values["beta"] = " ".join(map(exact, cell.beta))
        before = [cell.key, *("" if values[name] is None else values[name] for name in fields), record.state]
        if record.state == "failed":
            lines.writerow([*before, record.error, *[""] * 7])
        returns = {(one.policy, one.seed): one.returns for one in record.episodes}
        for row in record.rows:
            if row.logged and cell.data in logged:
                continue
            if row.logged:
                logged.add(cell.data)
            for i, scores in enumerate(row.scores):
                seed = "" if row.logged else cell.seed + i
                raw = () if row.logged else returns.get((row.policy, cell.seed + i), ())
                for episode, score in enumerate(scores):
                    value = raw[episode] if episode < len(raw) else ""
                    lines.writerow(
                        [*before, "", row.policy, row.logged, seed, episode, value, score, record.scores_are]
                    )
    return text.getvalue()
