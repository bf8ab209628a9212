"""The score that holds a policy, by hand; and where it settles between a Gaussian behavior and a linear value."""

from __future__ import annotations

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tiltrl.diffusion.schedule import alpha_sigma
from tiltrl.stages.baselines.common import Given
from tiltrl.stages.baselines.srpo import TIMES, SRPOConfig, score_regularizer, train_srpo, value_gradient
from tiltrl.stages.critics.iql import Batch
from tiltrl.stages.critics.networks import Critic, CriticShape, init_critic

STD, SLOPE = 0.3, 2.0
SMALL = SRPOConfig(steps=600, batch=256, learning_rate=5e-3, width=8, depth=1, beta=0.05)


class Gaussian(eqx.Module):
    """The exact energy of N(MEAN, STD^2) in each dimension, in the place of a behavior model."""

    mean: jax.Array

    def __call__(self, action: jax.Array, obs: jax.Array, t: jax.Array, *, key: None = None) -> jax.Array:
        alpha, sigma = alpha_sigma(t)
        away = action - alpha[..., None] * self.mean
        return -jnp.sum(away**2, axis=-1) / (2 * ((STD * alpha) ** 2 + sigma**2))


class Linear(Critic):
    """Two networks: SLOPE times the sum of the actions, and three times as much less something."""

    def values(self, obs: jax.Array, action: jax.Array) -> jax.Array:
        first = SLOPE * jnp.sum(action, axis=-1)
        return jnp.stack([first, 3.0 * first - 1.0], axis=-1)


def critics(members: int) -> Critic:
    shape = CriticShape(width=2, depth=1, layer_norm=False, q_ensemble=2, v_ensemble=1, dueling=False)
    make = jax.jit(jax.vmap(lambda key: init_critic(1, 2, shape, key=key)))
    some = make(jax.random.split(jax.random.key(0), members))
    return Linear(some.q, some.v, dueling=False)


def given(members: int) -> Given:
    ones = jnp.ones((4, 1))
    return Given(
        data=Batch(ones, jnp.zeros((4, 2)), jnp.zeros(4), ones, jnp.zeros(4)),
        states=np.ones((4, 1), np.float32),
        actions=lambda obs, k: np.zeros((members, len(obs), k, 2), np.float32),
        behavior=Gaussian(jnp.array([[0.1], [-0.2]])[:members]),
        critic=critics(members),
    )


def pull() -> float:
    """How strongly the regularizer pulls an action at a unit distance from the mean of N(m, s^2), over all times.

    `E[w (eps(a_t) - eps)] = w sigma alpha (a - m) / (alpha^2 s^2 + sigma^2)`.
    """
    alpha, sigma = map(np.asarray, alpha_sigma(jnp.linspace(*TIMES, 20_001)))
    return float(np.mean(sigma**2 * sigma * alpha / ((alpha * STD) ** 2 + sigma**2)))


def test_the_regularizer_by_hand() -> None:
    action, noise, t = np.array([[0.5], [-0.1]]), np.array([[1.0], [-2.0]]), jnp.array([0.1, 0.7])
    alpha, sigma = (np.asarray(scale)[:, None] for scale in alpha_sigma(t))
    noisy = alpha * action + sigma * noise
    predicted = sigma * (noisy - 0.1 * alpha) / ((alpha * STD) ** 2 + sigma**2)
    behavior = Gaussian(jnp.array([0.1]))
    found = score_regularizer(behavior, jnp.zeros((2, 1)), jnp.array(action), jnp.array(noise), t)
    np.testing.assert_allclose(found, sigma**2 * (predicted - noise), rtol=1e-4)


@pytest.mark.parametrize("unit", [False, True])
def test_the_gradient_of_the_mean_of_the_networks(unit: bool) -> None:
    critic = jax.tree.map(lambda leaf: leaf[0], critics(1))
    gradient = value_gradient(critic, jnp.zeros((3, 1)), jnp.full((3, 2), 0.4), unit=unit)
    np.testing.assert_allclose(gradient, np.full((3, 2), 1.0 if unit else 2.0 * SLOPE), rtol=1e-5)


@pytest.mark.parametrize("unit", [False, True])
def test_the_policy_settles_where_value_and_behavior_pull_alike(unit: bool) -> None:
    beta = 0.05 if unit else 0.05 / (2.0 * SLOPE)
    outcome = train_srpo(given(1), replace(SMALL, unit_gradient=unit, beta=beta), jax.random.key(0)[None])
    assert outcome.critic is None
    actor = jax.tree.map(lambda leaf: leaf[0], outcome.actor)
    np.testing.assert_allclose(actor.action(jnp.ones(1)), np.full(2, 0.1 + 0.05 / pull()), atol=0.02)


def test_a_member_among_others_is_the_one_that_is_alone() -> None:
    short, keys = replace(SMALL, steps=10), jax.random.split(jax.random.key(1), 2)
    both, alone = train_srpo(given(2), short, keys).actor, train_srpo(given(1), short, keys[:1]).actor
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(both), strict=True):
        np.testing.assert_allclose(a[0], b[0], atol=1e-4)
