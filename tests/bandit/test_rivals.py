from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tiltrl.bandit import rivals
from tiltrl.bandit.datasets import SETS
from tiltrl.bandit.rivals import EBMConfig, VAEConfig
from tiltrl.training.loop import Quiet

POINTS = SETS["8gaussians"].sample(2_000, np.random.default_rng(0)).astype(np.float32)
SHORT_VAE = VAEConfig(width=16, steps=3, batch=32)
SHORT_EBM = EBMConfig(width=16, steps=3, batch=32, wall=1.01)  # so near that untrained chains reach it
KEY = jax.random.key(0)


class Kept(Quiet):
    """A session that keeps the metrics."""

    def __init__(self) -> None:
        self.metrics: list[dict[str, Any]] = []

    def record(self, step: int, steps: int, metrics: dict[str, Any], state: Any) -> None:
        self.metrics.append(metrics)


def test_the_gaussian_has_the_datas_mean_and_covariance() -> None:
    points = (POINTS @ np.array([[1.0, 0.5], [0.0, 0.3]], np.float32) + np.array([0.2, -0.1], np.float32)).copy()
    fitted = rivals.fit_gaussian(points)
    samples = fitted.sample(200_000, KEY)
    np.testing.assert_allclose(samples.mean(axis=0), points.mean(axis=0), atol=5e-3)
    np.testing.assert_allclose(np.cov(samples.T), np.cov(points.T, ddof=0), atol=5e-3)
    assert (fitted.name, fitted.calls, samples.dtype) == ("Gaussian", 0, np.float32)


def test_kl_against_the_closed_form() -> None:
    assert rivals.kl_to_standard(jnp.zeros(2), jnp.zeros(2)) == 0.0
    # mean 1, deviation 2: (1 + 4 - 1) / 2 - log 2; mean 0, deviation 1/2: (1/4 - 1) / 2 + log 2.
    found = rivals.kl_to_standard(jnp.array([1.0, 0.0]), jnp.log(jnp.array([2.0, 0.5])))
    assert found == pytest.approx(2.0 - 0.375, abs=1e-6)


def test_elbo_where_the_posterior_is_the_prior_is_the_decoders_log_density() -> None:
    # Encoder and decoder that know nothing: what is left is N(0, 0.5^2).
    vae = rivals.VAE(lambda x: jnp.zeros(4), lambda z: jnp.zeros(2), jnp.log(0.5))
    found = rivals.negative_elbo(vae, jnp.array([0.3, -0.4]), KEY)
    assert found == pytest.approx(0.5 * 0.25 / 0.25 + np.log(2.0 * np.pi * 0.25), abs=1e-6)


def test_elbo_is_the_log_likelihood_where_the_posterior_is_exact() -> None:
    # z ~ N(0, I) and x = z + s noise: z | x ~ N(x / (1 + s^2), s^2 / (1 + s^2)) and x ~ N(0, 1 + s^2).
    s = 0.7
    spread = jnp.full(2, 0.5 * jnp.log(s**2 / (1.0 + s**2)))
    vae = rivals.VAE(lambda x: jnp.concatenate([x / (1.0 + s**2), spread]), lambda z: z, jnp.log(s))
    point = jnp.array([0.5, -0.8])
    keys = jax.random.split(KEY, 40_000)
    bound = jnp.mean(jax.vmap(rivals.negative_elbo, in_axes=(None, None, 0))(vae, point, keys))
    true = 0.5 * jnp.sum(point**2) / (1.0 + s**2) + jnp.log(2.0 * jnp.pi * (1.0 + s**2))
    assert bound == pytest.approx(float(true), abs=0.02)


def test_a_vae_draws_its_decoders_noise() -> None:
    vae = rivals.VAE(lambda x: jnp.zeros(4), lambda z: 2.0 * z, jnp.log(0.5))
    found = rivals._decode(vae, jnp.array([[1.0, 0.0, 0.2, -0.4]]))
    np.testing.assert_allclose(found, [[2.1, -0.2]], atol=1e-6)


def test_reflection() -> None:
    outside = jnp.array([[0.3, -1.5], [1.7, -1.6], [4.6, -7.4]])  # the last has passed the box once and twice
    np.testing.assert_allclose(rivals.reflect(outside, 1.5), [[0.3, -1.5], [1.3, -1.4], [-1.4, -1.4]], atol=1e-6)


def test_langevin_reaches_the_variance_of_a_quadratic_energy() -> None:
    variance, step = jnp.array([0.01, 0.04]), 2e-3
    found = rivals.langevin(
        lambda x: jnp.sum((x - 0.1) ** 2 / (2.0 * variance)),
        jnp.ones((20_000, 2)),
        KEY,
        steps=150,
        step_size=step,
        wall=1.5,
    )
    np.testing.assert_allclose(found.mean(axis=0), [0.1, 0.1], atol=5e-3)
    # The chain's own law is known too: a finite step widens it by 1 / (1 - step / (2 variance)).
    np.testing.assert_allclose(found.var(axis=0), variance / (1.0 - step / (2.0 * variance)), rtol=0.04)


def test_langevin_on_a_flat_energy_keeps_the_uniform_law() -> None:
    begin = jax.random.uniform(jax.random.key(1), (20_000, 2), minval=-1.5, maxval=1.5)
    found = rivals.langevin(lambda x: 0.0 * jnp.sum(x), begin, KEY, steps=50, step_size=0.02, wall=1.5)
    assert jnp.abs(found).max() <= 1.5
    np.testing.assert_allclose(np.histogram(found, 10, (-1.5, 1.5))[0] / found.size, 0.1, atol=0.007)


def test_langevin_makes_the_steps_it_is_asked_for() -> None:
    # From one point on a flat energy, variance grows by 2 step_size a step.
    for steps in (3, 12):
        found = rivals.langevin(
            lambda x: 0.0 * jnp.sum(x), jnp.zeros((20_000, 2)), KEY, steps=steps, step_size=1e-3, wall=1.5
        )
        assert found.var() == pytest.approx(steps * 2e-3, rel=0.04)


@pytest.mark.parametrize(
    "fit, config", [pytest.param(rivals.fit_vae, SHORT_VAE, marks=pytest.mark.slow), (rivals.fit_ebm, SHORT_EBM)]
)
def test_short_fits_draw_finite_samples_that_follow_from_their_keys(fit: Any, config: Any) -> None:
    def models(seed: int) -> tuple[rivals.Fitted, ...]:
        found = fit(POINTS, config, jax.random.key(seed))
        return found if isinstance(found, tuple) else (found,)

    first, again, other = models(0), models(0), models(1)
    named = {rivals.fit_vae: [("VAE", 1)], rivals.fit_ebm: [("EBM, 100 steps", 100), ("EBM, 1000 steps", 1000)]}
    assert [(model.name, model.calls) for model in first] == named[fit]
    for a, b, c in zip(first, again, other, strict=True):
        samples = a.sample(50, KEY)
        assert isinstance(samples, np.ndarray) and samples.shape == (50, 2) and samples.dtype == np.float32
        assert np.isfinite(samples).all() and a.seconds > 0
        assert fit is rivals.fit_vae or np.abs(samples).max() <= SHORT_EBM.wall
        np.testing.assert_array_equal(samples, b.sample(50, KEY))
        assert (samples != a.sample(50, jax.random.key(9))).any()
        assert (samples != c.sample(50, KEY)).any()


@pytest.mark.slow
def test_training_lowers_the_vaes_loss() -> None:
    kept = Kept()
    rivals.fit_vae(POINTS, VAEConfig(width=32, steps=500, batch=64), KEY, kept)
    losses = [float(metrics["negative_elbo"][0]) for metrics in kept.metrics if metrics is not None]
    assert len(losses) == 2  # the means of the first and of the second 250 steps
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.slow
def test_the_energy_learns_where_the_points_are() -> None:
    # One tight cluster off the center: chains that begin anywhere in the box end near it.
    points = (np.array([0.5, -0.3]) + 0.15 * np.random.default_rng(0).normal(size=(2_000, 2))).astype(np.float32)
    config = EBMConfig(width=32, steps=400, batch=64, average=0.99, step_size=2e-3, restart=0.02)
    _, fitted = rivals.fit_ebm(points, config, KEY)
    samples = fitted.sample(2_000, KEY)
    np.testing.assert_allclose(samples.mean(axis=0), [0.5, -0.3], atol=0.1)
    np.testing.assert_allclose(samples.std(axis=0), 0.15, atol=0.06)
