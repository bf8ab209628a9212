"""Guided sampling with energies that are known in closed form."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tiltrl.diffusion.energy import EnergyConfig
from tiltrl.diffusion.schedule import alpha_sigma
from tiltrl.errors import InputError
from tiltrl.stages.annotate import SamplerConfig
from tiltrl.stages.baselines.guidance import Guidance, GuidanceConfig, Guided, GuidedShape

MEAN, STD, SLOPE = 0.1, 0.2, 3.0
SAMPLER = SamplerConfig(calls=40, solver="2m", grid="log_snr")


class Gaussian(eqx.Module):
    """The exact energy of N(MEAN, STD^2), in the place of a behavior model."""

    noise_dim: int = eqx.field(static=True, default=1)

    def __call__(self, action: jax.Array, obs: jax.Array, t: jax.Array, *, key: None = None) -> jax.Array:
        alpha, sigma = alpha_sigma(t)
        away = action[..., 0] - alpha * MEAN
        return -(away**2) / (2 * ((STD * alpha) ** 2 + sigma**2))


class Tilt(eqx.Module):
    """`log E[exp(SLOPE a) | a_t]` under it: linear in `a_t`, up to a constant."""

    def __call__(self, action: jax.Array, obs: jax.Array, t: jax.Array) -> jax.Array:
        alpha, sigma = alpha_sigma(t)
        return SLOPE * STD**2 * alpha / ((STD * alpha) ** 2 + sigma**2) * action[..., 0]


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.0])
def test_the_exact_guidance_leads_to_the_tilted_gaussian(scale: float) -> None:
    """`N(m, s^2) exp(scale c a)` is `N(m + scale c s^2, s^2)`."""
    actor = Guided(Gaussian(), Tilt(), scale, SAMPLER)
    noise = jax.random.normal(jax.random.key(0), (4000, 1))
    found = eqx.filter_jit(actor)(noise, jnp.zeros((1, 3)))
    np.testing.assert_allclose(np.mean(found), MEAN + scale * SLOPE * STD**2, atol=0.02)
    np.testing.assert_allclose(np.std(found), STD, atol=0.01)


def test_states_that_actions_share_are_broadcast() -> None:
    energy = EnergyConfig(action_width=8, time_width=8, obs_width=8, blocks=0)
    shape = GuidedShape(energy, GuidanceConfig(width=8, depth=2, frequencies=3), 2.0, SamplerConfig(calls=2))
    actor = eqx.filter_jit(shape.make)(3, 2, key=jax.random.key(0))
    noise, obs = jax.random.normal(jax.random.key(1), (5, 4, 2)), jax.random.normal(jax.random.key(2), (5, 1, 3))
    found = eqx.filter_jit(actor)(noise, obs)
    assert found.shape == (5, 4, 2) and actor.noise_dim == 2
    assert np.abs(found).max() <= 1
    one_by_one = eqx.filter_jit(actor)(noise.reshape(20, 2), jnp.repeat(obs, 4, axis=1).reshape(20, 3))
    np.testing.assert_allclose(found.reshape(20, 2), one_by_one, atol=1e-5)
    assert all(eqx.is_array(leaf) for leaf in jax.tree.leaves(actor))


def test_the_slope_of_the_guidance_vanishes_with_the_signal() -> None:
    config = GuidanceConfig(width=32, depth=2, time_scale=0.0)
    guidance = eqx.filter_jit(Guidance)(1, 1, config, key=jax.random.key(0))
    slope = jax.jit(jax.grad(lambda a, t: guidance(a, jnp.zeros(1), t)))
    action = jnp.array([0.5])
    late, early = (float(slope(action, jnp.array(t))[0]) for t in (1.0, 1e-3))
    alpha = float(alpha_sigma(jnp.array(1.0))[0])
    assert abs(late) < 3 * alpha * abs(early)


def test_shapes_that_are_none_are_refused() -> None:
    with pytest.raises(InputError, match="scale = -1"):
        GuidedShape(EnergyConfig(), GuidanceConfig(), -1.0, SAMPLER)
    with pytest.raises(InputError, match="frequencies = 0"):
        GuidanceConfig(frequencies=0)
