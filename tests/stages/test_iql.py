"""IQL's losses by hand, and its fixed point where that is known."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tiltrl.stages.critics.iql import Batch, IQLConfig, iql_losses, train_iql
from tiltrl.stages.critics.networks import MLP, Critic, CriticShape, init_critic

SHAPE = CriticShape(width=4, depth=1, layer_norm=False, q_ensemble=2, v_ensemble=1, dueling=False)
BATCH = Batch(
    obs=jnp.zeros((2, 1)),
    action=jnp.zeros((2, 1)),
    reward=jnp.array([1.0, 3.0]),
    next_obs=jnp.zeros((2, 1)),
    discount=jnp.array([0.5, 0.0]),  # the second step ended the task
)


@pytest.fixture(scope="module")
def critic() -> Critic:
    return eqx.filter_jit(init_critic)(1, 1, SHAPE, key=jax.random.key(0))


def constant(networks: MLP, *answers: float) -> MLP:
    """The ensemble with its last layer set so that each network always gives its answer."""
    last = networks.layers[-1]
    zeros, biases = jnp.zeros_like(last.weight), jnp.array(answers)[:, None]
    return eqx.tree_at(lambda n: (n.layers[-1].weight, n.layers[-1].bias), networks, (zeros, biases))


@pytest.mark.parametrize(("v", "v_loss"), [(1.0, 0.9 * 4.0), (4.0, 0.1 * 1.0)])
def test_losses_by_hand(critic: Critic, v: float, v_loss: float) -> None:
    q, target = constant(critic.q, 0.0, 2.0), constant(critic.q, 5.0, 3.0)  # the least of the targets is 3
    total, info = iql_losses(q, constant(critic.v, v), target, BATCH, expectile=0.9)
    goals = np.array([1.0 + 0.5 * v, 3.0])
    q_loss = np.mean((np.array([[0.0], [2.0]]) - goals) ** 2)
    np.testing.assert_allclose(info["v_loss"], v_loss, rtol=1e-6)
    np.testing.assert_allclose(info["q_loss"], q_loss, rtol=1e-6)
    np.testing.assert_allclose(total, v_loss + q_loss, rtol=1e-6)


def test_gradients_by_hand(critic: Critic) -> None:
    q, v, target = constant(critic.q, 0.0, 2.0), constant(critic.v, 1.0), constant(critic.q, 5.0, 3.0)
    loss = jax.jit(jax.grad(lambda *networks: iql_losses(*networks, BATCH, 0.9)[0], argnums=(0, 1, 2)))
    of_q, of_v, of_target = loss(q, v, target)
    goals = np.array([1.5, 3.0])
    # d/dQ of the mean over networks and batch; V's gradient is that of its own loss alone: 2 * 0.9 * (V - 3).
    np.testing.assert_allclose(of_q.layers[-1].bias[:, 0], (np.array([0.0, 2.0]) - goals.mean()), rtol=1e-6)
    np.testing.assert_allclose(of_v.layers[-1].bias[0, 0], 2 * 0.9 * (1.0 - 3.0), rtol=1e-6)
    assert not any(leaf.any() for leaf in jax.tree.leaves(of_target))


def test_training_finds_the_fixed_point() -> None:
    config = IQLConfig(steps=600, batch=8, learning_rate=1e-2, cosine=True, width=8, depth=1, polyak=0.1)
    ones = jnp.ones((4, 1))
    data = Batch(ones, ones, jnp.ones(4), ones, jnp.full(4, 0.5))
    critic = train_iql(data, config, jax.random.split(jax.random.key(0), 2))
    values = jax.vmap(lambda c: jnp.append(c.values(ones[0], ones[0]), c.value(ones[0])))(critic)
    np.testing.assert_allclose(values, np.full((2, 3), 2.0), atol=0.02)  # 1 + 1/2 + 1/4 + ...
