"""Normalized densities against those of distributions that are known in closed form at every diffusion time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from tiltrl.diffusion.likelihood import exact_probes, log_prob
from tiltrl.diffusion.schedule import T_MIN, alpha_sigma

STATE = np.zeros(1, np.float32)
COVARIANCE = np.array([[0.09, 0.04], [0.04, 0.04]])
MEAN = np.array([0.3, -0.2])
ALPHA, SIGMA = (float(x) for x in jax.jit(alpha_sigma)(np.float32(T_MIN)))


def gaussian(action: jax.Array, obs: jax.Array, t: jax.Array, *, key: Any = None) -> jax.Array:
    """Energy of a diffused correlated Gaussian."""
    alpha, sigma = alpha_sigma(t)
    away = action - alpha * MEAN
    return -0.5 * away @ jnp.linalg.solve(alpha**2 * COVARIANCE + sigma**2 * jnp.eye(2), away)


def two_peaks(action: jax.Array, obs: jax.Array, t: jax.Array, *, key: Any = None) -> jax.Array:
    """Energy of a diffused mixture of two narrow Gaussians in one dimension."""
    alpha, sigma = alpha_sigma(t)
    variance = (0.1 * alpha) ** 2 + sigma**2
    centers = alpha * jnp.array([-0.6, 0.5])
    return jax.nn.logsumexp(-0.5 * (action - centers) ** 2 / variance, b=jnp.array([0.3, 0.7]))


def every(act: int) -> np.ndarray:
    return np.asarray(jax.jit(exact_probes, static_argnums=0)(act))


def densities(energy: Callable[..., jax.Array], actions: np.ndarray, probes: np.ndarray) -> np.ndarray:
    """Log-densities of several actions; every solve must succeed."""

    def one(action: jax.Array) -> tuple[jax.Array, jax.Array]:
        return log_prob(energy, action, STATE, probes, rtol=1e-5, atol=1e-5)  # pyright: ignore[reportArgumentType]

    found, failed = jax.jit(jax.vmap(one))(actions.astype(np.float32))
    assert not np.any(failed)
    return np.asarray(found)


def test_a_correlated_gaussian() -> None:
    actions = MEAN + np.random.default_rng(0).normal(size=(20, 2)) * 0.4
    blurred = multivariate_normal(ALPHA * MEAN, ALPHA**2 * COVARIANCE + SIGMA**2 * np.eye(2))
    np.testing.assert_allclose(densities(gaussian, actions, every(2)), blurred.logpdf(actions), atol=0.02)


def test_random_probes_agree_with_the_exact_trace() -> None:
    actions = MEAN + np.random.default_rng(0).normal(size=(20, 2)) * 0.2
    exact = densities(gaussian, actions, every(2))
    few, many = (np.random.default_rng(0).choice([-1.0, 1.0], (n, 2)).astype(np.float32) for n in (1, 400))
    assert np.abs(densities(gaussian, actions, few) - exact).max() > 0.1
    np.testing.assert_allclose(densities(gaussian, actions, many), exact, atol=0.1)


def test_a_mixture_and_that_it_integrates_to_one() -> None:
    grid = np.linspace(-1.2, 1.2, 481)
    found = densities(two_peaks, grid[:, None], every(1))
    width = np.hypot(0.1 * ALPHA, SIGMA)
    known = 0.3 * norm.pdf(grid, -0.6 * ALPHA, width) + 0.7 * norm.pdf(grid, 0.5 * ALPHA, width)
    likely = known > 1e-3
    np.testing.assert_allclose(found[likely], np.log(known[likely]), atol=0.02)
    assert np.trapezoid(np.exp(found), grid) == pytest.approx(1.0, abs=2e-3)


def test_a_solver_that_may_not_step_says_so() -> None:
    hasty = jax.jit(partial(log_prob, gaussian, rtol=1e-6, atol=1e-6, max_steps=3))  # pyright: ignore[reportArgumentType]
    _, failed = hasty(np.zeros(2, np.float32), STATE, every(2))
    assert failed == 1.0
