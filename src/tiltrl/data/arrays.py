"""Files of arrays, and arrays themselves: any log of observations and actions, whatever its columns are called.

Bounds of the action space are the environment's where one is named, or else the smallest and largest action seen in
each dimension; one in which all actions are equal gets half a unit on either side.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import ArrayLike

from tiltrl.data.assemble import apart, assemble
from tiltrl.data.recorded import described_task
from tiltrl.data.registry import reference
from tiltrl.data.spec import FOUND, Columns
from tiltrl.data.tables import Table, open_table
from tiltrl.environments import known_spec, leaves, make
from tiltrl.errors import InputError
from tiltrl.types import Task, Transitions

USUAL_NAMES: dict[str, tuple[str, ...]] = {
    "obs": ("observations", "obs", "observation", "state", "states", "observation.state"),
    "action": ("actions", "action", "control", "controls", "u"),
    "reward": ("rewards", "reward", "next.reward"),
    "next_obs": ("next_observations", "next_obs", "next_observation"),
    "terminal": ("terminals", "terminations", "terminal", "terminated", "dones", "done", "next.done"),
    "timeout": ("timeouts", "truncations", "timeout", "truncated"),
    "episode": ("episode_index", "episode", "episode_id"),
}
"""What each field is looked for as, in this order."""

_DONE = ("dones", "done", "next.done")  # often set where an episode ends in any way


def read_arrays(path: Path, name: str, columns: Columns = FOUND) -> Transitions:
    """Read a .npz, HDF5 or Parquet file of arrays with one row a step.

    Args:
        path: the file. One that TiltRL wrote brings its task (bounds, environment, references) along.
        name: what to call the data set.
        columns: which array is which field; what is not named is looked for by `USUAL_NAMES`.

    Returns:
        Transitions; see `from_arrays` for how episodes are found, and what becomes of their last rows.

    Raises:
        InputError: the file is damaged, lacks a column, or holds values that cannot be used.
    """
    with open_table(path) as table:
        called = {field: _find(table, field, columns) for field in USUAL_NAMES}
        for field in ("obs", "action"):
            if not called[field]:
                raise InputError(
                    f"{path}: no array is called {' or '.join(USUAL_NAMES[field])}; it has "
                    f"{', '.join(table.names) or 'none'}; say which is the {field}, as in "
                    f"'{path.name}?{field}=NAME', with quotes"
                )
        found = {field: _joined(table, names) for field, names in called.items() if names}
        task = described_task(table)
    names = {field: "+".join(columns) for field, columns in called.items() if columns}
    if "terminal" in found and "timeout" in found and called["terminal"][0] in _DONE:
        found["terminal"] = _without(found["terminal"], found["timeout"])
    return _transitions(found, name, str(path), names, columns.env, task)


def from_arrays(
    obs: ArrayLike,
    action: ArrayLike,
    reward: ArrayLike | None = None,
    *,
    next_obs: ArrayLike | None = None,
    terminal: ArrayLike | None = None,
    timeout: ArrayLike | None = None,
    episode: ArrayLike | None = None,
    env: str | None = None,
    name: str = "arrays",
) -> Transitions:
    """Checked transitions from arrays with one row a step.

    An episode ends where `terminal` or `timeout` is set and where `episode` changes its number; without all three it
    is one episode. Where `next_obs` is given and neither `timeout` nor `episode`, it also ends where the following row
    is not what was seen next, but for rounding. An end that is not `terminal` is a timeout: a value follows it, but no
    reward.

    Args:
        obs: (steps, obs) what was seen before each action; (steps,) for one dimension.
        action: (steps, act), likewise, in the environment's units.
        reward: (steps,); None: zeros.
        next_obs: (steps, obs) what was seen after each action. None: the next row of the same episode; a last row that
            timed out then only tells what the step before it saw, and is no step itself: it is dropped, and its
            action and reward with it.
        terminal: (steps,) the task ended, no value follows.
        timeout: (steps,) recording ended, value follows. Where both are set, `terminal` wins.
        episode: (steps,) a number that is the same for all steps of one episode.
        env: id of the Gymnasium environment to evaluate in, such as "Hopper-v5". It gives the action bounds; without,
            they are the smallest and largest action in each dimension, plus and minus 0.5 where these are equal.
        name: what to call the data set.

    Raises:
        InputError: shapes disagree, values are not finite numbers or out of bounds, or the environment is unknown; or
            only rows that are dropped have rewards.
    """
    given = {
        "obs": obs,
        "action": action,
        "reward": reward,
        "next_obs": next_obs,
        "terminal": terminal,
        "timeout": timeout,
        "episode": episode,
    }
    found = {field: _array(value, f"{name}: {field}") for field, value in given.items() if value is not None}
    if missing := [field for field in ("obs", "action") if field not in found]:
        raise InputError(f"{name}: {missing[0]} is None; an array with one row a step is needed")
    return _transitions(found, name, name, {}, env, None)


# --- Which array is which ---------------------------------------------------------------------------------------------


def _find(table: Table, field: str, columns: Columns) -> tuple[str, ...]:
    """What the file calls a field: as it was named, or else by a usual name; () for neither."""
    named = getattr(columns, field)
    if not named:
        return next(((name,) for name in USUAL_NAMES[field] if name in table.names), ())
    # A name may hold a comma itself.
    wanted = named if isinstance(named, tuple) else (named,) if named in table.names else tuple(named.split(","))
    if missing := [name for name in wanted if name not in table.names]:
        raise InputError(
            f"{table.where}: holds no array {missing[0]!r} for {field}; it has {', '.join(table.names) or 'none'}"
        )
    return wanted


def _joined(table: Table, names: tuple[str, ...]) -> np.ndarray:
    """One array, or several side by side."""
    arrays = [table.read(name) for name in names]
    if len(arrays) == 1:
        return arrays[0]
    for name, array in zip(names, arrays, strict=True):
        if array.dtype.kind not in "fiub" or array.ndim not in (1, 2) or len(array) != len(arrays[0]):
            raise InputError(
                f"{table.where}: {name}: {array.dtype} of shape {array.shape} cannot be joined with {names[0]} of "
                f"shape {arrays[0].shape}; numbers of shape (steps,) or (steps, n) are needed, with equal steps"
            )
    return np.concatenate([array.reshape(len(array), -1) for array in arrays], axis=1)


def _without(done: np.ndarray, timeout: np.ndarray) -> np.ndarray:
    """Ends that are no timeouts: Gymnasium's old `done` is set for both."""
    if done.size != timeout.size or done.dtype.kind not in "fiub" or timeout.dtype.kind not in "fiub":
        return done  # and `assemble` will say what is wrong with it
    return np.where(timeout.reshape(done.shape) == 1, 0, done)


# --- From arrays to transitions ---------------------------------------------------------------------------------------


def _transitions(
    found: dict[str, np.ndarray], name: str, where: str, names: dict[str, str], env: str | None, task: Task | None
) -> Transitions:
    called = {field: names.get(field, field) for field in USUAL_NAMES}
    for field in ("obs", "next_obs", "action"):
        if field in found:
            found[field] = _rows(found[field], f"{where}: {called[field]}")
    steps = len(found["obs"])
    flags = {field: _flag(found.get(field), steps, f"{where}: {called[field]}") for field in ("terminal", "timeout")}
    ends = (flags["terminal"] == 1) | (flags["timeout"] == 1)
    if "episode" in found:
        number = _flag(found["episode"], steps, f"{where}: {called['episode']}")
        ends |= np.append(number[1:] != number[:-1], True)
    elif "next_obs" in found and "timeout" not in found and found["next_obs"].shape == found["obs"].shape:
        ends |= apart(found["obs"], found["next_obs"])
    if env is not None:
        task = _task_in(env, found, name, where)
    task = _task(found, name) if task is None else replace(task, dataset=name)
    return assemble(
        where=where,
        task=task,
        obs=found["obs"],
        action=found["action"],
        reward=found["reward"] if "reward" in found else np.zeros(steps, np.float32),
        terminal=flags["terminal"],
        # Where a flag is neither 0 nor 1, `assemble` says so.
        timeout=np.where(ends & (flags["timeout"] == 0), 1, flags["timeout"]),
        next_obs=found.get("next_obs"),
        names=called,
    )


def _array(value: Any, where: str) -> np.ndarray:
    try:
        return np.asarray(value)
    except (ValueError, TypeError) as error:  # lists of different lengths, for one
        raise InputError(f"{where}: not an array ({' '.join(str(error).split())}); equal rows are needed") from error


def _rows(array: np.ndarray, where: str) -> np.ndarray:
    """(steps, n), from that or (steps,)."""
    if array.dtype.kind not in "fiub":
        raise InputError(f"{where}: type {array.dtype}; numbers are needed")
    if array.ndim not in (1, 2) or array.shape[1:] == (0,):
        raise InputError(f"{where}: shape {array.shape}; (steps, n) is needed, one vector a step (images are not read)")
    if not len(array):
        raise InputError(f"{where}: holds no steps; at least one episode of two is needed")
    return array[:, None] if array.ndim == 1 else array


def _flag(array: np.ndarray | None, steps: int, where: str) -> np.ndarray:
    """(steps,), from that or (steps, 1); zeros for None."""
    if array is None:
        return np.zeros(steps, np.float32)
    if array.dtype.kind not in "fiub" or array.shape not in ((steps,), (steps, 1)):
        raise InputError(f"{where}: {array.dtype} of shape {array.shape}; {steps} numbers are needed, one a step")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        row = int(np.argmax(~np.isfinite(array.reshape(steps))))
        raise InputError(f"{where}, row {row}: {array.reshape(steps)[row]}; finite numbers are needed")
    return array.reshape(steps)


def _task(found: dict[str, np.ndarray], name: str) -> Task:
    """A task without environment, whose action space is what was seen."""
    with np.errstate(over="ignore"):
        action = found["action"].astype(np.float32)
    low, high = action.min(axis=0).astype(np.float64), action.max(axis=0).astype(np.float64)
    finite = np.isfinite(low) & np.isfinite(high)  # where it is not, `assemble` will say so
    half = np.where(low < high, 0.0, 0.5)
    low, high = np.where(finite, low - half, -1.0), np.where(finite, high + half, 1.0)
    return Task(name, None, tuple(low.tolist()), tuple(high.tolist()), found["obs"].shape[1])


def _task_in(env: str, found: dict[str, np.ndarray], name: str, where: str) -> Task:
    """The task of a Gymnasium environment."""
    spec = known_spec(env, where)
    with closing(make(spec, f"{where}: environment {env}")) as made:
        seen, acts = made.observation_space, made.action_space
    sizes = leaves(seen)
    if sizes is None or not isinstance(acts, gymnasium.spaces.Box) or len(acts.shape) != 1:
        raise InputError(f"{where}: environment {env} has observations {seen}, actions {acts}; vectors are needed")
    for field, size in (("obs", sum(sizes.values())), ("action", acts.shape[0])):
        if found[field].shape[1] != size:
            raise InputError(
                f"{where}: {field} has {found[field].shape[1]} dimensions where environment {env} has {size}; name the "
                "environment that the data was recorded in"
            )
    row = reference(env)
    return Task(
        dataset=name,
        env_spec=spec.to_json(),
        action_low=tuple(acts.low.astype(float).tolist()),
        action_high=tuple(acts.high.astype(float).tolist()),
        obs_dim=sum(sizes.values()),
        ref_min=row.ref_min,
        ref_max=row.ref_max,
        obs_keys=() if "" in sizes else tuple(sizes),
    )


def in_environment(transitions: Transitions, env: str, where: str) -> Transitions:
    """The same steps, to be evaluated in another environment: its bounds and references instead of the data's own.

    Raises:
        InputError: the environment is unknown or does not fit, or an action lies out of its bounds.
    """
    arrays = {"obs": transitions.obs, "action": transitions.action}
    task = _task_in(env, arrays, transitions.task.dataset, where)
    fields: dict[str, Any] = {
        field: getattr(transitions, field) for field in ("obs", "action", "reward", "terminal", "timeout", "next_obs")
    }
    return assemble(where=where, task=task, **fields)
