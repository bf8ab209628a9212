"""Reads D4RL's data sets without D4RL: flat HDF5 files, from D4RL's own cache or downloaded into it.

What the files have in common: `observations`, `actions`, `rewards` and `terminals`, one long array each. What they do
not: `timeouts` (kitchen), `next_observations` (antmaze, kitchen, Adroit), a type (float64 in replay sets, floats for
flags in antmaze and kitchen), a shape ((N,) or (N, 1)).

Which environment stands in for the one recorded in, where one does:

- halfcheetah, hopper, walker2d, and ant with 27 observations: Gymnasium's v5 of the same body.
- pen, hammer, door, relocate: Gymnasium-Robotics' v1 of the same task, with D4RL's horizon.
- ant with 111 observations: none. 84 of them are contact forces, which were all zero in the simulator recorded in.
- antmaze, maze2d: none. Gymnasium-Robotics' mazes have their origin elsewhere, and positions are observed.
- kitchen: none. Gymnasium-Robotics' robot has 59 other observations.

A score there is on D4RL's scale, but is no D4RL score.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d  # pyright: ignore[reportAttributeAccessIssue]: h5py's low level has no stubs

from tiltrl.data.assemble import apart, assemble
from tiltrl.data.download import check_hdf5_of, fetch
from tiltrl.data.recorded import described_task
from tiltrl.data.registry import UNKNOWN, Reference, reference
from tiltrl.data.tables import Table, find, open_table
from tiltrl.errors import InputError
from tiltrl.types import Task, Transitions

_URL = "https://rail.eecs.berkeley.edu/datasets/offline_rl"
_NEEDED = ("observations", "actions", "rewards", "terminals")


@dataclass(frozen=True)
class _Family:
    """Data sets of one task: how wide the arrays are, and what to evaluate in."""

    prefix: str
    obs_dims: tuple[int, ...]  # the first is the environment's, where there is one
    act_dim: int
    env: str | None = None
    entry_point: str = ""
    arguments: tuple[tuple[str, Any], ...] = ()

    def env_spec(self, obs_dim: int, horizon: int | None) -> str | None:
        """The environment as JSON, where it has such observations."""
        if self.env is None or obs_dim != self.obs_dims[0]:
            return None
        spec = {"id": self.env, "entry_point": self.entry_point, "max_episode_steps": horizon}
        return json.dumps(spec | {"kwargs": dict(self.arguments), "additional_wrappers": []})


_NO_CONTACT_FORCES = (("include_cfrc_ext_in_observation", False), ("contact_cost_weight", 0.0))
_BODY, _HAND = "gymnasium.envs.mujoco.", "gymnasium_robotics.envs.adroit_hand.adroit_"
_FAMILIES = (
    _Family("halfcheetah-", (17,), 6, "HalfCheetah-v5", _BODY + "half_cheetah_v5:HalfCheetahEnv"),
    _Family("hopper-", (11,), 3, "Hopper-v5", _BODY + "hopper_v5:HopperEnv"),
    _Family("walker2d-", (17,), 6, "Walker2d-v5", _BODY + "walker2d_v5:Walker2dEnv"),
    _Family("ant-", (27, 111), 8, "Ant-v5", _BODY + "ant_v5:AntEnv", _NO_CONTACT_FORCES),
    _Family("antmaze-", (29,), 8),
    _Family("kitchen-", (60,), 9),
    _Family("pen-", (45,), 24, "AdroitHandPen-v1", _HAND + "pen:AdroitHandPenEnv"),
    _Family("hammer-", (46,), 26, "AdroitHandHammer-v1", _HAND + "hammer:AdroitHandHammerEnv"),
    _Family("door-", (39,), 28, "AdroitHandDoor-v1", _HAND + "door:AdroitHandDoorEnv"),
    _Family("relocate-", (39,), 30, "AdroitHandRelocate-v1", _HAND + "relocate:AdroitHandRelocateEnv"),
    _Family("maze2d-", (4,), 2),
)


def _addresses() -> Iterator[tuple[str, str]]:
    """Each data set's name, and where its file lies below the public address (D4RL's `infos.py`)."""
    for body in ("halfcheetah", "hopper", "walker2d", "ant"):
        for kind in ("random", "medium", "expert", "medium-replay", "full-replay", "medium-expert"):
            for version in ("v1", "v2"):
                file = f"{body}_{kind.replace('-', '_')}-{version}.hdf5"
                yield f"{body}-{kind}-{version}", f"gym_mujoco_{version}/{file}"
        for kind in ("random", "medium", "expert", "medium-replay", "medium-expert"):
            mixed = "walker_mixed" if body == "walker2d" else f"{body}_mixed"
            file = mixed if kind == "medium-replay" else f"{body}_{kind.replace('-', '_')}"
            yield f"{body}-{kind}-v0", f"gym_mujoco/{file}.hdf5"
    mazes = (("umaze", "u-maze", False, False), ("umaze-diverse", "u-maze", True, True))
    for size, theirs in (("medium", "big-maze"), ("large", "hardest-maze")):
        mazes += ((f"{size}-play", theirs, True, False), (f"{size}-diverse", theirs, True, True))
    for name, theirs, starts, goals in mazes:
        file = f"Ant_maze_{theirs}_noisy_multistart_{starts}_multigoal_{goals}_sparse"
        yield f"antmaze-{name}-v0", f"ant_maze_new/{file}.hdf5"
        yield f"antmaze-{name}-v2", f"ant_maze_v2/{file}_fixed.hdf5"
    yield "kitchen-complete-v0", "kitchen/mini_kitchen_microwave_kettle_light_slider-v0.hdf5"
    yield "kitchen-partial-v0", "kitchen/kitchen_microwave_kettle_light_slider-v0.hdf5"
    yield "kitchen-mixed-v0", "kitchen/kitchen_microwave_kettle_bottomburner_light-v0.hdf5"
    for task in ("pen", "hammer", "door", "relocate"):
        for kind in ("human", "cloned", "expert"):
            yield f"{task}-{kind}-v1", f"hand_dapg_v1/{task}-{kind}-v1.hdf5"
        yield f"{task}-human-v0", f"hand_dapg/{task}-v0_demos_clipped.hdf5"
        yield f"{task}-cloned-v0", f"hand_dapg/{task}-demos-v0-bc-combined.hdf5"
        yield f"{task}-expert-v0", f"hand_dapg/{task}-v0_expert_clipped.hdf5"
    for size in ("umaze", "medium", "large"):
        yield f"maze2d-{size}-v1", f"maze2d/maze2d-{size}-sparse-v1.hdf5"
        yield f"maze2d-{size}-dense-v1", f"maze2d/maze2d-{size}-dense-v1.hdf5"


ADDRESSES = dict(_addresses())
"""Where each known data set lies below the public address."""

_BY_FILE = {Path(address).stem: name for name, address in ADDRESSES.items()}


def load_d4rl(name: str) -> Transitions:
    """Loads a D4RL data set by name; downloads it where D4RL's cache does not have it yet.

    The cache is `~/.d4rl/datasets`, or `D4RL_DATASET_DIR`, which D4RL itself heeds; there the file has the name that
    D4RL gives it, such as hopper_medium-v2.hdf5, or the data set's. `TILTRL_D4RL_URL` names a mirror, which has the
    same folders as the public address.

    Args:
        name: such as "hopper-medium-v2".

    Raises:
        InputError: the name is unknown, the file cannot be downloaded, or it cannot be used.
    """
    if name not in ADDRESSES:
        near = difflib.get_close_matches(name, ADDRESSES, n=5, cutoff=0.5) or ["hopper-medium-v2", "door-human-v1"]
        raise InputError(f"{name}: no D4RL data set that is known here; close to it, or for example: {', '.join(near)}")
    cache = Path(os.environ.get("D4RL_DATASET_DIR") or "~/.d4rl/datasets").expanduser()
    named = cache / f"{name}.hdf5"
    if os.path.isfile(named):
        return read_d4rl(named, name)
    base = os.environ.get("TILTRL_D4RL_URL") or _URL
    target = cache / Path(ADDRESSES[name]).name
    url = f"{base.rstrip('/')}/{ADDRESSES[name]}"
    return read_d4rl(fetch(url, target, check=check_hdf5_of(*_NEEDED)), name)


def is_d4rl(file: h5py.File) -> bool:
    """Whether an open file has D4RL's arrays."""
    return all(isinstance(find(file.id, field), h5d.DatasetID) for field in _NEEDED)


def read_d4rl(path: Path, name: str) -> Transitions:
    """Reads a file of D4RL's format.

    The task is what the file says (`metadata/task`, which our own writer leaves), else that of the D4RL data set of
    this name or file name. A file of neither has no environment and no reference, and its actions are bounded by
    [-1, 1], as D4RL's are, or by the largest there is.

    Episodes end at `terminals` or `timeouts`. Where a file has no timeouts, or marks no end at all, they end where the
    next row is not what `next_observations` saw, else when the horizon is reached.

    Args:
        path: the file.
        name: what to call the data set.

    Raises:
        InputError: the file is unreadable, an array is missing, or of the wrong shape, type or value.
    """
    with open_table(path) as table:
        arrays = _read(table)
        described = described_task(table)
    row, family = UNKNOWN, None
    if described is None and (known := _known(name, path, arrays)) is not None:
        row, family = reference(known), _family(known)
    task = _task(name, row, family, arrays) if described is None else replace(described, dataset=name)
    if family is not None:  # its simulators clip actions, so the clipped ones are those that were done
        arrays["actions"] = _clipped(arrays["actions"])
    terminal, timeout = arrays["terminals"], arrays.get("timeouts")
    if timeout is None or not (timeout.any() or terminal.any()):
        timeout = _cuts(arrays, row.horizon)
    return assemble(
        where=str(path),
        task=task,
        obs=arrays["observations"],
        action=arrays["actions"],
        reward=arrays["rewards"],
        terminal=terminal,
        timeout=timeout,
        next_obs=arrays.get("next_observations"),
        names={"obs": "observations", "action": "actions", "reward": "rewards", "next_obs": "next_observations"}
        | {"terminal": "terminals", "timeout": "timeouts"},
    )


# --- What is in the file ----------------------------------------------------------------------------------------------


def _read(table: Table) -> dict[str, np.ndarray]:
    """The arrays, whole; columns of one as vectors. Raises InputError where sizes or types are wrong."""
    arrays: dict[str, np.ndarray] = {}
    for field in (*_NEEDED, "timeouts", "next_observations"):
        if field not in table.names:
            if field not in _NEEDED:
                continue
            there = ", ".join(table.names) or "none"
            raise InputError(
                f"{table.where}: holds no array {field}; D4RL's {', '.join(_NEEDED)} are needed; has {there}"
            )
        array, wide = table.read(field), field in ("observations", "actions", "next_observations")
        if array.dtype.kind not in "fiub":
            raise InputError(f"{table.where}: {field}: type {array.dtype}; numbers are needed")
        if array.ndim != 2 if wide else array.shape not in ((array.size,), (array.size, 1)):
            shape = "(steps, size)" if wide else "(steps,) or (steps, 1)"
            raise InputError(f"{table.where}: {field}: shape {array.shape}; {shape} is needed")
        arrays[field] = array if wide else array.reshape(-1)
    steps = len(arrays["rewards"])
    for field, array in arrays.items():
        if len(array) != steps:
            raise InputError(f"{table.where}: {field}: {len(array)} rows; rewards has {steps}, and all need as many")
    for field in ("observations", "actions"):
        if not arrays[field].shape[1]:
            raise InputError(f"{table.where}: {field}: shape {arrays[field].shape}; at least one column is needed")
    if arrays.get("next_observations", arrays["observations"]).shape != arrays["observations"].shape:
        shapes = f"{arrays['next_observations'].shape}; observations has {arrays['observations'].shape}"
        raise InputError(f"{table.where}: next_observations: shape {shapes}, and both must be alike")
    return arrays


def _known(name: str, path: Path, arrays: dict[str, np.ndarray]) -> str | None:
    """The D4RL data set of this name, which the arrays must fit, or else of this file name, if they fit."""
    known = name if name in ADDRESSES else _BY_FILE.get(path.stem, path.stem)
    if known not in ADDRESSES:
        return None
    family = _family(known)
    found = (arrays["observations"].shape[1], arrays["actions"].shape[1])
    if found[0] in family.obs_dims and found[1] == family.act_dim:
        return known
    if known == name:
        sizes = f"{' or '.join(map(str, family.obs_dims))} observations and {family.act_dim} actions"
        raise InputError(f"{path}: has {found[0]} observations and {found[1]} actions a step; {name} has {sizes}")
    return None


def _family(known: str) -> _Family:
    return next(family for family in _FAMILIES if known.startswith(family.prefix))


def _task(name: str, row: Reference, family: _Family | None, arrays: dict[str, np.ndarray]) -> Task:
    obs_dim, act_dim = arrays["observations"].shape[1], arrays["actions"].shape[1]
    if family is None:
        finite = np.isfinite(arrays["actions"])
        bound = float(np.abs(arrays["actions"]).max(initial=1.0, where=finite))
        return Task(name, None, (-bound,) * act_dim, (bound,) * act_dim, obs_dim)
    env_spec = family.env_spec(obs_dim, row.horizon)
    return Task(name, env_spec, (-1.0,) * act_dim, (1.0,) * act_dim, obs_dim, row.ref_min, row.ref_max)


def _clipped(action: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(action), action.clip(-1, 1), action)  # what is not finite is to be reported


def _cuts(arrays: dict[str, np.ndarray], horizon: int | None) -> np.ndarray:
    """Where episodes end that no flag ends: (steps,) bool."""
    terminal = arrays["terminals"] != 0
    steps = np.arange(len(terminal))
    if "next_observations" in arrays:
        return apart(arrays["observations"], arrays["next_observations"]) & ~terminal
    if horizon is None:
        return np.zeros(len(steps), bool)
    first = np.concatenate([[0], np.flatnonzero(terminal) + 1])
    since = steps - first[np.searchsorted(first, steps, side="right") - 1]  # steps since the last terminal, from 0
    return ((since + 1) % horizon == 0) & ~terminal
