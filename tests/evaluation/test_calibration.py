"""Held-out episodes beside a critic whose errors are known."""

from __future__ import annotations

import numpy as np
import pytest

from tiltrl.evaluation.calibration import HeldOut, held_out_check, known_to_the_end, quantile_bins
from tiltrl.evaluation.ranking import mean_over

EPISODES, LENGTH = 80, 25
EPISODE = np.repeat(np.arange(EPISODES), LENGTH)


def judge(*, factor: float = 1.0, over: float = 0.0, known: bool = True) -> HeldOut:
    """A critic whose advantages are `factor` times the truth and whose level is `over` too high."""
    rng = np.random.default_rng(0)
    value, advantage = rng.normal(50.0, 10.0, size=EPISODE.size), rng.normal(size=EPISODE.size)
    returns = value + advantage + rng.normal(size=EPISODE.size)
    return held_out_check(
        obs=rng.normal(size=(EPISODE.size, 2)),
        advantage=factor * advantage,
        q=value + advantage + over,
        value=value,
        returns=returns,
        known=np.full(EPISODE.size, known),
        episode=EPISODE,
    )


def test_a_calibrated_critic_is_found_calibrated() -> None:
    found = judge()
    assert found.slope.low < 1.0 < found.slope.high and found.slope.value == pytest.approx(1.0, abs=0.1)
    assert found.level_slope.value == pytest.approx(1.0, abs=0.02)
    assert found.overestimation.low < 0.0 < found.overestimation.high
    assert found.rank.value == pytest.approx(0.69, abs=0.05)  # Spearman of normal numbers of correlation sqrt(1/2)
    assert found.nearby.value == pytest.approx(np.sqrt(0.5), abs=0.1)
    assert (found.steps, found.episodes, found.known_returns) == (EPISODE.size, EPISODES, 1.0)


def test_exaggeration_halves_the_slope_and_leaves_the_rank() -> None:
    assert judge(factor=2.0).slope.value == pytest.approx(judge().slope.value / 2)
    assert judge(factor=2.0).rank == judge().rank
    assert judge(factor=-1.0).rank.high < 0


def test_overestimation_is_told_in_units_and_in_shares_of_the_spread() -> None:
    found = judge(over=5.0)
    assert found.overestimation.value == pytest.approx(5.0, abs=0.2)
    assert found.overestimation_share == pytest.approx(0.5, abs=0.05)


def test_returns_that_are_not_known_to_the_end_are_used_only_where_none_are() -> None:
    assert judge(known=False).known_returns == 0.0
    assert judge(known=False).overestimation == judge().overestimation


def test_bins_hold_equal_shares_in_order() -> None:
    rng = np.random.default_rng(0)
    predicted = rng.normal(size=1003)
    bins = quantile_bins(predicted, 2.0 * predicted, np.arange(1003))
    means = [some.predicted for some in bins]
    assert len(bins) == 10 and means == sorted(means)
    assert all(some.outcome.value == pytest.approx(2.0 * some.predicted) for some in bins)
    assert len(quantile_bins(predicted[:3], predicted[:3], np.arange(3))) == 3


def test_a_return_is_known_at_a_terminal_and_far_from_a_timeout() -> None:
    terminal, timeout = np.zeros(8, bool), np.zeros(8, bool)
    timeout[4] = terminal[7] = True
    # 0.3^2 = 0.09 is left two steps before the end, 0.3^3 = 0.027 three steps before.
    expected = [True, True, True, False, False, True, True, True]
    assert known_to_the_end(terminal, timeout, 0.3).tolist() == expected


def test_one_episode_has_no_neighbors_and_no_interval() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=10)
    found = held_out_check(
        obs=rng.normal(size=(10, 2)),
        advantage=x,
        q=x,
        value=np.zeros(10),
        returns=x,
        known=np.ones(10, bool),
        episode=np.zeros(10, dtype=np.int64),
    )
    assert found.nearby.value == 0.0 and found.nearby_distance is None
    assert not any(one.resampled for one in (found.rank, found.slope, found.level_slope, found.overestimation))
    assert not any(some.outcome.resampled for some in found.bins)


def test_five_episodes_are_enough_for_an_interval() -> None:
    values = np.random.default_rng(0).normal(size=40)
    four, five = (mean_over(values, np.arange(40) % episodes) for episodes in (4, 5))
    assert not four.resampled and five.resampled and five.low < five.value < five.high
