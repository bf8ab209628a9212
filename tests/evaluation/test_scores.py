"""Scores against the reference, intervals against what is known about them."""

import warnings

import gymnasium
import numpy as np
import pytest
from scipy import stats

from tiltrl.errors import InputError
from tiltrl.evaluation.scores import Interval, interval, normalized_score, score_label
from tiltrl.types import Task

RAW = Task("my data", None, (-1.0,), (1.0,), obs_dim=1)
HOPPER = Task("hopper", gymnasium.spec("Hopper-v5").to_json(), (-1.0,) * 3, (1.0,) * 3, 11, -20.272305, 3234.3)


def test_normalized_score_is_0_and_100_at_the_reference_and_linear_between():
    np.testing.assert_allclose(normalized_score([-20.272305, 1607.0138475, 3234.3], HOPPER), [0, 50, 100], atol=1e-9)
    assert normalized_score(np.zeros((2, 3)), HOPPER).shape == (2, 3)


def test_without_reference_returns_stay_raw():
    np.testing.assert_array_equal(normalized_score([1.5, -2.0], RAW), [1.5, -2.0])


def test_equal_references_are_refused():
    with pytest.raises(InputError, match="my data: ref_min and ref_max are both 1.0"):
        normalized_score([1.0], Task("my data", None, (-1.0,), (1.0,), 1, 1.0, 1.0))


def test_labels_say_what_the_numbers_are():
    assert score_label(HOPPER) == "normalized score, Hopper-v5 (0 = -20.2723, 100 = 3234.3; not a D4RL score)"
    assert score_label(RAW) == "raw return, my data"


@pytest.mark.parametrize("values", [[[3.0]], [[0.1] * 3], [[0.1, 0.1], [0.1, 0.1]]])
def test_without_spread_the_interval_is_the_mean_and_nothing_warns(values):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert interval(values) == Interval(np.mean(values), np.mean(values), np.mean(values))


def test_interval_agrees_with_the_normal_one_for_many_values():
    values = np.random.default_rng(0).normal(50, 10, 400)
    low, high = stats.norm.interval(0.95, values.mean(), stats.sem(values))
    known = interval(values)
    assert known.mean == pytest.approx(values.mean())
    np.testing.assert_allclose([known.low, known.high], [low, high], atol=0.1)
    assert interval(values) == known
    assert interval(values, level=0.5).high < known.high


def test_interval_covers_the_mean_as_often_as_it_says():
    draws = np.random.default_rng(1).normal(size=(300, 30))
    known = [interval(values, resamples=500) for values in draws]
    # 30 values: the percentile interval is a little narrow; 3 standard errors of 300 trials are 0.04.
    assert np.mean([k.low <= 0 <= k.high for k in known]) == pytest.approx(0.94, abs=0.04)


def test_seeds_are_strata_so_their_differences_do_not_widen_the_interval():
    noise = np.random.default_rng(0).normal(size=(3, 50))
    apart, together = interval(noise + [[0], [50], [100]]), interval(noise)
    assert apart.mean == pytest.approx(together.mean + 50)
    assert apart.high - apart.low == pytest.approx(together.high - together.low)


def test_one_episode_a_seed_resamples_the_seeds():
    assert interval([[1.0], [2.0], [4.0]]) == interval([1.0, 2.0, 4.0])


@pytest.mark.parametrize("values", [[], [[1.0, np.nan]], [np.inf]])
def test_nothing_and_not_finite_values_are_refused(values):
    with pytest.raises(InputError, match="at least one value is needed, and only finite ones"):
        interval(values)
