"""A policy as a user holds it: sample actions, ask for energies, save, load."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from tiltrl.acting import Actor, Network
from tiltrl.diffusion.denoising_error import denoising_error
from tiltrl.diffusion.energy import Energy
from tiltrl.diffusion.likelihood import EXACT_UP_TO, exact_probes, log_prob
from tiltrl.diffusion.one_step import OneStep
from tiltrl.diffusion.schedule import T_MIN
from tiltrl.errors import InputError
from tiltrl.hub import fetched
from tiltrl.model_card import write_card
from tiltrl.policy_folder import MOST_CANDIDATES, PolicyConfig, read_policy, write_policy
from tiltrl.serialization import fingerprint
from tiltrl.stages.critics.networks import Critic
from tiltrl.stages.keys import stage_key
from tiltrl.types import as_json


@jax.jit
def _energy(
    network: Energy, obs: Float[Array, "batch obs"], action: Float[Array, "batch act"], t: Float[Array, ""]
) -> Float[Array, " batch"]:
    return network(action, obs, t)


_denoising_error = jax.jit(denoising_error)


@partial(jax.jit, static_argnames=("rtol", "atol"))
def _log_prob(
    network: Energy,
    obs: Float[Array, "batch obs"],
    action: Float[Array, "batch act"],
    probes: Float[Array, "batch probes act"],
    rtol: float,
    atol: float,
) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
    return jax.vmap(lambda o, a, v: log_prob(network, a, o, v, rtol=rtol, atol=atol))(obs, action, probes)


def versions() -> dict[str, str]:
    """Versions of what a policy's numbers depend on."""
    return {name: importlib.metadata.version(name) for name in ("tiltrl", "jax", "equinox", "gymnasium", "mujoco")}


Observation = Float[np.ndarray, "*batch obs"] | Mapping[str, Any]
"""A vector, or a Dict as the environment gives it; either with leading dimensions."""


class Policy:
    """A diffusion policy, behavior or aligned, or a distilled one, with its own random numbers.

    Observations and actions are in the environment's units; arrays are NumPy's. `sample` draws new noise at each call,
    in a sequence fixed by `seed`.
    """

    def __init__(self, network: Network, config: PolicyConfig, critic: Critic | None = None, seed: int = 0):
        """Put a policy together.

        Raises:
            InputError: the best of several candidates is asked for and there is no critic to choose between them.
        """
        if config.chooses and critic is None:
            raise InputError(
                f"the best of {config.candidates}: choosing among actions needs a critic, and the policy holds none (a "
                "folder's is critic.safetensors); use mean_of"
            )
        self.network = network
        self.critic = critic
        self.config = config
        chooser = critic if config.chooses else None
        self._actor = Actor(network, chooser, config.sampler, config.candidates, config.pessimism)
        self.reset(seed)

    def reset(self, seed: int) -> None:
        """Start the sequence of random numbers anew."""
        self.seed = seed
        self._actor.reset(stage_key(seed, "act"))

    @property
    def diffusion(self) -> Energy:
        """The scalar network, for what needs its energies.

        Raises:
            InputError: the policy is distilled or a baseline and has none.
        """
        if isinstance(self.network, OneStep):
            teacher = self.config.provenance.get("teacher")
            raise InputError(
                "the policy is distilled: it acts in one step and has no energy or density; ask its teacher, of digest "
                f"{teacher!r:.40}"
            )
        if not isinstance(self.network, Energy):
            method = self.config.provenance.get("method")
            raise InputError(
                f"the policy is a baseline's ({method!r:.40}), which gives actions only: no energy and no density"
            )
        return self.network

    @property
    def digest(self) -> str:
        """A hash of all that the policy is: networks and description."""
        described = json.dumps(as_json(self.config), sort_keys=True)
        return hashlib.sha256(f"{described} {fingerprint((self.network, self.critic))}".encode()).hexdigest()[:16]

    def replace(self, **changes: Any) -> Policy:
        """The same networks with some fields of the configuration changed, such as the sampler."""
        return Policy(self.network, dataclasses.replace(self.config, **changes), self.critic, self.seed)

    def mean_of(self, candidates: int) -> Policy:
        """The same policy, acting by the mean of so many sampled actions; of 1, by a single one."""
        return self.replace(candidates=candidates, choice="mean")

    def best_of(self, candidates: int) -> Policy:
        """The same policy, acting by the one of so many sampled actions that its critic prefers (rejection sampling).

        Raises:
            InputError: it has no critic, and more than one is asked for.
        """
        return self.replace(candidates=candidates, choice="best")

    def sample(self, obs: Observation) -> Float[np.ndarray, "*batch act"]:
        """One action for each observation, within the action space's bounds: of several, as `config.acting` says.

        Args:
            obs: as arrays; or, where the task's environment has Dict observations, as it gives them (the leaves may
                have leading dimensions, the same for all).

        Raises:
            InputError: the last dimension is not the observation's size, a part of a Dict is missing, or a value is
                not finite.
        """
        rows, lead = self._rows("obs", self._flat(obs), self.config.task.obs_dim)
        scaling = self.config.scaling
        return scaling.to_env(self._actor(scaling.normalize_obs(rows))).reshape(*lead, -1)

    def energy(
        self, obs: Observation, action: Float[np.ndarray, "*batch act"], t: float = T_MIN
    ) -> Float[np.ndarray, "*batch"]:
        """`f(a | s, t)`: the log-density of actions up to a constant of (s, t) (EDA, Eq. 11), in one forward pass.

        Not a normalized log-density: compare actions of one state at one time, never values across states or times.

        Raises:
            InputError: sizes do not match the task, a value is not finite, t lies outside [0, 1], or the policy is
                distilled.
        """
        if not 0.0 <= t <= 1.0:
            raise InputError(f"t = {t}; diffusion times lie in [0, 1]")
        rows, actions, lead = self._pairs(obs, action)
        # Below T_MIN the network was never trained; t = 0 means as little noise as it knows.
        time = jnp.asarray(max(t, T_MIN), jnp.float32)
        return np.asarray(_energy(self.diffusion, rows, actions, time)).reshape(lead)

    def denoising_error(self, obs: Observation, action: Float[np.ndarray, "*batch act"]) -> Float[np.ndarray, "*batch"]:
        """How unlike what the policy was trained on an action is in its state: 1 where it predicts nothing.

        Comparable across states, which energies are not, at six times the work; ask it of a behavior policy
        (`diffusion.denoising_error.denoising_error` says what it is).

        Raises:
            InputError: sizes do not match the task, a value is not finite, or the policy is distilled.
        """
        rows, actions, lead = self._pairs(obs, action)
        return np.asarray(_denoising_error(self.diffusion, rows, actions)).reshape(lead)

    def log_prob(
        self,
        obs: Observation,
        action: Float[np.ndarray, "*batch act"],
        *,
        rtol: float = 1e-4,
        atol: float = 1e-4,
        probes: int | None = None,
        seed: int = 0,
        batch: int = 1024,
    ) -> Float[np.ndarray, "*batch"]:
        """Normalized log-density of actions, in nats and the environment's units, by the probability-flow ODE.

        Comparable across states and models, and hundreds of times the work of `energy`. It is the density of one
        sample before clipping to the bounds; the best or the mean of several has another.

        Args:
            obs: observations.
            action: one action for each.
            rtol: relative tolerance of the ODE solver.
            atol: absolute tolerance of the ODE solver.
            probes: random vectors that estimate the trace of the Jacobian (Hutchinson). None: the exact trace for up to
                8 action dimensions, 8 probes above.
            seed: of the probes.
            batch: how many actions are solved for at once.

        Raises:
            InputError: sizes do not match the task, a value is not finite, a number is not positive, the tolerance
                cannot be reached, or the policy is distilled.
        """
        network = self.diffusion
        for name, value in (
            ("rtol", rtol),
            ("atol", atol),
            ("probes", 1 if probes is None else probes),
            ("batch", batch),
        ):
            if not value > 0:
                raise InputError(f"{name} = {value}; it must be positive")
        rows, actions, lead = self._pairs(obs, action)
        act = actions.shape[1]
        exact = probes is None and act <= EXACT_UP_TO
        count = act if exact else EXACT_UP_TO if probes is None else probes
        key = jax.random.key(seed)
        out = np.empty(len(rows))
        for start in range(0, len(rows), batch):
            # The last batch wraps around, so that every call has one shape and compiles once.
            index = np.arange(start, start + min(batch, len(rows))) % len(rows)
            if exact:
                vectors = jnp.broadcast_to(exact_probes(act), (len(index), act, act))
            else:
                vectors = jax.random.rademacher(jax.random.fold_in(key, start), (len(index), count, act), jnp.float32)
            found, failed = _log_prob(network, rows[index], actions[index], vectors, rtol, atol)
            if np.any(failed):
                raise InputError(f"rtol = {rtol}, atol = {atol}: not reached in 4096 steps; allow more")
            stop = min(start + batch, len(rows))
            out[start:stop] = np.asarray(found)[: stop - start]
        scaling = self.config.scaling
        volume = np.sum(np.log(np.subtract(scaling.action_high, scaling.action_low) / 2.0))
        return (out - volume).reshape(lead)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `policy.json`, `policy.safetensors`, if there is one `critic.safetensors`, and a model card.

        Where it replaces another policy, a kill at any moment leaves one of the two. What is there already stays, and
        so does a `README.md` that somebody has edited.

        Raises:
            InputError: the folder cannot be written.
        """
        provenance = {"versions": versions()} | self.config.provenance
        config = dataclasses.replace(self.config, provenance=provenance)
        write_policy(Path(folder), config, self.network, self.critic)
        write_card(Path(folder), config)

    def _pairs(self, obs: Any, action: Any) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
        """Observations and actions as the network takes them, row by row, and their common leading shape."""
        rows, lead = self._rows("obs", self._flat(obs), self.config.task.obs_dim)
        actions, action_lead = self._rows("action", action, self.config.task.act_dim)
        if lead != action_lead:
            raise InputError(f"obs has leading shape {lead} but action {action_lead}; one action for each observation")
        return self.config.scaling.normalize_obs(rows), self.config.scaling.to_unit(actions), lead

    def _flat(self, obs: Any) -> Any:
        """A Dict observation as the vector that the networks were trained on; anything else as it is."""
        task = self.config.task
        if not isinstance(obs, Mapping):
            return obs
        if not task.obs_keys:
            raise InputError(f"obs is a Dict of {', '.join(map(str, obs))}; {task.dataset} has plain vectors")
        try:
            return task.flat_obs(obs)
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise InputError(
                f"obs cannot be joined from its parts {', '.join(task.obs_keys)} ({type(error).__name__}: {error}); "
                "all are needed, as arrays with the same leading dimensions"
            ) from error

    @staticmethod
    def _rows(name: str, value: Any, size: int) -> tuple[np.ndarray, tuple[int, ...]]:
        """The value as finite float rows, and its leading shape."""
        array = np.asarray(value, np.float32)
        if array.ndim == 0 or array.shape[-1] != size:
            raise InputError(f"{name} has shape {array.shape}; its last dimension must be {size}")
        if not np.isfinite(array).all():
            raise InputError(f"{name} holds NaN or infinite values; a policy can only act on finite numbers")
        return array.reshape(-1, size), array.shape[:-1]


def acting(policy: Policy, mean_of: int | None, best_of: int | None) -> Policy:
    """The policy as a command line asks for it; neither: as it is.

    Raises:
        InputError: both are asked for, a number lies outside its bounds, or there is no critic to choose.
    """
    if mean_of is not None and best_of is not None:
        raise InputError(f"mean_of = {mean_of}, best_of = {best_of}: a policy acts in one way; give one of them")
    for name, candidates in (("mean_of", mean_of), ("best_of", best_of)):
        if candidates is not None and not 1 <= candidates <= MOST_CANDIDATES:
            raise InputError(f"{name} = {candidates}; it must lie in 1 to {MOST_CANDIDATES}")
    if best_of is not None:
        return policy.best_of(best_of)
    return policy if mean_of is None else policy.mean_of(mean_of)


def log_ratio(
    pi: Policy,
    mu: Policy,
    obs: Observation,
    action: Float[np.ndarray, "*batch act"],
    t: float = T_MIN,
) -> Float[np.ndarray, "*batch"]:
    """`f_pi(a | s, t) - f_mu(a | s, t)`: how much likelier the policy makes an action, in two forward passes.

    Times beta it is the value that the policy implies (EDA, Section 3.2), in the units of the candidates' values: Q
    times trust over spread with the fast preset, 3 Q with the paper's. Known up to a constant of (s, t), as energies
    are: compare actions of one state. For an absolute ratio take the difference of two `log_prob`.

    Raises:
        InputError: the policies are not of one task, or as `Policy.energy`.
    """
    ours, theirs = pi.config.task, mu.config.task
    if (ours.obs_dim, ours.act_dim) != (theirs.obs_dim, theirs.act_dim):
        raise InputError(
            f"pi has {ours.obs_dim} observations and {ours.act_dim} actions, mu has {theirs.obs_dim} and "
            f"{theirs.act_dim}; a ratio needs two policies of one task"
        )
    return pi.energy(obs, action, t) - mu.energy(obs, action, t)


def load_policy(folder: str | os.PathLike[str], seed: int = 0) -> Policy:
    """Read a folder written by `Policy.save`, or one from the internet that says so (docs/security.md).

    Nothing in it is executed, and no file outside it is read.

    Args:
        folder: its path; or `hf:owner/name`, a repository of the Hugging Face hub, or `hf:owner/name@revision`.
        seed: of the policy's random numbers.

    Raises:
        InputError: the folder is not a policy's, is damaged, or is of a format this version does not know; or it cannot
            be downloaded.
    """
    with fetched(folder) as local:
        config, network, critic = read_policy(local)
    return Policy(network, config, critic, seed)
