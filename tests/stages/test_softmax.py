"""The softmax critic's targets by hand, its fixed point, and which of the behavior's actions it asks for."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tiltrl.stages.critics.iql import Batch
from tiltrl.stages.critics.networks import Critic, CriticShape, init_critic
from tiltrl.stages.critics.softmax import (
    Numbered,
    SoftmaxConfig,
    softmax_losses,
    softmax_value,
    supported_rows,
    train_softmax,
)

SHAPE = CriticShape(width=4, depth=1, layer_norm=False, q_ensemble=2, v_ensemble=1, dueling=False)


def test_the_value_goes_from_the_mean_to_the_best() -> None:
    q = jnp.array([0.0, 1.0, 2.0])
    np.testing.assert_allclose(softmax_value(q, 0.0), 1.0, rtol=1e-6)
    np.testing.assert_allclose(softmax_value(q, 100.0), 2.0, rtol=1e-6)
    weights = np.exp([0.0, 3.0, 6.0]) / np.exp([0.0, 3.0, 6.0]).sum()
    np.testing.assert_allclose(softmax_value(q, 3.0), weights @ [0.0, 1.0, 2.0], rtol=1e-6)


def action_itself(critic: Critic, *signs: float) -> Critic:
    """Q number i is signs[i] times the action where that is positive, else 0; V is 0."""
    q = jax.tree.map(jnp.zeros_like, critic.q)
    first = q.layers[0].weight.at[:, 0, 0].set(1.0)  # the action comes first
    last = q.layers[1].weight.at[:, 0, 0].set(jnp.array(signs))
    q = eqx.tree_at(lambda n: (n.layers[0].weight, n.layers[1].weight), q, (first, last))
    return Critic(q, jax.tree.map(jnp.zeros_like, critic.v), dueling=False)


def test_losses_by_hand() -> None:
    critic = eqx.filter_jit(init_critic)(1, 1, SHAPE, key=jax.random.key(0))
    q, target = action_itself(critic, 1.0, 2.0).q, action_itself(critic, 3.0, 2.0).q  # the least is twice the action
    batch = Batch(jnp.zeros((2, 1)), jnp.array([[1.0], [0.5]]), jnp.array([1.0, 4.0]), jnp.zeros((2, 1)),
                  jnp.array([0.5, 0.0]))  # fmt: skip
    actions = jnp.array([[[0.0], [1.0]], [[1.0], [1.0]]])
    networks = q, action_itself(critic, 0.0, 0.0).v
    gradient, info = jax.grad(lambda n: softmax_losses(*n, target, batch, actions, 1.5), has_aux=True)(networks)
    value = np.array([2.0 * np.exp(3.0) / (1.0 + np.exp(3.0)), 2.0])
    goals = np.array([1.0 + 0.5 * value[0], 4.0])
    errors = np.array([[1.0, 2.0], [0.5, 1.0]]) - goals[:, None]
    np.testing.assert_allclose(info["q_loss"], np.mean(errors**2), rtol=1e-6)
    np.testing.assert_allclose(info["v_loss"], np.mean(value**2), rtol=1e-6)
    np.testing.assert_allclose(gradient[0].layers[-1].bias[:, 0], errors.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(gradient[1].layers[-1].bias[0, 0], -2 * value.mean(), rtol=1e-5)


@pytest.mark.parametrize("members", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_training_finds_the_fixed_point_and_the_same_one_again(members: int) -> None:
    """One state, actions 0 and 1, reward the action, discount 1/2: Q = a + V / 2, V the softmax of Q(0) and Q(1)."""
    config = SoftmaxConfig(
        steps=800, batch=32, learning_rate=1e-2, cosine=True, width=16, depth=1, k=2, alpha=2.0, polyak=0.1
    )
    action = jnp.array([[0.0], [1.0]] * 2)
    batch = Batch(jnp.ones((4, 1)), action, action[:, 0], jnp.ones((4, 1)), jnp.full(4, 0.5))
    actions = np.tile(np.array([[0.0], [1.0]], np.float32), (members, 4, 1, 1))
    data, keys = Numbered(batch, jnp.arange(4)), jax.random.split(jax.random.key(0), members)
    critic, again = (train_softmax(data, actions, config, keys) for _ in range(2))
    v = 2 * np.exp(2.0) / (1 + np.exp(2.0))  # V = w + V / 2, with w = sigmoid(alpha)
    found = jax.vmap(lambda c: jnp.append(c(jnp.ones((2, 1)), action[:2]), c.value(jnp.ones(1))))(critic)
    np.testing.assert_allclose(found, np.tile([v / 2, 1 + v / 2, v], (members, 1)), atol=0.05)
    for a, b in zip(jax.tree.leaves(critic), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)


def test_no_more_rows_than_asked_for_or_drawn() -> None:
    rows = np.arange(100, 200)
    assert supported_rows(rows, SoftmaxConfig()) is rows
    some = supported_rows(rows, SoftmaxConfig(rows=10))
    assert len(some) == 10 and (np.diff(some) > 0).all() and set(some) <= set(rows)
    np.testing.assert_array_equal(some, supported_rows(rows, SoftmaxConfig(rows=10)))
    assert len(supported_rows(rows, SoftmaxConfig(steps=3, batch=4))) == 12
