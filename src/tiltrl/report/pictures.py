"""The pictures of a page, as PNGs."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from tiltrl.evaluation import report
from tiltrl.evaluation.report import Row
from tiltrl.report.parts import Picture, number
from tiltrl.report.stages import Curve, StageRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_ROWS = 40
"""Of a picture of scores; the table has them all."""
_INK, _FAINT = "#222222", "#d9d9d9"
# Okabe and Ito's colors: told apart with any color vision, and in print.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
COLOR_NAMES = ("blue", "vermilion", "green", "purple", "orange", "sky blue")


def scores_picture(rows: Sequence[Row], label: str, title: str, name: str) -> Picture:
    """Episodes, means and intervals, the first row on top.

    Args:
        rows: at least one; the first `MOST_ROWS` are drawn.
        label: what the scores are.
        title: of the picture.
        name: of its file.
    """
    drawn = [Row(printable(row.name), row.scores, row.logged) for row in rows[:MOST_ROWS]]
    means = "; ".join(f"{row.name} {number(float(row.scores.mean()))}" for row in drawn)
    with any_letters():
        png = report.picture(drawn, printable(label), printable(title))
    return Picture(name, f"Scores by policy, {label}. Means: {means}.", png)


def curve_pictures(stage: StageRecord) -> list[Picture]:
    """A small picture for each metric that the stage has logged."""
    return [_curve_picture(stage, curve) for curve in stage.curves if np.isfinite(curve.values).any()]


def _curve_picture(stage: StageRecord, curve: Curve) -> Picture:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here, because it is slow and little needs it
    from matplotlib.figure import Figure

    title = curve.metric.replace("_", " ")
    figure = Figure(figsize=(3.6, 2.3), dpi=150, facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.06, h_pad=0.06)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    with any_letters():
        _draw_curve(axes, curve)
        axes.set_title(printable(title), loc="left", fontsize=10, fontweight="bold", color=_INK, parse_math=False)
        picture = io.BytesIO()
        figure.savefig(picture, format="png")
    first, last = (float(np.mean(curve.values[i])) for i in (0, -1))
    alt = (
        f"{title} of {stage.folder}: {number(first)} at step {curve.steps[0]:.0f}, {number(last)} at step "
        f"{curve.steps[-1]:.0f}"
    )
    return Picture(f"{stage.folder}-{curve.metric}", alt, picture.getvalue(), small=True)


def _draw_curve(axes: Axes, curve: Curve) -> None:
    """A line for each seed and temperature; where many, their mean above them."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    members = curve.values.shape[1]
    finite = curve.values[np.isfinite(curve.values)]
    many = members > len(_COLORS)
    for i in range(members):
        color = _FAINT if many else _COLORS[i]
        marker = "o" if len(curve.steps) == 1 else None  # one point makes no line
        axes.plot(curve.steps, curve.values[:, i], color=color, linewidth=1.0 if many else 1.6, marker=marker)
    if many:
        axes.plot(curve.steps, curve.values.mean(axis=1), color=_COLORS[0], linewidth=1.8)
    if finite.min() > 0 and finite.max() > 50 * finite.min():
        axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("step", fontsize=8, color=_INK, loc="right", labelpad=1)
    axes.tick_params(length=0, labelsize=8, labelcolor=_INK)
    axes.grid(color=_FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.margins(x=0.02)
    axes.spines[:].set_visible(False)


def printable(text: str) -> str:
    """A name that a picture has room for, in one line."""
    line = "".join(letter if letter.isprintable() else "?" for letter in text)
    return line if len(line) <= 100 else f"{line[:97]}..."


@contextmanager
def any_letters() -> Iterator[None]:
    """Names may be in letters that the font lacks; the picture then has boxes, and the page the letters."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        warnings.filterwarnings("ignore", message=r"Matplotlib currently does not support .* natively")
        yield
