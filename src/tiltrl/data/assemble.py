"""The last step of every reader: logged arrays to `Transitions`, with the checks that all formats share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tiltrl.errors import InputError
from tiltrl.types import Task, Transitions

Locate = Callable[[str, int], str]
"""Where a row of a field lies in the file, for messages: `locate("rewards", 17)` -> "episode_3, rewards, row 5"."""

_GAP = 1e-5  # relative: observations that differ by more are no rounding of one another
_ACTION_TOLERANCE = 1e-5  # relative to the bounds: float32 rounding of an action at a bound is no error


def row_of(field: str, row: int) -> str:
    """A row of one long array."""
    return f"{field}, row {row}"


def assemble(
    *,
    where: str,
    task: Task,
    obs: Any,
    action: Any,
    reward: Any,
    terminal: Any,
    timeout: Any,
    next_obs: Any = None,
    names: dict[str, str] | None = None,
    locate: Locate = row_of,
) -> Transitions:
    """Check logged steps of whole episodes, one after the other, and join them.

    Args:
        where: the file or folder, as messages name it.
        task: what they were recorded in; sizes and bounds must agree with the arrays.
        obs: (steps, obs) what was seen before each action.
        action: (steps, act), in the environment's units; clipped to bounds that they exceed by rounding.
        reward: (steps,) or (steps, 1).
        terminal: (steps,) or (steps, 1), bool or numbers that are 0 or 1: the task ended, no value follows.
        timeout: likewise: recording ended, value follows. Where both are set, `terminal` wins. The last step of all
            ends its episode in any case.
        next_obs: (steps, obs) what was seen after each action. None: the next row of the same episode. The last row of
            an episode then has none: where a terminal step does not need one it keeps its own; a timed-out one is
            dropped with its reward, and is what the step before it saw.
        names: what the file calls these fields, for messages; by default their names here.
        locate: where a row of such a field lies.

    Returns:
        Transitions, float32 and bool.

    Raises:
        InputError: a shape, size or type is wrong, a value is not finite or out of bounds, or nothing is left, be it
            of the steps or of the rewards that are not zero.
    """
    width = {"obs": (task.obs_dim,), "next_obs": (task.obs_dim,), "action": (task.act_dim,)}
    given = {"obs": obs, "action": action, "reward": reward, "terminal": terminal, "timeout": timeout}
    if next_obs is not None:
        given["next_obs"] = next_obs
    called = {field: field for field in given} | (names or {})
    steps = len(np.atleast_1d(reward))
    arrays: dict[str, np.ndarray] = {}
    for field, value in given.items():
        array = np.asarray(value)
        if not width.get(field) and array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]
        if array.dtype.kind not in "fiub":
            raise InputError(f"{where}: {called[field]}: type {array.dtype}; numbers are needed")
        needed = (steps, *width.get(field, ()))
        if array.shape != needed:
            raise InputError(f"{where}: {called[field]}: shape {array.shape}; {needed} is needed")
        if field in ("terminal", "timeout"):
            _refuse(~np.isin(array, (0, 1)), array, field, called, where, locate, "0 or 1 is needed")
            arrays[field] = array.astype(bool)
        else:
            with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is reported as such
                arrays[field] = array.astype(np.float32)
            bad = ~np.isfinite(arrays[field])
            _refuse(bad, array, field, called, where, locate, "finite float32 numbers are needed")
    if not steps:
        raise InputError(f"{where}: holds no steps; at least one episode of two is needed")

    low, high, slack = action_bounds(task, where)
    outside = (arrays["action"] < low - slack) | (arrays["action"] > high + slack)
    bounds = f"the action space is {task.action_low} to {task.action_high}"
    _refuse(outside, arrays["action"], "action", called, where, locate, bounds)
    arrays["action"] = arrays["action"].clip(low, high)

    arrays["timeout"] = arrays["timeout"] & ~arrays["terminal"]
    arrays["timeout"][-1] |= not arrays["terminal"][-1]
    if "next_obs" not in arrays:
        rewarded, arrays = arrays["reward"].any(), _with_next_obs(arrays)
        if len(arrays["reward"]) and rewarded and not arrays["reward"].any():
            raise InputError(
                f"{where}: {called['reward']}: only the last rows of timed-out episodes have any, and what followed "
                "those rows is not recorded, so they cannot be kept; mark them as terminal, or give next_obs"
            )
    if not len(arrays["reward"]):
        raise InputError(f"{where}: no episode has a second step; sequences of steps are needed, not single ones")
    return Transitions(**arrays, task=task)


def action_bounds(task: Task, where: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lowest and highest action in float32, and by how much rounding may exceed them.

    Raises:
        InputError: the action space is not bounded by float32 numbers.
    """
    with np.errstate(over="ignore"):
        low, high = np.array(task.action_low, np.float32), np.array(task.action_high, np.float32)
    if not np.isfinite([low, high]).all():
        bounds = f"{task.action_low} to {task.action_high}"
        raise InputError(f"{where}: the action space is {bounds}; finite float32 numbers are needed")
    return low, high, _ACTION_TOLERANCE * np.maximum(1.0, np.maximum(np.abs(low), np.abs(high)))


def _with_next_obs(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    terminal, timeout = arrays["terminal"], arrays["timeout"]
    last = terminal | timeout
    after = np.minimum(np.arange(len(last)) + 1, len(last) - 1)
    next_obs = np.where(last[:, None], arrays["obs"], arrays["obs"][after])
    # The step before a dropped one is the last of its episode; an episode of that one step alone is gone.
    cut = timeout.copy()
    timeout = np.concatenate([cut[1:], [False]]) & ~last
    kept = {name: array[~cut] for name, array in arrays.items()}
    return kept | {"next_obs": next_obs[~cut], "timeout": timeout[~cut]}


def apart(obs: np.ndarray, next_obs: np.ndarray) -> np.ndarray:
    """Where the following row is not what was seen next, but for rounding: (steps,) bool, of the last row True."""
    seen, after = next_obs[:-1], obs[1:]
    kind = np.result_type(seen, after, np.float32)
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is reported by `assemble`
        gap = np.abs(np.subtract(after, seen, dtype=kind))
        wide = gap > _GAP * np.maximum(1.0, np.abs(seen, dtype=kind))
    return np.append(wide.any(axis=1), True)[: len(obs)]


def _refuse(
    bad: np.ndarray, array: np.ndarray, field: str, called: dict[str, str], where: str, locate: Locate, needed: str
) -> None:
    """Raises InputError on the first of the `bad` entries, if there is one."""
    if bad.any():
        row, *column = (int(index) for index in np.argwhere(bad)[0])
        place = locate(called[field], row) + "".join(f", column {index}" for index in column)
        raise InputError(f"{where}: {place}: {array[(row, *column)]!s}; {needed}")
