"""A policy as a user holds it: sample actions, ask for energies, save, load."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from tiltrl.config_io import from_json
from tiltrl.diffusion.energy import Energy, EnergyConfig
from tiltrl.diffusion.schedule import T_MIN
from tiltrl.errors import InputError
from tiltrl.files import read_json, write_json
from tiltrl.serialization import load_arrays, save_arrays
from tiltrl.stages.annotate import SamplerConfig, sample_actions
from tiltrl.stages.critics.networks import Critic, CriticShape, init_critic
from tiltrl.stages.keys import stage_key
from tiltrl.types import Scaling, Task

FORMAT = 1
"""Version of the folder's layout; a reader refuses one it does not know."""


@dataclass(frozen=True)
class PolicyConfig:
    """All that describes a policy beside its arrays: what `policy.json` holds."""

    task: Task
    scaling: Scaling
    energy: EnergyConfig
    sampler: SamplerConfig
    critic: CriticShape | None = None  # None: no rejection sampling
    candidates: int = 1  # actions sampled for each one taken; the critic picks the best of them
    pessimism: float = 1.0  # standard deviations of the critic's ensemble taken off its mean when it picks
    format: int = FORMAT
    provenance: dict[str, Any] = field(default_factory=dict)  # data fingerprint, stage, beta, seed, versions


@partial(jax.jit, static_argnames=("sampler", "k", "pessimism"))
def _act(
    network: Energy,
    critic: Critic | None,
    obs: Float[Array, "batch obs"],
    key: PRNGKeyArray,
    sampler: SamplerConfig,
    k: int,
    pessimism: float,
) -> Float[Array, "batch act"]:
    """Unit actions for normalized observations: the best of k by the critic, or the only one."""
    repeated = jnp.repeat(obs, k, axis=0)
    action = sample_actions(network, repeated, sampler, key)
    if k == 1 or critic is None:
        return action
    q = jax.vmap(lambda o, a: critic(o, a, pessimism))(repeated, action).reshape(-1, k)
    return action.reshape(*q.shape, -1)[jnp.arange(len(q)), jnp.argmax(q, axis=1)]


@jax.jit
def _energy(
    network: Energy, obs: Float[Array, "batch obs"], action: Float[Array, "batch act"], t: Float[Array, ""]
) -> Float[Array, " batch"]:
    return jax.vmap(lambda o, a: network(a, o, t))(obs, action)


def versions() -> dict[str, str]:
    """Versions of what a policy's numbers depend on."""
    return {name: importlib.metadata.version(name) for name in ("tiltrl", "jax", "equinox", "gymnasium", "mujoco")}


class Policy:
    """A diffusion policy, behavior or aligned, with its own random numbers.

    Observations and actions are in the environment's units; arrays are NumPy's. `sample` draws new noise at each call,
    in a sequence fixed by `seed`.
    """

    def __init__(self, network: Energy, config: PolicyConfig, critic: Critic | None = None, seed: int = 0):
        """Put a policy together.

        Raises:
            InputError: more than one candidate is asked for and there is no critic to choose between them.
        """
        if config.candidates > 1 and critic is None:
            raise InputError(f"candidates = {config.candidates}: choosing among actions needs a critic; use 1")
        self.network = network
        self.critic = critic
        self.config = config
        self.reset(seed)

    def reset(self, seed: int) -> None:
        """Start the sequence of random numbers anew."""
        self.seed = seed
        self._key = stage_key(seed, "act")

    def replace(self, **changes: Any) -> Policy:
        """The same networks with some fields of the configuration changed, such as `candidates=1`."""
        return Policy(self.network, dataclasses.replace(self.config, **changes), self.critic, self.seed)

    def sample(self, obs: Float[np.ndarray, "*batch obs"]) -> Float[np.ndarray, "*batch act"]:
        """One action for each observation, within the action space's bounds.

        Raises:
            InputError: the last dimension is not the observation's size, or a value is not finite.
        """
        rows, lead = self._rows("obs", obs, self.config.task.obs_dim)
        self._key, key = jax.random.split(self._key)
        c = self.config
        unit = _act(self.network, self.critic, c.scaling.normalize_obs(rows), key, c.sampler, c.candidates, c.pessimism)
        return c.scaling.to_env(np.asarray(unit)).reshape(*lead, -1)

    def energy(
        self, obs: Float[np.ndarray, "*batch obs"], action: Float[np.ndarray, "*batch act"], t: float = T_MIN
    ) -> Float[np.ndarray, "*batch"]:
        """`f(a | s, t)`: the log-density of actions up to a constant of (s, t) (EDA, Eq. 11), in one forward pass.

        Not a normalized log-density: compare actions of one state at one time, never values across states or times.

        Raises:
            InputError: sizes do not match the task, a value is not finite, or t lies outside [0, 1].
        """
        if not 0.0 <= t <= 1.0:
            raise InputError(f"t = {t}; diffusion times lie in [0, 1]")
        rows, lead = self._rows("obs", obs, self.config.task.obs_dim)
        actions, action_lead = self._rows("action", action, self.config.task.act_dim)
        if lead != action_lead:
            raise InputError(f"obs has leading shape {lead} but action {action_lead}; one action for each observation")
        scaling = self.config.scaling
        f = _energy(self.network, scaling.normalize_obs(rows), scaling.to_unit(actions), jnp.asarray(t, jnp.float32))
        return np.asarray(f).reshape(lead)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `policy.json`, `policy.safetensors` and, if there is one, `critic.safetensors`.

        Raises:
            InputError: the folder cannot be written.
        """
        folder = Path(folder)
        # First away and last back: a folder with a policy.json is whole, also when it replaces another.
        (folder / "policy.json").unlink(missing_ok=True)
        save_arrays(folder / "policy.safetensors", self.network)
        if self.critic is not None:
            save_arrays(folder / "critic.safetensors", self.critic)
        provenance = {"versions": versions()} | self.config.provenance
        write_json(folder / "policy.json", dataclasses.replace(self.config, provenance=provenance))

    @staticmethod
    def _rows(name: str, value: Any, size: int) -> tuple[np.ndarray, tuple[int, ...]]:
        """The value as finite float rows, and its leading shape."""
        array = np.asarray(value, np.float32)
        if array.ndim == 0 or array.shape[-1] != size:
            raise InputError(f"{name} has shape {array.shape}; its last dimension must be {size}")
        if not np.isfinite(array).all():
            raise InputError(f"{name} holds NaN or infinite values; a policy can only act on finite numbers")
        return array.reshape(-1, size), array.shape[:-1]


def load_policy(folder: str | os.PathLike[str], seed: int = 0) -> Policy:
    """Read a folder written by `Policy.save`. Nothing in it is executed.

    Raises:
        InputError: the folder is not a policy's, is damaged, or is of a format this version does not know.
    """
    folder = Path(folder)
    path = folder / "policy.json"
    raw = read_json(path)
    if raw.get("format") != FORMAT:
        raise InputError(f"{path}: format {raw.get('format')!r} is not known here; this version reads format {FORMAT}")
    config = from_json(PolicyConfig, raw, str(path))
    scaling = config.scaling
    sizes = (len(scaling.obs_mean), len(scaling.obs_std), len(scaling.action_low), len(scaling.action_high))
    task = config.task
    if sizes != (task.obs_dim, task.obs_dim, task.act_dim, task.act_dim) or len(task.action_high) != task.act_dim:
        raise InputError(
            f"{path}: field scaling: has sizes {sizes} for {task.obs_dim} observations, {task.act_dim} actions"
        )
    key = jax.random.key(0)
    obs_dim, act_dim = config.task.obs_dim, config.task.act_dim
    like = eqx.filter_eval_shape(Energy, obs_dim, act_dim, config.energy, key=key)
    network = load_arrays(folder / "policy.safetensors", like)
    critic = None
    if config.critic is not None:
        like = eqx.filter_eval_shape(init_critic, obs_dim, act_dim, config.critic, key=key)
        critic = load_arrays(folder / "critic.safetensors", like)
    return Policy(network, config, critic, seed)
