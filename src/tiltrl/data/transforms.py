"""Pure functions from transitions to transitions or arrays: joining, splitting, rewards, returns, statistics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from tiltrl.data.registry import RewardsName, RewardsOption, env_id, reference_of
from tiltrl.errors import InputError
from tiltrl.types import Task, Transitions, parts, read

_ARRAYS = tuple(field.name for field in fields(Transitions) if field.name != "task")


def join(a: Transitions, b: Transitions) -> Transitions:
    """The episodes of `a`, then those of `b`; the data set is named "a+b".

    Where no environment tells the action bounds, as in logs whose bounds are the actions seen, they are those of both.

    Raises:
        InputError: the two differ in environment, observations, number of actions, reference scores, or in the bounds
            of actions in an environment.
    """
    task = joined_task(a.task, b.task)
    arrays = {name: np.concatenate([getattr(a, name), getattr(b, name)]) for name in _ARRAYS}
    return Transitions(**arrays, task=replace(task, dataset=f"{a.task.dataset}+{b.task.dataset}"))


def joined_task(a: Task, b: Task) -> Task:
    """`a`, with the action bounds of both where no environment tells them.

    Raises:
        InputError: as `join`.
    """
    if a.env_spec is None and b.env_spec is None and a.act_dim == b.act_dim:
        low = tuple(map(min, a.action_low, b.action_low))
        high = tuple(map(max, a.action_high, b.action_high))
        a, b = (replace(task, action_low=low, action_high=high) for task in (a, b))
    for label, of in _MUST_AGREE.items():
        if of(a) != of(b):
            raise InputError(
                f"cannot join {a.dataset} and {b.dataset}: {label} is {of(a)} in the first and {of(b)} in the second; "
                "both must be recorded in the same task"
            )
    return a


_MUST_AGREE: dict[str, Callable[[Task], object]] = {
    "the environment": env_id,
    "the observation size": lambda task: task.obs_dim,
    "the order of a Dict observation's parts": lambda task: task.obs_keys,
    "the lower action bound": lambda task: task.action_low,
    "the upper action bound": lambda task: task.action_high,
    "the reference (min, max)": lambda task: (task.ref_min, task.ref_max),
}


def take_episodes(transitions: Transitions, start: float | None, stop: float | None) -> Transitions:
    """Whole episodes from `start` up to `stop`, in recorded order; with a point shares of their number, else counts.

    Shares are rounded to whole episodes, so that what ends at a share and what starts there share none and miss none.

    Raises:
        InputError: no episode lies between them.
    """
    count = len(transitions.ends)

    def place(bound: float) -> int:
        return round(bound * count) if isinstance(bound, float) else min(bound, count)

    first, last = place(0 if start is None else start), place(count if stop is None else stop)
    if first >= last:
        raise InputError(
            f"{transitions.task.dataset}: the slice takes no episode: it begins at number {first} and ends before "
            f"number {last}, of {count}; take one at least"
        )
    steps = slice(transitions.starts[first], transitions.ends[last - 1] + 1)  # no copy, whatever the size
    return replace(transitions, **{name: getattr(transitions, name)[steps] for name in _ARRAYS})


def rewards_for(task: Task, asked: RewardsOption = "auto") -> RewardsName:
    """The reward transform that was asked for, or, with "auto", the usual one of the task's environment or data set.

    Raises:
        InputError: the name is unknown.
    """
    name = reference_of(task).reward_transform if asked == "auto" else asked
    if name not in REWARD_TRANSFORMS:
        raise InputError(f"reward transform {name!r} is unknown; choose one of auto, {', '.join(REWARD_TRANSFORMS)}")
    return name


def scale_rewards(transitions: Transitions, name: RewardsName) -> Float[np.ndarray, " steps"]:
    """The rewards to train on, float32, by the named transform.

    - `locomotion`: times 1000 / (largest - smallest episode return) (IQL, Kostrikov et al. 2021, Appendix B). Returns
      are those of whole episodes, each to its terminal or timeout.
    - `antmaze`: minus 1, so that each step not at the goal costs 1 (same source).
    - `kitchen`: as recorded, tasks done so far (same source); another name for `none`.
    - `normalize`: over their standard deviation, so that rewards of any units have the scale of 1. They are not
      centered: a constant added would change what is best where episodes differ in length.
    - `none`: as recorded.

    Raises:
        InputError: the name is unknown, or the data cannot be scaled so, its returns or rewards being all equal.
    """
    return REWARD_TRANSFORMS[rewards_for(transitions.task, name)](transitions).astype(np.float32)


def _by_return_range(transitions: Transitions) -> np.ndarray:
    returns = transitions.returns
    span = returns.max() - returns.min()
    if span == 0:
        raise InputError(
            f"{transitions.task.dataset}: reward transform 'locomotion' divides by the range of episode returns, and "
            f"all {len(returns)} episodes return {returns[0]:g}; use the reward transform 'none'"
        )
    return transitions.reward * (1000.0 / span)


def _by_deviation(transitions: Transitions) -> np.ndarray:
    std = transitions.reward.std(dtype=np.float64)
    if std <= np.finfo(np.float32).eps * np.abs(transitions.reward).max():
        raise InputError(
            f"{transitions.task.dataset}: reward transform 'normalize' divides by the deviation of the rewards, and "
            f"all {len(transitions)} are {transitions.reward[0]:g}; use the reward transform 'none'"
        )
    return transitions.reward / std


REWARD_TRANSFORMS: dict[RewardsName, Callable[[Transitions], np.ndarray]] = {
    "locomotion": _by_return_range,
    "antmaze": lambda transitions: transitions.reward - 1.0,
    "kitchen": lambda transitions: transitions.reward,
    "normalize": _by_deviation,
    "none": lambda transitions: transitions.reward,
}


def split_episodes(
    transitions: Transitions, held_out_fraction: float, seed: int
) -> tuple[Transitions, Int[np.ndarray, " rows"], Transitions]:
    """Train and held-out parts, by whole episodes, each part in recorded order; the larger one is not copied.

    Five episodes are held out at least, or half of fewer than ten.

    A single episode is cut in two, its last steps held out; the step before the cut becomes a timeout.

    Args:
        transitions: at least two steps.
        held_out_fraction: of the episodes (of the steps, where there is one episode), between 0 and 1, exclusive.
        seed: which episodes are held out.

    Returns:
        The transitions (with the cut, if there is one), those of their steps to train on, and what is held out.

    Raises:
        InputError: the fraction is out of range, or there is only one step.
    """
    if not 0 < held_out_fraction < 1:
        raise InputError(f"held_out_fraction = {held_out_fraction}; it must lie between 0 and 1, exclusive")
    steps, count = np.arange(len(transitions)), len(transitions.ends)
    if count == 1:
        if len(steps) < 2:
            name = transitions.task.dataset
            raise InputError(f"{name}: one step cannot be split into train and held-out data; give more")
        cut = len(steps) - _share(len(steps), held_out_fraction)
        transitions = replace(transitions, timeout=transitions.timeout | (steps == cut - 1))
        return transitions, steps[:cut], transitions.take(steps[cut:])
    # A handful at least, where there are that many: from fewer nothing can be told about episodes.
    held = max(_share(count, held_out_fraction), min(5, count // 2))
    chosen = np.random.default_rng(seed).permutation(count)[:held]
    held_out = np.repeat(np.isin(np.arange(count), chosen), transitions.ends - transitions.starts + 1)
    return transitions, steps[~held_out], transitions.take(steps[held_out])


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
    total, largest = np.zeros(obs.shape[1]), np.zeros(obs.shape[1], obs.dtype)
    for part in parts(len(obs)):
        some = read(obs, part)
        total += some.sum(axis=0, dtype=np.float64)
        largest = np.maximum(largest, np.abs(some).max(axis=0))
    mean, squares = total / len(obs), np.zeros(obs.shape[1])
    for part in parts(len(obs)):
        squares += np.square(read(obs, part) - mean).sum(axis=0)
    std = np.sqrt(squares / len(obs))
    constant = std <= np.finfo(np.float32).eps * largest
    return mean.astype(np.float32), np.where(constant, 1.0, std).astype(np.float32)
