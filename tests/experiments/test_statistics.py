"""Means, intervals and probabilities of improvement, beside cases worked out by hand and rliable's own functions."""

import numpy as np
import pytest
from rliable import metrics

from tiltrl.errors import InputError
from tiltrl.experiments.statistics import Scores, above, improvement, matrix, mean_and_iqm, middle

NOISE = np.random.default_rng(0)


def scores(values, seeds=None) -> Scores:
    table = np.array(values, float)
    return Scores(tuple(seeds or range(len(table))), table)


def test_with_several_seeds_a_run_is_a_seeds_mean():
    found = scores([[0, 10], [20, 30], [40, 50]])
    assert found.runs.tolist() == [5, 25, 45]
    assert found.known.mean == 25
    assert 5 <= found.known.low < 25 < found.known.high <= 45


def test_with_one_seed_a_run_is_an_episode():
    found = scores([[0, 10, 20]])
    assert found.runs.tolist() == [0, 10, 20]
    assert found.known.low < found.known.mean == 10 < found.known.high


def test_seeds_that_agree_leave_no_interval_whatever_their_episodes():
    known = scores([[0, 10], [10, 0]]).known
    assert (known.low, known.mean, known.high) == (5, 5, 5)


def test_data_sets_are_compared_on_the_seeds_that_they_have_in_common():
    both = matrix([scores([[1, 3], [5, 7], [90, 90]], (0, 1, 2)), scores([[0, 0], [10, 10]], (1, 0))])
    assert both.tolist() == [[2, 10], [6, 0]]
    one = matrix([scores([[1, 3, 5], [0, 0, 0]], (0, 1)), scores([[7, 9]], (0,))])
    assert one.tolist() == [[1, 7], [3, 9]]  # episodes of the one seed, as many as both have
    with pytest.raises(InputError, match="no seed in common"):
        matrix([scores([[1]], (0,)), scores([[1]], (1,))])


def test_the_interquartile_mean_leaves_out_a_quarter_at_each_end():
    runs = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 1000.0]])
    assert middle(runs) == pytest.approx((2 + 3 + 4 + 5) / 4)
    some = NOISE.normal(size=(5, 7))
    assert middle(some) == pytest.approx(metrics.aggregate_iqm(some))


def test_the_probability_of_improvement_counts_pairs_and_half_of_ties():
    ours, theirs = np.array([[1.0], [2.0]]), np.array([[1.0], [0.0]])
    assert above(ours, theirs) == pytest.approx((0.5 + 1 + 1 + 1) / 4)
    x, y = NOISE.integers(0, 5, size=(4, 3)).astype(float), NOISE.integers(0, 5, size=(6, 3)).astype(float)
    assert above(x, y) == pytest.approx(metrics.probability_of_improvement(x, y))


def test_runs_are_resampled_within_their_data_set():
    runs = np.array([[0.0, 100.0], [0.0, 100.0], [0.0, 100.0]])  # no spread within any
    mean, iqm = mean_and_iqm(runs)
    assert (mean.low, mean.mean, mean.high) == (50, 50, 50)
    assert (iqm.low, iqm.mean, iqm.high) == (50, 50, 50)


def test_a_sure_improvement_is_sure_and_an_unsure_one_is_not():
    sure = improvement(np.array([[2.0], [3.0]]), np.array([[0.0], [1.0]]))
    assert (sure.low, sure.mean, sure.high) == (1, 1, 1)
    same = NOISE.normal(size=(8, 2))
    unsure = improvement(same, same)
    assert unsure.low < unsure.mean == 0.5 < unsure.high


def test_equal_scores_have_equal_intervals_and_nobody_elses_random_numbers_change():
    runs = NOISE.normal(size=(4, 3))
    np.random.seed(7)
    first = mean_and_iqm(runs)
    drawn = np.random.random()
    assert mean_and_iqm(runs) == first
    np.random.seed(7)
    assert np.random.random() == drawn
