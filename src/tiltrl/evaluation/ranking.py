"""How well predicted values agree with noisy returns of the same actions, state by state.

A return of a rollout varies far more than the actions of one state differ in worth, so a perfect critic, too, would
correlate weakly with it. The repeats of each rollout tell how weakly: two halves of them correlate only as far as they
are signal. `corrected = raw / sqrt(reliability)` (Spearman 1904, *The Proof and Measurement of Association between Two
Things*), the reliability being that of all repeats, `2 h / (1 + h)` of the halves' correlation h (Spearman-Brown).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float, Int

from tiltrl.errors import InputError

RESAMPLES = 2000
LEAST_UNITS = 5
"""States or episodes below which resampling them says nothing; of one, an interval would be a point."""
Statistic = Callable[[Float[np.ndarray, "sums resamples"]], Float[np.ndarray, " resamples"]]


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float
    resampled: bool = True  # False: of too few units for an interval; `low` and `high` repeat the value and say nothing


@dataclass(frozen=True)
class Ranking:
    """Agreement of predictions with returns among the actions of one state, pooled over states."""

    raw: Estimate  # correlation of ranks within a state, with the mean of all repeats
    corrected: Estimate  # the same with the truth, had there been no noise; [-1, 1] where noise is all there is
    reliability: float  # share of the ranks' variance that is signal, 0 to 1
    slope: Estimate  # of returns on predictions, differences within a state: 1 is calibrated, below exaggerates


def bootstrap(sums: Float[np.ndarray, "sums units"], statistic: Statistic) -> Estimate:
    """A statistic that is a function of sums over units, such as states or episodes, and its interval.

    Of fewer than `LEAST_UNITS` there is no interval.

    Args:
        sums: what each unit adds to each sum.
        statistic: maps sums, a column a resample, to one number each.
    """
    count = sums.shape[1]
    value = float(statistic(sums.sum(axis=1, keepdims=True))[0])
    if count < LEAST_UNITS:
        return Estimate(value, value, value, resampled=False)
    weights = np.random.default_rng(0).multinomial(count, np.full(count, 1.0 / count), size=RESAMPLES)
    low, high = np.quantile(statistic(sums @ weights.T.astype(np.float64)), [0.025, 0.975])
    return Estimate(value, float(low), float(high))


def mean_of(values: Float[np.ndarray, " units"]) -> Estimate:
    """The mean over units."""
    sums = np.stack([np.ones(len(values)), np.asarray(values, np.float64)])
    return bootstrap(sums, lambda found: found[1] / found[0])


def rank_within(values: Float[np.ndarray, "states k"]) -> Float[np.ndarray, "states k"]:
    """Each value's rank among its state's, less the mean rank; ties share their mean."""
    above = (values[:, :, None] > values[:, None, :]).sum(axis=2)
    below = (values[:, :, None] < values[:, None, :]).sum(axis=2)
    return 0.5 * (above - below)


def ranking(predicted: Float[np.ndarray, "states k"], returns: Float[np.ndarray, "states k repeats"]) -> Ranking:
    """Compare predicted values with returns.

    Args:
        predicted: the critic's values of K actions a state.
        returns: of repeated rollouts of each. Repeat r of all actions of a state may share its random numbers; other
            repeats must not.

    Raises:
        InputError: the number of repeats is not even.
    """
    states, _, repeats = returns.shape
    if repeats < 2 or repeats % 2:
        raise InputError(f"repeats = {repeats}; an even number is needed, to set one half against the other")
    x, y = rank_within(predicted), rank_within(returns.mean(axis=2))
    halves = np.zeros((2, states))
    splits = [half for half in combinations(range(repeats), repeats // 2) if 0 in half]
    for half in splits:
        rest = [r for r in range(repeats) if r not in half]
        a, b = rank_within(returns[:, :, list(half)].mean(axis=2)), rank_within(returns[:, :, rest].mean(axis=2))
        halves += np.stack([(a * b).sum(axis=1), 0.5 * (a * a + b * b).sum(axis=1)]) / len(splits)
    sums = np.stack([(x * y).sum(axis=1), (x * x).sum(axis=1), (y * y).sum(axis=1), *halves])
    dx = predicted - predicted.mean(axis=1, keepdims=True)
    dy = (returns - returns.mean(axis=1, keepdims=True)).mean(axis=2)
    return Ranking(
        raw=bootstrap(sums, lambda found: _correlation(*found[:3])),
        corrected=bootstrap(sums, _corrected),
        reliability=float(_reliability(sums.sum(axis=1, keepdims=True))[0]),
        slope=slope(dx, dy),
    )


def slope(x: Float[np.ndarray, "units many"], y: Float[np.ndarray, "units many"]) -> Estimate:
    """Slope through the origin of y on x, with its interval over units; 0 where x does not vary."""
    sums = np.stack([(x * y).sum(axis=1, dtype=np.float64), (x * x).sum(axis=1, dtype=np.float64)])
    return bootstrap(sums, lambda found: _ratio(found[0], found[1]))


def correlation_over(
    x: Float[np.ndarray, " items"], y: Float[np.ndarray, " items"], unit: Int[np.ndarray, " items"]
) -> Estimate:
    """Pearson correlation of items, with its interval over the units that they belong to."""
    parts = (np.ones(len(x)), x, y, x * x, y * y, x * y)
    sums = np.stack([np.bincount(unit, part.astype(np.float64)) for part in parts])

    def statistic(found: Float[np.ndarray, "6 resamples"]) -> Float[np.ndarray, " resamples"]:
        n, sx, sy, sxx, syy, sxy = found
        return _correlation(sxy - sx * sy / n, sxx - sx**2 / n, syy - sy**2 / n)

    return bootstrap(sums[:, sums[0] > 0], statistic)


def slope_over(
    x: Float[np.ndarray, " items"], y: Float[np.ndarray, " items"], unit: Int[np.ndarray, " items"]
) -> Estimate:
    """Least-squares slope of y on x, with an intercept, and its interval over units."""
    x, y = x.astype(np.float64) - x.mean(), y.astype(np.float64) - y.mean()
    sums = np.stack([np.bincount(unit, part) for part in (np.ones(len(x)), x, y, x * x, x * y)])

    def statistic(found: Float[np.ndarray, "5 resamples"]) -> Float[np.ndarray, " resamples"]:
        n, sx, sy, sxx, sxy = found
        return _ratio(sxy - sx * sy / n, sxx - sx**2 / n)

    return bootstrap(sums[:, sums[0] > 0], statistic)


def mean_over(values: Float[np.ndarray, " items"], unit: Int[np.ndarray, " items"]) -> Estimate:
    """Mean of items, with its interval over units."""
    sums = np.stack([np.bincount(unit, part) for part in (np.ones(len(values)), values.astype(np.float64))])
    return bootstrap(sums[:, sums[0] > 0], lambda found: _ratio(found[1], found[0]))


def _correlation(xy: np.ndarray, xx: np.ndarray, yy: np.ndarray) -> np.ndarray:
    return _ratio(xy, np.sqrt(np.maximum(xx * yy, 0.0)))


def _reliability(sums: Float[np.ndarray, "5 resamples"]) -> Float[np.ndarray, " resamples"]:
    half = np.clip(_ratio(sums[3], sums[4]), 0.0, 1.0)
    return 2.0 * half / (1.0 + half)


def _corrected(sums: Float[np.ndarray, "5 resamples"]) -> Float[np.ndarray, " resamples"]:
    raw, share = _correlation(*sums[:3]), np.sqrt(_reliability(sums))
    # Without any signal in the returns nothing is known: whatever the sign, it may be all the way.
    return np.clip(np.where(share > 0, raw / np.where(share > 0, share, 1.0), np.sign(raw)), -1.0, 1.0)


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.zeros_like(np.asarray(a, np.float64)), where=b > 0)
