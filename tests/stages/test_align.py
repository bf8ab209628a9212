"""Alignment on a Gaussian, where the tilted policy is known."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tiltrl.diffusion.schedule import alpha_sigma
from tiltrl.stages.align import AlignConfig, alignment_loss, train_policy

STD = 0.5


class Gaussian(eqx.Module):
    """The exact energy of one-dimensional actions from N(mean, STD^2), at every diffusion time."""

    mean: jax.Array

    def __call__(self, action: jax.Array, obs: jax.Array, t: jax.Array, *, key: None = None) -> jax.Array:
        alpha, sigma = alpha_sigma(t)
        return -((action[..., 0] - alpha * self.mean) ** 2) / (2 * (alpha**2 * STD**2 + sigma**2))


class Linear(eqx.Module):
    slope: jax.Array

    def __call__(self, action: jax.Array, obs: jax.Array, t: jax.Array) -> jax.Array:
        return action @ self.slope


def test_loss_and_gradient_by_hand() -> None:
    noisy = jnp.array([[[1.0, 0.0], [0.0, 2.0]]])  # one state, two candidates
    q, beta = jnp.array([[jnp.log(3.0), 0.0]]), 2.0  # softmax: 3/4, 1/4
    policy, behavior = Linear(jnp.array([0.5, 0.0])), Linear(jnp.array([0.0, 0.0]))  # log ratios: 1/2, 0
    loss = jax.grad(alignment_loss, argnums=(0, 1), has_aux=True)
    (of_policy, of_behavior), info = loss(policy, behavior, noisy, jnp.zeros((1, 1)), jnp.array([0.5]), q, beta)
    model = np.exp([1.0, 0.0]) / np.exp([1.0, 0.0]).sum()
    np.testing.assert_allclose(info["alignment_loss"], -(0.75 * np.log(model[0]) + 0.25 * np.log(model[1])), rtol=1e-6)
    pull = beta * (model - [0.75, 0.25])
    np.testing.assert_allclose(of_policy.slope, [pull[0] * 1.0, pull[1] * 2.0], rtol=1e-5)
    np.testing.assert_array_equal(of_behavior.slope, 0.0)  # mu is frozen


def test_a_gaussian_moves_by_its_variance_times_the_slope_over_beta() -> None:
    # N(m, s^2) exp(c a / beta) is N(m + c s^2 / beta, s^2); for linear values this holds at every time and beta.
    rng, betas, slope = np.random.default_rng(0), jnp.array([0.5, 1.0, 2.0]), 1.0
    means = jnp.array([0.0, 0.3])  # two members
    action = np.asarray(means)[:, None, None, None] + STD * rng.normal(size=(2, 512, 64, 1))
    candidates = jnp.asarray(action, jnp.float32)
    config = AlignConfig(steps=400, batch=32, learning_rate=2e-2, cosine=True, average=0.9)
    behavior = Gaussian(means)
    policy = train_policy(
        behavior,
        jnp.zeros((2, 512, 1)),
        candidates,
        slope * candidates[..., 0],
        betas,
        config,
        jax.random.split(jax.random.key(0), 2),
    )
    expected = means[:, None] + slope * STD**2 / betas
    np.testing.assert_allclose(policy.policy.mean, expected, atol=0.03)
    np.testing.assert_array_equal(behavior.mean, means)


class Leaning(eqx.Module):
    """The exact energy of one-dimensional actions from N(slope * obs, std^2), at every diffusion time."""

    slope: jax.Array
    std: float = eqx.field(static=True)

    def __call__(self, action: jax.Array, obs: jax.Array, t: jax.Array, *, key: None = None) -> jax.Array:
        alpha, sigma = alpha_sigma(t)
        off = action[..., 0] - alpha * self.slope * obs[..., 0]
        return -(off**2) / (2 * (alpha**2 * self.std**2 + sigma**2))


@pytest.mark.parametrize("std", [0.5, 0.1])
def test_a_divergence_is_reached_at_the_temperature_it_takes(std: float) -> None:
    # Values obs * a / std move the mean by obs std / beta, obs^2 / (2 beta^2) nats away: nothing in some states, but
    # ten times the mean in others.
    rng, kl = np.random.default_rng(0), jnp.array([0.5, 2.0])
    obs = jnp.asarray(rng.normal(size=(1, 2000, 1)), jnp.float32)
    candidates = jnp.asarray(std * rng.normal(size=(1, 2000, 16, 1)), jnp.float32)
    found = train_policy(
        Leaning(jnp.zeros(1), std),
        obs,
        candidates,
        obs * candidates[..., 0] / std,
        jnp.ones(2),
        AlignConfig(steps=2000, batch=64, learning_rate=1e-2 * std, cosine=True, average=0.9),
        jax.random.key(0)[None],
        kl=kl,
    )
    np.testing.assert_allclose(found.policy.slope[0] ** 2 / (2 * std**2), kl, rtol=0.25)
    np.testing.assert_allclose(found.beta[0], 1 / np.sqrt(2 * np.asarray(kl)), rtol=0.25)
