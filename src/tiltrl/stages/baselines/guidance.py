"""Guided diffusion: the behavior model's energy plus that of a guidance network, followed by one solver.

A policy `pi(a|s) ∝ mu(a|s) w(s, a)` has at every diffusion time the energy `log mu_t(a_t|s) + log E_mu[w | a_t, s]`
(Lu et al. 2023, arXiv 2304.12824, Theorem 3.1). The behavior model knows the first term, and the second is what a
guidance network learns beside it. QGPO and Diffusion-DICE act so and differ in what they learn the second term from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from tiltrl.config_io import check_ranges
from tiltrl.diffusion.energy import Energy, EnergyConfig, data_prediction, linear
from tiltrl.diffusion.samplers import sample
from tiltrl.diffusion.schedule import alpha_sigma
from tiltrl.stages.annotate import SamplerConfig


@dataclass(frozen=True)
class GuidanceConfig:
    """Shape of the guidance network. The defaults are those of QGPO's release and of Diffusion-DICE's."""

    width: int = 256
    depth: int = 4  # hidden layers
    frequencies: int = 16  # of the diffusion time; a sine and a cosine of each
    time_scale: float = 30.0  # standard deviation of the (fixed) frequencies

    def __post_init__(self) -> None:
        """Refuse what is no network, or none that fits into a computer: shapes may come from a file of anybody's.

        Raises:
            InputError: a number lies outside its bounds.
        """
        check_ranges(self, width=(1, 8192), depth=(1, 32), frequencies=(1, 4096), time_scale=(0, 1e6))


class Guidance(eqx.Module):
    """The scalar network `f(a_t, s, t)`, on one example or on any batch of them; SiLU between its layers.

    It reads `alpha_t a_t` where the releases read `a_t`: its slope then vanishes as the noise takes over, just as that
    of the true guidance does. A solver divides by alpha at its first steps and would else amplify what errors are left.
    """

    frequencies: Float[Array, " count"]
    embed_time: eqx.nn.Linear
    by_action: eqx.nn.Linear
    by_obs: eqx.nn.Linear
    by_time: eqx.nn.Linear
    layers: tuple[eqx.nn.Linear, ...]
    out: eqx.nn.Linear

    def __init__(self, obs_dim: int, act_dim: int, config: GuidanceConfig, *, key: PRNGKeyArray):
        keys = iter(jax.random.split(key, 6 + config.depth))
        features, width = 2 * config.frequencies, config.width
        self.frequencies = config.time_scale * jax.random.normal(next(keys), (config.frequencies,))
        self.embed_time = eqx.nn.Linear(features, features, key=next(keys))
        self.by_action = eqx.nn.Linear(act_dim, width, key=next(keys))
        self.by_obs = eqx.nn.Linear(obs_dim, width, key=next(keys))
        self.by_time = eqx.nn.Linear(features, width, key=next(keys))
        self.layers = tuple(eqx.nn.Linear(width, width, key=next(keys)) for _ in range(config.depth - 1))
        self.out = eqx.nn.Linear(width, 1, key=next(keys))

    def __call__(
        self, action: Float[Array, "*batch act"], obs: Float[Array, "*#batch obs"], t: Float[Array, "*#batch"]
    ) -> Float[Array, "*batch"]:
        """`f(a_t, s, t)`; what many actions share, such as the state of K candidates, is embedded once."""
        angles = 2.0 * jnp.pi * t[..., None] * jax.lax.stop_gradient(self.frequencies)
        time = linear(self.embed_time, jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1))
        alpha, _ = alpha_sigma(t)
        h = linear(self.by_action, alpha[..., None] * action) + (linear(self.by_obs, obs) + linear(self.by_time, time))
        for layer in self.layers:
            h = linear(layer, jax.nn.silu(h))
        return jnp.squeeze(linear(self.out, jax.nn.silu(h)), axis=-1)


class Guided(eqx.Module):
    """Acts by the solver on the behavior's energy plus `scale` times the guidance's."""

    behavior: Energy
    guidance: Guidance
    scale: float = eqx.field(static=True)
    sampler: SamplerConfig = eqx.field(static=True)

    @property
    def noise_dim(self) -> int:
        """Numbers of noise an action."""
        return self.behavior.noise_dim

    def energy(
        self,
        action: Float[Array, "*batch act"],
        obs: Float[Array, "*#batch obs"],
        t: Float[Array, "*#batch"],
        *,
        key: None = None,
    ) -> Float[Array, "*batch"]:
        """The sum; with a scale of one that of `pi`, with a larger one that of a policy further from the behavior."""
        return self.behavior(action, obs, t, key=key) + self.scale * self.guidance(action, obs, t)

    def __call__(
        self, noise: Float[Array, "*batch act"], obs: Float[Array, "*#batch obs"]
    ) -> Float[Array, "*batch act"]:
        """Where the solver takes standard normal noise: actions in the unit box."""

        def denoise(action: Float[Array, "*batch act"], t: Float[Array, ""]) -> Float[Array, "*batch act"]:
            return data_prediction(self.energy, action, obs, t)

        sampler = self.sampler
        return sample(denoise, noise, calls=sampler.calls, solver=sampler.solver, grid=sampler.grid)


@dataclass(frozen=True)
class GuidedShape:
    """All that rebuilding a guided actor needs."""

    behavior: EnergyConfig
    guidance: GuidanceConfig
    scale: float
    sampler: SamplerConfig
    kind: Literal["guided"] = "guided"

    def __post_init__(self) -> None:
        """Refuse scales that are none: shapes may come from a file of anybody's.

        Raises:
            InputError: as said.
        """
        check_ranges(self, scale=(0, 1e6))

    def make(self, obs_dim: int, act_dim: int, *, key: PRNGKeyArray) -> Guided:
        """An actor of random weights."""
        behavior_key, guidance_key = jax.random.split(key)
        return Guided(
            Energy(obs_dim, act_dim, self.behavior, key=behavior_key),
            Guidance(obs_dim, act_dim, self.guidance, key=guidance_key),
            self.scale,
            self.sampler,
        )
