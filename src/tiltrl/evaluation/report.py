"""Scores of several policies side by side: a table for the terminal, a picture for everyone else."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tiltrl.errors import InputError
from tiltrl.evaluation.scores import Interval, interval
from tiltrl.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's blue against grays: told apart with any color vision, and in print.
_POLICY, _DATA, _INK, _FAINT = "#0072B2", "#8a8a8a", "#222222", "#d9d9d9"


@dataclass(frozen=True)
class Row:
    """One policy's scores, or those of the logged episodes."""

    name: str
    scores: Float[np.ndarray, "seeds episodes"]
    logged: bool = False  # the data itself: drawn in gray, and what the others are measured against


def print_table(rows: Sequence[Row], label: str, console: Console) -> None:
    """Print mean, 95 % interval, episodes, median and the share of the data's best episode that the mean reaches.

    Args:
        rows: printed in this order.
        label: what the scores are, as from `score_label`.
        console: where to print.

    Raises:
        InputError: as `interval`.
    """
    best = _best(rows)
    table = Table(title=Text(label), title_style="dim", title_justify="left", box=None, pad_edge=False)
    table.add_column("policy", overflow="fold")
    for heading in ("mean", "95 % interval", "episodes", "median", "of data's best"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        known = interval(row.scores)
        table.add_row(
            Text(row.name),  # brackets in a name are no markup
            _number(known.mean),
            _span(known),
            _count(row),
            _number(float(np.median(row.scores))),
            # A share of a best that is not positive says nothing.
            f"{known.mean / best:.0%}" if best is not None and best > 0 else "-",
            style="dim" if row.logged else None,
        )
    console.print(table)


def draw(rows: Sequence[Row], label: str, path: str | os.PathLike[str], title: str) -> None:
    """Write `picture` to a file, aside first, then renamed.

    Raises:
        InputError: no rows; as `interval`; the file cannot be written.
    """
    if not rows:
        raise InputError(f"{os.fspath(path)}: no rows to draw; at least one is needed")
    write_atomically(path, picture(rows, label, title))


def picture(rows: Sequence[Row], label: str, title: str) -> bytes:
    """Draw each row's episodes as faint dots and its mean with the 95 % interval, first row on top, as a PNG.

    Args:
        rows: at least one.
        label: what the scores are, as from `score_label`.
        title: of the picture.

    Raises:
        InputError: as `interval`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here, because it is slow and little needs it
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 1.6 + 0.62 * len(rows)), dpi=160, facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.14, h_pad=0.12)
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.018, ha="left", fontsize=12, fontweight="bold", color=_INK, parse_math=False)
    axes = figure.add_subplot()
    for height, row in enumerate(rows):
        _draw_row(axes, height, row)
    best = _best(rows)
    if best is not None:
        axes.axvline(best, color=_DATA, linewidth=1.0, linestyle=(0, (2, 3)), zorder=1)
        axes.annotate(
            "best logged episode",
            (best, 1.0),
            xytext=(0, 3),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=_DATA,
        )
    note = f"{label}\ndots: episodes, bars: 95 % interval of the mean"
    axes.set_xlabel(note, fontsize=9, color=_INK, labelpad=8, linespacing=1.5, loc="left", parse_math=False)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [row.name for row in rows], fontsize=10, parse_math=False)
    for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set_color(_DATA if row.logged else _INK)
    axes.tick_params(axis="y", length=0, pad=8)
    axes.tick_params(axis="x", length=0, labelsize=9, labelcolor=_INK)
    axes.grid(axis="x", color=_FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.margins(x=0.03)
    axes.spines[:].set_visible(False)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    return drawn.getvalue()


def _draw_row(axes: Axes, height: int, row: Row) -> None:
    """One row: its dots, its interval, its mean, and the numbers at the right edge."""
    from matplotlib.patheffects import Normal, Stroke

    known = interval(row.scores)
    color = _DATA if row.logged else _POLICY
    dots = row.scores.ravel()
    counts, edges = np.histogram(dots, bins=40)
    crowd = counts[np.digitize(dots, edges[1:-1])]
    # Wide where episodes are many. Multiples of the golden ratio fill the width evenly, and the same way every time.
    jitter = 0.7 * np.sqrt(crowd / crowd.max()) * ((0.5 + np.arange(dots.size) * 0.6180339887498949) % 1.0 - 0.5)
    alpha = float(np.clip(20.0 / dots.size, 0.12, 0.35))
    axes.scatter(dots, height + jitter, s=14, color=color, alpha=alpha, linewidth=0, zorder=2)
    halo = [Stroke(linewidth=6.5, foreground="white"), Normal()]
    bar = {"color": color, "linewidth": 3.5, "solid_capstyle": "round", "path_effects": halo, "zorder": 3}
    axes.plot([known.low, known.high], [height, height], **bar)
    axes.plot(known.mean, height, "o", color=color, ms=9, markeredgecolor="white", markeredgewidth=1.5, zorder=4)
    for text, offset, size, weight in (
        (_number(known.mean), 7, 10, "bold"),
        (_span(known), -7, 8, "normal"),
    ):
        axes.annotate(
            text.replace("-", "\N{MINUS SIGN}"),  # as the axis has it
            (1.0, height),
            xytext=(12, offset),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="center",
            fontsize=size,
            fontweight=weight,
            color=color,
        )


def _best(rows: Sequence[Row]) -> float | None:
    """Score of the best logged episode; None without data."""
    return max((float(row.scores.max()) for row in rows if row.logged), default=None)


def _count(row: Row) -> str:
    """Episodes, as in "3 x 20" for three seeds of twenty."""
    seeds, episodes = row.scores.shape
    return str(episodes) if seeds == 1 else f"{seeds} x {episodes}"


def _span(known: Interval) -> str:
    """The bounds; a dash where the values show no spread, as a single episode does."""
    return f"{_number(known.low)} to {_number(known.high)}" if known.low < known.high else "-"


def _number(value: float) -> str:
    """One decimal where scores are small, none where they are large, with a minus sign that is one."""
    digits = 1 if abs(value) < 1000 else 0
    return f"{round(value, digits) + 0.0:,.{digits}f}"  # + 0.0: no "-0.0"
