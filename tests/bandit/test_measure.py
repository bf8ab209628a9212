"""The yardsticks themselves, on cases with known answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tiltrl.bandit import measure
from tiltrl.bandit.datasets import SETS

EIGHT = SETS["8gaussians"]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_distance_of_a_shift() -> None:
    # A shift by d moves every projection by |d cos|, whose mean over directions is 2 |d| / pi.
    points = rng().normal(size=(500, 2))
    assert measure.sliced_wasserstein(points, points) == 0.0
    assert measure.sliced_wasserstein(points, points + [0.3, 0.4]) == pytest.approx(0.5 * 2 / np.pi, rel=1e-3)


def test_the_true_tilt_has_the_weights_of_boltzmann() -> None:
    beta = 0.7
    points = measure.true_tilt(EIGHT, beta, 20_000, rng())
    levels, counts = np.unique(EIGHT.q(points).round(6), return_counts=True)
    weights = np.exp(levels / beta)
    np.testing.assert_allclose(counts / counts.sum(), weights / weights.sum(), atol=0.01)


def test_the_floor_is_far_below_the_distance_of_mu() -> None:
    floor = measure.floor_of_tilt(EIGHT, 1.0, 1000, rng())
    assert floor < 0.25 * measure.distance_to_tilt(EIGHT, 1.0, EIGHT.sample(1000, rng(1))[None], rng())


def test_points_off_the_data() -> None:
    data = EIGHT.sample(20_000, rng())
    assert measure.share_off_data(EIGHT.sample(20_000, rng(1)), data) == pytest.approx(0.001, abs=0.001)
    assert measure.share_off_data(data[:100] + 5.0, data) == 1.0


def test_linear_agreement() -> None:
    q = rng().normal(size=2000)
    noise = rng(1).normal(size=2000)
    assert measure.linear_agreement(3.0 - 2.0 * q, q) == pytest.approx((-1.0, -2.0))
    correlation, slope = measure.linear_agreement(q + noise, q)
    assert slope == pytest.approx(1.0, abs=0.05) and correlation == pytest.approx(0.5**0.5, abs=0.03)


def test_offsets_do_not_count_as_errors() -> None:
    known = rng().normal(size=1000)
    assert measure.offset_error(known + 5.0, known) == pytest.approx(0.0, abs=1e-12)
    assert measure.offset_error(known * 0.5, known) == pytest.approx(0.5 * np.abs(known - np.median(known)).mean())


@pytest.mark.parametrize("t", [0.0, 0.05, 0.3, 1.0])
def test_the_density_of_the_eight_gaussians(t: float) -> None:
    axis = np.linspace(-5.0, 5.0, 801)
    grid = np.stack(np.meshgrid(axis, axis), axis=2).reshape(-1, 2)
    density = np.exp(measure.eight_log_density(grid, t))
    assert density.sum() * (axis[1] - axis[0]) ** 2 == pytest.approx(1.0, abs=1e-3)
    points, step = rng().normal(size=(50, 2)) * 0.7, 1e-5
    slope = [
        (measure.eight_log_density(points + h, t) - measure.eight_log_density(points - h, t)) / (2 * step)
        for h in step * np.eye(2)
    ]
    np.testing.assert_allclose(measure.eight_score(points, t), np.stack(slope, axis=1), rtol=1e-4, atol=1e-4)


def test_the_value_of_noisy_points() -> None:
    points = measure.diffuse(EIGHT.sample(20, rng()), 0.1, rng()).astype(np.float64)
    # A constant comes through any posterior; at t = 1 the posterior is the prior.
    constant = replace(EIGHT, q=lambda a: np.full(len(a), 1.7))
    np.testing.assert_allclose(measure.eight_value(constant, points, 0.1), 1.7, atol=1e-9)
    prior = np.log(np.mean(np.exp(3.0 * np.arange(8) / 7)))
    np.testing.assert_allclose(measure.eight_value(EIGHT, points, 1.0), prior, atol=0.05)
    # With hardly any noise it is Q itself.
    clean = EIGHT.sample(20, rng())
    np.testing.assert_allclose(measure.eight_value(EIGHT, clean, 0.01), EIGHT.q(clean), atol=0.03)
