"""Independent networks hear of no other, and are valued by a lower bound."""

from __future__ import annotations

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from tiltrl.stages.critics.iql import Batch, IQLConfig, iql_losses, train_iql
from tiltrl.stages.critics.networks import MLP, Critic, CriticShape, init_critic

SHAPE = CriticShape(width=4, depth=1, layer_norm=True, q_ensemble=2, v_ensemble=2, dueling=False)


def constant(networks: MLP, *answers: float) -> MLP:
    """The ensemble with its last layer set so that each network always gives its answer."""
    last = networks.layers[-1]
    zeros, biases = jnp.zeros_like(last.weight), jnp.array(answers)[:, None]
    return eqx.tree_at(lambda n: (n.layers[-1].weight, n.layers[-1].bias), networks, (zeros, biases))


def test_each_network_follows_its_own_target() -> None:
    critic = eqx.filter_jit(init_critic)(1, 1, SHAPE, key=jax.random.key(0))
    q, v, target = constant(critic.q, 0.0, 2.0), constant(critic.v, 1.0, 4.0), constant(critic.q, 5.0, 3.0)
    one = jnp.ones((1, 1))
    batch = Batch(one, one, jnp.ones(1), one, jnp.full(1, 0.5))
    _, info = iql_losses(q, v, target, batch, 0.9, independent=True)
    np.testing.assert_allclose(info["v_loss"], np.mean([0.9 * 4.0**2, 0.1 * 1.0]), rtol=1e-6)
    np.testing.assert_allclose(info["q_loss"], np.mean([(0.0 - 1.5) ** 2, (2.0 - 3.0) ** 2]), rtol=1e-6)


def test_the_value_is_the_mean_less_deviations() -> None:
    critic = init_critic(1, 1, replace(SHAPE, q_ensemble=4), key=jax.random.key(0))
    critic = Critic(constant(critic.q, 1.0, 2.0, 3.0, 6.0), critic.v, dueling=False)
    one = jnp.ones((1, 1))
    deviation = np.std([1.0, 2.0, 3.0, 6.0])
    np.testing.assert_allclose(critic(one, one, 0.0), 3.0, rtol=1e-6)
    np.testing.assert_allclose(critic(one, one, 2.0), 3.0 - 2.0 * deviation, rtol=1e-5)


def test_training_finds_the_fixed_point_and_the_same_one_again() -> None:
    config = IQLConfig(
        steps=1000,
        batch=8,
        learning_rate=1e-2,
        cosine=True,
        width=32,
        depth=1,
        polyak=0.1,
        ensemble=3,
        independent=True,
    )
    ones = jnp.ones((4, 1))
    data = Batch(ones, ones, jnp.ones(4), ones, jnp.full(4, 0.5))
    critic, again = (train_iql(data, config, jax.random.key(0)[None]) for _ in range(2))
    assert config.shape.v_ensemble == 3
    values = jax.vmap(lambda c: c.values(ones[0], ones[0]))(critic)
    np.testing.assert_allclose(values, np.full((1, 3), 2.0), atol=0.02)  # 1 + 1/2 + 1/4 + ...
    for a, b in zip(jax.tree.leaves(critic), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
