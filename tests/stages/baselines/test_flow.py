"""The flow between the two boxes: it has an inverse, and its densities are densities."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tiltrl.errors import InputError
from tiltrl.stages.baselines.flow import EDGE, Flow, FlowShape

SHAPE = FlowShape(layers=3, width=8, depth=1, policy_width=8, policy_depth=1)


def shaken(act_dim: int) -> Flow:
    """A flow of random weights, those that begin at zero too."""
    flow = eqx.filter_jit(SHAPE.make)(2, act_dim, key=jax.random.key(0)).flow
    leaves, structure = jax.tree.flatten(flow)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [leaf + 0.3 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, moved)


def test_an_untrained_flow_holds_all_actions_equally_likely() -> None:
    actor = eqx.filter_jit(SHAPE.make)(2, 3, key=jax.random.key(0))
    action = jnp.array([[0.5, -0.9, 0.0], [0.1, 0.2, 0.3]])
    np.testing.assert_allclose(
        eqx.filter_jit(actor.flow.log_prob)(action, jnp.ones((2, 2))), np.full(2, -3 * np.log(2)), rtol=1e-4
    )
    np.testing.assert_allclose(eqx.filter_jit(actor.flow.decode)(action, jnp.ones((2, 2))), action, atol=1e-5)


@pytest.mark.parametrize("act_dim", [1, 2, 3])
def test_the_density_is_what_decoding_makes_of_uniform_latents(act_dim: int) -> None:
    """By the change of variables: one over the volume of the box of latents and the determinant of the decoder."""
    flow, obs = shaken(act_dim), jnp.array([0.3, -1.0])
    latent = jax.random.uniform(jax.random.key(2), (20, act_dim), minval=-0.95, maxval=0.95)
    action = eqx.filter_jit(flow.decode)(latent, obs)
    jacobian = jax.jit(jax.vmap(jax.jacfwd(lambda u: flow.decode(u, obs))))(latent)
    inside = np.abs(action).max(axis=1) < EDGE
    assert inside.sum() > 10
    expected = -act_dim * np.log(2.0) - np.linalg.slogdet(np.asarray(jacobian))[1]
    np.testing.assert_allclose(eqx.filter_jit(flow.log_prob)(action, obs)[inside], expected[inside], atol=2e-3)


def test_densities_sum_to_one() -> None:
    flow = shaken(2)
    grid = (np.arange(400) + 0.5) / 200 - 1
    action = jnp.asarray(np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2), jnp.float32)
    density = np.exp(eqx.filter_jit(flow.log_prob)(action, jnp.array([0.3, -1.0])))
    assert density.mean() * 4 == pytest.approx(1.0, abs=0.03)
    assert density.std() > 0.1  # not the uniform one


def test_every_latent_is_an_action_and_dimensions_depend_on_each_other() -> None:
    flow = shaken(3)
    corners = jnp.array([[1.0, 1.0, 1.0], [-1.0, -1.0, 1.0]])
    action = eqx.filter_jit(flow.decode)(corners, jnp.zeros(2))
    assert np.isfinite(action).all() and (np.abs(action) <= 1).all()
    jacobian = np.asarray(jax.jit(jax.jacfwd(lambda u: flow.decode(u, jnp.zeros(2))))(jnp.zeros(3)))
    assert (np.abs(jacobian) > 1e-4).all()


def test_one_action_whatever_the_noise_which_is_none() -> None:
    actor = eqx.filter_jit(SHAPE.make)(2, 3, key=jax.random.key(0))
    assert actor.noise_dim == 0
    obs = jnp.array([[[0.0, 1.0]], [[2.0, -1.0]]])
    found = eqx.filter_jit(actor)(jnp.zeros((2, 4, 0)), obs)
    assert found.shape == (2, 4, 3)
    np.testing.assert_allclose(found, np.repeat(actor.action(obs), 4, axis=1), atol=1e-6)


def test_shapes_of_no_network_are_refused() -> None:
    with pytest.raises(InputError, match="layers = 0; it must lie in 1 to 256"):
        FlowShape(layers=0)
