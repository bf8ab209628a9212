"""What all sources of actions share: the environment they act in, and one recorded episode."""

from __future__ import annotations

import importlib
import warnings
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict
from jaxtyping import Float

from tiltrl import environments
from tiltrl.data.assemble import assemble
from tiltrl.errors import InputError
from tiltrl.types import Task, Transitions

_NOISE_STREAM = 1  # environments draw from the plain seed; ours must not be the same numbers


class Source(Protocol):
    """Where actions come from. What it remembers within an episode it forgets at `reset`."""

    def reset(self, env: gymnasium.Env, seed: int, rng: np.random.Generator) -> Any:
        """Begin an episode, wholly fixed by the seed; returns the first observation."""
        ...

    def act(self, env: gymnasium.Env, obs: Any, rng: np.random.Generator) -> Float[np.ndarray, " act"]:
        """An action in the environment's units, which may lie outside its bounds."""
        ...


def require(package: str, what: str) -> None:
    """Import a package whose import registers its environments.

    Raises:
        InputError: it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own, older API
            importlib.import_module(package)
    except ImportError as error:
        raise InputError(
            f"{what}: needs the package {package}: `pip install 'tiltrl[{environments.PROVIDERS[package]}]'`"
        ) from error


def open_env(env_id: str) -> gymnasium.Env:
    """Make an environment of Gymnasium, or of a package that is known to provide some.

    Raises:
        InputError: it is unknown, cannot be made, or has no time limit.
    """
    where = f"--env {env_id}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an older version was asked for, or a package is older than Gymnasium
        spec = environments.known_spec(env_id, "--env")
        if spec.max_episode_steps is None:
            raise InputError(f"{where}: has no max_episode_steps, so an episode might never end; choose another")
        return environments.make(spec, where)


def describe(env: gymnasium.Env, name: str) -> tuple[Task, tuple[int, ...]]:
    """The task that data recorded in the environment belongs to, and the sizes of its observation's leaves.

    Raises:
        InputError: actions are not a bounded box, or observations not vectors or dictionaries of vectors.
    """
    assert env.spec is not None, "open_env refuses an environment without"
    where = f"--env {env.spec.id}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some build their spaces anew at each look, which remark on their precision
        actions, seen = env.action_space, env.observation_space
    if not isinstance(actions, Box) or len(actions.shape) != 1 or not np.issubdtype(actions.dtype, np.floating):
        raise InputError(f"{where}: its actions are {actions}; only continuous ones are supported, Box of shape (n,)")
    if not (np.isfinite(actions.low).all() and np.isfinite(actions.high).all() and (actions.low < actions.high).all()):
        raise InputError(f"{where}: its actions are {actions}; finite bounds are needed, low < high")
    leaves = environments.leaves(seen)
    if leaves is None:
        raise InputError(
            f"{where}: observes {seen}; only vectors are supported, Box of shape (n,), or dictionaries of them"
        )
    try:
        env_spec = env.spec.to_json()
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{where}: its description is not JSON ({' '.join(str(error).split())}); register it with names and numbers"
        ) from error
    keys = tuple(leaves) if isinstance(seen, Dict) else ()
    low, high = (tuple(bound.astype(float).tolist()) for bound in (actions.low, actions.high))
    sizes = tuple(leaves.values())
    return Task(name, env_spec, low, high, obs_dim=sum(sizes), obs_keys=keys), sizes


def record(env: gymnasium.Env, source: Source, task: Task, noise: float, seed: int) -> Transitions:
    """One whole episode, a pure function of its arguments.

    Args:
        env: what to act in; a time limit ends the episode at the latest.
        source: what gives the actions.
        task: describes `env`.
        noise: standard deviation of what is added to each action before it is clipped to its bounds.
        seed: of the environment, of the source and of the noise.

    Raises:
        InputError: the environment or the source gave numbers that are not finite.
    """
    rng = np.random.default_rng((seed, _NOISE_STREAM))
    low, high = np.array(task.action_low, np.float32), np.array(task.action_high, np.float32)
    steps: list[tuple[Any, ...]] = []
    obs = source.reset(env, seed, rng)
    over = terminal = False
    while not over:
        wanted = np.asarray(source.act(env, obs, rng), np.float64)
        if noise > 0:
            wanted = wanted + noise * rng.standard_normal(wanted.shape)
        action = np.clip(wanted, low, high).astype(np.float32)  # what is recorded is what was done, to the bit
        after, reward, terminal, timeout, _ = env.step(action)
        steps.append((task.flat_obs(obs), action, reward, task.flat_obs(after)))
        obs, over = after, terminal or timeout
    flags = np.zeros((2, len(steps)), bool)  # terminal, timeout
    flags[0 if terminal else 1, -1] = True
    assert env.spec is not None, "open_env refuses an environment without"
    obs, action, reward, next_obs = (np.array(column) for column in zip(*steps, strict=True))
    return assemble(
        where=f"{env.spec.id}, episode of seed {seed}",
        task=task,
        obs=obs,
        action=action,
        reward=reward,
        next_obs=next_obs,
        terminal=flags[0],
        timeout=flags[1],
    )
