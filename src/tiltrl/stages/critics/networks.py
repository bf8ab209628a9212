"""The networks of a critic: ensembles of small multilayer perceptrons, run as one `vmap`."""

from __future__ import annotations

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from tiltrl.config_io import check_ranges
from tiltrl.diffusion.energy import linear
from tiltrl.training.loop import mapped


class MLP(eqx.Module):
    """ReLU perceptron to one number, on one example or a batch; LayerNorm before each activation if asked for."""

    layers: tuple[eqx.nn.Linear, ...]
    norms: tuple[eqx.nn.LayerNorm, ...]

    def __init__(self, inputs: int, width: int, depth: int, *, layer_norm: bool, key: PRNGKeyArray):
        sizes = [inputs] + [width] * depth
        keys = jax.random.split(key, depth + 1)
        hidden = [eqx.nn.Linear(i, o, key=k) for i, o, k in zip(sizes[:-1], sizes[1:], keys[:-1], strict=True)]
        self.layers = (*hidden, eqx.nn.Linear(width, 1, key=keys[-1]))
        self.norms = tuple(eqx.nn.LayerNorm(width) for _ in range(depth)) if layer_norm else ()

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch"]:
        """One number for each input."""
        for i, layer in enumerate(self.layers[:-1]):
            x = linear(layer, x)
            if self.norms:
                x = jax.vmap(self.norms[i])(x.reshape(-1, x.shape[-1])).reshape(x.shape)
            x = jax.nn.relu(x)
        return jnp.squeeze(linear(self.layers[-1], x), axis=-1)


def ensemble(size: int, inputs: int, width: int, depth: int, *, layer_norm: bool, key: PRNGKeyArray) -> MLP:
    """`size` perceptrons of different initial weights, as one module with a leading axis."""

    def make(key: PRNGKeyArray) -> MLP:
        return MLP(inputs, width, depth, layer_norm=layer_norm, key=key)

    return eqx.filter_vmap(make)(jax.random.split(key, size))


@dataclass(frozen=True)
class CriticShape:
    """All that is needed to rebuild a critic's networks."""

    width: int
    depth: int
    layer_norm: bool
    q_ensemble: int
    v_ensemble: int
    dueling: bool

    def __post_init__(self) -> None:
        """Refuse what is no critic, or none that fits into a computer: shapes may come from a file of anybody's.

        Raises:
            InputError: a number lies outside its bounds.
        """
        check_ranges(self, width=(1, 8192), depth=(1, 32), q_ensemble=(1, 256), v_ensemble=(1, 256))


def apply_ensemble(networks: MLP, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch ensemble"]:
    """Every network's answer to each input."""
    return jnp.moveaxis(mapped(lambda network: network(x), (0,))(networks), 0, -1)


def join(obs: Float[Array, "*batch obs"], action: Float[Array, "*batch act"]) -> Float[Array, "*batch inputs"]:
    """The input of a Q network: action first, then observation, as in the authors' release."""
    return jnp.concatenate([action, obs], axis=-1)


class Critic(eqx.Module):
    """An ensemble of action values and of state values, on normalized inputs, one or a batch of them.

    With `dueling`, the Q networks hold advantages, and `Q = V + A`: their precision is spent on what differs between
    actions of one state.
    """

    q: MLP
    v: MLP
    dueling: bool = eqx.field(static=True)

    def value(self, obs: Float[Array, "*batch obs"]) -> Float[Array, "*batch"]:
        """V(s), the mean of its ensemble."""
        return jnp.mean(apply_ensemble(self.v, obs), axis=-1)

    def values(
        self, obs: Float[Array, "*batch obs"], action: Float[Array, "*batch act"]
    ) -> Float[Array, "*batch ensemble"]:
        """Each network's Q(s, a)."""
        q = apply_ensemble(self.q, join(obs, action))
        return q + self.value(obs)[..., None] if self.dueling else q

    def __call__(
        self, obs: Float[Array, "*batch obs"], action: Float[Array, "*batch act"], pessimism: float = 1.0
    ) -> Float[Array, "*batch"]:
        """Mean less `pessimism` standard deviations; with two networks and pessimism 1, their minimum."""
        preference = self.preference(obs, action, pessimism)
        return preference + self.value(obs) if self.dueling else preference

    def preference(
        self, obs: Float[Array, "*batch obs"], action: Float[Array, "*batch act"], pessimism: float = 1.0
    ) -> Float[Array, "*batch"]:
        """The same up to a constant of the state: all that choosing among its actions needs."""
        q = apply_ensemble(self.q, join(obs, action))
        return jnp.mean(q, axis=-1) - pessimism * jnp.std(q, axis=-1)


def init_critic(obs_dim: int, act_dim: int, shape: CriticShape, *, key: PRNGKeyArray) -> Critic:
    """A critic of random weights."""
    q_key, v_key = jax.random.split(key)
    sizes = {"width": shape.width, "depth": shape.depth, "layer_norm": shape.layer_norm}
    return Critic(
        q=ensemble(shape.q_ensemble, obs_dim + act_dim, **sizes, key=q_key),
        v=ensemble(shape.v_ensemble, obs_dim, **sizes, key=v_key),
        dueling=shape.dueling,
    )
