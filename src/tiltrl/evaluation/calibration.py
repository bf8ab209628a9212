"""A critic beside what held-out episodes returned: order, size and level of its values, without an environment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from tiltrl.evaluation.ranking import Estimate, correlation_over, mean_over, slope_over

BINS = 10
SETTLED = 0.05
"""What is left of a reward's weight at the end of a return that counts as known to its end."""
MOST_PAIRS = 4000
"""Steps whose nearest neighbor is looked for."""


@dataclass(frozen=True)
class Bin:
    """Held-out steps, or actions, of about the same predicted value."""

    predicted: float  # mean prediction
    outcome: Estimate  # mean of what came of them


@dataclass(frozen=True)
class HeldOut:
    """What held-out episodes say of a critic; values in units of the transformed reward."""

    steps: int
    episodes: int
    bins: tuple[Bin, ...]  # of the logged action's advantage: outcome beyond V
    rank: Estimate  # correlation of ranks of that advantage and that outcome, all states together
    slope: Estimate  # of that outcome on that advantage: 1 is calibrated, below exaggerates
    nearby: Estimate  # correlation of differences between a step and the nearest of another episode
    # Median distance of those two, in standard deviations a dimension: 0 is one state. None: no other episode.
    nearby_distance: float | None
    level_bins: tuple[Bin, ...]  # of Q: discounted return
    level_slope: Estimate  # of return on Q
    overestimation: Estimate  # mean of Q less return
    overestimation_share: float  # the same over the standard deviation of returns
    known_returns: float  # share of the steps with a return that is known to its end; 0: V was added to all


def held_out_check(
    obs: Float[np.ndarray, "steps obs"],
    advantage: Float[np.ndarray, " steps"],
    q: Float[np.ndarray, " steps"],
    value: Float[np.ndarray, " steps"],
    returns: Float[np.ndarray, " steps"],
    known: Bool[np.ndarray, " steps"],
    episode: Int[np.ndarray, " steps"],
) -> HeldOut:
    """Compare a critic with what whole episodes returned.

    Args:
        obs: normalized, so that distances mean something.
        advantage: of each logged action over the mean of candidates at its state.
        q: of each logged action.
        value: V of each state.
        returns: discounted, from each step on; where the recording ends too early, with V of what follows.
        known: where that V weighs no more than `SETTLED`.
        episode: number of each step's, from 0.
    """
    beyond = returns - value
    level = known if known.sum() >= 2 else np.ones_like(known)
    pairs, distance = _neighbors(obs, episode)
    first, second = pairs
    spread = float(returns[level].std())
    overestimation = mean_over((q - returns)[level], episode[level])
    return HeldOut(
        steps=len(obs),
        episodes=int(episode.max()) + 1,
        bins=quantile_bins(advantage, beyond, episode),
        rank=correlation_over(_ranks(advantage), _ranks(beyond), episode),
        slope=slope_over(advantage, beyond, episode),
        nearby=correlation_over(advantage[first] - advantage[second], beyond[first] - beyond[second], episode[first]),
        nearby_distance=distance,
        level_bins=quantile_bins(q[level], returns[level], episode[level]),
        level_slope=slope_over(q[level], returns[level], episode[level]),
        overestimation=overestimation,
        overestimation_share=overestimation.value / spread if spread > 0 else 0.0,
        known_returns=float(known.mean()) if known.sum() >= 2 else 0.0,
    )


def quantile_bins(
    predicted: Float[np.ndarray, " items"],
    outcome: Float[np.ndarray, " items"],
    unit: Int[np.ndarray, " items"],
    bins: int = BINS,
) -> tuple[Bin, ...]:
    """Equal shares of the items by prediction, ascending, with intervals over the units that the items belong to."""
    parts = np.array_split(np.argsort(predicted, kind="stable"), min(bins, len(predicted)))
    return tuple(Bin(float(predicted[part].mean()), mean_over(outcome[part], unit[part])) for part in parts)


def known_to_the_end(
    terminal: Bool[np.ndarray, " steps"], timeout: Bool[np.ndarray, " steps"], discount: float
) -> Bool[np.ndarray, " steps"]:
    """Where an episode goes on until it ends by itself, or until what follows weighs no more than `SETTLED`."""
    ends = np.flatnonzero(terminal | timeout)
    end = np.repeat(ends, np.diff(ends, prepend=-1))
    return terminal[end] | (discount ** (end - np.arange(len(end)) + 1.0) <= SETTLED)


def _ranks(values: Float[np.ndarray, " items"]) -> Float[np.ndarray, " items"]:
    from scipy import stats  # here, because it is slow and little needs it

    return stats.rankdata(values)


def _neighbors(
    obs: Float[np.ndarray, "steps obs"], episode: Int[np.ndarray, " steps"]
) -> tuple[Int[np.ndarray, "2 pairs"], float | None]:
    """Steps, each with the nearest of the other half of the episodes, and their median distance a dimension."""
    from scipy.spatial import KDTree  # here, because it is slow and little needs it

    even, odd = np.flatnonzero(episode % 2 == 0), np.flatnonzero(episode % 2 == 1)
    if not len(odd):
        return np.zeros((2, 1), dtype=np.int64), None  # one episode: nothing to compare with
    some = even[:: -(-len(even) // MOST_PAIRS)]
    distance, nearest = KDTree(obs[odd]).query(obs[some])
    return np.stack([some, odd[nearest]]), float(np.median(distance)) / float(np.sqrt(obs.shape[1]))
