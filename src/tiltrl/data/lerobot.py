"""Reads robot logs in LeRobot's format (v3, and v2, whose files differ in name only): Parquet, described in JSON.

`meta/info.json` tells the features and where the files lie. A row is a frame: what was observed, the action then taken,
and, in simulated data, `next.reward`, `next.done` and `next.success`. Images and videos are not read.

An episode ends after its last frame, and where a frame is missing. A frame that is `next.done` ends it, too: as
`terminal` where `next.success` says so or is not there, else as a timeout. Ends that nothing marks are timeouts, since
robot logs are cut where the operator stops.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from tiltrl.data.arrays import in_environment
from tiltrl.data.assemble import assemble
from tiltrl.data.spec import FOUND, Columns
from tiltrl.data.tables import Table, open_table
from tiltrl.errors import InputError
from tiltrl.files import DESCRIPTION_BYTES, read_json
from tiltrl.types import Task, Transitions

_STATES = ("observation.state", "observation.environment_state")  # what LeRobot's own policies take for states
_NOT_READ = ("image", "video", "string")
_PATH = re.compile(r"[\w./:{}-]+\.parquet", re.ASCII)


def is_lerobot(folder: Path) -> bool:
    """Whether the folder holds a data set in LeRobot's format."""
    return os.path.isfile(folder / "meta" / "info.json")


def read_lerobot(folder: Path, name: str, columns: Columns = FOUND) -> Transitions:
    """Reads a data set in LeRobot's format.

    The action space is what `meta/stats.json` says was seen, or more where the frames hold more; a dimension in which
    all actions are equal gets half a unit on either side.

    Args:
        folder: holds `meta/info.json`.
        name: what to call the data set.
        columns: which feature is which field. By default observations are `observation.state`, followed by
            `observation.environment_state` where there is one.

    Returns:
        Transitions in the order of `episode_index` and `frame_index`; rewards are zero where there are none.

    Raises:
        InputError: the folder is incomplete or damaged, holds no state, or holds values that cannot be used.
    """
    info_path = folder / "meta" / "info.json"
    info = read_json(info_path, DESCRIPTION_BYTES)
    features = _features(info, info_path)
    called = _called(features, columns, info_path)
    wanted = {feature: features[feature] for features_of in called.values() for feature in features_of}
    frames = _frames(_files(folder, info, info_path), wanted)
    fields = {
        field: np.concatenate([frames[feature] for feature in found], axis=1)
        for field, found in called.items()
        if found
    }
    episode, frame = (fields[field].reshape(-1) for field in ("episode", "frame"))
    order = np.lexsort((frame, episode))
    fields = {field: array[order] for field, array in fields.items()}
    episode, frame = episode[order], frame[order]
    _check_complete(info, episode, frame, called, folder)
    last = np.append((np.diff(episode) != 0) | (np.diff(frame) != 1), True)
    terminal, timeout = _ends(fields, last)
    low, high = _bounds(fields["action"], called["action"], folder / "meta" / "stats.json")
    data = assemble(
        where=str(folder),
        task=Task(name, None, low, high, fields["obs"].shape[1], obs_keys=called["obs"] if called["obs"][1:] else ()),
        obs=fields["obs"],
        action=fields["action"],
        reward=fields.get("reward", np.zeros(len(last), np.float32)),
        terminal=terminal,
        timeout=timeout,
        next_obs=fields.get("next_obs"),
        names={field: "+".join(found) for field, found in called.items() if found}
        | {"terminal": "+".join((*called["terminal"], *called["done"], *called["success"]))},
        locate=lambda field, row: f"{field}, episode {episode[row]:.0f}, frame {frame[row]:.0f}",
    )
    return data if columns.env is None else in_environment(data, columns.env, str(folder))


# --- What there is ----------------------------------------------------------------------------------------------------


def _features(info: dict[str, Any], path: Path) -> dict[str, dict[str, Any]]:
    version, features = info.get("codebase_version"), info.get("features")
    if not isinstance(version, str) or not re.match(r"v[23]\.\d", version):
        raise InputError(
            f"{path}: codebase_version is {version!r}; LeRobot's v3 (or v2) is needed, so convert it first"
        )
    if not isinstance(features, dict) or not all(
        isinstance(feature, dict)
        and isinstance(feature.get("dtype"), str)
        and isinstance(feature.get("shape"), list)
        and all(isinstance(size, int) for size in feature["shape"])
        for feature in features.values()
    ):
        raise InputError(f"{path}: features is no description of columns; each needs a dtype and a shape")
    return features


def _called(features: dict[str, dict[str, Any]], columns: Columns, path: Path) -> dict[str, tuple[str, ...]]:
    """Which features each field consists of: those named, or else the usual ones; () for none."""
    vectors = [
        name
        for name, feature in features.items()
        if feature["dtype"] not in _NOT_READ and len(feature["shape"]) == 1 and feature["shape"][0] > 0
    ]

    def named(field: str, *usual: str) -> tuple[str, ...]:
        given = getattr(columns, field, None)
        if not given:
            return tuple(feature for feature in usual if feature in features)
        found = given if isinstance(given, tuple) else tuple(given.split(","))
        for feature in found:
            if feature not in vectors:
                problem = "holds no vectors, and images are not read" if feature in features else "is not there"
                raise InputError(f"{path}: {feature}, named for {field}, {problem}; it has {', '.join(vectors)}")
        return found

    called = {"obs": named("obs", *_STATES), "action": named("action", "action")}
    for field, found in called.items():
        if not found:
            raise InputError(
                f"{path}: no feature {' or '.join(_STATES if field == 'obs' else ('action',))}; images and videos are "
                f"not read, so name vectors, as in ?{field}=NAME, of {', '.join(vectors) or 'which it has none'}"
            )
    called |= {"reward": named("reward", "next.reward"), "next_obs": named("next_obs")}
    called |= {"terminal": named("terminal"), "timeout": named("timeout")}
    called |= {"episode": named("episode", "episode_index"), "frame": named("frame", "frame_index")}
    marked = bool(called["terminal"])
    called |= {
        "done": () if marked else named("done", "next.done"),
        "success": () if marked else named("success", "next.success"),
    }
    for field in ("episode", "frame"):
        if not called[field]:
            raise InputError(f"{path}: no feature {field}_index; it is needed to tell the order of the frames")
    for found in called.values():
        for feature in found:
            if feature not in vectors:
                dtype, shape = features[feature]["dtype"], tuple(features[feature]["shape"])
                raise InputError(f"{path}: feature {feature}: {dtype} of shape {shape}; a vector of numbers is needed")
    for field in called.keys() - {"obs", "action", "next_obs"}:
        if (width := sum(features[feature]["shape"][0] for feature in called[field])) > 1:
            raise InputError(f"{path}: {'+'.join(called[field])}, for {field}: {width} numbers a frame; one is needed")
    return called


def _files(folder: Path, info: dict[str, Any], path: Path) -> list[Path]:
    """The Parquet files, in order; none outside of the folder."""
    pattern = info.get("data_path")
    if not isinstance(pattern, str) or not _PATH.fullmatch(pattern) or Path(pattern).is_absolute():
        raise InputError(f"{path}: data_path is {pattern!r}; a path such as data/chunk-000/file-000.parquet is needed")
    if ".." in Path(pattern).parts:
        raise InputError(f"{path}: data_path is {pattern!r}, which leads out of the folder; nothing there is read")
    files = sorted(folder.glob(re.sub(r"\{[^{}]*\}", "*", pattern)))
    if not files:
        raise InputError(f"{folder}: no file is there for {pattern}; copy or download the data set again")
    return files


# --- The frames -------------------------------------------------------------------------------------------------------


def _frames(files: list[Path], wanted: dict[str, dict[str, Any]]) -> dict[str, np.ndarray]:
    """The features wanted, of all files one after the other."""
    parts: dict[str, list[np.ndarray]] = {feature: [] for feature in wanted}
    for path in files:
        with open_table(path) as table:
            for feature, described in wanted.items():
                parts[feature].append(_column(table, feature, tuple(described["shape"])))
    return {
        feature: np.concatenate([array for array in arrays if len(array)] or arrays[:1])
        for feature, arrays in parts.items()
    }


def _column(table: Table, feature: str, shape: tuple[int, ...]) -> np.ndarray:
    array = table.read(feature)
    if not len(array):  # whatever its type, and whatever the shape that is told
        return np.empty((0, 1))
    if array.shape[1:] != shape and not (array.ndim == 1 and shape == (1,)):
        raise InputError(
            f"{table.where}: {feature}: rows of shape {array.shape[1:]}; meta/info.json says {shape}; the files are of "
            "several data sets"
        )
    return array.reshape(len(array), *shape)


def _check_complete(
    info: dict[str, Any], episode: np.ndarray, frame: np.ndarray, called: dict[str, tuple[str, ...]], folder: Path
) -> None:
    for field, array in (("+".join(called["episode"]), episode), ("frame_index", frame)):
        if not np.isfinite(array).all():
            raise InputError(f"{folder}: {field}: a value is not finite; every frame needs a number")
    counts = {"total_frames": len(frame), "total_episodes": len(np.unique(episode))}
    if called["episode"] != ("episode_index",):  # of another kind than those that were counted
        del counts["total_episodes"]
    for field, found in counts.items():
        if info.get(field, found) != found:
            raise InputError(
                f"{folder}: holds {field.removeprefix('total_')}: {found}, where meta/info.json says {field} = "
                f"{info[field]}; files are missing, copy or download the data set again"
            )
    if not len(frame):
        raise InputError(f"{folder}: holds no frames; at least one episode of two is needed")
    twice = (np.diff(episode) == 0) & (np.diff(frame) == 0)
    if twice.any():
        at = int(np.argmax(twice))
        raise InputError(f"{folder}: episode {episode[at]:.0f} has frame {frame[at]:.0f} twice; one of each is needed")


def _ends(fields: dict[str, np.ndarray], last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Terminal and timeout flags. Products and maxima keep what is neither 0 nor 1, for `assemble` to refuse."""
    flags = {
        field: fields[field].reshape(len(last)) * 1.0
        for field in ("terminal", "timeout", "done", "success")
        if field in fields
    }
    ends = np.maximum(last, flags.get("done", 0.0))
    terminal = flags.get("terminal", flags.get("done", np.zeros(len(last))))
    if "success" in flags:
        terminal = flags["success"] * ends
    return terminal, np.maximum(ends, flags.get("timeout", 0.0))


def _bounds(action: np.ndarray, names: tuple[str, ...], stats: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    with np.errstate(over="ignore"):
        seen = action.astype(np.float32)
    low, high = seen.min(axis=0).astype(np.float64), seen.max(axis=0).astype(np.float64)
    if os.path.isfile(stats):
        told = read_json(stats, DESCRIPTION_BYTES)
        if all(name in told for name in names):
            least, most = (_told(told, names, key, len(low), stats) for key in ("min", "max"))
            low, high = np.minimum(low, least), np.maximum(high, most)
    finite = np.isfinite(low) & np.isfinite(high)  # where it is not, `assemble` will say so
    half = np.where(low < high, 0.0, 0.5)
    low, high = np.where(finite, low - half, -1.0), np.where(finite, high + half, 1.0)
    return tuple(low.tolist()), tuple(high.tolist())


def _told(stats: dict[str, Any], names: tuple[str, ...], key: str, size: int, path: Path) -> np.ndarray:
    try:
        values = np.concatenate([np.asarray(stats[name][key], np.float64).reshape(-1) for name in names])
    except (KeyError, TypeError, ValueError, OverflowError):
        values = np.empty(0)
    if values.shape != (size,) or not np.isfinite(values).all():
        raise InputError(
            f"{path}: {'+'.join(names)}: {key} is not {size} finite numbers; correct it or remove the file"
        )
    return values
