"""What is in a data set, and what in it is likely to go wrong: numbers, and warnings in one sentence each.

Every pass goes over parts of the arrays, so that a set of any length costs no memory beyond its own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from tiltrl.data.registry import env_id, reference_of
from tiltrl.data.write import check_whole
from tiltrl.types import Task, Transitions, parts, read

_NAMES = {"obs": "observations", "next_obs": "next observations", "action": "actions", "reward": "rewards"}
_SATURATED = 0.2  # share of steps at a bound from which a dimension is named
_AT_BOUND = 1e-3  # of the range: tanh comes no closer than this to what it means
_APART = 100.0  # how many times larger or smaller than 1, or than the usual one, a deviation may be
_SPARSE = 0.99  # share of steps with one and the same reward
_AT_HORIZON = 0.05  # share of episodes that end by a terminal step exactly at the horizon
_UNCHAINED = 1e-3  # of a deviation: more than rounding between a step's next_obs and the next step's obs
_JUMP = 3.0  # times the 99 % step, over all dimensions; real steps reach 1.5, resets of Hopper 2.4 to 6
_SAMPLE = 200_000  # steps that quantiles are taken of


@dataclass(frozen=True)
class Spread:
    """Of one number an episode."""

    min: float
    mean: float
    median: float
    max: float


@dataclass(frozen=True)
class Summary:
    """What a data set holds."""

    dataset: str
    environment: str | None  # id; None: the data names none
    fingerprint: str
    episodes: int
    steps: int
    terminal_ends: int  # episodes whose last step is terminal
    horizon: int | None  # the time limit in steps; None: not known
    timeout_ends: int  # others that are as long as the time limit; where none is known, all others, cuts included
    cut_ends: int  # others that are not: the recording was cut
    lengths: Spread
    returns: Spread  # raw
    scores: Spread | None  # 0 and 100 at the reference returns; None without them
    ref_min: float | None
    ref_max: float | None
    reward_transform: str  # what the registry has for the environment
    rewarded: float  # share of steps whose reward is not 0
    obs_dim: int
    act_dim: int
    obs_keys: tuple[str, ...]
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]


def describe(transitions: Transitions) -> Summary:
    """Count, sum and name what a data set holds.

    Raises:
        InputError: there are no whole episodes.
    """
    check_whole(transitions)
    task, returns = transitions.task, transitions.returns
    ends = transitions.ends
    lengths, terminal = ends - transitions.starts + 1, transitions.terminal[ends]
    limit = horizon(task)
    # A format without next_obs gives the last row of a timed-out episode away, as what the step before it saw.
    cut = ~terminal & (lengths != limit) & (lengths != limit - 1) if limit is not None else np.zeros_like(terminal)
    scores = None
    if task.ref_min is not None and task.ref_max is not None and task.ref_min < task.ref_max:
        scores = 100.0 * (returns - task.ref_min) / (task.ref_max - task.ref_min)
    return Summary(
        dataset=task.dataset,
        environment=env_id(task),
        fingerprint=transitions.fingerprint(),
        episodes=len(ends),
        steps=len(transitions),
        terminal_ends=int(terminal.sum()),
        horizon=limit,
        timeout_ends=int((~terminal & ~cut).sum()),
        cut_ends=int(cut.sum()),
        lengths=_spread(lengths),
        returns=_spread(returns),
        scores=None if scores is None else _spread(scores),
        ref_min=task.ref_min,
        ref_max=task.ref_max,
        reward_transform=reference_of(task).reward_transform,
        rewarded=float(np.mean(transitions.reward != 0)),
        obs_dim=task.obs_dim,
        act_dim=task.act_dim,
        obs_keys=task.obs_keys,
        action_low=task.action_low,
        action_high=task.action_high,
    )


def warnings(transitions: Transitions) -> list[str]:
    """What is likely to go wrong, one sentence each, the worst first; nothing where nothing was found.

    Where values are NaN or infinite only those are told: no other number means anything then.

    Raises:
        InputError: there are no whole episodes.
    """
    check_whole(transitions)
    if found := _not_finite(transitions):
        return found
    obs, action = Columns(transitions.obs), Columns(transitions.action)
    return [
        *_timeouts_as_terminals(transitions),
        *_one_episode(transitions),
        *_run_together(transitions, obs),
        *_rewards(transitions),
        *_constant(obs, "observations", "which say nothing about the state"),
        *_constant(action, "actions", "where no other value was tried"),
        *_duplicated(obs, "observations"),
        *_duplicated(action, "actions"),
        *_unscaled(obs),
        *_saturated(transitions.action, transitions.task),
    ]


class Columns:
    """Smallest and largest value, mean and deviation of each dimension, in two passes."""

    def __init__(self, array: Float[np.ndarray, "steps dims"]):
        self.array = array
        dims = array.shape[1]
        self.min, self.max, total = np.full(dims, np.inf), np.full(dims, -np.inf), np.zeros(dims)
        for rows in parts(len(array)):
            some = read(array, rows)
            self.min, self.max = np.minimum(self.min, some.min(axis=0)), np.maximum(self.max, some.max(axis=0))
            total += some.sum(axis=0, dtype=np.float64)
        self.mean, squares = total / len(array), np.zeros(dims)
        for rows in parts(len(array)):
            squares += np.square(read(array, rows) - self.mean).sum(axis=0)
        self.std = np.sqrt(squares / len(array))
        # Finer than float32 resolves, as `transforms.observation_statistics` has it.
        self.constant = self.std <= np.finfo(np.float32).eps * np.maximum(np.abs(self.min), np.abs(self.max))


def sample(array: np.ndarray, size: int = _SAMPLE) -> np.ndarray:
    """At most `size` rows, evenly spaced."""
    stride = -(-len(array) // size)
    return read(array, slice(None)) if stride == 1 else read(array, np.arange(0, len(array), stride))


# --- One warning each -------------------------------------------------------------------------------------------------


def _not_finite(transitions: Transitions) -> list[str]:
    found = []
    for field, name in _NAMES.items():
        array, count, first = getattr(transitions, field), 0, None
        for rows in parts(len(array)):
            some = read(array, rows)
            bad = ~np.isfinite(some.reshape(len(some), -1)).all(axis=1)
            count += int(bad.sum())
            if first is None and bad.any():
                first = rows.start + int(np.argmax(bad))
        if first is not None:
            found.append(
                f"{name}: {count} of {len(array)} steps hold NaN or infinite values, the first at step {first} "
                f"({_place(transitions, first)}); nothing can be trained on them"
            )
    return found


def _timeouts_as_terminals(transitions: Transitions) -> list[str]:
    ends = transitions.ends
    lengths, terminal = ends - transitions.starts + 1, transitions.terminal[ends]
    limit = horizon(transitions.task)
    if limit is None:  # then only what leaves no doubt: every episode, after as many steps
        if len(ends) < 2 or lengths.min() < 2 or lengths.min() < lengths.max() or not terminal.all():
            return []
        told = f"all {len(ends)} episodes end terminally after exactly {lengths[0]} steps"
    else:
        count = int((terminal & (lengths == limit)).sum())
        if count < max(2, _AT_HORIZON * len(ends)):
            return []
        told = f"{count} of {len(ends)} episodes end terminally at exactly step {limit}, the environment's horizon"
    return [f"{told}: these look like time-outs marked as terminals, which teach the critic that no value follows"]


def _one_episode(transitions: Transitions) -> list[str]:
    if len(transitions.ends) > 1:
        return []
    return [
        f"all {len(transitions)} steps are one episode: if they are several, name the column that tells them apart, as "
        "in ?episode=NAME, ?terminal=NAME or ?timeout=NAME"
    ]


def _run_together(transitions: Transitions, obs: Columns) -> list[str]:
    """Inside an episode: a next_obs that is not what the next step saw, and steps no dynamics would take."""
    unchained = jumps = 0
    first_unchained = first_jump = 0
    scale = np.where(obs.constant, np.maximum(np.abs(obs.max), 1.0), obs.std)
    moves = np.quantile(np.abs(sample(transitions.next_obs) - sample(transitions.obs)), 0.99, axis=0)
    moving = np.flatnonzero(moves > 0)  # a dimension that keeps still would make every move of it a jump
    inside = ~(transitions.terminal | transitions.timeout)
    for rows in parts(len(transitions) - 1):
        before, after = read(transitions.obs, rows), read(transitions.next_obs, rows)
        following = read(transitions.obs, slice(rows.start + 1, rows.stop + 1))
        apart = inside[rows] & (np.abs(following - after) > _UNCHAINED * scale).any(axis=1)
        if apart.any() and not unchained:
            first_unchained = rows.start + int(np.argmax(apart))
        unchained += int(apart.sum())
        if len(moving):
            move = np.minimum(np.abs(after - before)[:, moving] / moves[moving], 10.0)  # so that none counts for all
            jump = inside[rows] & (np.sqrt(np.mean(np.square(move), axis=1)) > _JUMP)
            if jump.any() and not jumps:
                first_jump = rows.start + int(np.argmax(jump))
            jumps += int(jump.sum())
    found = []
    if unchained:
        found.append(
            f"episodes may run into each other: {unchained} of {int(inside.sum())} steps inside an episode have a next "
            f"observation that the next step did not see, the first at step {first_unchained} "
            f"({_place(transitions, first_unchained)})"
        )
    if jumps:
        found.append(
            f"episodes may run into each other: {jumps} of {int(inside.sum())} steps inside an episode jump over "
            f"{_JUMP:g} times as far as 99 % of all steps do, the first at step {first_jump} "
            f"({_place(transitions, first_jump)})"
        )
    return found


def _rewards(transitions: Transitions) -> list[str]:
    reward, steps = transitions.reward, len(transitions)
    usual = float(np.median(reward))
    others = int((reward != usual).sum())
    if not others:
        told = "a behavior model can be trained, a critic has nothing to learn" if usual == 0 else "they rank no action"
        return [f"rewards: all {steps} are {usual:g}; {told}"]
    if others > (1 - _SPARSE) * steps:
        return []
    with_others = int((np.add.reduceat(reward != usual, transitions.starts, dtype=np.int64) > 0).sum())
    return [
        f"rewards are sparse: {others} of {steps} steps have another reward than {usual:g}, "
        f"in {with_others} of {len(transitions.ends)} episodes"
    ]


def _constant(columns: Columns, name: str, what: str) -> list[str]:
    dims = np.flatnonzero(columns.constant)
    if not len(dims):
        return []
    told = _listed([f"{dim} (always {columns.mean[dim]:.4g})" for dim in dims])
    return [f"{name} never change in {len(dims)} of {len(columns.mean)} dimensions, {what}: {told}"]


def _duplicated(columns: Columns, name: str) -> list[str]:
    """Dimensions that are equal in every step; those that never change are told of elsewhere."""
    groups: dict[tuple[float, ...], list[int]] = {}
    for dim in np.flatnonzero(~columns.constant).tolist():
        groups.setdefault((columns.min[dim], columns.max[dim]), []).append(dim)
    pairs = [(dims[0], other) for dims in groups.values() for other in dims[1:]]
    for rows in parts(len(columns.array) if pairs else 0):
        some = read(columns.array, rows)
        pairs = [(a, b) for a, b in pairs if np.array_equal(some[:, a], some[:, b])]
    if not pairs:
        return []
    told = _listed([f"{b} (equals {a})" for a, b in pairs])
    return [f"{name} repeat another dimension in every step in {len(pairs)} of {len(columns.mean)}: {told}"]


def _unscaled(obs: Columns) -> list[str]:
    dims = np.flatnonzero(~obs.constant)
    if not len(dims):
        return []
    usual = float(np.median(obs.std[dims]))
    ratios = np.stack([obs.std[dims], obs.std[dims] / usual])
    odd = dims[((ratios > _APART) | (ratios < 1 / _APART)).any(axis=0)]
    if not len(odd):
        return []
    told = _listed([f"{dim} ({obs.std[dim]:.3g})" for dim in odd])
    return [
        f"observations are unscaled in {len(odd)} of {len(obs.mean)} dimensions, where the deviation is over "
        f"{_APART:g} times off 1 or the usual {usual:.3g}, which the preset `fast` mends and `paper` does not: {told}"
    ]


def _saturated(action: Float[np.ndarray, "steps act"], task: Task) -> list[str]:
    low, high = np.array(task.action_low), np.array(task.action_high)
    margin, counts = _AT_BOUND * (high - low), np.zeros(task.act_dim)
    for rows in parts(len(action)):
        some = read(action, rows)
        counts += ((some <= low + margin) | (some >= high - margin)).sum(axis=0)
    shares = counts / len(action)
    dims = np.flatnonzero(shares >= _SATURATED)
    if not len(dims):
        return []
    told = _listed([f"{dim} ({shares[dim]:.0%})" for dim in dims])
    return [
        f"actions are saturated in {len(dims)} of {task.act_dim} dimensions, at a bound in at least {_SATURATED:.0%} "
        f"of the steps, which a density only comes near to: {told}"
    ]


# --- Words ------------------------------------------------------------------------------------------------------------


def _spread(values: np.ndarray) -> Spread:
    return Spread(*(float(of(values)) for of in (np.min, np.mean, np.median, np.max)))


def horizon(task: Task) -> int | None:
    """Steps after which an episode is cut: the environment's own, else D4RL's; None where neither is known."""
    own = None if task.env_spec is None else json.loads(task.env_spec).get("max_episode_steps")
    return own if isinstance(own, int) and own > 0 else reference_of(task).horizon


def _place(transitions: Transitions, step: int) -> str:
    episode = int(np.searchsorted(transitions.ends, step))
    return f"episode {episode}, row {step - transitions.starts[episode]}"


def _listed(words: list[str], most: int = 8) -> str:
    """Words with commas between them, and how many more there are."""
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")
