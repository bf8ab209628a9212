"""The contrastive loss by hand, and guidance learned where the answer is known."""

from __future__ import annotations

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tiltrl.diffusion.energy import Energy, EnergyConfig
from tiltrl.diffusion.schedule import alpha_sigma
from tiltrl.errors import InputError
from tiltrl.stages.annotate import AnnotateConfig
from tiltrl.stages.baselines.common import Given
from tiltrl.stages.baselines.guidance import Guidance, GuidanceConfig
from tiltrl.stages.baselines.qgpo import QGPOConfig, contrastive_loss, judged_actions, train_qgpo
from tiltrl.stages.critics.iql import Batch
from tiltrl.stages.critics.networks import Critic, CriticShape, init_critic

STD, STATES = 0.3, 512
SMALL = QGPOConfig(
    steps=400,
    batch=64,
    learning_rate=5e-3,
    cosine=True,
    annotate=AnnotateConfig(scale=2.0),
    guidance=GuidanceConfig(width=32, depth=2, time_scale=1.0),
)


class Linear(Critic):
    """Q is twice the action, whatever its networks say."""

    def preference(self, obs: jax.Array, action: jax.Array, pessimism: float = 1.0) -> jax.Array:
        return 2.0 * action[..., 0]


def given(members: int) -> Given:
    """Behavior N(0, STD^2) at states that mean nothing."""
    rng = np.random.default_rng(0)
    actions = STD * rng.normal(size=(1, STATES, 16, 1)).astype(np.float32)
    states = rng.normal(size=(STATES, 2)).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), members)
    shape = CriticShape(width=2, depth=1, layer_norm=False, q_ensemble=2, v_ensemble=1, dueling=False)
    some = jax.jit(jax.vmap(lambda key: init_critic(2, 1, shape, key=key)))(keys)
    energy = EnergyConfig(action_width=4, time_width=4, obs_width=4, blocks=0, time_features=2)
    return Given(
        data=Batch(*[jnp.zeros((1, 1))] * 5),
        states=states,
        actions=lambda obs, k: np.repeat(actions[:, :, :k], members, axis=0),
        behavior=jax.jit(jax.vmap(lambda key: Energy(2, 1, energy, key=key)))(keys),
        critic=Linear(some.q, some.v, dueling=False),
    )


def test_the_loss_by_hand() -> None:
    guidance, values = np.array([[0.0, 1.0], [2.0, -1.0]]), np.array([[0.0, 2.0], [0.5, 0.5]])

    def softmax(x: np.ndarray) -> np.ndarray:
        return np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)

    expected = -np.mean(np.sum(softmax(values) * np.log(softmax(guidance)), axis=1))
    loss, info = contrastive_loss(jnp.array(guidance), jnp.array(values))
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(info["contrastive_loss"], expected, rtol=1e-6)
    # Only differences within a state count.
    moved, _ = contrastive_loss(jnp.array(guidance + [[5.0], [-3.0]]), jnp.array(values + [[1.0], [9.0]]))
    np.testing.assert_allclose(moved, expected, rtol=1e-5)


def test_every_action_is_valued_at_its_state_by_its_critic() -> None:
    judged = judged_actions(given(2), AnnotateConfig(k=4, scale=3.0))
    assert judged.action.shape == (2, STATES, 4, 1)
    np.testing.assert_allclose(judged.value, 6.0 * judged.action[..., 0], rtol=1e-5)
    in_units = judged_actions(given(1), AnnotateConfig(k=4, normalize=True)).value
    np.testing.assert_allclose(np.mean(in_units**2), 1.0, rtol=1e-4)
    np.testing.assert_allclose(np.mean(in_units, axis=-1), np.zeros((1, STATES)), atol=1e-5)


def test_values_that_are_not_finite_are_refused() -> None:
    class Broken(Critic):
        def preference(self, obs: jax.Array, action: jax.Array, pessimism: float = 1.0) -> jax.Array:
            return jnp.full(action.shape[:-1], jnp.nan)

    fine = given(1)
    assert fine.critic is not None
    with pytest.raises(InputError, match="score returned nan"):
        judged_actions(replace(fine, critic=Broken(fine.critic.q, fine.critic.v, dueling=False)), SMALL.annotate)


def test_guidance_learns_the_slope_of_a_linear_value() -> None:
    """Behavior N(0, s^2), `beta Q = 4 a`: the guidance is `4 s^2 alpha / (s^2 alpha^2 + sigma^2) a_t`."""
    outcome = train_qgpo(given(1), SMALL, jax.random.key(1)[None])
    assert outcome.critic is None
    guidance = jax.tree.map(lambda leaf: leaf[0], outcome.actor.guidance)
    action, t = jnp.linspace(-0.6, 0.6, 9)[:, None, None], jnp.array([0.02, 0.1, 0.3])
    found = np.asarray(eqx.filter_jit(guidance)(jnp.repeat(action, 3, axis=1), jnp.zeros((1, 2)), t))
    alpha, sigma = map(np.asarray, alpha_sigma(t))
    expected = 4.0 * STD**2 * alpha / ((STD * alpha) ** 2 + sigma**2)
    np.testing.assert_allclose(np.polyfit(np.asarray(action)[:, 0, 0], found, 1)[0], expected, rtol=0.2)


@pytest.mark.slow
def test_a_member_among_others_is_the_one_that_is_alone() -> None:
    short, keys = replace(SMALL, steps=10), jax.random.split(jax.random.key(1), 2)
    both = train_qgpo(given(2), short, keys).actor.guidance
    alone = train_qgpo(given(1), short, keys[:1]).actor.guidance

    @eqx.filter_jit
    def preferences(guidance: Guidance) -> jax.Array:
        """Up to the constant of a state, which nothing but rounding moves."""
        action, obs, t = jnp.array([[-0.5], [0.0], [0.5]]), jnp.ones((1, 2)), jnp.array(0.2)
        found = jax.vmap(lambda one: one(action, obs, t))(guidance)
        return found - found[:, :1]

    first, second = np.asarray(preferences(both))
    np.testing.assert_allclose(preferences(alone)[0], first, atol=1e-5)
    assert np.abs(first - second).max() > 1e-3
