"""The weights by hand, and that the policy becomes the Gaussian part of behavior times exp(beta A)."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from tiltrl.stages.baselines.common import Given
from tiltrl.stages.baselines.gaussian import Gaussian, GaussianShape
from tiltrl.stages.baselines.weighted import WeightedConfig, advantage_weights, train_weighted, weighted_loss
from tiltrl.stages.critics.iql import Batch
from tiltrl.stages.critics.networks import Critic, CriticShape, init_critic

SHAPE = CriticShape(width=4, depth=1, layer_norm=False, q_ensemble=2, v_ensemble=1, dueling=False)


def linear_critic(slope: float, value: float, dueling: bool = False) -> Critic:
    """Of one observation and one action: `Q = slope (1 + a)` and that plus one, `V = value`; dueling, Q less V."""
    zeros = jax.tree.map(jnp.zeros_like, init_critic(1, 1, SHAPE, key=jax.random.key(0)))
    where = lambda c: (  # noqa: E731
        c.q.layers[0].weight,
        c.q.layers[0].bias,
        c.q.layers[1].weight,
        c.q.layers[1].bias,
        c.v.layers[1].bias,
    )
    of_action, one, times, plus, at = where(zeros)
    made = eqx.tree_at(
        where,
        zeros,
        (
            of_action.at[:, 0, 0].set(1.0),
            one.at[:, 0].set(1.0),
            times.at[:, 0, 0].set(slope),
            plus.at[:, 0].set(jnp.array([0.0, 1.0]) - (value if dueling else 0.0)),
            at + value,
        ),
    )
    return Critic(made.q, made.v, dueling=dueling)


def nothing(obs: np.ndarray, k: int) -> np.ndarray:
    raise AssertionError("weighted cloning asks nobody for actions")


def one_state(action: np.ndarray) -> Batch:
    zeros = jnp.zeros(len(action))
    return Batch(zeros[:, None], jnp.asarray(action)[:, None], zeros, zeros[:, None], zeros)


def test_weights_are_exponential_up_to_100() -> None:
    advantage = jnp.array([-1.0, 0.0, 1.0, 1e6])
    np.testing.assert_allclose(advantage_weights(advantage, 3.0), [np.exp(-3.0), 1.0, np.exp(3.0), 100.0], rtol=1e-6)


@pytest.mark.parametrize("dueling", [False, True])
def test_the_loss_by_hand(dueling: bool) -> None:
    """The lesser Q less V is `2 (1 + a) - 1`, whether the critic holds advantages or not."""
    actor = GaussianShape(4, 1).make(1, 1, key=jax.random.key(0))
    actor = eqx.tree_at(lambda g: g.net, actor, jax.tree.map(jnp.zeros_like, actor.net))
    action = np.array([-0.5, 0.0, 0.5], np.float32)
    loss, info = weighted_loss(actor, linear_critic(2.0, 1.0, dueling), one_state(action), 3.0)
    weight = np.minimum(np.exp(3.0 * np.array([0.0, 1.0, 2.0])), 100.0)  # the last would be 403
    np.testing.assert_allclose(loss, -np.mean(weight * norm.logpdf(action)), rtol=1e-5)
    np.testing.assert_allclose(info["weight"], weight.mean(), rtol=1e-5)
    np.testing.assert_allclose(info["effective_share"], weight.sum() ** 2 / (3 * (weight**2).sum()), rtol=1e-5)
    np.testing.assert_allclose(info["cut_share"], 1 / 3, rtol=1e-5)


def test_the_critic_gets_no_gradient() -> None:
    actor = GaussianShape(4, 1).make(1, 1, key=jax.random.key(0))
    batch = one_state(np.array([-0.5, 0.5], np.float32))
    gradient = jax.grad(lambda critic: weighted_loss(actor, critic, batch, 3.0)[0])(linear_critic(2.0, 1.0))
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient))


def test_a_gaussian_behavior_is_moved_by_beta_times_its_variance_times_the_slope_of_q() -> None:
    """`N(m, d^2) exp(beta c a)` is `N(m + beta c d^2, d^2)`: each member's by the slope of its own critic."""
    rng = np.random.default_rng(0)
    action = (-0.1 + 0.2 * rng.standard_normal(20_000)).astype(np.float32)
    critics = [linear_critic(1.0, 1.0), linear_critic(-2.0, -2.0)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *critics)
    config = WeightedConfig(steps=800, batch=256, learning_rate=1e-2, width=8, inverse_temperature=2.5)
    keys = jax.random.split(jax.random.key(0), 2)
    given = Given(one_state(action), np.zeros((1, 1)), nothing, None, stacked)
    both, own = train_weighted(given, config, keys)
    assert own is None
    means = jax.vmap(lambda actor: actor(jnp.zeros(1), jnp.zeros(1)))(both)
    np.testing.assert_allclose(means[:, 0], [-0.1 + 2.5 * 0.04, -0.1 - 2.5 * 2.0 * 0.04], atol=0.03)
    np.testing.assert_allclose(jax.vmap(Gaussian.deviation)(both), np.full((2, 1), 0.2), atol=0.02)
    alone = Given(given.data, given.states, nothing, None, jax.tree.map(lambda leaf: leaf[1:], stacked))
    second, _ = train_weighted(alone, config, keys[1:])
    for a, b in zip(jax.tree.leaves(both), jax.tree.leaves(second), strict=True):
        np.testing.assert_allclose(a[1], b[0], atol=1e-3)
