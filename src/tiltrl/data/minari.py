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
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5g, h5s  # pyright: ignore[reportAttributeAccessIssue]: h5py's low level has no stubs

from tiltrl.data.assemble import assemble
from tiltrl.data.registry import env_id, reference
from tiltrl.data.tables import check_inside, check_size, find, reading
from tiltrl.environments import in_order
from tiltrl.errors import InputError
from tiltrl.files import read_file
from tiltrl.types import Task, Transitions

MINARI_ID = re.compile(r"(?=.{1,200}\Z)[\w-]+(/[\w-]+)*-v\d+", re.ASCII)
"""What an id looks like; one that fits cannot lead out of the folder it is looked for in."""

_MOST_METADATA = 64_000_000  # bytes of metadata.json
_MOST_ACTIONS = 100_000  # bounds may be told by one number for all, so that the file's size bounds nothing
_CONTINUOUS = re.compile(r"float\d*|[<>=]?f\d+", re.ASCII)  # NumPy itself would parse any text as Python's
_NEXT = "next row of "
_CALLED = {"obs": "observations", "next_obs": f"{_NEXT}observations", "action": "actions", "reward": "rewards"}
_FIELDS = ("observations", "actions", "rewards", "terminations", "truncations")  # what an episode consists of
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
    if (folder := find_minari(spec)) is None:
        raise _missing(spec)
    return read_folder(folder, name=spec)


def read_folder(folder: Path, name: str) -> Transitions:
    """Loads the data set in `folder`, a `data` folder, and calls it `name`; otherwise as `load_minari`."""
    metadata = _json(folder / "metadata.json")
    task, widths = _task(metadata, folder / "metadata.json", name)
    path = folder / "main_data.hdf5"
    if not os.path.isfile(path):
        raise InputError(f"{path}: no such file; a Minari data set has it beside metadata.json")
    with reading(str(path), "HDF5"), h5py.File(path, "r") as file:
        episodes = _read_episodes(file, path, task, widths)
    declared = metadata.get("total_episodes")
    if declared not in (None, len(episodes.lengths)):
        raise InputError(
            f"{path}: holds {len(episodes.lengths)} episodes where metadata.json says total_episodes = {declared}; "
            "copy or download the data set again"
        )
    return _assemble(episodes, task, path)


# --- Where it is ------------------------------------------------------------------------------------------------------


def minari_root() -> Path:
    """The folder that Minari keeps its data sets in: `MINARI_DATASETS_PATH`, or `~/.minari/datasets`."""
    return Path(os.path.expanduser(os.environ.get("MINARI_DATASETS_PATH") or "~/.minari/datasets"))


def find_minari(spec: str) -> Path | None:
    """The `data` folder of a data set given by folder or by Minari id; None where there is none.

    Raises:
        InputError: a link leads the id out of the data sets' folder.
    """
    given, root = Path(os.path.expanduser(spec)), minari_root()
    folders = [given / "data", given] if spec else []
    if MINARI_ID.fullmatch(spec):
        folders.append(root / spec / "data")
    for folder in folders:
        if any(os.path.isfile(folder / name) for name in ("main_data.hdf5", "metadata.json")):
            if (
                folder.is_relative_to(root)
                and not os.path.isdir(given)
                and not folder.resolve().is_relative_to(root.resolve())
            ):
                raise InputError(
                    f"{spec}: leads out of {root} by a link, to {folder.resolve()}; give that folder itself"
                )
            return folder
    return None


def _missing(spec: str) -> InputError:
    if os.path.isdir(os.path.expanduser(spec)):
        return InputError(f"{spec}: not a Minari data set; the folder must hold data/main_data.hdf5")
    if not MINARI_ID.fullmatch(spec):
        return InputError(
            f"{spec}: no such folder, and no Minari id either; an id looks like mujoco/hopper/medium-v0, with letters, "
            "digits, _ and - between its slashes"
        )
    return InputError(
        f"{spec}: no such folder, and no Minari data set of that id in {present_near(spec)}; fetch it with: "
        f"minari download {spec}"
    )


def present_near(dataset_id: str) -> str:
    """The data sets' folder and what it has like this id, for messages."""
    root = minari_root()
    present = sorted(str(path.parents[1].relative_to(root)) for path in root.rglob("data/metadata.json"))
    near = difflib.get_close_matches(dataset_id, present, n=5, cutoff=0.4) or present[:5]
    return f"{root} ({'which has ' + ', '.join(near) if near else 'which has none'})"


# --- What it was recorded in ------------------------------------------------------------------------------------------


def _json(path: Path) -> dict[str, Any]:
    if not os.path.exists(path):
        raise InputError(f"{path}: no such file; a Minari data set has it beside main_data.hdf5")
    raw = read_file(path, _MOST_METADATA)
    try:
        content = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON ({error}); copy or download the file again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds {type(content).__name__}; Minari's metadata is a JSON object")
    return content


def _task(metadata: dict[str, Any], path: Path, name: str) -> tuple[Task, dict[str, int]]:
    """The task, and the size of each leaf of its observations (see `_widths`)."""
    data_format = metadata.get("data_format", "hdf5")
    if data_format != "hdf5":
        raise InputError(f"{path}: data_format is {data_format!r}; only 'hdf5' is supported")
    low, high = _bounds(_box(_space(metadata, "action_space", path), "action_space", path), path)
    widths = _widths(_space(metadata, "observation_space", path), "observation_space", path)
    env_spec = _env_spec(metadata.get("env_spec"), path)
    keys = () if "" in widths else tuple(widths)
    task = Task(name, env_spec, low, high, obs_dim=sum(widths.values()), obs_keys=keys)
    ref_min, ref_max = _reference_scores(metadata, task, path)
    return replace(task, ref_min=ref_min, ref_max=ref_max), widths


def _space(metadata: dict[str, Any], key: str, path: Path) -> Any:
    """A space as Minari describes it in JSON."""
    try:
        return json.loads(metadata[key])
    except KeyError as error:
        raise InputError(f"{path}: {error} is missing; {key} must be a space of Gymnasium's in JSON") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: {key} is not a space in JSON ({error}); a Box of shape (n,) is needed") from error


def _widths(space: Any, key: str, path: Path, leaf: str = "") -> dict[str, int]:
    """Size of each leaf of an observation space, in the order they are joined: "" for a Box, else its path in Dicts."""
    if not (isinstance(space, dict) and space.get("type") == "Dict"):
        return {leaf: _box(space, key, path)["shape"][0]}
    below = space.get("subspaces")
    if not isinstance(below, dict) or not below:
        raise InputError(f"{path}: {key} is a Dict without subspaces; Boxes of shape (n,) are needed in it")
    if odd := [name for name in below if "/" in name or name in ("", ".")]:
        raise InputError(f"{path}: {key} has the part {odd[0]!r}; names without '/' are needed")
    widths: dict[str, int] = {}
    for name in in_order(below):
        inside = f"{leaf}/{name}" if leaf else name
        widths |= _widths(below[name], f"{key.split()[0]} {inside}", path, inside)
    return widths


def _box(space: Any, key: str, path: Path) -> dict[str, Any]:
    """Minari's description of a Box space of shape (n,): `shape`, `dtype`, `low` and `high`."""
    if not isinstance(space, dict) or "type" not in space:
        raise InputError(f"{path}: {key} is not a space in JSON ({space!r:.80}); a Box of shape (n,) is needed")
    kind, shape = space["type"], space.get("shape")
    if kind != "Box":
        raise InputError(f"{path}: {key} is {kind}; only continuous spaces are supported, Box of shape (n,)")
    if not isinstance(shape, list) or len(shape) != 1 or not isinstance(shape[0], int) or shape[0] < 1:
        raise InputError(f"{path}: {key} has shape {shape}; images and nested shapes are not supported, only (n,)")
    return space


def _bounds(space: dict[str, Any], path: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    (size,) = space["shape"]
    if size > _MOST_ACTIONS:
        raise InputError(f"{path}: action_space has shape ({size:.6g},); at most {_MOST_ACTIONS} actions are supported")
    try:
        dtype, low, high = space["dtype"], *(np.asarray(space[key], np.float64) for key in ("low", "high"))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: action_space is unusable ({error}); dtype, low and high are needed") from error
    if not isinstance(dtype, str) or not _CONTINUOUS.fullmatch(dtype):
        raise InputError(f"{path}: action_space has dtype {dtype!s:.80}; only continuous actions are supported")
    if not {low.shape, high.shape} <= {(), (size,)}:
        raise InputError(
            f"{path}: action_space is unusable (low of shape {low.shape}, high of {high.shape}); ({size},) is needed"
        )
    low, high = np.broadcast_to(low, size), np.broadcast_to(high, size)
    if (bad := ~(np.isfinite(low) & np.isfinite(high) & (low < high))).any():
        dim = int(np.argmax(bad))
        raise InputError(
            f"{path}: action_space has bounds [{low[dim]:g}, {high[dim]:g}] in dimension {dim}; they must be finite "
            "and low < high, so that actions can be scaled to [-1, 1]"
        )
    return tuple(low.tolist()), tuple(high.tolist())


def _env_spec(text: Any, path: Path) -> str | None:
    """The environment's EnvSpec as JSON that the installed Gymnasium accepts."""
    if text is None:
        return None
    try:
        spec = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        spec = None
    if not isinstance(spec, dict) or not isinstance(spec.get("id"), str):
        raise InputError(f"{path}: env_spec is {text!r:.80}; it must be Gymnasium's EnvSpec as JSON, with an id")
    return json.dumps({key: value for key, value in spec.items() if key not in _REMOVED_SPEC_KEYS})


def _reference_scores(metadata: dict[str, Any], task: Task, path: Path) -> tuple[float | None, float | None]:
    low, high = metadata.get("ref_min_score"), metadata.get("ref_max_score")
    if low is None or high is None:
        row = reference(env_id(task))
        return row.ref_min, row.ref_max
    # Python compares integers of any size with floats; NaN is below nothing.
    if not all(isinstance(score, int | float) and abs(score) <= sys.float_info.max for score in (low, high)) or (
        low >= high
    ):
        raise InputError(
            f"{path}: ref_min_score, ref_max_score are {low!r:.40}, {high!r:.40}; two finite numbers are needed, "
            "min < max"
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
        """Where the row of a step lies, such as "episode_3, rewards, row 5"."""
        ends = np.cumsum(self.lengths)
        episode = int(np.searchsorted(ends, row, side="right"))
        row -= int(ends[episode - 1]) if episode else 0
        return f"{self.names[episode]}, {field.removeprefix(_NEXT)}, row {row + field.startswith(_NEXT)}"


def _read_episodes(file: h5py.File, path: Path, task: Task, widths: dict[str, int]) -> _Episodes:
    names = [name for name in map(str, file) if re.fullmatch(r"episode_\d+", name)]
    names.sort(key=lambda name: int(name.removeprefix("episode_")))  # HDF5's own order: episode_10 before episode_2
    if not names:
        raise InputError(f"{path}: holds no episodes; groups episode_0, episode_1, ... are needed")
    observations = {f"observations/{leaf}".rstrip("/"): (size,) for leaf, size in widths.items()}
    shapes = observations | {"actions": (task.act_dim,), "rewards": (), "terminations": (), "truncations": ()}
    parts: dict[str, list[np.ndarray]] = {field: [] for field in shapes}
    packed = os.path.getsize(path)
    for name in names:
        group = find(file.id, name)
        if not isinstance(group, h5g.GroupID):
            raise InputError(f"{path}: {name}: no group of arrays in this file, and links are not followed")
        for field, shape in shapes.items():
            parts[field].append(_read(group, field, shape, f"{path}: {name}", packed))
        steps = len(parts["rewards"][-1])
        if steps == 0:
            raise InputError(f"{path}: {name} has no steps; every episode needs at least one, remove the group")
        for field in shapes:
            rows, expected = len(parts[field][-1]), steps + (field in observations)
            if rows != expected:
                raise InputError(
                    f"{path}: {name}, {field}: {rows} rows; rewards has {steps}, so {expected} rows are needed"
                )
    lengths = np.array([len(rewards) for rewards in parts["rewards"]])
    if lengths.max() == 1:
        raise InputError(f"{path}: no episode has a second step; sequences of steps are needed, not single ones")
    arrays = {field: np.concatenate(parts.pop(field)) for field in shapes}
    leaves = [arrays.pop(field) for field in observations]
    arrays["observations"] = leaves[0] if len(leaves) == 1 else np.concatenate(leaves, axis=1)
    return _Episodes(names, lengths, arrays)


def _read(group: h5g.GroupID, field: str, width: tuple[int, ...], where: str, packed: int) -> np.ndarray:
    """One array of an episode, through h5py's low-level interface: a third of the time for sets of short episodes."""
    data = find(group, field)
    if data is None:
        raise InputError(
            f"{where}: {field} is missing, or a link, which is not followed; an episode needs {', '.join(_FIELDS)}"
        )
    if not isinstance(data, h5d.DatasetID):
        raise InputError(f"{where}, {field}: not an array; metadata.json says it is one")
    check_inside(f"{where}, {field}", data)
    shape, dtype = data.shape, data.dtype
    if dtype.kind not in ("biu" if field in ("terminations", "truncations") else "biuf"):
        needed = "bool" if field in ("terminations", "truncations") else "float32"
        raise InputError(f"{where}, {field}: dtype {dtype}; {needed} is needed")
    if not shape or shape[1:] != width:
        raise InputError(f"{where}, {field}: shape {shape}; {('rows', *width)} is needed".replace("'", ""))
    check_size(f"{where}, {field}", shape, dtype.itemsize, packed)
    array = np.empty(shape, dtype)
    data.read(h5s.ALL, h5s.ALL, array)
    return array


def _assemble(episodes: _Episodes, task: Task, path: Path) -> Transitions:
    arrays, lengths = episodes.arrays, episodes.lengths
    last = np.zeros(lengths.sum(), dtype=bool)
    last[np.cumsum(lengths) - 1] = True
    for field in ("terminations", "truncations"):
        if (early := (arrays[field] != 0) & ~last).any():
            place = episodes.locate(field, int(np.argmax(early)))
            raise InputError(f"{path}: {place}: True; only an episode's last row may end it")
    observations, final = arrays["observations"], np.cumsum(lengths + 1) - 1
    first = final - lengths
    return assemble(
        where=str(path),
        task=task,
        obs=np.delete(observations, final, axis=0),
        action=arrays["actions"],
        reward=arrays["rewards"],
        terminal=arrays["terminations"] != 0,
        timeout=last,
        next_obs=np.delete(observations, first, axis=0),
        names=_CALLED,
        locate=episodes.locate,
    )
