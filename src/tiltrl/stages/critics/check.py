"""Can this critic be trusted to choose actions? A check on held-out episodes that needs no environment.

It asks two things. Does a higher value go with a better outcome, where nobody trained? And do the critic's networks
agree on how the actions of one state differ? It cannot see what a policy meets after it has left the data.
Held out means from the critic: the behavior model and the scalings have seen every episode.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from tiltrl.data.transforms import discounted_returns

Verdict = Literal["good", "weak", "harmful"]

LEAST_EPISODES = 5
"""Held-out episodes below which resampling them says nothing: the interval is then all of [-1, 1]."""

TRUST_FLOOR = 0.1
"""A tilt towards a doubtful critic is small, but not nothing: it must stay visible that there was one."""


@dataclass(frozen=True)
class TrustCheck:
    """What the check found; correlations lie in [-1, 1]."""

    rank: float  # correlation of the logged action's advantage with what its held-out episode returned beyond V
    rank_low: float  # 95 % interval of `rank`, by resampling episodes
    rank_high: float
    spread: float  # standard deviation of Q among candidates of one state
    disagreement: float  # standard deviation between the networks, of the same differences
    reliability: float  # share of the spread that the networks agree on, 0 to 1; at best, since they share targets
    random_above_data: float  # share of states where a uniformly random action is valued above the logged one
    verdict: Verdict
    trust: float  # what the values are multiplied by before they tilt anything, TRUST_FLOOR to 1


def check_critic(
    advantage: Float[np.ndarray, " steps"],
    value: Float[np.ndarray, " steps"],
    reward: Float[np.ndarray, " steps"],
    terminal: Bool[np.ndarray, " steps"],
    timeout: Bool[np.ndarray, " steps"],
    last_value: Float[np.ndarray, " steps"],
    discount: float,
    candidate_values: Float[np.ndarray, "ensemble states k"],
    random_above_data: float,
) -> TrustCheck:
    """Judge a critic by held-out episodes.

    Args:
        advantage: of each logged action over the mean of candidates at its state, so that a state's level cancels.
        value: V of each state, taken off the outcome to lower its variance.
        reward: transformed rewards.
        terminal: the task ended here.
        timeout: the recording ended here; what would have followed is counted as `last_value`.
        last_value: V of each step's next state, in the rewards' units.
        discount: of the critic.
        candidate_values: each network's Q of K candidates at some states.
        random_above_data: as in `TrustCheck`; measured by the caller.
    """
    # What would have followed a time-out counts as V; without it long episodes would look bad at their ends.
    bootstrapped = reward + np.where(timeout & ~terminal, discount * last_value, 0.0)
    surprise = discounted_returns(bootstrapped, terminal, timeout, discount) - value
    episode = np.cumsum(np.concatenate([[0], (terminal | timeout)[:-1]]))
    rank, low, high = _correlation_interval(advantage, surprise, episode.astype(int))
    spread, disagreement, reliability = agreement(candidate_values)
    if high < 0:
        verdict: Verdict = "harmful"
    elif low > 0 and reliability > 0.5:
        verdict = "good"
    else:
        verdict = "weak"
    # The share of the ranking that is beyond doubt, times the share that the networks agree on.
    trust = max(TRUST_FLOOR, reliability * max(low, 0.0) / rank if rank > 0 else 0.0)
    return TrustCheck(rank, low, high, spread, disagreement, reliability, random_above_data, verdict, trust)


def agreement(values: Float[np.ndarray, "ensemble states k"]) -> tuple[float, float, float]:
    """Spread among candidates of one state, disagreement between networks, and the reliability of their mean.

    Reliability is `1 - (error variance of the mean) / (variance of the mean)`, clipped to [0, 1]: 1 where all networks
    order the candidates alike, 0 where their mean is no more than its own noise. One network cannot disagree: 1.
    """
    centered = values - values.mean(axis=2, keepdims=True)
    mean = centered.mean(axis=0)
    spread = float(mean.std())
    if len(values) == 1 or spread == 0.0:
        return spread, 0.0, float(spread > 0)
    error = centered.var(axis=0, ddof=1).mean()
    reliability = 1.0 - (error / len(values)) / mean.var()
    return spread, float(np.sqrt(error)), float(np.clip(reliability, 0.0, 1.0))


def _correlation_interval(
    x: Float[np.ndarray, " steps"], y: Float[np.ndarray, " steps"], episode: np.ndarray, resamples: int = 1000
) -> tuple[float, float, float]:
    """Pearson correlation and its 95 % bootstrap interval over episodes, whose steps are not independent."""
    x, y = x.astype(np.float64) - x.mean(), y.astype(np.float64) - y.mean()
    # A correlation is a function of sums, and an episode's sums are all that a resample needs.
    sums = np.stack([np.bincount(episode, v) for v in (np.ones_like(x), x, y, x * x, y * y, x * y)])

    def correlation(weights: Float[np.ndarray, "resamples episodes"]) -> Float[np.ndarray, " resamples"]:
        n, sx, sy, sxx, syy, sxy = sums @ weights.T
        covariance = sxy - sx * sy / n
        scale = np.sqrt(np.maximum((sxx - sx**2 / n) * (syy - sy**2 / n), 0.0))
        return np.divide(covariance, scale, out=np.zeros_like(scale), where=scale > 0)

    count = sums.shape[1]
    if count < LEAST_EPISODES:
        return float(correlation(np.ones((1, count)))[0]), -1.0, 1.0
    weights = np.random.default_rng(0).multinomial(count, np.full(count, 1.0 / count), size=resamples)
    low, high = np.quantile(correlation(weights.astype(np.float64)), [0.025, 0.975])
    return float(correlation(np.ones((1, count)))[0]), float(low), float(high)
