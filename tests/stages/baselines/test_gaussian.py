"""The plain actors, their densities by hand, and that cloning finds the likeliest Gaussian."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from tiltrl.errors import InputError
from tiltrl.stages.baselines.common import Given
from tiltrl.stages.baselines.gaussian import (
    BCConfig,
    DeterministicShape,
    Gaussian,
    GaussianShape,
    likelihood_loss,
    log_prob,
    train_bc,
)
from tiltrl.stages.critics.iql import Batch


def gaussian(mean: list[float], log_deviation: list[float], spread: float = 1.0) -> Gaussian:
    """Of the same mean in every state."""
    made = GaussianShape(4, 1, spread).make(2, len(mean), key=jax.random.key(0))
    last = made.net.layers[-1]
    where = lambda g: (g.net.layers[-1].weight, g.net.layers[-1].bias, g.log_deviation)  # noqa: E731
    return eqx.tree_at(
        where, made, (jnp.zeros_like(last.weight), jnp.arctanh(jnp.array(mean)), jnp.array(log_deviation))
    )


def nothing(obs: np.ndarray, k: int) -> np.ndarray:
    raise AssertionError("cloning asks nobody for actions")


def logged(obs: np.ndarray, action: np.ndarray) -> Given:
    """What cloning learns from: there is no reward, no behavior model and no critic."""
    zeros = jnp.zeros(len(obs))
    data = Batch(jnp.asarray(obs), jnp.asarray(action), zeros, jnp.asarray(obs), zeros)
    return Given(data, obs, nothing, None, None)


def test_a_density_is_the_normal_one_of_each_dimension() -> None:
    actor = gaussian([0.5, -0.25], [np.log(0.5), np.log(2.0)])
    obs, action = jnp.zeros((3, 2)), jnp.array([[0.0, 0.0], [0.5, -0.25], [-1.0, 1.0]])
    by_hand = norm.logpdf(action, [0.5, -0.25], [0.5, 2.0]).sum(axis=1)
    np.testing.assert_allclose(log_prob(actor, obs, action), by_hand, rtol=1e-5)
    weight = jnp.array([2.0, 0.0, 1.0])
    np.testing.assert_allclose(likelihood_loss(actor, obs, action), -by_hand.mean(), rtol=1e-5)
    np.testing.assert_allclose(
        likelihood_loss(actor, obs, action, weight), -(2.0 * by_hand[0] + by_hand[2]) / 3.0, rtol=1e-5
    )


def test_the_gradient_by_hand() -> None:
    """Of `w ((a - m)^2 / (2 d^2) + log d)`: in m before tanh, and in log d."""
    actor, obs, action = gaussian([0.5], [np.log(0.5)]), jnp.zeros((1, 2)), jnp.array([[0.9]])
    gradient = jax.grad(likelihood_loss)(actor, obs, action, 3.0)
    np.testing.assert_allclose(gradient.net.layers[-1].bias, [3.0 * -(0.4 / 0.25) * (1.0 - 0.5**2)], rtol=1e-4)
    np.testing.assert_allclose(gradient.log_deviation, [3.0 * (1.0 - 0.16 / 0.25)], rtol=1e-4)


def test_deviations_stay_within_their_bounds() -> None:
    np.testing.assert_allclose(gaussian([0.0, 0.0], [-9.0, 9.0]).deviation(), np.exp([-5.0, 2.0]), rtol=1e-6)


def test_a_gaussian_acts_by_its_noise_or_by_its_mean() -> None:
    noise, obs = jnp.array([[[1.0, -1.0], [9.0, 0.0]]]), jnp.zeros((1, 1, 2))
    sampled = gaussian([0.5, -0.25], [np.log(0.1), np.log(0.2)])
    np.testing.assert_allclose(sampled(noise, obs), [[[0.6, -0.45], [1.0, -0.25]]], rtol=1e-5)
    by_mean = gaussian([0.5, -0.25], [np.log(0.1), np.log(0.2)], spread=0.0)
    assert (sampled.noise_dim, by_mean.noise_dim) == (2, 0)
    np.testing.assert_allclose(by_mean(jnp.zeros((1, 2, 0)), obs), np.full((1, 2, 2), [0.5, -0.25]), rtol=1e-5)


def test_a_deterministic_actor_does_the_same_whatever_the_noise() -> None:
    actor = DeterministicShape(8, 2).make(3, 2, key=jax.random.key(0))
    obs = 10.0 * jax.random.normal(jax.random.key(1), (5, 1, 3))
    action = actor(jnp.zeros((5, 4, actor.noise_dim)), obs)
    assert action.shape == (5, 4, 2) and (jnp.abs(action) <= 1).all()
    np.testing.assert_array_equal(action, jnp.broadcast_to(actor.action(obs), (5, 4, 2)))


@pytest.mark.parametrize("shape", [GaussianShape, DeterministicShape])
def test_a_shape_that_fits_into_no_computer_is_refused(shape: type) -> None:
    with pytest.raises(InputError, match="width = 10000000; it must lie in 1 to 8192"):
        shape(width=10_000_000)


def test_cloning_finds_the_mean_and_the_deviation_of_each_member_by_itself() -> None:
    """The mean turns with the state, the deviation does not: both are in the Gaussian's reach."""
    rng = np.random.default_rng(0)
    obs = rng.uniform(-1.0, 1.0, (4096, 1)).astype(np.float32)
    action = (0.5 * obs + 0.1 * rng.standard_normal((4096, 1))).astype(np.float32)
    config = BCConfig(steps=600, batch=128, learning_rate=1e-2, width=16)
    keys = jax.random.split(jax.random.key(0), 2)
    both, critic = train_bc(logged(obs, action), config, keys)
    assert critic is None
    where = jnp.array([[-0.8], [0.0], [0.8]])
    found = jax.vmap(lambda actor: actor(jnp.zeros((3, 1)), where))(both)
    np.testing.assert_allclose(found, np.broadcast_to([[-0.4], [0.0], [0.4]], (2, 3, 1)), atol=0.04)
    np.testing.assert_allclose(jax.vmap(Gaussian.deviation)(both), np.full((2, 1), 0.1), atol=0.01)
    second, _ = train_bc(logged(obs, action), config, keys[1:])
    for a, b in zip(jax.tree.leaves(both), jax.tree.leaves(second), strict=True):
        np.testing.assert_allclose(a[1], b[0], atol=1e-3)
