"""Data sets to `Transitions`, whatever their format: `load` is the one door."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import reduce
from pathlib import Path

import h5py

from tiltrl.data.arrays import USUAL_NAMES, from_arrays, in_environment, read_arrays
from tiltrl.data.d4rl import is_d4rl, load_d4rl, read_d4rl
from tiltrl.data.lerobot import is_lerobot, read_lerobot
from tiltrl.data.minari import MINARI_ID, find_minari, load_minari, minari_root, present_near, read_folder
from tiltrl.data.minari_remote import download_minari
from tiltrl.data.ogbench import is_ogbench, load_ogbench, read_ogbench
from tiltrl.data.shards import is_shards, read_shards
from tiltrl.data.spec import FOUND, Columns, Part, parse
from tiltrl.data.tables import find, kind_of, reading
from tiltrl.data.transforms import join, take_episodes
from tiltrl.errors import InputError
from tiltrl.types import Transitions

__all__ = ["from_arrays", "load", "load_each"]

_DEMO = Path(__file__).parent / "demo" / "data"
_KINDS = (
    "a data set is 'demo' (bundled), a folder in Minari's format, the id of a Minari data set such as "
    "mujoco/hopper/medium-v0, d4rl:NAME, ogbench:NAME, a LeRobot folder, a file of arrays (.npz, .hdf5, .h5 or "
    ".parquet, with ?obs=NAME&action=NAME where its names are unusual), or several of these joined by '+', each with "
    "a slice of its episodes such as [:0.1] or [:100] behind it"
)


def load(spec: str | os.PathLike[str]) -> Transitions:
    """Load a data set by name.

    Args:
        spec: one of

            - "demo", the small Hopper set inside the package;
            - a folder in Minari's format, or the id of a Minari data set, downloaded where it is not on this machine;
            - "d4rl:hopper-medium-v2", downloaded likewise, or a D4RL HDF5 file;
            - "ogbench:cube-single-play-singletask-v0", downloaded likewise, or an OGBench .npz file;
            - a LeRobot (v3) folder, whose columns can be named as below;
            - a folder of shards (see `tiltrl.data.shards`), which may be larger than memory;
            - a .npz, .hdf5, .h5 or .parquet file of arrays, whose columns are found or named, as in
              "log.npz?obs=state,velocity&action=u&reward=r&episode=e&env=Hopper-v5" (see `spec.Columns`).

            A slice behind it takes whole episodes in recorded order: "[:0.1]", "[0.5:]" for shares, "[:100]" for a
            count. Several are joined by "+", and must be recorded in the same task. What exists as a path is taken as
            one, even with "+", "?" or "[" in it.

    Raises:
        InputError: nothing of that name is here, or it cannot be used; the message says what would be right.
    """
    return reduce(join, load_each(spec))


def load_each(spec: str | os.PathLike[str]) -> Iterator[Transitions]:
    """The sets that a name joins by "+", one at a time; otherwise as `load`.

    Raises:
        InputError: as `load`, when the turn comes to the set at fault.
    """
    text = os.fspath(spec)
    if "\0" in text:  # of no path and no name, and the system's functions differ in how they refuse it
        raise _unknown(text)
    yield from map(_load, parse(text))


def _load(part: Part) -> Transitions:
    data = _read(part)
    data = replace(data, task=replace(data.task, dataset=part.text))
    return data if part.slice is None else take_episodes(data, part.slice.start, part.slice.stop)


def _read(part: Part) -> Transitions:
    path = Path(os.path.expanduser(part.name))
    kind = part.kind or _kind_of(part, path)
    if kind == "arrays":
        return read_arrays(path, part.text, part.columns or FOUND)
    if kind == "lerobot":
        return read_lerobot(path, part.text, part.columns or FOUND)
    columns = part.columns
    if columns is not None and columns != Columns(env=columns.env):
        raise InputError(
            f"{part.text}: columns cannot be named in a data set of kind {kind}, whose names are fixed; leave all but "
            "env= out"
        )
    data = _read_kind(kind, part, path)
    return data if columns is None or columns.env is None else in_environment(data, columns.env, part.text)


def _read_kind(kind: str, part: Part, path: Path) -> Transitions:
    if kind == "demo":
        return read_folder(_DEMO, part.text)
    if kind == "d4rl":
        return read_d4rl(path, part.text) if os.path.isfile(path) else load_d4rl(part.name)
    if kind == "ogbench":
        return read_ogbench(path, part.text) if os.path.isfile(path) else load_ogbench(part.name)
    if kind == "shards":
        return read_shards(path, part.text)
    return _minari(str(path.parent) if os.path.isfile(path) else part.name)


def _minari(name: str) -> Transitions:
    """By folder or id; downloaded where there is neither."""
    if find_minari(name) is None and MINARI_ID.fullmatch(name) and not os.path.isdir(name):
        try:
            download_minari(name, minari_root())
        except InputError as error:
            raise InputError(f"{error} (it is not in {present_near(name)})") from error
    return load_minari(name)


def _kind_of(part: Part, path: Path) -> str:
    """What a name without prefix leads to."""
    if part.name == "demo":
        return "demo"
    if part.name and os.path.isdir(path):  # Path("") is the current folder
        return "shards" if is_shards(path) else "lerobot" if is_lerobot(path) else "minari"
    if path.name == "main_data.hdf5" and os.path.isfile(path.parent / "metadata.json"):
        return "minari"
    if os.path.isfile(path):
        return _kind_of_file(path, part.columns)
    if MINARI_ID.fullmatch(part.name):
        return "minari"
    raise _unknown(part.text)


def _unknown(text: str) -> InputError:
    return InputError(f"data set {text!r:.300} is of no known kind, or no such file or folder exists: {_KINDS}")


def _kind_of_file(path: Path, columns: Columns | None) -> str:
    """What a file holds; one whose columns are named is looked at no further."""
    found = kind_of(path)
    if found is None:
        raise InputError(f"{path}: is no .npz, HDF5 or Parquet file: {_KINDS}")
    if columns is not None and columns != Columns(env=columns.env):
        return "arrays"
    if found == "hdf5":
        with reading(str(path), "HDF5"), h5py.File(path, "r") as file:
            other = USUAL_NAMES["episode"]  # what D4RL's reader would not look at
            if find(file.id, "timeouts") is None:
                other += USUAL_NAMES["timeout"]
            return "arrays" if any(find(file.id, name) for name in other) or not is_d4rl(file) else "d4rl"
    return "ogbench" if is_ogbench(path) else "arrays"
