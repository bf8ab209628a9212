"""The picture of a critic's check: predictions beside what came of them, a row of panels for each seed."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tiltrl.evaluation.calibration import Bin, HeldOut
from tiltrl.evaluation.ranking import Estimate
from tiltrl.evaluation.truth import RolloutCheck
from tiltrl.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's blue and orange: told apart with any color vision, and in print.
_MEASURED, _DOUBT, _INK, _FAINT = "#0072B2", "#D55E00", "#222222", "#d9d9d9"

Checked = tuple[str, HeldOut, RolloutCheck | None]
"""A title, and the two halves of one seed's check."""


def draw_checks(checks: Sequence[Checked], path: str | os.PathLike[str], title: str) -> None:
    """Write `checks_picture` to a file, aside first, then renamed.

    Raises:
        InputError: the file cannot be written.
    """
    write_atomically(path, checks_picture(checks, title))


def checks_picture(checks: Sequence[Checked], title: str) -> bytes:
    """Draw calibration of differences and level on held-out episodes, and of rollouts where there are any, as a PNG.

    Args:
        checks: at least one.
        title: of the picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here, because it is slow and little needs it
    from matplotlib.figure import Figure

    columns = 4 if any(rollouts for _, _, rollouts in checks) else 2
    figure = Figure(figsize=(3.6 * columns, 0.5 + 3.5 * len(checks)), dpi=130, facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12)
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=_INK, parse_math=False)
    for row, (name, held_out, rollouts) in enumerate(checks):
        panels = [figure.add_subplot(len(checks), columns, row * columns + 1 + i) for i in range(columns)]
        _draw_bins(panels[0], held_out.bins, "advantage of the logged action", "return beyond V", slope=held_out.slope)
        panels[0].set_title(f"{name}\nheld-out: differences", fontsize=9, loc="left", color=_INK)
        _draw_bins(panels[1], held_out.level_bins, "Q of the logged action", "discounted return")
        panels[1].set_title("\nheld-out: level", fontsize=9, loc="left", color=_INK)
        if rollouts is not None:
            slope = rollouts.ranking.slope
            _draw_bins(panels[2], rollouts.bins, "Q over its state's mean", "return over its state's mean", slope=slope)
            panels[2].set_title("\nrollouts: actions of one state", fontsize=9, loc="left", color=_INK)
            _draw_gains(panels[3], rollouts)
            panels[3].set_title("\nrollouts: what following Q brings", fontsize=9, loc="left", color=_INK)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def _draw_bins(axes: Axes, bins: Sequence[Bin], across: str, up: str, slope: Estimate | None = None) -> None:
    x = np.array([some.predicted for some in bins])
    y = np.array([some.outcome.value for some in bins])
    reach = np.array([[some.outcome.value - some.outcome.low, some.outcome.high - some.outcome.value] for some in bins])
    ends = np.array([x.min(), x.max()])
    axes.plot(ends, ends, color=_INK, linewidth=1, linestyle=(0, (2, 3)), label="calibrated")
    axes.errorbar(x, y, np.maximum(reach, 0.0).T, fmt="o", color=_MEASURED, ms=5, linewidth=1.5, label="95 % interval")
    if slope is not None:
        middle = y.mean() - slope.value * x.mean()
        axes.plot(ends, middle + slope.value * ends, color=_DOUBT, linewidth=1.2, label=f"slope {slope.value:.2g}")
    axes.set_xlabel(f"predicted: {across}", fontsize=8, color=_INK)
    axes.set_ylabel(f"found: {up}", fontsize=8, color=_INK)
    axes.legend(fontsize=7, frameon=False, loc="best")
    _plain(axes)


def _draw_gains(axes: Axes, found: RolloutCheck) -> None:
    bars = (
        (f"Q's first choice\nof {found.candidates}, once", found.one_step_gain),
        (f"for {found.steps_ahead} steps", found.gain),
    )
    for height, (_, gain) in enumerate(bars):
        certain = gain.resampled and (gain.low > 0 or gain.high < 0)
        axes.plot([gain.low, gain.high], [height, height], color=_MEASURED if certain else _FAINT, linewidth=3.5)
        axes.plot(gain.value, height, "o", color=_MEASURED, ms=8, markeredgecolor="white")
    axes.axvline(0.0, color=_INK, linewidth=1, linestyle=(0, (2, 3)))
    axes.set_yticks(range(len(bars)), [name for name, _ in bars])
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.set_xlabel("return over the behavior's, 95 % interval", fontsize=8, color=_INK)
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.tick_params(length=0, labelsize=8, labelcolor=_INK)
    axes.grid(color=_FAINT, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
