"""The forward process against its definition."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import numpy as np
import pytest

from tiltrl.diffusion.schedule import (
    T_MIN,
    alpha_sigma,
    diffuse,
    log_alpha,
    log_snr,
    log_snr_times,
    quadratic_times,
    random_times,
    time_at_log_snr,
    uniform_times,
)

TIMES = np.linspace(T_MIN, 1.0, 101).astype(np.float32)
scales, lambdas, back = map(jax.jit, (alpha_sigma, log_snr, time_at_log_snr))
draw = jax.jit(random_times, static_argnums=(1, 2))


def test_log_alpha_by_hand() -> None:
    # -(20 - 0.1) t^2 / 4 - 0.1 t / 2
    np.testing.assert_allclose(
        jax.jit(log_alpha)(np.array([0.0, 0.5, 1.0], np.float32)), [0.0, -1.26875, -5.025], rtol=1e-6
    )


def test_stratified_times_are_uniform_with_one_in_each_interval() -> None:
    times = np.asarray(draw(jax.random.key(0), 50, "stratified"))
    np.testing.assert_array_equal(np.floor((times - T_MIN) / (1.0 - T_MIN) * 50), np.arange(50))
    loose = np.asarray(draw(jax.random.key(0), 4000, "uniform"))
    assert T_MIN <= float(loose.min()) and float(loose.max()) <= 1.0
    np.testing.assert_allclose(loose.mean(), 0.5, atol=0.03)
    assert len(np.unique(np.floor(loose[:50] * 50))) < 45  # independent: some intervals are hit twice


def test_mixed_times_are_spread_over_t_and_over_the_noise_levels() -> None:
    # Small batches must leave no holes: the law of each is half of either, from a batch of one on.
    levels = (0.003, 0.01, 0.1, 0.5)
    low, high, *between = np.asarray(lambdas(np.array([1.0, T_MIN, *levels], np.float32)))

    @partial(jax.jit, static_argnums=0)
    def batches(n: int) -> jax.Array:
        return jax.vmap(lambda key: random_times(key, n, "mixed"))(jax.random.split(jax.random.key(0), 8192 // n))

    for n in (1, 2, 16):
        times = np.asarray(batches(n))
        assert T_MIN <= float(times.min()) and float(times.max()) <= 1.0
        for t, level in zip(levels, between, strict=True):
            share = 0.5 * (t - T_MIN) + 0.5 * (high - level) / (high - low)
            np.testing.assert_allclose(np.mean(times < t), share, atol=0.02)


def test_variance_is_preserved() -> None:
    alpha, sigma = (np.asarray(scale) for scale in scales(TIMES))
    np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, atol=1e-6)
    assert (np.diff(alpha) < 0).all() and (np.diff(sigma) > 0).all()


def test_sigma_is_accurate_where_its_definition_cancels() -> None:
    t = np.float64(1e-6)
    exact = np.sqrt(-np.expm1(-0.5 * t**2 * 19.9 - t * 0.1))
    np.testing.assert_allclose(scales(np.float32(t))[1], exact, rtol=1e-5)


def test_log_snr_is_the_log_of_the_ratio() -> None:
    alpha, sigma = (np.asarray(scale) for scale in scales(TIMES))
    np.testing.assert_allclose(lambdas(TIMES), np.log(alpha / sigma), atol=1e-5)


def test_time_at_log_snr_inverts_it() -> None:
    np.testing.assert_allclose(back(lambdas(TIMES)), TIMES, rtol=1e-4)
    with jax.enable_x64(True):
        times = np.linspace(T_MIN, 1.0, 101)
        np.testing.assert_allclose(back(lambdas(times)), times, rtol=1e-12)


@pytest.mark.parametrize("grid", [uniform_times, log_snr_times, quadratic_times])
@pytest.mark.parametrize("calls", [1, 2, 15])
def test_a_grid_falls_from_one_to_the_last_time(grid: Callable[[int], jax.Array], calls: int) -> None:
    times = np.asarray(jax.jit(grid, static_argnums=0)(calls))
    assert times.shape == (calls + 1,)
    assert times[0] == 1.0 and times[-1] == np.float32(T_MIN)
    assert (np.diff(times) < 0).all()


def test_a_grid_is_uniform_in_its_own_variable() -> None:
    uniform, log_snr_grid, quadratic = (
        np.asarray(jax.jit(grid, static_argnums=0)(10)) for grid in (uniform_times, log_snr_times, quadratic_times)
    )
    np.testing.assert_allclose(np.diff(uniform), (T_MIN - 1.0) / 10, rtol=1e-5)
    steps = np.diff(lambdas(log_snr_grid))
    np.testing.assert_allclose(steps, np.mean(steps), rtol=1e-3)
    steps = np.diff(np.sqrt(quadratic))
    np.testing.assert_allclose(steps, np.mean(steps), rtol=1e-4)


def test_diffuse_scales_action_and_noise_by_each_time() -> None:
    action, noise, times = (
        np.array(x, np.float32) for x in ([[1.0, -0.5], [0.2, 0.0]], [[0.3, 2.0], [-1.0, 1.0]], [0.0, 0.5])
    )
    noisy = jax.jit(diffuse)(action, noise, times)
    alpha = np.exp(-1.26875)
    sigma = np.sqrt(1 - alpha**2)
    np.testing.assert_allclose(noisy, [[1.0, -0.5], [0.2 * alpha - sigma, sigma]], rtol=1e-5)
