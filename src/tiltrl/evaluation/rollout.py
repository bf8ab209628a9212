"""Whole episodes of a policy in the task's environment, all in lockstep."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from jaxtyping import Float, Int

from tiltrl.environments import described_spec, leaves, make
from tiltrl.errors import InputError
from tiltrl.types import Task

Act = Callable[[Float[np.ndarray, "episodes obs"], int], Float[np.ndarray, "episodes act"]]
OnStep = Callable[[int, int, int], None]


@dataclass(frozen=True)
class Episodes:
    """What came of each episode; episode i ran in an environment of its own, reset with `seeds[i]`."""

    returns: Float[np.ndarray, " episodes"]  # undiscounted, raw, float64
    lengths: Int[np.ndarray, " episodes"]  # steps
    seeds: Int[np.ndarray, " episodes"]


def read_spec(task: Task) -> EnvSpec:
    """The environment the data was recorded in, as the data describes it.

    Raises:
        InputError: the data names no environment, or its description is not Gymnasium's JSON.
    """
    if task.env_spec is None:
        raise InputError(f"{task.dataset}: the data names no environment (no env_spec), so nothing can be evaluated")
    return described_spec(task.env_spec, f"{task.dataset}: env_spec")


def make_env(task: Task, render_mode: str | None = None) -> gymnasium.Env:
    """Make the task's environment: Gymnasium's registered one, with the arguments and horizon of the data.

    Only the id, the arguments and the horizon are taken from the data. Its entry point is code to be run and is left
    alone: a data set must not choose what runs.

    Raises:
        InputError: the environment is unknown or not installed, has no horizon, or does not match the data.
    """
    spec = read_spec(task)
    where = f"{task.dataset}: environment {spec.id}"
    if spec.additional_wrappers:
        names = ", ".join(wrapper.name for wrapper in spec.additional_wrappers)
        raise InputError(f"{where}: was recorded through the wrappers {names}; only unwrapped environments can be made")
    env = make(spec, where, render_mode)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some build their spaces anew at each look, which remark on their precision
        mismatch = _mismatch(env, task)
    if mismatch:
        env.close()
        raise InputError(f"{where}: {mismatch}")
    return env


def check_environment(task: Task) -> None:
    """Make the environment once and close it, so that long work does not start towards an evaluation that cannot run.

    Raises:
        InputError: as `make_env`.
    """
    make_env(task).close()


def rollout(act: Act, task: Task, *, episodes: int, seed: int, on_step: OnStep | None = None) -> Episodes:
    """Run whole episodes side by side and sum their rewards.

    Args:
        act: maps observations (episodes, obs_dim), float32, and the step (0, 1, ...) to actions (episodes, act_dim)
            in the environment's units. The batch keeps its size to the end, so that a compiled `act` compiles once:
            a finished episode repeats its last observation and its action is ignored.
        task: what to act in.
        episodes: how many episodes.
        seed: episode i is reset with `seed + i`.
        on_step: called after each step with (steps done, horizon, episodes still running).

    Raises:
        InputError: as `make_env`; no episodes or a negative seed; actions of the wrong shape or not finite.
    """
    if episodes < 1 or seed < 0:
        raise InputError(f"rollout: episodes = {episodes}, seed = {seed}; the least are 1 and 0")
    seeds = seed + np.arange(episodes)
    returns = np.zeros(episodes)
    lengths = np.zeros(episodes, dtype=np.int64)
    running = np.ones(episodes, dtype=bool)
    with ExitStack() as stack:
        envs = [stack.enter_context(closing(make_env(task))) for _ in range(episodes)]
        spec = envs[0].spec
        assert spec is not None and spec.max_episode_steps is not None, "make_env refuses an environment without"
        horizon = spec.max_episode_steps
        low, high = np.array(task.action_low, np.float32), np.array(task.action_high, np.float32)
        obs = np.stack([task.flat_obs(env.reset(seed=int(s))[0]) for env, s in zip(envs, seeds, strict=True)])
        step = 0
        while running.any():
            # A copy, because JAX may read the array it is given in place, and later than it returns.
            action = np.asarray(act(obs.copy(), step))
            if action.shape != (episodes, task.act_dim):
                raise InputError(f"policy: actions have shape {action.shape}, not {(episodes, task.act_dim)}")
            if not np.isfinite(action[running]).all():
                raise InputError(f"policy: an action is NaN or infinite at step {step}")
            action = np.clip(action, low, high).astype(np.float32)  # rounding may overstep the bounds
            for i in np.flatnonzero(running):
                seen, reward, terminal, timeout, _ = envs[i].step(action[i])
                obs[i] = task.flat_obs(seen)
                returns[i] += reward
                lengths[i] += 1
                running[i] = not (terminal or timeout)
            step += 1
            if on_step is not None:
                on_step(step, horizon, int(running.sum()))
    return Episodes(returns, lengths, seeds)


def _mismatch(env: gymnasium.Env, task: Task) -> str | None:
    """What makes the environment unfit for the data, naming both sides; None when it fits."""
    seen, acts = env.observation_space, env.action_space
    if env.spec is None or env.spec.max_episode_steps is None:
        return "has no max_episode_steps, so an episode might never end; give the data's env_spec one"
    sizes = leaves(seen) or {}
    wanted = task.obs_keys or ("",)
    if not set(wanted) <= sizes.keys() or sum(sizes[key] for key in wanted) != task.obs_dim:
        parts = f" ({', '.join(task.obs_keys)})" if task.obs_keys else ""
        return f"its observations are {seen}, but those of the data have {task.obs_dim} dimensions{parts}"
    if not isinstance(acts, gymnasium.spaces.Box) or acts.shape != (task.act_dim,):
        return f"its actions are {acts}, but those of the data have {task.act_dim} dimensions"
    # float32 in the environment, decimal in the data's JSON
    if not (np.allclose(acts.low, task.action_low) and np.allclose(acts.high, task.action_high)):
        return (
            f"its actions lie in {acts.low.tolist()} to {acts.high.tolist()}, "
            f"but those of the data in {list(task.action_low)} to {list(task.action_high)}"
        )
    return None
