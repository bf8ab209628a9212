"""Logged transitions as the networks see them: normalized, rewards transformed, on the device in whole or by parts.

Each function here prepares any span of steps from arrays that may be larger than memory, and a span the same way
whether it is a part of the set or all of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from tiltrl.data.transforms import observation_statistics
from tiltrl.errors import InputError
from tiltrl.stages.behavior import Pairs
from tiltrl.stages.critics.advantage import AdvantageConfig, Steps, n_step
from tiltrl.stages.critics.iql import Batch
from tiltrl.stages.critics.softmax import Numbered
from tiltrl.training.stream import Prepare, Stream, on_device
from tiltrl.types import Scaling, Transitions, read


def scaling_of(transitions: Transitions, *, normalize: bool) -> Scaling:
    """Scaling by the data's own statistics; without `normalize`, observations pass as they are (the paper's way).

    Raises:
        InputError: an observation is not finite, as in a damaged file that was mapped and not read.
    """
    mean, std = observation_statistics(transitions.obs)
    if not (np.isfinite(mean).all() and np.isfinite(std).all()):
        raise InputError(f"{transitions.task.dataset}: obs holds values that are not finite; the files are damaged")
    if not normalize:
        mean, std = np.zeros_like(mean), np.ones_like(std)
    task = transitions.task
    return Scaling(tuple(mean.tolist()), tuple(std.tolist()), task.action_low, task.action_high)


def behavior_data(transitions: Transitions, scaling: Scaling) -> Pairs | Stream[Pairs]:
    """Observation and action of every transition, as the behavior model takes them."""

    def prepare(start: int, stop: int) -> Pairs:
        span = slice(start, stop)
        obs: Any = scaling.normalize_obs(read(transitions.obs, span))
        action: Any = scaling.to_unit(read(transitions.action, span))
        return obs, action

    return on_device(prepare, len(transitions))


def one_step_data(
    transitions: Transitions, rows: Int[np.ndarray, " rows"], scaling: Scaling, discount: float
) -> Batch | Stream[Batch]:
    """The chosen transitions, as IQL takes them.

    Args:
        transitions: with transformed rewards.
        rows: which of them, ascending.
        scaling: between the environment's units and the networks'.
        discount: of what follows a step that did not end the task.
    """
    return on_device(_one_step(transitions, rows, scaling, discount), len(rows))


def numbered_data(
    transitions: Transitions, rows: Int[np.ndarray, " rows"], scaling: Scaling, discount: float
) -> Numbered | Stream[Numbered]:
    """The same, each with its place among the chosen, for what is kept of every one beside them."""
    one_step = _one_step(transitions, rows, scaling, discount)

    def prepare(start: int, stop: int) -> Numbered:
        row: Any = np.arange(start, stop, dtype=np.int32)
        return Numbered(one_step(start, stop), row)

    return on_device(prepare, len(rows))


def advantage_data(
    transitions: Transitions, rows: Int[np.ndarray, " rows"], scaling: Scaling, config: AdvantageConfig
) -> Steps | Stream[Steps]:
    """The chosen transitions with their n-step returns, as the advantage critic takes them.

    Args:
        transitions: with transformed rewards.
        rows: the steps of whole episodes, ascending.
        scaling: between the environment's units and the networks'.
        config: number of steps and discount.
    """
    one_step = _one_step(transitions, rows, scaling, config.discount)
    reward, terminal, timeout = transitions.reward[rows], transitions.terminal[rows], transitions.timeout[rows]
    ends = np.flatnonzero(terminal | timeout)

    def prepare(start: int, stop: int) -> Steps:
        # The last step's n rewards reach beyond the span. What ends there, or is said to, is not looked beyond.
        reach = slice(start, min(stop + config.n_step - 1, len(rows)))
        cut = timeout[reach].copy()
        cut[-1] = True
        n_reward, n_discount, landing = n_step(reward[reach], terminal[reach], cut, config.n_step, config.discount)
        span = slice(0, stop - start)
        fields: dict[str, Any] = {
            "n_reward": n_reward[span],
            "n_discount": n_discount[span],
            "landed_obs": scaling.normalize_obs(_read_rows(transitions.next_obs, rows[reach])[landing[span]]),
            "episode": np.searchsorted(ends, np.arange(start, stop)).astype(np.int32),
        }
        return Steps(*one_step(start, stop), **fields)

    return on_device(prepare, len(rows))


def _one_step(transitions: Transitions, rows: np.ndarray, scaling: Scaling, discount: float) -> Prepare[Batch]:
    def prepare(start: int, stop: int) -> Batch:
        some = rows[start:stop]
        fields: dict[str, Any] = {
            "obs": scaling.normalize_obs(_read_rows(transitions.obs, some)),
            "action": scaling.to_unit(_read_rows(transitions.action, some)),
            "reward": transitions.reward[some],
            "next_obs": scaling.normalize_obs(_read_rows(transitions.next_obs, some)),
            "discount": np.where(transitions.terminal[some], 0.0, discount).astype(np.float32),
        }
        return Batch(**fields)

    return prepare


def _read_rows(
    array: Float[np.ndarray, "steps width"], rows: Int[np.ndarray, " rows"]
) -> Float[np.ndarray, "rows width"]:
    """Rows that lie close together, ascending: read in one go with what lies between them."""
    return read(array, slice(rows[0], rows[-1] + 1))[rows - rows[0]]
