"""One picture of a data set: returns, lengths, and where actions and observations lie in each dimension."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tiltrl.data.describe import horizon, sample
from tiltrl.data.registry import env_id
from tiltrl.data.write import check_whole
from tiltrl.files import write_atomically
from tiltrl.types import Transitions

SHOWN = 30
"""Dimensions drawn at most; more cannot be told apart."""

_DATA, _FAINT, _INK, _MARK, _GRID = "#0072B2", "#9cc8e3", "#222222", "#D55E00", "#d9d9d9"  # Okabe and Ito's
_ROUNDING = 1e-6  # of the magnitude: a range below it is no range
_SHARES = (0.0, 1.0, 25.0, 50.0, 75.0, 99.0, 100.0)  # percentiles that a bar is made of


def draw(transitions: Transitions, path: str | os.PathLike[str]) -> None:
    """Draw a data set as a PNG, written aside and renamed.

    Args:
        transitions: at least one episode of finite values.
        path: of the PNG.

    Raises:
        InputError: there are no whole episodes, or the file cannot be written.
    """
    check_whole(transitions)
    task = transitions.task
    rows = min(max(task.obs_dim, task.act_dim), SHOWN)
    figure = Figure(figsize=(10.0, 3.4 + max(0.26 * rows, 1.4)), dpi=130, facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12)
    FigureCanvasAgg(figure)
    title = f"{task.dataset}: {len(transitions.ends):,} episodes, {len(transitions):,} steps"
    figure.suptitle(_short(title), x=0.016, ha="left", fontsize=12, fontweight="bold", color=_INK)
    upper, lower = figure.add_gridspec(2, 1, height_ratios=(2.2, max(0.26 * rows, 1.4)))
    returns, lengths = upper.subgridspec(1, 2).subplots(squeeze=False)[0]
    actions, observations = lower.subgridspec(1, 2).subplots(squeeze=False)[0]
    references = {"score 0": task.ref_min, "score 100": task.ref_max}
    _histogram(returns, transitions.returns, "return of an episode", references)
    _histogram(
        lengths,
        transitions.ends - transitions.starts + 1,
        "steps of an episode",
        {"horizon": horizon(task)},
        whole=True,
    )
    bounds = np.array([task.action_low, task.action_high])
    _ranges(actions, sample(transitions.action), f"actions{_in(env_id(task))}", bounds)
    _ranges(observations, sample(transitions.obs), "observations", None)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_atomically(path, picture.getvalue())


def _histogram(
    axes: Axes, values: np.ndarray, label: str, marks: Mapping[str, float | None], *, whole: bool = False
) -> None:
    """Episodes by value; marks where they fall near the values."""
    low, high = float(values.min()), float(values.max())
    if high - low <= _ROUNDING * max(abs(low), abs(high)):  # one bar, not a wall; nor bins too narrow to be any
        room = max(0.1 * abs(low), 1.0)
        bins = np.array([low - 0.1 * room, low + 0.1 * room])
        axes.set_xlim(low - room, low + room)
    else:
        room = high - low
        bins = np.histogram_bin_edges(values, min(40, int(room) + 1) if whole else 40)
    axes.hist(values, bins=bins.tolist(), color=_DATA)
    axes.ticklabel_format(axis="x", useOffset=False)
    for name, at in marks.items():
        if at is not None and low - 0.5 * room <= at <= high + 0.5 * room:
            axes.axvline(at, color=_MARK, linewidth=1.0, linestyle=(0, (4, 3)))
            place = {"xycoords": ("data", "axes fraction"), "xytext": (0, 2), "textcoords": "offset points"}
            axes.annotate(name, (at, 1.0), **place, ha="center", fontsize=7, color=_MARK)
    axes.set_xlabel(label, fontsize=9, color=_INK)
    axes.set_ylabel("episodes", fontsize=9, color=_INK)
    _plain(axes, "y")


def _ranges(axes: Axes, values: Float[np.ndarray, "steps dims"], label: str, bounds: np.ndarray | None) -> None:
    """A bar for each dimension: all values thin, 98 % of them medium, the middle half thick, the median white."""
    dims = min(values.shape[1], SHOWN)
    least, low, quarter, middle, three_quarters, high, most = np.percentile(values[:, :dims], _SHARES, axis=0)
    places = np.arange(dims)
    axes.hlines(places, least, most, color=_FAINT, linewidth=1.0)
    axes.hlines(places, low, high, color=_FAINT, linewidth=4.0)
    axes.hlines(places, quarter, three_quarters, color=_DATA, linewidth=4.0)
    axes.plot(middle, places, "o", color="white", markeredgecolor=_DATA, markersize=4.0, linewidth=0)
    shown = np.concatenate([least, most])
    note = "line: all, pale: 98 %, dark: middle half, dot: median"
    if bounds is not None:
        for side in bounds[:, :dims]:
            axes.plot(side, places, "|", color=_MARK, markersize=9.0, linewidth=0)
        shown, note = np.concatenate([shown, bounds[:, :dims].ravel()]), "orange: bounds"
    # A tenth of the dimensions would otherwise make points of all others.
    largest = np.maximum(np.abs(least), np.abs(most))
    usual = float(np.median(largest[largest > 0])) if (largest > 0).any() else 1.0
    if np.abs(shown).max() > 20 * usual:
        axes.set_xscale("symlog", linthresh=usual)
        note += "; logarithmic outside"
    of = "" if dims == values.shape[1] else f", the first {dims} of {values.shape[1]}"
    axes.set_xlabel(f"{label}{of} ({note})", fontsize=8, color=_INK)
    axes.set_ylim(dims - 0.5, -0.5)
    axes.set_yticks(places, [str(place) for place in places], fontsize=7, color=_INK)
    axes.margins(x=0.04)
    _plain(axes, "x")


def _plain(axes: Axes, grid: str) -> None:
    axes.grid(axis="x" if grid == "x" else "y", color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=8, labelcolor=_INK)
    axes.spines[:].set_visible(False)


def _in(environment: str | None) -> str:
    return "" if environment is None else f" in {environment}"


def _short(title: str, most: int = 100) -> str:
    """Without its middle where it is too long for the picture; a dollar sign is no formula."""
    cut = title if len(title) <= most else f"{title[: most // 3]} ... {title[-2 * most // 3 + 5 :]}"
    return cut.replace("$", r"\$")
