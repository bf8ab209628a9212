"""A conditional normalizing flow from a bounded latent box to the box of actions, and the actor that steers it.

Real NVP (Dinh et al. 2017, arXiv 1605.08803) between the two boxes: `artanh` opens the box of actions, affine couplings
that see the state make it whatever they like, `tanh` closes it again. Latents are uniform on their box, so that every
latent, the corners included, is an action of a density like the data's (Akimov et al. 2022, arXiv 2211.11096).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from tiltrl.config_io import check_ranges
from tiltrl.stages.baselines.common import Perceptron

EDGE = 1.0 - 1e-3
"""Boxes end here: at 1 `artanh` is infinite, and what piles up there would be all that a likelihood cares for."""


class Coupling(eqx.Module):
    """Scales and shifts the later half of the dimensions by what the earlier half and the state say."""

    network: Perceptron
    rescale: Float[Array, " changed"]

    def __init__(self, obs_dim: int, act_dim: int, width: int, depth: int, *, key: PRNGKeyArray):
        kept = act_dim // 2
        network = Perceptron(kept + obs_dim, 2 * (act_dim - kept), width, depth, key=key)
        # Nothing is changed at first, so that training begins at uniform actions.
        last = jax.tree.map(jnp.zeros_like, network.layers[-1])
        self.network = eqx.tree_at(lambda n: n.layers[-1], network, last)
        self.rescale = jnp.ones(act_dim - kept)

    def forward(
        self, x: Float[Array, "*batch act"], obs: Float[Array, "*#batch obs"]
    ) -> tuple[Float[Array, "*batch act"], Float[Array, "*batch"]]:
        """Towards the latent; and the log-determinant of its Jacobian."""
        kept, changed, log_scale, shift = self._parts(x, obs)
        return jnp.concatenate([kept, jnp.exp(log_scale) * changed + shift], axis=-1), jnp.sum(log_scale, axis=-1)

    def inverse(self, y: Float[Array, "*batch act"], obs: Float[Array, "*#batch obs"]) -> Float[Array, "*batch act"]:
        """Towards the action."""
        kept, changed, log_scale, shift = self._parts(y, obs)
        return jnp.concatenate([kept, (changed - shift) * jnp.exp(-log_scale)], axis=-1)

    def _parts(self, x: Array, obs: Array) -> tuple[Array, Array, Array, Array]:
        kept, changed = jnp.split(x, [x.shape[-1] // 2], axis=-1)
        seen = jnp.concatenate([kept, jnp.broadcast_to(obs, (*x.shape[:-1], obs.shape[-1]))], axis=-1)
        log_scale, shift = jnp.split(self.network(seen), 2, axis=-1)
        # Bounded, by a learned bound: no scale explodes at a state that was never seen.
        return kept, changed, self.rescale * jnp.tanh(log_scale), shift


class Flow(eqx.Module):
    """The couplings, one after another; between two of them the dimensions move on by one."""

    couplings: Coupling  # leaves have a leading axis of layers

    def __init__(self, obs_dim: int, act_dim: int, width: int, depth: int, layers: int, *, key: PRNGKeyArray):
        def make(key: PRNGKeyArray) -> Coupling:
            return Coupling(obs_dim, act_dim, width, depth, key=key)

        self.couplings = jax.vmap(make)(jax.random.split(key, layers))

    def log_prob(self, action: Float[Array, "*batch act"], obs: Float[Array, "*#batch obs"]) -> Float[Array, "*batch"]:
        """Log-density of actions in the unit box, of which what lies at its very edge counts as next to it."""
        inside = jnp.clip(action, -EDGE, EDGE)

        def step(carry: tuple[Array, Array], coupling: Coupling) -> tuple[tuple[Array, Array], None]:
            x, log_density = carry
            x, log_determinant = coupling.forward(jnp.roll(x, 1, axis=-1), obs)
            return (x, log_density + log_determinant), None

        start = jnp.arctanh(inside), -jnp.sum(jnp.log1p(-(inside**2)), axis=-1)
        (x, log_density), _ = jax.lax.scan(step, start, self.couplings)
        # Of a uniform latent tanh(x): log sech^2(x) / 2, written so that it does not overflow.
        base = jnp.log(2.0) - 2.0 * jnp.abs(x) - 2.0 * jnp.log1p(jnp.exp(-2.0 * jnp.abs(x)))
        return log_density + jnp.sum(base, axis=-1)

    def decode(
        self, latent: Float[Array, "*batch act"], obs: Float[Array, "*#batch obs"]
    ) -> Float[Array, "*batch act"]:
        """The action of a latent; both lie in [-1, 1]."""

        def step(x: Array, coupling: Coupling) -> tuple[Array, None]:
            return jnp.roll(coupling.inverse(x, obs), -1, axis=-1), None

        x = jnp.arctanh(jnp.clip(latent, -EDGE, EDGE))
        x, _ = jax.lax.scan(step, x, self.couplings, reverse=True)
        return jnp.tanh(x)


class FlowActor(eqx.Module):
    """A deterministic policy in the latent space, and the flow that makes an action of its latent."""

    policy: Perceptron
    flow: Flow

    @property
    def noise_dim(self) -> int:
        """None is used."""
        return 0

    def action(self, obs: Float[Array, "*batch obs"]) -> Float[Array, "*batch act"]:
        """The action at each state."""
        return self.flow.decode(jnp.tanh(self.policy(obs)), obs)

    def __call__(self, noise: Float[Array, "*batch 0"], obs: Float[Array, "*#batch obs"]) -> Float[Array, "*batch act"]:
        """The same action for every noise, of which there is none: its shape alone is looked at."""
        action = self.action(obs)
        return jnp.broadcast_to(action, (*noise.shape[:-1], action.shape[-1]))


@dataclass(frozen=True)
class FlowShape:
    """All that rebuilding a flow and its policy needs. The defaults are those of CNF's release."""

    layers: int = 12  # couplings
    width: int = 256  # of the networks in the couplings
    depth: int = 2  # hidden layers of those
    policy_width: int = 256
    policy_depth: int = 3
    kind: Literal["flow"] = "flow"

    def __post_init__(self) -> None:
        """Refuse what is no network, or none that fits into a computer: shapes may come from a file of anybody's.

        Raises:
            InputError: a number lies outside its bounds.
        """
        widths, depths = (1, 8192), (1, 32)
        check_ranges(self, layers=(1, 256), width=widths, depth=depths, policy_width=widths, policy_depth=depths)

    def make(self, obs_dim: int, act_dim: int, *, key: PRNGKeyArray) -> FlowActor:
        """An actor of random weights, whose flow takes latents to actions as they are."""
        policy_key, flow_key = jax.random.split(key)
        return FlowActor(
            Perceptron(obs_dim, act_dim, self.policy_width, self.policy_depth, key=policy_key),
            Flow(obs_dim, act_dim, self.width, self.depth, self.layers, key=flow_key),
        )
