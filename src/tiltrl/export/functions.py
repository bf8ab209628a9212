"""What is exported, as functions of arrays in the environment's units: a policy, its energy, its critic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from tiltrl.acting import actions_at, best_actions
from tiltrl.diffusion.denoising_error import denoising_error
from tiltrl.diffusion.schedule import T_MIN
from tiltrl.errors import InputError
from tiltrl.policy import Policy
from tiltrl.types import Scaling

Kind = Literal["policy", "energy", "critic"]
Function = Callable[..., tuple[jax.Array, ...]]


@dataclass(frozen=True)
class Exported:
    """A function with the names and shapes of what goes in and comes out; None: the number of rows."""

    kind: Kind
    function: Function
    inputs: Mapping[str, tuple[int | None, ...]]
    outputs: Mapping[str, tuple[int | None, ...]]


def acting(policy: Policy, behavior: Policy | None) -> Exported:
    """`(obs, noise) -> (action,)`, or `(action, denoising_error)` under a behavior policy.

    Noise is standard normal, one row for each candidate. Actions lie within the bounds.
    """
    task, config = policy.config.task, policy.config

    def function(obs: Array, noise: Array) -> tuple[jax.Array, ...]:
        normalized = _normalized(config.scaling, obs)
        actions = actions_at(policy.network, normalized, noise, config.sampler)
        if config.chooses:
            assert policy.critic is not None, "a policy that chooses has one"
            unit = best_actions(policy.critic, normalized, actions, config.pessimism)
        else:
            unit = jnp.mean(actions, axis=1)
        action = _to_env(config.scaling, unit)
        if behavior is None:
            return (action,)
        own = behavior.config.scaling
        return action, denoising_error(behavior.diffusion, _normalized(own, obs), _unit(own, action))

    inputs = {"obs": (None, task.obs_dim), "noise": (None, config.candidates, task.act_dim)}
    outputs = {"action": (None, task.act_dim)} | ({} if behavior is None else {"denoising_error": (None,)})
    return Exported("policy", function, inputs, outputs)


def energy(policy: Policy) -> Exported:
    """`(obs, action, t) -> (energy,)`: the log-density of actions up to a constant of (s, t).

    Raises:
        InputError: the policy is distilled and has none.
    """
    network, scaling, task = policy.diffusion, policy.config.scaling, policy.config.task

    def function(obs: Array, action: Array, t: Array) -> tuple[jax.Array, ...]:
        return (network(_unit(scaling, action), _normalized(scaling, obs), jnp.maximum(t, T_MIN)),)

    inputs = {"obs": (None, task.obs_dim), "action": (None, task.act_dim), "t": (None,)}
    return Exported("energy", function, inputs, {"energy": (None,)})


def critic(policy: Policy) -> Exported:
    """`(obs, action) -> (value,)`: the critic's mean less its pessimism.

    Raises:
        InputError: the policy has no critic.
    """
    networks, config = policy.critic, policy.config
    if networks is None:
        raise InputError("what = critic: the policy has no critic; export what = policy or energy")

    def function(obs: Array, action: Array) -> tuple[jax.Array, ...]:
        return (networks(_normalized(config.scaling, obs), _unit(config.scaling, action), config.pessimism),)

    inputs = {"obs": (None, config.task.obs_dim), "action": (None, config.task.act_dim)}
    return Exported("critic", function, inputs, {"value": (None,)})


def _normalized(scaling: Scaling, obs: Array) -> Array:
    """As `Scaling.normalize_obs`, which computes in float64: a large mean is taken off in two parts."""
    mean = np.array(scaling.obs_mean)
    high = mean.astype(np.float32)
    return (obs - high - (mean - high).astype(np.float32)) / _rows(scaling.obs_std)


def _unit(scaling: Scaling, action: Array) -> Array:
    low, high = _rows(scaling.action_low), _rows(scaling.action_high)
    return 2.0 * (action - low) / (high - low) - 1.0


def _to_env(scaling: Scaling, unit: Array) -> Array:
    low, high = _rows(scaling.action_low), _rows(scaling.action_high)
    return jnp.clip(low + 0.5 * (unit + 1.0) * (high - low), low, high)


def _rows(values: tuple[float, ...]) -> Any:
    return np.array(values, np.float32)
