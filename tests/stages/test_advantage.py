"""The advantage critic: its n-step returns, its losses, and a problem whose advantages are known."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tiltrl.stages.critics.advantage import AdvantageConfig, Steps, advantage_losses, n_step, train_advantage
from tiltrl.stages.critics.networks import CriticShape, init_critic

TERMINAL = np.array([0, 0, 1, 0, 0, 0, 0, 1, 0, 0], bool)
TIMEOUT = np.array([0, 0, 0, 0, 1, 0, 0, 0, 0, 1], bool)


@pytest.mark.parametrize("n", [1, 2, 3, 50])
def test_n_step_against_a_loop(n: int) -> None:
    reward = np.random.default_rng(0).normal(size=10)
    total, rest, landing = n_step(reward, TERMINAL, TIMEOUT, n, 0.9)
    for start in range(10):
        expected, discount, step = 0.0, 1.0, start
        while True:
            expected += discount * reward[step]
            discount *= 0.9
            if TERMINAL[step] or TIMEOUT[step] or step == start + n - 1:
                break
            step += 1
        assert landing[start] == step
        assert total[start] == pytest.approx(expected, rel=1e-5)
        assert rest[start] == pytest.approx(0.0 if TERMINAL[step] else discount, rel=1e-5)


def test_losses_by_hand() -> None:
    shape = CriticShape(width=4, depth=1, layer_norm=False, q_ensemble=1, v_ensemble=2, dueling=True)
    critic = eqx.filter_jit(init_critic)(1, 1, shape, key=jax.random.key(0))

    def constant(v: tuple[float, float], a: float) -> eqx.Module:
        """The critic with its last layers set so that it always gives these answers."""
        weights = lambda c: (c.v.layers[-1].weight, c.q.layers[-1].weight)  # noqa: E731
        biases = lambda c: (c.v.layers[-1].bias, c.q.layers[-1].bias)  # noqa: E731
        flat = eqx.tree_at(weights, critic, jax.tree.map(jnp.zeros_like, weights(critic)))
        return eqx.tree_at(biases, flat, (jnp.array(v)[:, None], jnp.array([[a]])))

    one = jnp.ones(1)
    batch = Steps(
        obs=jnp.zeros((1, 1)),
        action=jnp.zeros((1, 1)),
        reward=2.0 * one,
        next_obs=jnp.zeros((1, 1)),
        discount=0.5 * one,
        n_reward=4.0 * one,
        n_discount=0.25 * one,
        landed_obs=jnp.zeros((1, 1)),
        episode=jnp.zeros(1, int),
    )
    loss = jax.value_and_grad(advantage_losses, has_aux=True)
    config, seen = AdvantageConfig(pessimism=1.0, bag=0.5), jnp.array([[1.0, 0.0]])
    (total, _), gradient = loss(constant((1.0, 2.0), 0.5), constant((4.0, 8.0), 9.0), batch, seen, config)
    # V: only the first network sees the step, as half of the networks do; 4 + 4/4 - 1 = 4.
    # A: V is 6 - 2 = 4 here and after; 2 + 4/2 - 4 = 0, against 0.5.
    np.testing.assert_allclose(total, 4.0**2 / 0.5 + 0.5**2, rtol=1e-5)
    np.testing.assert_allclose(gradient.v.layers[-1].bias[:, 0], [-2 * 4.0 / 0.5, 0.0], rtol=1e-5)
    np.testing.assert_allclose(gradient.q.layers[-1].bias[0, 0], 2 * 0.5, rtol=1e-5)


def test_advantages_of_a_known_problem_are_found() -> None:
    # s' = (s + a) / 2 and r = s + a, a uniform: V(s) = k s and A(s, a) = k a, where k = 1 + 0.9 k / 2.
    rng, episodes, length = np.random.default_rng(0), 200, 10
    action = rng.uniform(-1, 1, (episodes, length))
    obs = np.empty((episodes, length + 1))
    obs[:, 0] = rng.uniform(-1, 1, episodes)
    for i in range(length):
        obs[:, i + 1] = 0.5 * (obs[:, i] + action[:, i])
    reward = (obs[:, :-1] + action).ravel()
    timeout = np.tile(np.arange(length) == length - 1, episodes)
    n_reward, n_discount, landing = n_step(reward, np.zeros_like(timeout), timeout, 3, 0.9)
    data = Steps(
        obs=jnp.asarray(obs[:, :-1].reshape(-1, 1), jnp.float32),
        action=jnp.asarray(action.reshape(-1, 1), jnp.float32),
        reward=jnp.asarray(reward, jnp.float32),
        next_obs=jnp.asarray(obs[:, 1:].reshape(-1, 1), jnp.float32),
        discount=jnp.full(len(reward), 0.9),
        n_reward=jnp.asarray(n_reward),
        n_discount=jnp.asarray(n_discount),
        landed_obs=jnp.asarray(obs[:, 1:].reshape(-1, 1)[landing], jnp.float32),
        episode=jnp.asarray(np.repeat(np.arange(episodes), length)),
    )
    size = {"width": 16, "depth": 1, "batch": 64}
    settings = {"steps": 800, "learning_rate": 5e-3, "polyak": 0.05, "n_step": 3, "discount": 0.9, "pessimism": 0.0}
    config = AdvantageConfig(**size, **settings)
    critics = train_advantage(data, episodes, config, jax.random.split(jax.random.key(0), 1))
    critic = jax.tree.map(lambda leaf: leaf[0], critics)
    found = jax.vmap(lambda s, a: critic(s, a, 0.0) - critic.value(s))(data.obs, data.action)
    k = 1 / (1 - 0.45)
    assert np.corrcoef(found, action.ravel())[0, 1] > 0.95
    assert np.polyfit(action.ravel(), found, 1)[0] == pytest.approx(k, rel=0.15)
    value = jax.vmap(critic.value)(data.obs)
    assert np.polyfit(data.obs[:, 0], value, 1)[0] == pytest.approx(k, rel=0.15)
