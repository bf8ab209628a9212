"""How a policy acts: one compiled program for each number of states, which also moves its random key on.

Acting is called thousands of times a second with little to compute, so what is around the program counts: its arguments
are a flat list of arrays, and a call touches no other function of JAX.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from tiltrl.diffusion.energy import Energy
from tiltrl.diffusion.one_step import OneStep
from tiltrl.stages.annotate import SamplerConfig, actions_from
from tiltrl.stages.baselines import common as baselines
from tiltrl.stages.critics.networks import Critic

Network = Energy | OneStep | baselines.Actor
"""What takes noise to an action: a diffusion model through its solver, others by themselves."""


def draw_actions(
    network: Network, obs: Float[Array, "batch obs"], sampler: SamplerConfig, key: PRNGKeyArray, k: int
) -> Float[Array, "batch k act"]:
    """K unit actions for each normalized observation."""
    return actions_at(network, obs, jax.random.normal(key, (obs.shape[0], k, network.noise_dim)), sampler)


def actions_at(
    network: Network,
    obs: Float[Array, "batch obs"],
    noise: Float[Array, "batch k noise"],
    sampler: SamplerConfig,
) -> Float[Array, "batch k act"]:
    """The unit actions that standard normal noise leads to."""
    if isinstance(network, Energy):
        return actions_from(network, obs, noise, sampler)
    return network(noise, obs[:, None])


def best_actions(
    critic: Critic, obs: Float[Array, "batch obs"], actions: Float[Array, "batch k act"], pessimism: float
) -> Float[Array, "batch act"]:
    """Of each observation's actions the one that the critic prefers."""
    best = jnp.argmax(preferences(critic, obs, actions, pessimism), axis=1)
    # A sum over one that is not zeroed, and no gather, which would be a loop in other runtimes.
    chosen = jnp.arange(actions.shape[1]) == best[:, None]
    return jnp.sum(jnp.where(chosen[..., None], actions, 0.0), axis=1)


def preferences(
    critic: Critic, obs: Float[Array, "batch obs"], actions: Float[Array, "batch k act"], pessimism: float
) -> Float[Array, "batch k"]:
    """What the critic gives each of an observation's actions, up to a constant of the observation."""
    repeated = jnp.broadcast_to(obs[:, None], (*actions.shape[:2], obs.shape[1]))
    return critic.preference(repeated, actions, pessimism)


class Actor:
    """Unit actions for normalized observations, in a sequence that the first key fixes.

    The first call with a number of states compiles, if nothing of these shapes has done so before.
    """

    def __init__(self, network: Network, critic: Critic | None, sampler: SamplerConfig, k: int, pessimism: float):
        """Of k actions the one that the critic prefers; without a critic their mean."""
        leaves, self._structure = jax.tree.flatten((network, critic))
        # On one device, wherever and on however many they were trained; `jnp.asarray` would compile for each shape.
        self._leaves = [jax.device_put(np.asarray(leaf)) for leaf in leaves]
        self._how = sampler, k, pessimism
        self._programs: dict[tuple[int, ...], Callable[..., Any]] = {}

    def reset(self, key: PRNGKeyArray) -> None:
        """Start the sequence of random numbers anew."""
        self._kind = jax.random.key_impl(key)
        self._key = jax.random.key_data(key)

    def __call__(self, obs: Float[np.ndarray, "batch obs"]) -> Float[np.ndarray, "batch act"]:
        """One action for each observation."""
        if (program := self._programs.get(obs.shape)) is None:
            leaves = tuple((leaf.shape, leaf.dtype) for leaf in self._leaves)
            program = _program(self._structure, leaves, obs.shape, self._kind, *self._how)
            self._programs[obs.shape] = program
        action, self._key = program(self._leaves, obs, self._key)
        return np.asarray(action)


@lru_cache(maxsize=64)
def _program(
    structure: Any,
    leaves: tuple[tuple[tuple[int, ...], Any], ...],
    obs: tuple[int, ...],
    kind: Any,
    sampler: SamplerConfig,
    k: int,
    pessimism: float,
) -> Callable[..., Any]:
    """The compiled program of policies of these shapes: `(leaves, obs, key) -> (actions, next key)`."""

    def act(leaves: list[Array], obs: Array, data: Array) -> tuple[Array, Array]:
        network, critic = jax.tree.unflatten(structure, leaves)
        following, key = jax.random.split(jax.random.wrap_key_data(data, impl=kind))
        actions = draw_actions(network, obs, sampler, key, k)
        action = jnp.mean(actions, axis=1) if critic is None else best_actions(critic, obs, actions, pessimism)
        return action, jax.random.key_data(following)

    key = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0, impl=kind)))
    shapes = [jax.ShapeDtypeStruct(*leaf) for leaf in leaves]
    return jax.jit(act).lower(shapes, jax.ShapeDtypeStruct(obs, jnp.float32), key).compile()
