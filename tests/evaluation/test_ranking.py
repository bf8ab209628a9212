"""Agreement with noisy returns: what is known of the data comes out, and intervals hold it."""

from __future__ import annotations

import numpy as np
import pytest

from tiltrl.errors import InputError
from tiltrl.evaluation.ranking import (
    bootstrap,
    correlation_over,
    mean_of,
    mean_over,
    rank_within,
    ranking,
    slope_over,
)

STATES, K, REPEATS = 256, 8, 4


def synthetic(correlation: float, seed: int, noise: float = 3.0) -> tuple[np.ndarray, np.ndarray, float]:
    """Predictions, noisy returns, and the true correlation of ranks within a state."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(STATES, K))
    predicted = correlation * truth + np.sqrt(1 - correlation**2) * rng.normal(size=truth.shape)
    own = noise * rng.normal(size=(STATES, K, REPEATS))
    shared = 20.0 * rng.normal(size=(STATES, 1, REPEATS))  # common random numbers, and the level of the state
    known = np.mean(rank_within(predicted) * rank_within(truth)) / np.mean(rank_within(truth) ** 2)
    return predicted, truth[:, :, None] + own + shared, float(known)


@pytest.mark.parametrize("correlation", [0.0, 0.4, 0.8])
def test_the_correction_recovers_the_correlation_without_noise(correlation: float) -> None:
    found = [(ranking(*data[:2]), data[2]) for data in (synthetic(correlation, seed) for seed in range(10))]
    errors = [one.corrected.value - known for one, known in found]
    assert abs(np.mean(errors)) < 0.05
    covered = sum(one.corrected.low <= known <= one.corrected.high for one, known in found)
    assert covered >= 8
    if correlation:
        raw = np.mean([one.raw.value / known for one, known in found])
        assert raw < 0.7, "which would have been taken for a bad critic"


def test_a_critic_that_is_right_backwards_is_corrected_to_minus_one() -> None:
    predicted, returns, _ = synthetic(1.0, 0)
    found = ranking(-predicted, returns)
    assert found.raw.high < 0 and found.corrected.value < -0.85
    assert found.slope.value == pytest.approx(-1.0, abs=0.2)


def test_returns_that_are_noise_alone_tell_nothing() -> None:
    rng = np.random.default_rng(0)
    found = ranking(rng.normal(size=(100, K)), rng.normal(size=(100, K, REPEATS)))
    assert found.reliability < 0.2
    assert found.raw.low < 0 < found.raw.high
    assert found.corrected.low < -0.4 and found.corrected.high > 0.4, "nearly anything may be true"


def test_the_slope_is_that_of_the_truth_whatever_the_noise() -> None:
    predicted, returns, _ = synthetic(1.0, 3)
    assert ranking(2.0 * predicted, returns).slope.value == pytest.approx(0.5, abs=0.06)


def test_levels_of_states_and_of_repeats_do_not_matter() -> None:
    predicted, returns, _ = synthetic(0.5, 1)
    rng = np.random.default_rng(9)
    moved = returns + 100.0 * rng.normal(size=(STATES, 1, REPEATS))
    one, other = ranking(predicted, returns), ranking(predicted + rng.normal(size=(STATES, 1)), moved)
    assert other.raw.value == pytest.approx(one.raw.value)
    assert other.slope.value == pytest.approx(one.slope.value)


def test_equal_returns_have_no_ranks() -> None:
    found = ranking(np.random.default_rng(0).normal(size=(5, 3)), np.ones((5, 3, 2)))
    assert (found.raw.value, found.reliability, found.slope.value, found.corrected.value) == (0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("repeats", [1, 3])
def test_repeats_that_cannot_be_halved_are_refused(repeats: int) -> None:
    with pytest.raises(InputError, match=f"repeats = {repeats}; an even number"):
        ranking(np.ones((4, 3)), np.ones((4, 3, repeats)))


def test_ranks_of_ties_are_their_mean() -> None:
    assert rank_within(np.array([[3.0, 1.0, 3.0, 0.0]])).tolist() == [[1.0, -0.5, 1.0, -1.5]]


def test_the_interval_of_a_mean_covers_it() -> None:
    covered = 0
    for seed in range(200):
        found = mean_of(np.random.default_rng(seed).normal(1.0, 2.0, size=60))
        covered += found.low <= 1.0 <= found.high
    assert 180 <= covered <= 198


def test_items_of_one_unit_are_no_independent_witnesses() -> None:
    rng = np.random.default_rng(0)
    unit, level = np.repeat(np.arange(30), 50), rng.normal(size=30)
    values = level[unit] + 0.01 * rng.normal(size=unit.size)
    together, apart = mean_over(values, unit), mean_over(values, np.arange(unit.size))
    assert together.value == pytest.approx(apart.value) == pytest.approx(values.mean())
    assert together.high - together.low > 4 * (apart.high - apart.low)


def test_correlation_and_slope_are_the_usual_ones() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(5.0, 2.0, size=300)
    y = 3.0 - 0.5 * x + rng.normal(size=300)
    unit = np.arange(300) // 3
    assert correlation_over(x, y, unit).value == pytest.approx(np.corrcoef(x, y)[0, 1])
    found = slope_over(x, y, unit)
    assert found.value == pytest.approx(np.polyfit(x, y, 1)[0])
    assert found.low < -0.5 < found.high


def test_numbers_of_units_may_have_gaps() -> None:
    values, unit = np.arange(6.0), np.array([0, 0, 4, 4, 9, 9])
    assert mean_over(values, unit) == mean_over(values, unit // 4)


def test_equal_data_have_an_equal_interval() -> None:
    sums = np.random.default_rng(0).normal(size=(1, 20))
    assert bootstrap(sums, lambda found: found[0]) == bootstrap(sums, lambda found: found[0])
