"""Reads OGBench's data sets: trajectories in .npz files, and rewards that its package derives from a task's goal.

A trajectory of a file has one row more than steps: its last row, where `terminals` is set, is what the last step saw.

With `singletask` in the name, rewards are those of the task of that number, or of the environment's default: for each
step, by the state it starts from, maze: at the goal - 1; cube: cubes in place - number of cubes; 0 means done. As in
OGBench's `masks`, no value follows a done step, `terminal` in our terms; a trajectory's end is a `timeout`, which a
value follows. A trajectory that goes on after it was done is several episodes.

Without `singletask` the task is to reach any goal, which is not observed: rewards are zero, and there is no environment
to evaluate in.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec

from tiltrl.data.assemble import assemble
from tiltrl.data.download import check_npz_of, fetch
from tiltrl.data.tables import Table, kind_of, open_table
from tiltrl.environments import make
from tiltrl.errors import InputError
from tiltrl.types import Task, Transitions

_URL = "https://rail.eecs.berkeley.edu/datasets/ogbench"
_NEEDED = ("observations", "actions", "terminals")
_STATE = ("qpos", "qvel", "button_states")  # of the simulator: what rewards are derived from


def _names() -> list[str]:
    mazes = ("pointmaze", "antmaze", "humanoidmaze")
    walks = [f"{body}-{maze}" for body in mazes for maze in ("medium", "large", "giant", "teleport")]
    walks += ["antsoccer-arena", "antsoccer-medium"]
    arms = [f"cube-{count}" for count in ("single", "double", "triple", "quadruple", "octuple")]
    arms += ["scene", *(f"puzzle-{size}" for size in ("3x3", "4x4", "4x5", "4x6"))]
    return [
        *(f"{place}-{kind}-v0" for place in walks for kind in ("navigate", "stitch", "explore")),
        *(f"{place}-{kind}-v0" for place in arms for kind in ("play", "noisy")),
    ]


NAMES = tuple(_names())
"""Data sets of states (not images) and continuous actions, without `singletask`."""

_SINGLE = re.compile(r"(?P<place>[\w-]+)-(?P<kind>[a-z]+)-singletask(?P<task>-task[1-5])?-v0", re.ASCII)


def load_ogbench(name: str) -> Transitions:
    """Loads an OGBench data set by name; downloads its training part where it is not in the cache.

    The cache is OGBench's own, `~/.ogbench/data`, or `OGBENCH_DATA_DIR`. `TILTRL_OGBENCH_URL` names a mirror.

    Args:
        name: such as "cube-single-play-singletask-v0", "cube-single-play-singletask-task3-v0" or "cube-single-play-v0".

    Raises:
        InputError: the name is unknown, the file cannot be downloaded or used, or rewards are asked for and OGBench is
            not installed.
    """
    recorded, _ = _parts(name)
    if recorded not in NAMES:
        near = difflib.get_close_matches(recorded, NAMES, n=5, cutoff=0.5) or ["cube-single-play-v0"]
        raise InputError(
            f"{name}: no OGBench data set that is known here (nor are images); close to it, or for example: "
            f"{', '.join(near)}; with -singletask or -singletask-task1 to -task5 before -v0 for rewards"
        )
    cache = Path(os.environ.get("OGBENCH_DATA_DIR") or "~/.ogbench/data").expanduser()
    base = (os.environ.get("TILTRL_OGBENCH_URL") or _URL).rstrip("/")
    file = f"{recorded}.npz"
    return read_ogbench(fetch(f"{base}/{file}", cache / file, check=check_npz_of(*_NEEDED)), name)


def is_ogbench(path: Path) -> bool:
    """Whether a file has OGBench's arrays: trajectories with the simulator's state, but no rewards.

    Raises:
        InputError: it looks like a .npz file and is damaged.
    """
    if kind_of(path) != "npz":
        return False
    with open_table(path) as table:
        return {*_NEEDED, "qpos"} <= set(table.names) and not {"rewards", "next_observations"} & set(table.names)


def read_ogbench(path: Path, name: str) -> Transitions:
    """Reads a .npz file of OGBench's format.

    Args:
        path: the file.
        name: what to call the data set. Rewards are asked for where it, or else the file's name, is one of OGBench's
            with `singletask` in it.

    Raises:
        InputError: the file is damaged, lacks an array, or does not fit the name; or rewards are asked for and OGBench
            is not installed.
    """
    env_id = _parts(name)[1] or _parts(path.stem)[1]
    with open_table(path) as table:
        arrays = _read(table, () if env_id is None else _STATE)
    keep = ~arrays["terminals"]
    keep[-1] = False  # a trajectory may be cut off: its last row has no next
    after = np.flatnonzero(keep) + 1
    kept = {field: array[keep] for field, array in arrays.items()}
    obs_dim, act_dim = arrays["observations"].shape[1], arrays["actions"].shape[1]
    reward, done, env_spec = np.zeros(len(after), np.float32), np.zeros(len(after), bool), None
    if env_id is not None:
        reward, done, env_spec = _task_of(env_id, kept, f"{path}: environment {env_id}")
    return assemble(
        where=str(path),
        task=Task(name, env_spec, (-1.0,) * act_dim, (1.0,) * act_dim, obs_dim),
        obs=kept["observations"],
        action=kept["actions"],
        reward=reward,
        terminal=done,
        timeout=~keep[after],
        next_obs=arrays["observations"][after],
        names={"obs": "observations", "action": "actions", "next_obs": "observations after"},
        locate=lambda field, row: f"{field.removesuffix(' after')}, row {after[row] - ('after' not in field)}",
    )


def _parts(name: str) -> tuple[str, str | None]:
    """The name of the recorded data, and the id of the environment whose rewards are asked for."""
    found = _SINGLE.fullmatch(name.removeprefix("ogbench:"))
    if found is None:
        return name.removeprefix("ogbench:"), None
    place, kind, task = found["place"], found["kind"], found["task"] or ""
    return f"{place}-{kind}-v0", f"{place}-singletask{task}-v0"


def _read(table: Table, more: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The arrays, with as many rows each; `terminals` as bool. Raises InputError where one is not as it should be."""
    arrays: dict[str, np.ndarray] = {}
    for field in (*_NEEDED, *more):
        if field not in table.names:
            if field == "button_states":  # of puzzles and scenes alone
                continue
            has = ", ".join(table.names) or "none"
            raise InputError(
                f"{table.where}: holds no array {field}; {', '.join((*_NEEDED, *more))} are needed; has {has}"
            )
        array = table.read(field)
        columns = 1 if field == "terminals" else 2
        if array.dtype.kind not in "fiub" or array.ndim != columns or not all(array.shape[1:]):
            shape = "(rows, size)" if columns == 2 else "(rows,)"
            raise InputError(
                f"{table.where}: {field}: {array.dtype} of shape {array.shape}; numbers of {shape} are needed"
            )
        arrays[field] = array
    rows = len(arrays["terminals"])
    for field, array in arrays.items():
        if len(array) != rows:
            raise InputError(f"{table.where}: {field}: {len(array)} rows; terminals has {rows}, and all need as many")
    if not rows:
        raise InputError(f"{table.where}: holds no steps; at least one trajectory of two rows is needed")
    ends = arrays["terminals"]
    if (bad := ~np.isin(ends, (0, 1))).any():
        row = int(np.argmax(bad))
        raise InputError(f"{table.where}: terminals, row {row}: {ends[row]!s}; 0 or 1 is needed")
    return arrays | {"terminals": ends.astype(bool)}


def _task_of(env_id: str, kept: dict[str, np.ndarray], where: str) -> tuple[np.ndarray, np.ndarray, str]:
    """Rewards and done flags by OGBench itself, for the rows kept, and the environment as JSON."""
    # The entry point tells which package registers the id, where that is not imported yet.
    with closing(make(EnvSpec(env_id, entry_point="ogbench"), where)) as env, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the environment's own bounds and displays
        from ogbench.relabel_utils import relabel_dataset

        sizes = (kept["observations"].shape[1], kept["actions"].shape[1])
        theirs = tuple(space.shape and space.shape[0] for space in (env.observation_space, env.action_space))
        if sizes != theirs:
            raise InputError(
                f"{where}: has {theirs[0]} observations and {theirs[1]} actions where the data has {sizes[0]} and "
                f"{sizes[1]}; name the data set that the file holds"
            )
        plain: Any = env.unwrapped
        env.reset(seed=0)
        if kept["qpos"].shape[1] != plain.model.nq:
            raise InputError(f"{where}: qpos has {kept['qpos'].shape[1]} columns; {plain.model.nq} are needed")
        dataset: dict[str, Any] = dict(kept)
        try:
            relabel_dataset(env_id, env, dataset)
        except (KeyError, ValueError, IndexError) as error:  # button_states that are missing or of the wrong size
            raise InputError(f"{where}: no rewards can be derived from this file: {error}") from error
        spec = env.spec
    assert spec is not None, "make sets it"
    described = {"id": env_id, "entry_point": str(spec.entry_point), "max_episode_steps": spec.max_episode_steps}
    env_spec = json.dumps(described | {"kwargs": {}, "additional_wrappers": []})
    return dataset["rewards"], dataset["masks"] == 0, env_spec
