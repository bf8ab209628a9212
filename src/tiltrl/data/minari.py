"""Reads data sets in Minari's format (0.5, HDF5) from the local disk.

`<folder>/data/{metadata.json, main_data.hdf5}`; the HDF5 file holds one group `episode_<k>` per episode, with T+1 rows
of `observations` and T rows of `actions`, `rewards`, `terminations` and `truncations`. We read it with h5py: Minari's
own loader is slower on sets of short episodes, and checks none of what is checked here.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5g, h5s  # pyright: ignore[reportAttributeAccessIssue]: h5py's low level has no stubs

from tiltrl.data.registry import env_id, reference
from tiltrl.errors import InputError
from tiltrl.types import Task, Transitions

_FIELDS: dict[str, type[np.generic]] = {  # what an episode consists of, and the type it is read as
    "observations": np.float32,
    "actions": np.float32,
    "rewards": np.float32,
    "terminations": np.bool_,
    "truncations": np.bool_,
}
_ACTION_TOLERANCE = 1e-5  # relative to the bounds: float32 rounding of an action at a bound is no error
_REMOVED_SPEC_KEYS = {"apply_api_compatibility", "autoreset"}  # written by Gymnasium < 1.0, rejected by later ones


def load_minari(spec: str) -> Transitions:
    """Loads a data set by folder or by Minari id.

    Args:
        spec: a folder that holds `data/main_data.hdf5` (or the `data` folder itself), or an id such as
            "mujoco/hopper/medium-v0" below `MINARI_DATASETS_PATH`, by default `~/.minari/datasets`.

    Returns:
        All episodes in order, float32. An episode that ends with neither flag was cut by its collector and counts as
        timed out; where both flags are set, `terminal` wins. Actions are clipped to the bounds they may exceed by
        rounding. The reference scores are the data set's own, else those of `registry`.

    Raises:
        InputError: there is no such data set here, or it cannot be used; the message says where and why.
    """
    return read_folder(_find(spec), name=spec)


def read_folder(folder: Path, name: str) -> Transitions:
    """Loads the data set in `folder`, a `data` folder, and calls it `name`; otherwise as `load_minari`."""
    metadata = _json(folder / "metadata.json")
    task = _task(metadata, folder / "metadata.json", name)
    path = folder / "main_data.hdf5"
    if not path.is_file():
        raise InputError(f"{path}: no such file; a Minari data set has it beside metadata.json")
    try:
        with h5py.File(path, "r") as file:
            episodes = _read_episodes(file, path, task)
    except InputError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError) as error:  # h5py raises any, by where the damage is
        reason = str(error).replace("\n", " ")
        raise InputError(f"{path}: not readable as HDF5 ({reason}); copy or download the file again") from error
    declared = metadata.get("total_episodes")
    if declared not in (None, len(episodes.lengths)):
        raise InputError(
            f"{path}: holds {len(episodes.lengths)} episodes where metadata.json says total_episodes = {declared}; "
            "copy or download the data set again"
        )
    return _assemble(episodes, task, path)


# --- Where it is ------------------------------------------------------------------------------------------------------


def _find(spec: str) -> Path:
    root = Path(os.environ.get("MINARI_DATASETS_PATH") or "~/.minari/datasets").expanduser()
    given = Path(spec).expanduser()
    for folder in (given / "data", given, root / spec / "data"):
        if (folder / "main_data.hdf5").is_file() or (folder / "metadata.json").is_file():
            return folder
    if given.is_dir():
        raise InputError(f"{given}: not a Minari data set; the folder must hold data/main_data.hdf5")
    present = sorted(str(path.parents[1].relative_to(root)) for path in root.rglob("data/metadata.json"))
    near = difflib.get_close_matches(spec, present, n=5, cutoff=0.4) or present[:5]
    raise InputError(
        f"{spec}: no such folder, and no Minari data set of that id in {root} "
        f"({'which has ' + ', '.join(near) if near else 'which has none'}); fetch it with: minari download {spec}"
    )


# --- What it was recorded in ------------------------------------------------------------------------------------------


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; a Minari data set has it beside main_data.hdf5") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON ({error}); copy or download the file again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds {type(content).__name__}; Minari's metadata is a JSON object")
    return content


def _task(metadata: dict[str, Any], path: Path, name: str) -> Task:
    data_format = metadata.get("data_format", "hdf5")
    if data_format != "hdf5":
        raise InputError(f"{path}: data_format is {data_format!r}; only 'hdf5' is supported")
    obs_space, action_space = (_box(metadata, key, path) for key in ("observation_space", "action_space"))
    low, high = _bounds(action_space, path)
    env_spec = _env_spec(metadata.get("env_spec"), path)
    task = Task(name, env_spec, low, high, obs_dim=obs_space["shape"][0])
    ref_min, ref_max = _reference_scores(metadata, task, path)
    return replace(task, ref_min=ref_min, ref_max=ref_max)


def _box(metadata: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
    """Minari's description of a Box space of shape (n,): `shape`, `dtype`, `low` and `high`."""
    try:
        space = json.loads(metadata[key])
        kind, shape = space["type"], space.get("shape")
    except KeyError as error:
        raise InputError(f"{path}: {error} is missing; {key} must be a Box space of shape (n,) in JSON") from error
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: {key} is not a space in JSON ({error}); a Box of shape (n,) is needed") from error
    if kind == "Dict":
        raise InputError(f"{path}: {key} is Dict; Dict spaces are not supported yet, only Box of shape (n,)")
    if kind != "Box":
        raise InputError(f"{path}: {key} is {kind}; only continuous spaces are supported, Box of shape (n,)")
    if not isinstance(shape, list) or len(shape) != 1 or not isinstance(shape[0], int) or shape[0] < 1:
        raise InputError(f"{path}: {key} has shape {shape}; images and nested shapes are not supported, only (n,)")
    return space


def _bounds(space: dict[str, Any], path: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    try:
        low, high = (np.broadcast_to(np.asarray(space[key], np.float64), space["shape"]) for key in ("low", "high"))
        continuous = np.issubdtype(np.dtype(space["dtype"]), np.floating)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: action_space is unusable ({error}); dtype, low and high are needed") from error
    if not continuous:
        raise InputError(f"{path}: action_space has dtype {space['dtype']}; only continuous actions are supported")
    for dim, (lowest, highest) in enumerate(zip(low, high, strict=True)):
        if not (np.isfinite([lowest, highest]).all() and lowest < highest):
            raise InputError(
                f"{path}: action_space has bounds [{lowest:g}, {highest:g}] in dimension {dim}; they must be finite "
                "and low < high, so that actions can be scaled to [-1, 1]"
            )
    return tuple(low.tolist()), tuple(high.tolist())


def _env_spec(text: Any, path: Path) -> str | None:
    """The environment's EnvSpec as JSON that the installed Gymnasium accepts."""
    if text is None:
        return None
    try:
        spec = json.loads(text)
    except (TypeError, ValueError):
        spec = None
    if not isinstance(spec, dict) or not isinstance(spec.get("id"), str):
        raise InputError(f"{path}: env_spec is {text!r:.80}; it must be Gymnasium's EnvSpec as JSON, with an id")
    return json.dumps({key: value for key, value in spec.items() if key not in _REMOVED_SPEC_KEYS})


def _reference_scores(metadata: dict[str, Any], task: Task, path: Path) -> tuple[float | None, float | None]:
    low, high = metadata.get("ref_min_score"), metadata.get("ref_max_score")
    if low is None or high is None:
        row = reference(env_id(task))
        return row.ref_min, row.ref_max
    if not all(isinstance(score, int | float) and np.isfinite(score) for score in (low, high)) or low >= high:
        raise InputError(
            f"{path}: ref_min_score, ref_max_score are {low!r}, {high!r}; two finite numbers are needed, min < max"
        )
    return float(low), float(high)


# --- The steps --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Episodes:
    """All episodes, one after the other; `observations` has one row more per episode than the others."""

    names: list[str]
    lengths: np.ndarray  # steps of each episode
    arrays: dict[str, np.ndarray]

    def locate(self, field: str, row: int) -> str:
        """Where a row lies, such as "episode_3, rewards, row 5", for a row of the concatenated array."""
        ends = np.cumsum(self.lengths + (field == "observations"))
        episode = int(np.searchsorted(ends, row, side="right"))
        return f"{self.names[episode]}, {field}, row {row - (ends[episode - 1] if episode else 0)}"


def _read_episodes(file: h5py.File, path: Path, task: Task) -> _Episodes:
    names = [name for name in map(str, file) if re.fullmatch(r"episode_\d+", name)]
    names.sort(key=lambda name: int(name.removeprefix("episode_")))  # HDF5's own order: episode_10 before episode_2
    if not names:
        raise InputError(f"{path}: holds no episodes; groups episode_0, episode_1, ... are needed")
    width = {"observations": (task.obs_dim,), "actions": (task.act_dim,)}
    parts: dict[str, list[np.ndarray]] = {field: [] for field in _FIELDS}
    for name in names:
        group = h5g.open(file.id, name.encode())
        for field in _FIELDS:
            parts[field].append(_read(group, field, width.get(field, ()), f"{path}: {name}"))
        steps = len(parts["rewards"][-1])
        if steps == 0:
            raise InputError(f"{path}: {name} has no steps; every episode needs at least one, remove the group")
        for field in _FIELDS:
            rows, expected = len(parts[field][-1]), steps + (field == "observations")
            if rows != expected:
                raise InputError(
                    f"{path}: {name}, {field}: {rows} rows; rewards has {steps}, so {expected} rows are needed"
                )
    lengths = np.array([len(rewards) for rewards in parts["rewards"]])
    if lengths.max() == 1:
        raise InputError(f"{path}: no episode has a second step; sequences of steps are needed, not single ones")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is reported as such
        arrays = {field: np.concatenate(parts[field]).astype(dtype) for field, dtype in _FIELDS.items()}
    return _Episodes(names, lengths, arrays)


def _read(group: h5g.GroupID, field: str, width: tuple[int, ...], where: str) -> np.ndarray:
    """One array of an episode, through h5py's low-level interface: a third of the time for sets of short episodes."""
    name = field.encode()
    if name not in group:
        raise InputError(f"{where}: {field} is missing; an episode needs {', '.join(_FIELDS)}")
    try:
        data = h5d.open(group, name)
    except (KeyError, ValueError) as error:
        raise InputError(f"{where}, {field}: not an array ({error}); Dict spaces are not supported yet") from error
    shape, dtype = data.shape, data.dtype
    if dtype.kind not in ("biu" if _FIELDS[field] is np.bool_ else "biuf"):
        raise InputError(f"{where}, {field}: dtype {dtype}; {_FIELDS[field].__name__} is needed")
    if not shape or shape[1:] != width:
        raise InputError(f"{where}, {field}: shape {shape}; {('rows', *width)} is needed".replace("'", ""))
    array = np.empty(shape, dtype)
    data.read(h5s.ALL, h5s.ALL, array)
    return array


def _assemble(episodes: _Episodes, task: Task, path: Path) -> Transitions:
    arrays = episodes.arrays
    for field in ("observations", "actions", "rewards"):
        _refuse(~np.isfinite(arrays[field]), field, episodes, path, "finite float32 numbers are needed")
    low, high = np.array(task.action_low, np.float32), np.array(task.action_high, np.float32)
    slack = _ACTION_TOLERANCE * np.maximum(1.0, np.maximum(np.abs(low), np.abs(high)))
    outside = (arrays["actions"] < low - slack) | (arrays["actions"] > high + slack)
    _refuse(outside, "actions", episodes, path, f"the action space is {task.action_low} to {task.action_high}")

    last = np.zeros(episodes.lengths.sum(), dtype=bool)
    last[np.cumsum(episodes.lengths) - 1] = True
    for field in ("terminations", "truncations"):
        _refuse(arrays[field] & ~last, field, episodes, path, "only an episode's last row may end it")
    terminal = arrays["terminations"]

    first_row = np.concatenate([[0], np.cumsum(episodes.lengths + 1)[:-1]])
    last_row = np.cumsum(episodes.lengths + 1) - 1
    return Transitions(
        obs=np.delete(arrays["observations"], last_row, axis=0),
        action=arrays["actions"].clip(low, high),
        reward=arrays["rewards"],
        next_obs=np.delete(arrays["observations"], first_row, axis=0),
        terminal=terminal,
        timeout=last & ~terminal,
        task=task,
    )


def _refuse(bad: np.ndarray, field: str, episodes: _Episodes, path: Path, needed: str) -> None:
    """Raises InputError on the first of the `bad` entries, if there is one."""
    if bad.any():
        row, *column = np.argwhere(bad)[0]
        value = episodes.arrays[field][(row, *column)]
        place = episodes.locate(field, row) + "".join(f", column {index}" for index in column)
        raise InputError(f"{path}: {place}: {value!s}; {needed}")
