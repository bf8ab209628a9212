"""Writes transitions in formats that others read: Minari, D4RL's flat HDF5, NumPy's .npz.

What is written is readable by the format's own library, and by ours with the same numbers. Everything is built aside
and renamed, so a target is whole or not there.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tiltrl.data.aside import data_set_aside, file_aside
from tiltrl.data.sink import writing_hdf5
from tiltrl.errors import InputError
from tiltrl.types import Task, Transitions, as_json, parts, read

OnProgress = Callable[[int, int], None]
"""Called with (episodes written, episodes in all)."""

_MINARI_ID = re.compile(r"(?:(?:[\w-]{2,}|[\w-]+(?:/[\w-]+)+)/)?[\w-]+-v\d+")  # a group has two letters at least
_MINARI_VERSION = "0.5.4"  # of the format as written here; Minari reads what it knows and refuses the rest
_FLAT = {  # D4RL's names, which .npz files have too
    "observations": "obs",
    "actions": "action",
    "rewards": "reward",
    "next_observations": "next_obs",
    "terminals": "terminal",
    "timeouts": "timeout",
}


def is_minari_id(text: str) -> bool:
    """Whether Minari takes this as a data set's id: it ends with a version."""
    return _MINARI_ID.fullmatch(text) is not None


def write_minari(
    transitions: Transitions,
    folder: str | os.PathLike[str],
    dataset_id: str,
    *,
    seed: int | Sequence[int] | None = None,
    obs_sizes: Sequence[int] | None = None,
    about: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> None:
    """Write a Minari 0.5 data set, `<folder>/data/{main_data.hdf5, metadata.json}`.

    `minari.load_dataset(dataset_id)` reads it where `folder` is `<MINARI_DATASETS_PATH>/<dataset_id>`. Each episode has
    T+1 observations, its steps' and the last `next_obs`; a time-out, and a cut, is a truncation.

    Args:
        transitions: whole episodes.
        folder: made with its parents.
        dataset_id: such as "me/robot/play-v0"; Minari wants the version at its end.
        seed: what the episodes' environments were reset with: one for each, or the first one's where each next one's
            is one higher. None: not told.
        obs_sizes: widths of the leaves `task.obs_keys`, in their order: observations are written as the Dict they were.
            None: as one flat Box; then, where there are such leaves, the environment is left out, as it would not take
            the policies of flat data.
        about: more for the metadata: author, author_email, algorithm_name, description, code_permalink, ...
        overwrite: replace a data set that is there.
        on_progress: see `OnProgress`.

    Raises:
        InputError: the id is no Minari id; the data cannot be said in this format (a step's `next_obs` is not what the
            next step saw); `folder` exists, or cannot be written.
    """
    target, task = Path(folder).expanduser(), transitions.task
    if not is_minari_id(dataset_id):
        raise InputError(f"dataset id {dataset_id!r} is no Minari id; it must look like name-v0 or group/name-v0")
    check_whole(transitions)
    _check_chained(transitions)
    starts, stops = transitions.starts, transitions.ends + 1
    seeds = _seeds(seed, len(starts), task)
    leaves = _leaves(task, obs_sizes)
    with data_set_aside(target, overwrite) as aside:
        data = aside / "data"
        data.mkdir()
        with writing_hdf5(data / "main_data.hdf5") as (file, sink):
            for index, (start, stop) in enumerate(zip(starts, stops, strict=True)):
                group = file.create_group(f"episode_{index}")
                group.attrs["id"], group.attrs["total_steps"] = index, stop - start
                if seeds is not None:
                    group.attrs["seed"] = seeds[index]
                rows, last = slice(start, stop), slice(stop - 1, stop)
                obs = np.concatenate([read(transitions.obs, rows), read(transitions.next_obs, last)])
                for path, columns in leaves.items():
                    group["/".join(filter(None, ("observations", path)))] = obs[:, columns]
                group["actions"] = read(transitions.action, rows)
                group["rewards"] = transitions.reward[rows]
                group["terminations"] = transitions.terminal[rows]
                group["truncations"] = transitions.timeout[rows]
                sink.check()
                if on_progress is not None:
                    on_progress(index + 1, len(starts))
        size = (data / "main_data.hdf5").stat().st_size
        metadata = {**_metadata(transitions, dataset_id, leaves), "dataset_size": round(size / 1e6, 1), **(about or {})}
        (data / "metadata.json").write_text(json.dumps(as_json(metadata)) + "\n", encoding="utf-8")


def write_npz(transitions: Transitions, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write one .npz file: D4RL's six arrays, and `meta`, the task as JSON text.

    Raises:
        InputError: there are no whole episodes; `path` exists, is not named .npz, or cannot be written.
    """
    target = _named(path, (".npz",))
    check_whole(transitions)
    with file_aside(target, overwrite) as aside, aside.open("wb") as file:
        arrays = {name: getattr(transitions, field) for name, field in _FLAT.items()}
        np.savez(file, meta=np.array(json.dumps(as_json(transitions.task))), **arrays)


def write_d4rl(transitions: Transitions, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write D4RL's flat HDF5, gzip-packed: six arrays, and the task as JSON text in `metadata/task`.

    Raises:
        InputError: there are no whole episodes; `path` exists, is not named .hdf5 or .h5, or cannot be written.
    """
    target = _named(path, (".hdf5", ".h5"))
    check_whole(transitions)
    with file_aside(target, overwrite) as aside, writing_hdf5(aside) as (file, sink):
        for name, field in _FLAT.items():
            array = getattr(transitions, field)
            column = file.create_dataset(name, array.shape, array.dtype, compression="gzip", shuffle=True)
            for rows in parts(len(array)):
                column[rows] = read(array, rows)
                sink.check()
        file["metadata/task"] = json.dumps(as_json(transitions.task))


# --- What can be said -------------------------------------------------------------------------------------------------


def check_whole(transitions: Transitions) -> None:
    """Refuse what holds no steps, or ends before its last episode does.

    Raises:
        InputError: as said.
    """
    steps, ends = len(transitions), transitions.terminal | transitions.timeout
    if not steps:
        raise InputError(f"{transitions.task.dataset}: holds no steps; at least one episode is needed")
    if not ends[-1]:
        raise InputError(
            f"{transitions.task.dataset}: step {steps - 1}, the last, ends no episode; set its timeout (or terminal)"
        )


def _check_chained(transitions: Transitions) -> None:
    inside = ~(transitions.terminal | transitions.timeout)
    for rows in parts(len(transitions) - 1):
        following = read(transitions.obs, slice(rows.start + 1, rows.stop + 1))
        apart = inside[rows] & (read(transitions.next_obs, rows) != following).any(axis=1)
        if apart.any():
            step = rows.start + int(np.argmax(apart))
            raise InputError(
                f"{transitions.task.dataset}: step {step}, next_obs: is not the obs of step {step + 1} of the same "
                "episode, which Minari's format cannot hold; set that step's timeout, or write npz or d4rl instead"
            )


def _seeds(seed: int | Sequence[int] | None, episodes: int, task: Task) -> list[int] | None:
    if seed is None:
        return None
    seeds = [seed + index for index in range(episodes)] if isinstance(seed, int) else [int(value) for value in seed]
    if len(seeds) != episodes:
        raise InputError(f"{task.dataset}: {len(seeds)} seeds for {episodes} episodes; one for each is needed")
    return seeds


def _leaves(task: Task, sizes: Sequence[int] | None) -> dict[str, slice]:
    """The columns of each leaf of an observation, by its path; one of path "" where it is flat."""
    if not task.obs_keys or sizes is None:
        return {"": slice(0, task.obs_dim)}
    if len(sizes) != len(task.obs_keys) or sum(sizes) != task.obs_dim or min(sizes) < 1:
        raise InputError(
            f"{task.dataset}: obs_sizes = {tuple(sizes)}; {', '.join(task.obs_keys)} need a positive size each, "
            f"{task.obs_dim} together"
        )
    stops = np.cumsum(sizes).tolist()
    return {key: slice(stop - size, stop) for key, stop, size in zip(task.obs_keys, stops, sizes, strict=True)}


# --- Minari's metadata ------------------------------------------------------------------------------------------------


def _metadata(transitions: Transitions, dataset_id: str, leaves: dict[str, slice]) -> dict[str, Any]:
    task = transitions.task
    references = {"ref_min_score": task.ref_min, "ref_max_score": task.ref_max, "num_episodes_average_score": 100}
    return {
        "total_episodes": len(transitions.ends),
        "total_steps": len(transitions),
        "data_format": "hdf5",
        "observation_space": json.dumps(_obs_space(leaves)),
        "action_space": json.dumps(_box(task.action_low, task.action_high)),
        **({} if task.env_spec is None or (task.obs_keys and "" in leaves) else {"env_spec": task.env_spec}),
        "dataset_id": dataset_id,
        "minari_version": _MINARI_VERSION,
        "author": ["TiltRL"],
        "author_email": [],
        "description": f"{task.dataset}, written by TiltRL",
        **({} if None in references.values() else references),
    }


def _obs_space(leaves: dict[str, slice]) -> dict[str, Any]:
    tree: dict[str, Any] = {"type": "Dict", "subspaces": {}}
    for path, columns in leaves.items():
        size = columns.stop - columns.start
        box = _box((-np.inf,) * size, (np.inf,) * size)
        if not path:
            return box
        *parents, leaf = path.split("/")
        node = tree
        for parent in parents:
            node = node["subspaces"].setdefault(parent, {"type": "Dict", "subspaces": {}})
        node["subspaces"][leaf] = box
    return tree


def _box(low: Sequence[float], high: Sequence[float]) -> dict[str, Any]:
    return {"type": "Box", "dtype": "float32", "shape": [len(low)], "low": list(low), "high": list(high)}


def _named(path: str | os.PathLike[str], endings: tuple[str, ...]) -> Path:
    target = Path(path).expanduser()
    if target.suffix not in endings:
        raise InputError(f"{target}: the file's name must end in {' or '.join(endings)}")
    return target
