"""The losses of Diffusion-DICE by hand, their minima, and what training finds in a world of one state."""

from __future__ import annotations

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq

from tiltrl.diffusion.energy import Energy, EnergyConfig
from tiltrl.stages.baselines.common import Given, Outcome
from tiltrl.stages.baselines.diffusion_dice import (
    DICEConfig,
    conjugate,
    dice_losses,
    guidance_loss,
    ratio,
    train_dice,
)
from tiltrl.stages.baselines.guidance import GuidanceConfig
from tiltrl.stages.critics.iql import Batch
from tiltrl.stages.critics.networks import MLP, CriticShape, init_critic

SMALL = DICEConfig(
    steps=1500,
    batch=64,
    learning_rate=1e-2,
    cosine=True,
    noises=2,
    width=16,
    depth=1,
    layer_norm=False,
    ensemble=2,
    alpha=0.5,
    polyak=0.05,
    guidance=GuidanceConfig(width=32, depth=2, time_scale=1.0),
    candidates=2,
)


def divergence(w: np.ndarray) -> np.ndarray:
    return np.where(w > 1, (w - 1) ** 2, w * np.log(w) - w + 1)


@pytest.mark.parametrize("x", [-3.0, -0.5, 0.0, 0.5, 4.0])
def test_the_conjugate_is_that_of_the_divergence_and_the_ratio_where_it_is_reached(x: float) -> None:
    w = np.linspace(1e-6, 10.0, 1_000_001)
    gain = w * x - divergence(w)
    np.testing.assert_allclose(conjugate(jnp.array(x)), gain.max(), atol=1e-6)
    np.testing.assert_allclose(ratio(jnp.array(x)), w[gain.argmax()], atol=2e-5)
    np.testing.assert_allclose(jax.grad(conjugate)(x), ratio(jnp.array(x)), rtol=1e-6)


def test_the_ratio_of_hopeless_actions_is_nought_and_its_slope_finite() -> None:
    assert ratio(jnp.array(-1e4)) == 0.0
    assert np.isfinite(jax.grad(conjugate)(1e4)) and np.isfinite(jax.grad(conjugate)(-1e4))


def constant(networks: MLP, *values: float) -> MLP:
    """Networks that answer so whatever they are asked."""
    zeros = jax.tree.map(jnp.zeros_like, networks)
    return eqx.tree_at(lambda n: n.layers[-1].bias, zeros, jnp.array(values)[:, None])


def test_losses_by_hand() -> None:
    shape = CriticShape(width=4, depth=1, layer_norm=False, q_ensemble=3, v_ensemble=1, dueling=False)
    critic = eqx.filter_jit(init_critic)(1, 1, shape, key=jax.random.key(0))
    q, v = constant(critic.q, 1.0, 2.0, 4.0), constant(critic.v, 1.0)
    zeros = jnp.zeros((2, 1))
    batch = Batch(zeros, zeros, jnp.array([1.0, 3.0]), zeros, jnp.array([0.5, 0.0]))
    for least, target in ((2.0, (3.0, 2.0, -9.0)), (0.5, (0.5, 7.0, -9.0))):  # V does not hear the third
        x = (least - 1.0) / 0.5
        (_, (weight, info)), gradient = jax.value_and_grad(dice_losses, argnums=(0, 1), has_aux=True)(
            q, v, constant(critic.q, *target), batch, 0.5
        )
        expected = 0.25 * x**2 + x if x >= 0 else np.exp(x) - 1
        np.testing.assert_allclose(info["v_loss"], expected + 1.0 / 0.5, rtol=1e-6)
        np.testing.assert_allclose(weight, np.full(2, 0.5 * x + 1 if x >= 0 else np.exp(x)), rtol=1e-6)
        # (Q_i - r - discount V)^2, over two transitions and three networks
        errors = np.array([[1.0, 2.0, 4.0]]) - np.array([[1.5], [3.0]])
        np.testing.assert_allclose(info["q_loss"], np.mean(errors**2), rtol=1e-6)
        np.testing.assert_allclose(gradient[0].layers[-1].bias[:, 0], 2 * errors.mean(axis=0) / 3, rtol=1e-5)
        np.testing.assert_allclose(gradient[1].layers[-1].bias[0, 0], (1.0 - weight[0]) / 0.5, rtol=1e-5)


def test_the_guidance_loss_is_least_where_it_is_the_log_of_the_mean_ratio() -> None:
    weight = np.array([0.1, 2.0, 5.0])
    g = np.array([0.3, -1.0])
    largest = max(-g)  # the loss is divided by exp of it
    guidance = jnp.broadcast_to(jnp.array(g), (3, 2))
    expected = np.mean(weight[:, None] * np.exp(-g) + g) * np.exp(-largest)
    np.testing.assert_allclose(guidance_loss(guidance, jnp.array(weight)), expected, rtol=1e-6)
    slope = jax.jit(lambda g: jax.grad(lambda g: guidance_loss(jnp.full((3, 1), g), jnp.array(weight)))(g))
    assert brentq(lambda g: float(slope(g)), -5.0, 5.0, xtol=1e-6) == pytest.approx(np.log(weight.mean()), abs=1e-4)


def test_the_guidance_loss_does_not_overflow() -> None:
    slope = jax.grad(lambda g: guidance_loss(g, jnp.array([100.0, 1.0])))(jnp.array([[-500.0], [500.0]]))
    assert np.isfinite(slope).all() and np.abs(slope).max() <= 100


def two_actions(members: int) -> Given:
    """One state; actions near -1/2 and near 1/2 with rewards 0 and 1, after which all is over."""
    rng = np.random.default_rng(0)
    side = np.repeat([-0.5, 0.5], 256)
    action = jnp.asarray(side + 0.02 * rng.normal(size=512), jnp.float32)[:, None]
    ones = jnp.ones((512, 1))
    energy = EnergyConfig(action_width=4, time_width=4, obs_width=4, blocks=0, time_features=2)
    keys = jax.random.split(jax.random.key(0), members)
    return Given(
        data=Batch(ones, action, jnp.asarray(side > 0, jnp.float32), ones, jnp.zeros(512)),
        states=np.ones((1, 1), np.float32),
        actions=lambda obs, k: np.zeros((members, len(obs), k, 1), np.float32),
        behavior=jax.jit(jax.vmap(lambda key: Energy(1, 1, energy, key=key)))(keys),
        critic=None,
    )


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return train_dice(two_actions(1), SMALL, jax.random.key(0)[None])


def test_values_and_guidance_are_those_of_the_dual(outcome: Outcome) -> None:
    """Q is 0 or 1, half of the time each; V makes the mean ratio one, and the guidance is the log of the ratios."""

    def ratios(v: float) -> np.ndarray:
        return np.asarray(ratio((jnp.array([0.0, 1.0]) - v) / SMALL.alpha))

    v = brentq(lambda v: float(ratios(v).mean()) - 1.0, 0.0, 1.0)  # the slope of the V loss is one less this mean
    assert outcome.critic is not None
    critic, guidance = (jax.tree.map(lambda leaf: leaf[0], part) for part in (outcome.critic, outcome.actor.guidance))
    action = jnp.array([[-0.5], [0.5]])
    np.testing.assert_allclose(critic(jnp.ones((2, 1)), action), [0.0, 1.0], atol=0.05)
    np.testing.assert_allclose(critic.value(jnp.ones(1)), v, atol=0.05)
    # At little noise the guidance tells the two apart; at full noise it knows nothing but the mean ratio.
    little = eqx.filter_jit(guidance)(action, jnp.ones((1, 1)), jnp.array(0.1))
    np.testing.assert_allclose(little, np.log(ratios(v)), atol=0.2)
    full = eqx.filter_jit(guidance)(2.0 * action, jnp.ones((1, 1)), jnp.array(1.0))
    np.testing.assert_allclose(full, [0.0, 0.0], atol=0.2)


@pytest.mark.slow
def test_a_member_among_others_is_the_one_that_is_alone() -> None:
    short, keys = replace(SMALL, steps=10), jax.random.split(jax.random.key(1), 2)
    both, alone = train_dice(two_actions(2), short, keys), train_dice(two_actions(1), short, keys[:1])
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(both), strict=True):
        np.testing.assert_allclose(a[0], b[0], atol=1e-4)
