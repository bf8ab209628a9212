"""A critic beside returns of rollouts from recorded states: what its values are worth where the truth can be had."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from tiltrl.evaluation.calibration import Bin, quantile_bins
from tiltrl.evaluation.ranking import Estimate, Ranking, mean_of, ranking, slope_over


@dataclass(frozen=True)
class RolloutCheck:
    """What rollouts say of a critic; values in units of the transformed reward."""

    states: int  # reset to, of held-out episodes
    candidates: int  # actions of the behavior tried in each
    repeats: int  # rollouts of each action
    horizon: int  # steps that are summed; nothing is added for what follows
    weight_left: float  # what a reward right after the horizon would have counted: discount^horizon
    reproduced: float  # share of the tried states in which the recorded step happened again
    ranking: Ranking  # of the candidates of one state
    bins: tuple[Bin, ...]  # of a candidate's predicted value over its state's mean: return over that mean
    level_slope: Estimate  # of a state's mean return on its mean predicted value
    overestimation: Estimate  # mean of predicted value less return
    overestimation_share: float  # the same over the standard deviation of states' mean returns
    one_step_gain: Estimate  # return of the candidate of the highest Q over all candidates' mean
    followed: int  # rollouts a state that followed Q
    steps_ahead: int  # for which they took the best of as many candidates by Q
    gain: Estimate  # return of doing so, then the behavior, over the behavior all along
    gain_share: float  # the same over the standard deviation of states' mean returns


def rollout_check(
    predicted: Float[np.ndarray, "states k"],
    returns: Float[np.ndarray, "states k repeats"],
    greedy: Float[np.ndarray, "states more repeats"],
    *,
    horizon: int,
    discount: float,
    reproduced: float,
    steps_ahead: int,
) -> RolloutCheck:
    """Compare predicted values with what came of the actions.

    Args:
        predicted: the critic's values of K actions of the behavior.
        returns: of each, followed by the behavior. Repeat r of a state shares its random numbers among all actions.
        greedy: returns of the best by Q for some steps, followed by the behavior; repeat r shares numbers likewise.
        horizon: steps that were summed.
        discount: of the returns.
        reproduced: share of the tried states in which the recorded step happened again.
        steps_ahead: for which the best by Q was taken.
    """
    states, k, repeats = returns.shape
    unit = np.repeat(np.arange(states), k)
    tried = returns.mean(axis=2)
    dx, dy = (values - values.mean(axis=1, keepdims=True) for values in (predicted, tried))
    mean_return = tried.mean(axis=1)
    spread = float(mean_return.std())
    overestimation = mean_of(predicted.mean(axis=1) - mean_return)
    gain = mean_of(greedy.mean(axis=(1, 2)) - mean_return)
    best = np.argmax(predicted, axis=1)
    return RolloutCheck(
        states=states,
        candidates=k,
        repeats=repeats,
        horizon=horizon,
        weight_left=discount**horizon,
        reproduced=reproduced,
        ranking=ranking(predicted, returns),
        bins=quantile_bins(dx.ravel(), dy.ravel(), unit, bins=6),  # fewer than of held-out steps: rollouts are
        level_slope=slope_over(predicted.mean(axis=1), mean_return, np.arange(states)),
        overestimation=overestimation,
        overestimation_share=overestimation.value / spread if spread > 0 else 0.0,
        one_step_gain=mean_of(dy[np.arange(states), best]),
        followed=greedy.shape[1] * greedy.shape[2],
        steps_ahead=steps_ahead,
        gain=gain,
        gain_share=gain.value / spread if spread > 0 else 0.0,
    )
