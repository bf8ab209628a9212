"""The forward process against its definition."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
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

TIMES = jnp.linspace(T_MIN, 1.0, 101)


def test_log_alpha_by_hand() -> None:
    # -(20 - 0.1) t^2 / 4 - 0.1 t / 2
    np.testing.assert_allclose(log_alpha(jnp.array([0.0, 0.5, 1.0])), [0.0, -1.26875, -5.025], rtol=1e-6)


def test_stratified_times_are_uniform_with_one_in_each_interval() -> None:
    times = random_times(jax.random.key(0), 50, "stratified")
    np.testing.assert_array_equal(np.floor((times - T_MIN) / (1.0 - T_MIN) * 50), np.arange(50))
    loose = random_times(jax.random.key(0), 4000, "uniform")
    assert T_MIN <= float(loose.min()) and float(loose.max()) <= 1.0
    np.testing.assert_allclose(loose.mean(), 0.5, atol=0.03)
    assert len(np.unique(np.floor(loose[:50] * 50))) < 45  # independent: some intervals are hit twice


def test_mixed_times_are_spread_over_t_and_over_the_noise_levels() -> None:
    # Small batches must leave no holes: the law of each is half of either, from a batch of one on.
    low, high = log_snr(jnp.array([1.0, T_MIN]))
    for n in (1, 2, 16):
        times = jax.vmap(lambda key, n=n: random_times(key, n, "mixed"))(jax.random.split(jax.random.key(0), 8192 // n))
        assert T_MIN <= float(times.min()) and float(times.max()) <= 1.0
        for t in (0.003, 0.01, 0.1, 0.5):
            share = 0.5 * (t - T_MIN) + 0.5 * (high - log_snr(jnp.array(t))) / (high - low)
            np.testing.assert_allclose(jnp.mean(times < t), share, atol=0.02)


def test_variance_is_preserved() -> None:
    alpha, sigma = alpha_sigma(TIMES)
    np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, atol=1e-6)
    assert (jnp.diff(alpha) < 0).all() and (jnp.diff(sigma) > 0).all()


def test_sigma_is_accurate_where_its_definition_cancels() -> None:
    t = np.float64(1e-6)
    exact = np.sqrt(-np.expm1(-0.5 * t**2 * 19.9 - t * 0.1))
    np.testing.assert_allclose(alpha_sigma(jnp.float32(t))[1], exact, rtol=1e-5)


def test_log_snr_is_the_log_of_the_ratio() -> None:
    alpha, sigma = alpha_sigma(TIMES)
    np.testing.assert_allclose(log_snr(TIMES), jnp.log(alpha / sigma), atol=1e-5)


def test_time_at_log_snr_inverts_it() -> None:
    np.testing.assert_allclose(time_at_log_snr(log_snr(TIMES)), TIMES, rtol=1e-4)
    with jax.enable_x64(True):
        times = jnp.linspace(T_MIN, 1.0, 101)
        np.testing.assert_allclose(time_at_log_snr(log_snr(times)), times, rtol=1e-12)


@pytest.mark.parametrize("grid", [uniform_times, log_snr_times, quadratic_times])
@pytest.mark.parametrize("calls", [1, 2, 15])
def test_a_grid_falls_from_one_to_the_last_time(grid: Callable[[int], jax.Array], calls: int) -> None:
    times = grid(calls)
    assert times.shape == (calls + 1,)
    assert times[0] == 1.0 and times[-1] == jnp.float32(T_MIN)
    assert (jnp.diff(times) < 0).all()


def test_a_grid_is_uniform_in_its_own_variable() -> None:
    np.testing.assert_allclose(jnp.diff(uniform_times(10)), (T_MIN - 1.0) / 10, rtol=1e-5)
    steps = jnp.diff(log_snr(log_snr_times(10)))
    np.testing.assert_allclose(steps, jnp.mean(steps), rtol=1e-3)
    steps = jnp.diff(jnp.sqrt(quadratic_times(10)))
    np.testing.assert_allclose(steps, jnp.mean(steps), rtol=1e-4)


def test_diffuse_scales_action_and_noise_by_each_time() -> None:
    action, noise = jnp.array([[1.0, -0.5], [0.2, 0.0]]), jnp.array([[0.3, 2.0], [-1.0, 1.0]])
    noisy = diffuse(action, noise, jnp.array([0.0, 0.5]))
    alpha = np.exp(-1.26875)
    sigma = np.sqrt(1 - alpha**2)
    np.testing.assert_allclose(noisy, [[1.0, -0.5], [0.2 * alpha - sigma, sigma]], rtol=1e-5)
