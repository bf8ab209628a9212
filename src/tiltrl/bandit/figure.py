"""The paper's Figures 3 and 8: data, densities of mu and pi, and the implied values, over diffusion times."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tiltrl.bandit.datasets import Points, Values, square
from tiltrl.files import write_atomically

PIXELS = 128
_DENSITY, _VALUE = "Blues", "viridis"


@dataclass(frozen=True)
class Maps:
    """What is drawn of one data set; maps are over `grid()`, one a diffusion time."""

    name: str
    beta: float
    q_is: str
    data: Points
    data_q: Values
    samples: Points  # of pi
    samples_q: Values
    times: tuple[float, ...]
    mu: Float[np.ndarray, "times pixels pixels"]  # energies
    pi: Float[np.ndarray, "times pixels pixels"]
    q: Float[np.ndarray, "times pixels pixels"]  # beta (f_pi - f_mu)


def grid() -> Points:
    """The points of a map, row by row from the lower left."""
    return square(1.0, PIXELS)


def draw(maps: Maps, path: str | os.PathLike[str]) -> None:
    """One data set: data and samples at the left, then mu, pi and implied values at every diffusion time."""
    columns = 1 + len(maps.times)
    figure = _figure(columns, 3)
    axes = figure.subplots(3, columns, squeeze=False)
    _scatter(axes[0, 0], maps.data, maps.data_q, f"data, colored by Q ({maps.q_is})")
    _scatter(axes[1, 0], maps.samples, maps.samples_q, f"samples of pi, beta {maps.beta:g}")
    axes[2, 0].axis("off")
    for column, t in enumerate(maps.times, 1):
        i = column - 1
        _density(axes[0, column], maps.mu[i], maps.data, f"mu, t = {t:g}")
        _density(axes[1, column], maps.pi[i], maps.data, f"pi, t = {t:g}")
        _values(axes[2, column], maps, i, f"beta (f_pi - f_mu), t = {t:g}")
    figure.suptitle(maps.name, x=0.01, ha="left", fontweight="bold")
    _save(figure, path)


def contact_sheet(sets: Sequence[Maps], path: str | os.PathLike[str]) -> None:
    """All data sets, a row each, at the smallest diffusion time."""
    figure = _figure(4, len(sets))
    axes = figure.subplots(len(sets), 4, squeeze=False)
    for row, maps in zip(axes, sets, strict=True):
        i = int(np.argmin(maps.times))
        _scatter(row[0], maps.data, maps.data_q, f"{maps.name}: data and Q")
        _density(row[1], maps.mu[i], maps.data, "density of mu")
        _density(row[2], maps.pi[i], maps.data, f"density of pi, beta {maps.beta:g}")
        _values(row[3], maps, i, "beta (f_pi - f_mu)")
    _save(figure, path)


def draw_samples(panels: Sequence[tuple[str, Points]], path: str | os.PathLike[str]) -> None:
    """Samples of several models side by side (Fig. 7)."""
    figure = _figure(len(panels), 1)
    for axes, (title, points) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _scatter(axes, points, np.zeros(len(points)), title)
    _save(figure, path)


def _figure(columns: int, rows: int) -> Figure:
    figure = Figure(figsize=(2.1 * columns, 2.25 * rows + 0.3), dpi=110, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _scatter(axes: Axes, points: Points, colors: Values, title: str) -> None:
    axes.scatter(points[:, 0], points[:, 1], s=1.0, c=colors, cmap=_VALUE, linewidths=0, rasterized=True)
    _frame(axes, title)


def _density(axes: Axes, energy: Float[np.ndarray, "pixels pixels"], data: Points, title: str) -> None:
    # An energy has no unit of height: each map is drawn relative to its peak.
    _image(axes, np.exp(np.minimum(energy - _peak(energy, data), 0.0)), _DENSITY, title)


def _peak(energy: Float[np.ndarray, "pixels pixels"], data: Points) -> float:
    # Over the pixels with data: what the network was never asked, far from all data, must not set the scale. Where it
    # is higher there it is drawn, as dark as the peak.
    column, row = np.clip(np.rint((data + 1.0) / 2.0 * (PIXELS - 1)), 0, PIXELS - 1).astype(int).T
    return float(energy[row, column].max())


def _values(axes: Axes, maps: Maps, i: int, title: str) -> None:
    # Only where mu has mass: elsewhere no candidate ever was, and the difference means nothing.
    likely = maps.mu[i] > _peak(maps.mu[i], maps.data) - 5.0
    _image(axes, np.where(likely, maps.q[i], np.nan), _VALUE, title)


def _image(axes: Axes, picture: Float[np.ndarray, "pixels pixels"], colors: str, title: str) -> None:
    axes.imshow(picture, origin="lower", extent=(-1.0, 1.0, -1.0, 1.0), cmap=colors, interpolation="bilinear")
    _frame(axes, title)


def _frame(axes: Axes, title: str) -> None:
    axes.set(xlim=(-1.0, 1.0), ylim=(-1.0, 1.0), xticks=[], yticks=[], aspect="equal")
    axes.set_title(title, fontsize=7)


def _save(figure: Figure, path: str | os.PathLike[str]) -> None:
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_atomically(path, picture.getvalue())
