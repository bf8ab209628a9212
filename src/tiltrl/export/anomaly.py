"""How unusual an error of denoising is: its quantiles over the actions that were logged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tiltrl.errors import InputError
from tiltrl.policy import Policy
from tiltrl.types import Transitions

AT_MOST = 50_000
"""Logged steps that the quantiles are taken of."""
_ROWS = 2_000
SHARES = (*np.geomspace(1e-4, 1e-2, 41)[:-1].tolist(), *np.linspace(0.01, 1.0, 100).tolist())
"""Finest where it matters: among the most unusual hundredth."""


def anomaly_table(
    behavior: Policy, data: Transitions, on_progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """What is usual: of the error of denoising, and of observations.

    `quantiles` are pairs of a share, ascending, and the error that this share of the logged actions reaches or exceeds;
    `obs_low` and `obs_high` are the range of each part of the logged observations.

    Raises:
        InputError: the data is not what the policy was trained on, or the policy is distilled.
    """
    trained_on = behavior.config.provenance.get("data")
    if trained_on is not None and trained_on != data.fingerprint():
        raise InputError(
            f"data {data.task.dataset}: has fingerprint {data.fingerprint()}, but the behavior policy was trained on "
            f"{trained_on}; what is unusual is measured by its own data: give that"
        )
    index, errors = some_rows(len(data), AT_MOST), []
    for start in range(0, len(index), _ROWS):
        part = index[start : start + _ROWS]
        errors.append(behavior.denoising_error(data.obs[part], data.action[part]))
        if on_progress is not None:
            on_progress(start + len(part), len(index))
    found = np.quantile(np.concatenate(errors).astype(np.float64), 1.0 - np.array((0.0, *SHARES)))
    return {
        "score": "denoising_error",
        "quantiles": tuple(zip((0.0, *SHARES), found.tolist(), strict=True)),
        "obs_low": np.min(data.obs, axis=0).tolist(),
        "obs_high": np.max(data.obs, axis=0).tolist(),
    }


def some_rows(total: int, at_most: int) -> np.ndarray:
    """Ascending indices of so many random rows, the same each time."""
    return np.sort(np.random.default_rng(0).choice(total, min(total, at_most), replace=False))
