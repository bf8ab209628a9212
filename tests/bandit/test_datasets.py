"""The six sets: inside the unit box, reproducible, with values that follow what they say."""

from __future__ import annotations

import numpy as np
import pytest

from tiltrl.bandit.datasets import EIGHT_DEVIATION, SETS, BanditSet, bandit_set, eight_centers
from tiltrl.errors import InputError

each_set = pytest.mark.parametrize("known", SETS.values(), ids=SETS)


@each_set
def test_points_fill_the_unit_box_and_values_their_range(known: BanditSet) -> None:
    points = known.sample(5000, np.random.default_rng(0))
    q = known.q(points)
    assert points.shape == (5000, 2) and q.shape == (5000,)
    assert 0.6 < np.abs(points).max() <= 1.05
    assert 0.0 <= q.min() < 0.2 and 2.7 < q.max() <= 3.0


@each_set
def test_a_seed_fixes_the_points(known: BanditSet) -> None:
    first, again, other = (known.sample(50, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_the_eight_gaussians_are_where_they_should_be() -> None:
    points = SETS["8gaussians"].sample(20_000, np.random.default_rng(0))
    nearest = np.linalg.norm(points[:, None] - eight_centers(), axis=2).argmin(axis=1)
    for i, center in enumerate(eight_centers()):
        mine = points[nearest == i]
        assert len(mine) == pytest.approx(2500, rel=0.1)
        np.testing.assert_allclose(mine.mean(axis=0), center, atol=0.01)
        np.testing.assert_allclose(mine.std(axis=0), EIGHT_DEVIATION, rtol=0.1)
    np.testing.assert_allclose(SETS["8gaussians"].q(eight_centers()), 3.0 * np.arange(8) / 7)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("swissroll", (0.0, -0.3), (0.05, 0.82)),  # the beginning and the end of the roll
        ("moons", (-0.25, 0.3), (0.25, -0.3)),  # the tops of the two half circles, the second upside down
        ("rings", (0.2, 0.0), (0.0, -0.8)),
        ("checkerboard", (-0.2, 0.6), (0.2, 0.2)),
        ("2spirals", (0.84, 0.0), (0.0, 0.0)),
    ],
)
def test_which_points_are_worth_least_and_most(name: str, low: tuple[float, float], high: tuple[float, float]) -> None:
    q = SETS[name].q(np.array([low, high]))
    assert q[0] < 0.3 and q[1] > 2.7


def test_moons_are_told_apart() -> None:
    points = SETS["moons"].sample(2000, np.random.default_rng(0))
    assert np.mean(SETS["moons"].q(points) > 0) == pytest.approx(0.5, abs=0.02)


def test_an_unknown_set() -> None:
    with pytest.raises(InputError, match="dataset 'square' is unknown; choose one of swissroll, 8gaussians"):
        bandit_set("square")
