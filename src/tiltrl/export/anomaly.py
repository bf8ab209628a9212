"""How unusual an error of denoising is: its quantiles over the actions that were logged."""

from __future__ import annotations

import numpy as np

from tiltrl.errors import InputError
from tiltrl.policy import Policy
from tiltrl.types import Transitions

AT_MOST = 50_000
"""Logged steps that the quantiles are taken of."""
SHARES = (*np.geomspace(1e-4, 1e-2, 41)[:-1].tolist(), *np.linspace(0.01, 1.0, 100).tolist())
"""Finest where it matters: among the most unusual hundredth."""


def quantiles(behavior: Policy, data: Transitions) -> tuple[tuple[float, float], ...]:
    """Pairs of a share, ascending, and the denoising error that this share of the logged actions reaches or exceeds.

    Raises:
        InputError: the data is not what the policy was trained on, or the policy is distilled.
    """
    trained_on = behavior.config.provenance.get("data")
    if trained_on is not None and trained_on != data.fingerprint():
        raise InputError(
            f"data {data.task.dataset}: has fingerprint {data.fingerprint()}, but the behavior policy was trained on "
            f"{trained_on}; what is unusual is measured by its own data: give that"
        )
    index = some_rows(len(data), AT_MOST)
    errors = np.concatenate(
        [behavior.denoising_error(data.obs[part], data.action[part]) for part in np.array_split(index, 25)]
    )
    found = np.quantile(errors.astype(np.float64), 1.0 - np.array((0.0, *SHARES)))
    return tuple(zip((0.0, *SHARES), found.tolist(), strict=True))


def some_rows(total: int, at_most: int) -> np.ndarray:
    """Ascending indices of so many random rows, the same each time."""
    return np.sort(np.random.default_rng(0).choice(total, min(total, at_most), replace=False))
