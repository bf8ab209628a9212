"""The picture of an experiment: a panel a data set, with dots for methods and curves for what is swept."""

from __future__ import annotations

import io
import math
import os
from typing import TYPE_CHECKING

import numpy as np

from tiltrl.experiments.grids import EXPERIMENTS
from tiltrl.experiments.places import MAIN, OURS, TO_TILT, Entries, Place, columns, rows
from tiltrl.experiments.tables import Results, number, runs_are
from tiltrl.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colors: told apart with any color vision, and in print.
_LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_DATA, _INK, _FAINT = "#8a8a8a", "#222222", "#d9d9d9"
_ACROSS = 3


def draw(results: Results, path: str | os.PathLike[str]) -> None:
    """Write `picture` to a file, aside and then renamed.

    Raises:
        InputError: the file cannot be written.
    """
    write_atomically(path, picture(results))


def picture(results: Results) -> bytes:
    """Means with their 95 % intervals, as a PNG, of an experiment with at least one cell done."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here, because it is slow and little needs it
    from matplotlib.figure import Figure

    entries, experiment = results.entries, EXPERIMENTS[results.name]
    panels = list(dict.fromkeys((data, at.table) for data, at in entries))
    tables = list(dict.fromkeys(table for _, table in panels))
    panels.sort(key=lambda panel: tables.index(panel[1]))
    across = min(_ACROSS, len(panels))
    down = math.ceil(len(panels) / across)
    longest = max(len(_names(entries, data, table)) for data, table in panels)
    height = 3.2 if experiment.numbers else 0.9 + 0.26 * longest
    figure = Figure(figsize=(4.4 * across + 0.6, 0.9 + height * down), dpi=140, facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
    FigureCanvasAgg(figure)
    title = f"{results.name}: {experiment.title}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=_INK)
    for i, (data, table) in enumerate(panels):
        axes = figure.add_subplot(down, across, i + 1)
        if experiment.numbers:
            _draw_curves(axes, entries, data, experiment.swept)
        else:
            _draw_dots(axes, entries, data, table)
        named = data.replace("+", "\n+ ")  # joined sets would not fit beside the next panel's
        heading = named if table == MAIN else f"{named}\n{table}"
        axes.set_title(heading, fontsize=9, loc="left", color=_INK, parse_math=False)
        axes.tick_params(length=0, labelsize=8, labelcolor=_INK)
        axes.grid(color=_FAINT, linewidth=0.5)
        axes.set_axisbelow(True)
        axes.spines[:].set_visible(False)
    policies = [scores for (_, at), scores in entries.items() if not at.reference]
    note = f"score; intervals: 95 %, over {runs_are(policies)}"
    if results.name == "bandit":
        note = "distance: smaller is better"
    figure.supxlabel(note, x=0.01, ha="left", fontsize=8, color=_INK)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def _names(entries: Entries, data: str, table: str) -> list[tuple[str, Place]]:
    """What is drawn of a data set where nothing numeric is swept: a name and a place each, references first."""
    found = []
    for head in columns(entries, table, numbers=False):
        sides = [""] if head.reference else [side for name, side in rows(entries, table) if name == data]
        for side in sides:
            at = head if head.reference else Place(head.column, side, table)
            if (data, at) in entries:
                found.append((f"{at.column}, {side}" if side not in ("", OURS) else at.column, at))
    return found


def _draw_dots(axes: Axes, entries: Entries, data: str, table: str) -> None:
    """One line a policy: its mean, its interval, and the number."""
    names = _names(entries, data, table)
    digits = 3 if table != MAIN else 1
    for height, (_, at) in enumerate(names):
        known = entries[data, at].known
        ours = at.column.startswith(OURS) or at.row.startswith(OURS) or (at.table == TO_TILT and at.column == "pi")
        color = _DATA if at.reference else _LINES[0] if ours else _LINES[1]
        axes.plot([known.low, known.high], [height, height], color=color, linewidth=2.5, solid_capstyle="round")
        axes.plot(known.mean, height, "o", color=color, ms=6, markeredgecolor="white")
        axes.annotate(
            number(known.mean, digits).replace("-", "\N{MINUS SIGN}"),
            (1.0, height),
            xytext=(3, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=color,
        )
    axes.set_yticks(range(len(names)), [name for name, _ in names], parse_math=False)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.margins(x=0.05)


def _draw_curves(axes: Axes, entries: Entries, data: str, swept: str) -> None:
    """One curve a policy over what is swept, with its interval as a band; references as level lines."""
    own = {at: scores.known for (name, at), scores in entries.items() if name == data and not at.reference}
    for i, side in enumerate(dict.fromkeys(at.row for at in own)):
        color = _LINES[i % len(_LINES)]
        points = [(float(at.column), known) for at, known in own.items() if at.row == side]
        points.sort(key=lambda point: point[0])
        x = np.array([value for value, _ in points])
        low, mean, high = (np.array([getattr(known, name) for _, known in points]) for name in ("low", "mean", "high"))
        style = "o--" if "best of" in side else "o-" if "mean of" in side else "o:"
        axes.plot(x, mean, style, color=color, ms=4, linewidth=1.5, label=side)
        axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
    for (name, at), scores in entries.items():
        if name == data and at.reference:
            style = {"data": (0, (2, 3)), "behavior": (0, (1, 1))}.get(
                at.column, "-" if "mean" in at.column else (0, (5, 2))
            )
            axes.axhline(scores.known.mean, color=_DATA, linewidth=1, linestyle=style, label=at.column)
    axes.set_xscale("log")
    ticks = sorted({float(at.column) for at in own})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel(swept, fontsize=8, color=_INK)
    axes.legend(fontsize=7, frameon=False, loc="best")
