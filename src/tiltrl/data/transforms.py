"""Pure functions from transitions to transitions or arrays: joining, splitting, rewards, returns, statistics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
from jaxtyping import Bool, Float

from tiltrl.data.registry import env_id
from tiltrl.errors import InputError
from tiltrl.types import Task, Transitions


def join(a: Transitions, b: Transitions) -> Transitions:
    """The episodes of `a`, then those of `b`; the data set is named "a+b".

    Raises:
        InputError: the two differ in environment, observation size, action bounds or reference scores.
    """
    for label, of in _MUST_AGREE.items():
        if of(a.task) != of(b.task):
            raise InputError(
                f"cannot join {a.task.dataset} and {b.task.dataset}: {label} is {of(a.task)} in the first "
                f"and {of(b.task)} in the second; both must be recorded in the same task"
            )
    names = [field.name for field in fields(Transitions) if field.name != "task"]
    arrays = {name: np.concatenate([getattr(a, name), getattr(b, name)]) for name in names}
    return Transitions(**arrays, task=replace(a.task, dataset=f"{a.task.dataset}+{b.task.dataset}"))


_MUST_AGREE: dict[str, Callable[[Task], object]] = {
    "the environment": env_id,
    "the observation size": lambda task: task.obs_dim,
    "the lower action bound": lambda task: task.action_low,
    "the upper action bound": lambda task: task.action_high,
    "the reference (min, max)": lambda task: (task.ref_min, task.ref_max),
}


def scale_rewards(transitions: Transitions, name: str) -> Float[np.ndarray, " steps"]:
    """The rewards to train on, float32, by the named transform.

    - `locomotion`: times 1000 / (largest - smallest episode return) (IQL, Kostrikov et al. 2021, Appendix B).
    - `antmaze`: minus 1, so that each step not at the goal costs 1 (same source).
    - `none`: as recorded.

    Raises:
        InputError: the name is unknown, or `locomotion` is asked for and all returns are equal.
    """
    if name not in REWARD_TRANSFORMS:
        raise InputError(f"reward transform {name!r} is unknown; choose one of {', '.join(REWARD_TRANSFORMS)}")
    return REWARD_TRANSFORMS[name](transitions).astype(np.float32)


def _by_return_range(transitions: Transitions) -> np.ndarray:
    returns = transitions.returns
    span = returns.max() - returns.min()
    if span == 0:
        raise InputError(
            f"{transitions.task.dataset}: reward transform 'locomotion' divides by the range of episode returns, and "
            f"all {len(returns)} episodes return {returns[0]:g}; use the reward transform 'none'"
        )
    return transitions.reward * (1000.0 / span)


REWARD_TRANSFORMS: dict[str, Callable[[Transitions], np.ndarray]] = {
    "locomotion": _by_return_range,
    "antmaze": lambda transitions: transitions.reward - 1.0,
    "none": lambda transitions: transitions.reward,
}


def split_episodes(transitions: Transitions, held_out_fraction: float, seed: int) -> tuple[Transitions, Transitions]:
    """Train and held-out parts, by whole episodes, each part in recorded order.

    Five episodes are held out at least, or half of fewer than ten.

    A single episode is cut in two, its last steps held out; the step before the cut becomes a timeout.

    Args:
        transitions: at least two steps.
        held_out_fraction: of the episodes (of the steps, where there is one episode), between 0 and 1, exclusive.
        seed: which episodes are held out.

    Raises:
        InputError: the fraction is out of range, or there is only one step.
    """
    if not 0 < held_out_fraction < 1:
        raise InputError(f"held_out_fraction = {held_out_fraction}; it must lie between 0 and 1, exclusive")
    count = len(transitions.ends)
    if count == 1:
        return _cut_last_part(transitions, held_out_fraction)
    # A handful at least, where there are that many: from fewer nothing can be told about episodes.
    held = max(_share(count, held_out_fraction), min(5, count // 2))
    chosen = np.random.default_rng(seed).permutation(count)[:held]
    lengths = transitions.ends - transitions.starts + 1
    held_out = np.repeat(np.isin(np.arange(count), chosen), lengths)
    return transitions.take(np.flatnonzero(~held_out)), transitions.take(np.flatnonzero(held_out))


def _cut_last_part(episode: Transitions, held_out_fraction: float) -> tuple[Transitions, Transitions]:
    steps = len(episode)
    if steps < 2:
        raise InputError(f"{episode.task.dataset}: one step cannot be split into train and held-out data; give more")
    cut = steps - _share(steps, held_out_fraction)
    train, held_out = episode.take(np.arange(cut)), episode.take(np.arange(cut, steps))
    return replace(train, timeout=np.arange(cut) == cut - 1), held_out


def _share(count: int, fraction: float) -> int:
    """`fraction` of `count` in whole numbers, leaving at least one on either side."""
    return min(max(round(fraction * count), 1), count - 1)


def discounted_returns(
    reward: Float[np.ndarray, " steps"],
    terminal: Bool[np.ndarray, " steps"],
    timeout: Bool[np.ndarray, " steps"],
    discount: float,
) -> Float[np.ndarray, " steps"]:
    """Discounted sum of the rewards from each step to the end of its episode, float64.

    Nothing is added for what would have followed a timeout. After pass k each entry sums its first 2^k rewards, so
    log2(longest episode) passes over whole arrays suffice.
    """
    steps = np.arange(len(reward))
    ends = np.flatnonzero(terminal | timeout | (steps == len(reward) - 1))
    remaining = np.repeat(ends, np.diff(ends, prepend=-1)) - steps  # steps left in the episode after this one
    returns = reward.astype(np.float64)
    stride = 1
    while stride <= remaining.max(initial=0):
        returns[:-stride] += discount**stride * np.where(remaining[:-stride] >= stride, returns[stride:], 0.0)
        stride *= 2
    return returns


def observation_statistics(
    obs: Float[np.ndarray, "steps obs"],
) -> tuple[Float[np.ndarray, " obs"], Float[np.ndarray, " obs"]]:
    """Mean and standard deviation of each dimension, float32; the deviation of a constant dimension is 1.

    "Constant" is anything finer than float32 resolves, since dividing by it would only magnify rounding.
    """
    std = obs.std(axis=0, dtype=np.float64)
    constant = std <= np.finfo(np.float32).eps * np.abs(obs).max(axis=0)
    return obs.mean(axis=0, dtype=np.float64).astype(np.float32), np.where(constant, 1.0, std).astype(np.float32)
