"""A network that takes noise to an action in one pass: what a diffusion policy is distilled into."""

from __future__ import annotations

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from tiltrl.config_io import check_ranges
from tiltrl.diffusion.energy import Block, linear


@dataclass(frozen=True)
class OneStepConfig:
    """Shape of the network: as large as acts within a fifth of a millisecond on one core."""

    width: int = 128  # of the residual stream
    blocks: int = 2  # residual blocks
    expansion: int = 2  # hidden width of a block, as a multiple of `width`

    def __post_init__(self) -> None:
        """Refuse what is no network, or none that fits into a computer: shapes may come from a file of anybody's.

        Raises:
            InputError: a number lies outside its bounds.
        """
        check_ranges(self, width=(1, 8192), blocks=(0, 64), expansion=(1, 64))


class OneStep(eqx.Module):
    """The map `(z, s) -> a`, on any batch; `z` standard normal, observations and actions in the networks' units.

    As random as its noise: where the map is that of a deterministic sampler, its actions have that sampler's law.
    """

    embed_noise: eqx.nn.Linear
    embed_obs: eqx.nn.Linear
    blocks: tuple[Block, ...]
    out: eqx.nn.Linear

    def __init__(self, obs_dim: int, act_dim: int, config: OneStepConfig, *, key: PRNGKeyArray):
        noise_key, obs_key, out_key, *keys = jax.random.split(key, 3 + config.blocks)
        self.embed_noise = eqx.nn.Linear(act_dim, config.width, key=noise_key)
        self.embed_obs = eqx.nn.Linear(obs_dim, config.width, key=obs_key)
        self.blocks = tuple(Block(config.width, config.expansion * config.width, 0.0, key=k) for k in keys)
        self.out = eqx.nn.Linear(config.width, act_dim, key=out_key)

    @property
    def act_dim(self) -> int:
        """Number of action dimensions."""
        return self.out.weight.shape[0]

    @property
    def noise_dim(self) -> int:
        """Numbers of noise an action."""
        return self.act_dim

    def unclipped(
        self, noise: Float[Array, "*batch act"], obs: Float[Array, "*#batch obs"]
    ) -> Float[Array, "*batch act"]:
        """The action before it is clipped to the unit box, where a gradient still tells which way to go."""
        embedded = linear(self.embed_noise, noise) + linear(self.embed_obs, obs)
        h = embedded.reshape(-1, embedded.shape[-1])
        for block in self.blocks:
            h = block(h)
        return linear(self.out, jax.nn.silu(h)).reshape(noise.shape)

    def __call__(
        self, noise: Float[Array, "*batch act"], obs: Float[Array, "*#batch obs"]
    ) -> Float[Array, "*batch act"]:
        """The action in the unit box; what many noises share, such as the state of K candidates, is embedded once."""
        return jnp.clip(self.unclipped(noise, obs), -1.0, 1.0)
