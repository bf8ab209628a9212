"""The policy beside the online critic: its schedule, its chain and its gradient; and what the critic comes to."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tiltrl.stages.critics.iql import Batch
from tiltrl.stages.critics.networks import MLP, init_critic
from tiltrl.stages.critics.online import (
    Actor,
    Noise,
    OnlineConfig,
    act,
    actor_loss,
    critic_losses,
    draw_noise,
    kept_signal,
    train_online,
)

CONFIG = OnlineConfig(batch=64, width=16, depth=1)


def like_action(slope: float) -> MLP:
    """Two Q networks on one observation and one action: slope times (1 + action)."""
    zeros = jax.tree.map(jnp.zeros_like, init_critic(1, 1, CONFIG.shape, key=jax.random.key(0)).q)
    where = lambda n: (n.layers[0].weight, n.layers[0].bias, n.layers[1].weight)  # noqa: E731
    first, bias, last = where(zeros)
    return eqx.tree_at(where, zeros, (first.at[:, 0, 0].set(1.0), bias.at[:, 0].set(1.0), last.at[:, 0, 0].set(slope)))


def batch(action: float, reward: float = 1.0, discount: float = 0.5) -> Batch:
    rows = CONFIG.batch
    ones = jnp.ones((rows, 1))
    return Batch(ones, action * ones, jnp.full(rows, reward), ones, jnp.full(rows, discount))


def test_the_schedule_keeps_almost_all_at_first_and_almost_nothing_at_last() -> None:
    kept = kept_signal(5)
    np.testing.assert_allclose(kept[0], np.exp(-0.1 / 5 - 0.5 * 9.9 / 25), rtol=1e-12)
    np.testing.assert_allclose(kept[-1], np.exp(-0.1 - 0.5 * 9.9), rtol=1e-12)  # the odd numbers sum to T^2
    assert (np.diff(kept) < 0).all()


def test_the_chain_returns_the_action_that_a_perfect_actor_knows_of() -> None:
    """Of data that is one action, the noise is known exactly, and every chain must end there."""
    kept = kept_signal(5)

    class Perfect(Actor):
        def __call__(self, noisy, obs, step):
            k = jnp.asarray(kept)[step][:, None]
            return (noisy - jnp.sqrt(k) * 0.3) / jnp.sqrt(1.0 - k)

    actor = Perfect(1, 2, CONFIG, key=jax.random.key(0))
    found = act(actor, jnp.zeros((7, 1)), jax.random.normal(jax.random.key(1), (5, 7, 2)))
    np.testing.assert_allclose(found, np.full((7, 2), 0.3), atol=1e-5)


def test_a_step_of_the_actor_leads_to_higher_values() -> None:
    actor = Actor(1, 1, CONFIG, key=jax.random.key(0))
    noise = draw_noise(CONFIG, 1, jax.random.key(1))
    q, data = like_action(5.0), batch(0.0)

    def value(actor: Actor) -> jax.Array:
        return jnp.mean(act(actor, data.obs, noise.chain))

    climb = jax.grad(lambda a: actor_loss(a, q, data, noise, 1e3)[0])(actor)
    after = jax.tree.map(lambda w, g: w - 1e-5 * g, actor, climb)
    assert value(after) > value(actor) + 1e-4
    still = jax.grad(lambda a: actor_loss(a, q, data, noise, 0.0)[0])(actor)  # imitation alone knows no Q
    other = jax.grad(lambda a: actor_loss(a, like_action(-9.0), data, noise, 0.0)[0])(actor)
    for a, b in zip(jax.tree.leaves(still), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_losses_by_hand() -> None:
    v = jax.tree.map(jnp.zeros_like, init_critic(1, 1, CONFIG.shape, key=jax.random.key(0)).v)
    data = batch(1.0, reward=1.0, discount=0.5)
    _, info = critic_losses(like_action(1.0), v, like_action(2.0), data, jnp.full((CONFIG.batch, 1), -0.5))
    np.testing.assert_allclose(info["q_loss"], (2.0 - (1.0 + 0.5 * 1.0)) ** 2, rtol=1e-6)
    np.testing.assert_allclose(info["v_loss"], 1.0, rtol=1e-6)

    actor = jax.tree.map(jnp.zeros_like, Actor(1, 1, CONFIG, key=jax.random.key(0)))  # never sees any noise
    zeros = jnp.zeros((5, CONFIG.batch, 1))
    noise = Noise(zeros, zeros, jnp.full((CONFIG.batch, 1), 2.0), jnp.zeros(CONFIG.batch, int), jnp.array(0))
    loss, info = actor_loss(actor, like_action(3.0), data, noise, 0.5)
    np.testing.assert_allclose(info["imitation"], 4.0, rtol=1e-6)
    np.testing.assert_allclose(loss, 4.0 - 0.5, rtol=1e-5)  # Q over its own size is 1


@pytest.mark.slow
def test_training_values_the_best_logged_action_and_does_so_again() -> None:
    """One state, actions -0.5 and 0.5 with rewards 0 and 1, discount 1/2: the best policy's values are 1 and 2."""
    config = OnlineConfig(
        steps=1500, batch=32, learning_rate=1e-2, width=16, depth=1, polyak=0.05, eta=1.0, layer_norm=False
    )
    action = jnp.array([[-0.5], [0.5]])
    ones = jnp.ones((2, 1))
    data = Batch(ones, action, jnp.array([0.0, 1.0]), ones, jnp.full(2, 0.5))
    critic, again = (train_online(data, config, jax.random.key(0)[None]) for _ in range(2))
    low, high = jax.vmap(lambda c: c(ones, action))(critic)[0]
    np.testing.assert_allclose(high - low, 1.0, atol=0.1)
    assert 1.7 < high < 2.3  # above 1.5, the value of imitating
    for a, b in zip(jax.tree.leaves(critic), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
