"""Damaged and malicious files of every format: they load or are refused with `InputError`, soon, and nothing else.

Seeded, so that a failure comes again: the message tells the case, and `CASES` how many there are of each kind.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from synthetic import episode, transitions, write_minari

from tiltrl.data import load
from tiltrl.data.describe import describe, warnings
from tiltrl.data.shards import write_shards
from tiltrl.data.write import write_d4rl, write_npz
from tiltrl.errors import InputError
from tiltrl.types import as_json

CASES = 120
SECONDS = 5.0  # for one case; a whole file takes a few milliseconds

# --- Whole files to start from ----------------------------------------------------------------------------------------


def minari(folder: Path) -> Path:
    return write_minari(folder / "set", [episode(3), episode(2, 10.0, terminal=False)])


def minari_dict(folder: Path) -> Path:
    box = {"type": "Box", "dtype": "float32", "shape": [1], "low": [-9.0], "high": [9.0]}
    space = json.dumps(
        {"type": "Dict", "subspaces": {"observation": box, "goal": {"type": "Dict", "subspaces": {"a": box}}}}
    )
    seen = {"observation": np.zeros((4, 1)), "goal": {"a": np.ones((4, 1))}}
    return write_minari(folder / "set", [episode(3, observations=seen)], observation_space=space)


def d4rl(folder: Path) -> Path:
    write_d4rl(transitions([5, 4, 6]), folder / "hopper_medium-v2.hdf5")
    return folder / "hopper_medium-v2.hdf5"


def npz(folder: Path) -> Path:
    write_npz(transitions([5, 4]), folder / "set.npz")
    return folder / "set.npz"


def ogbench(folder: Path) -> Path:
    arrays = {"observations": np.ones((9, 4), np.float32), "actions": np.zeros((9, 2), np.float32)}
    ends = np.isin(np.arange(9), (4, 8))
    np.savez_compressed(folder / "set.npz", **arrays, terminals=ends, qpos=np.zeros((9, 3)), qvel=np.zeros((9, 3)))
    return folder / "set.npz"


def table(folder: Path) -> Path:
    columns = {"obs": [[float(i), 1.0] for i in range(8)], "action": [0.1 * i for i in range(8)]}
    parquet.write_table(pa.table(columns | {"episode": [0] * 4 + [1] * 4, "reward": [1.0] * 8}), folder / "set.parquet")
    return folder / "set.parquet"


def lerobot(folder: Path) -> Path:
    root = folder / "set"
    (root / "meta").mkdir(parents=True)
    (root / "data" / "chunk-000").mkdir(parents=True)
    columns = {"observation.state": ("float32", [2]), "action": ("float32", [1]), "next.done": ("bool", [1])}
    columns |= {name: ("int64", [1]) for name in ("episode_index", "frame_index", "index", "task_index")}
    info = {
        "codebase_version": "v3.0",
        "total_episodes": 2,
        "total_frames": 8,
        "fps": 10,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "features": {name: {"dtype": dtype, "shape": shape, "names": None} for name, (dtype, shape) in columns.items()},
    }
    (root / "meta" / "info.json").write_text(json.dumps(info))
    (root / "meta" / "stats.json").write_text(json.dumps({"action": {"min": [-1.0], "max": [1.0]}}))
    rows = {
        "observation.state": [[float(i), 0.5] for i in range(8)],
        "action": [[0.1 * i] for i in range(8)],
        "next.done": [i in (3, 7) for i in range(8)],
        "episode_index": [0] * 4 + [1] * 4,
        "frame_index": [0, 1, 2, 3] * 2,
        "index": list(range(8)),
        "task_index": [0] * 8,
    }
    parquet.write_table(pa.table(rows), root / "data" / "chunk-000" / "file-000.parquet")
    return root


def shards(folder: Path) -> Path:
    return write_shards([transitions([5, 4])], folder / "set")


KINDS = (minari, minari_dict, d4rl, npz, ogbench, table, lerobot, shards)

# --- What happens to bytes --------------------------------------------------------------------------------------------


def flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 3, 20))):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def insert(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + rng.randbytes(rng.choice((1, 8, 100))) + data[at:]


def erase(data: bytes, rng: random.Random) -> bytes:
    at, size = rng.randrange(len(data)), rng.choice((4, 16, 64))
    return data[:at] + bytes(rng.choice((0, 255)) for _ in range(size)) + data[at + size :]


def garbage(data: bytes, rng: random.Random) -> bytes:
    deep = b"[" * 100_000
    return rng.choice(
        (b"", b"{}", b"[]", b"null", b"\xff\xfe", b"PK\x03\x04", b"PAR1PAR1", b"\x89HDF\r\n\x1a\n", deep, data * 2)
    )


# --- What happens to JSON ---------------------------------------------------------------------------------------------

ODD: tuple[Any, ...] = (
    None, True, -1, 0, 2, 10**30, 10**400, -(10**400),
    1e308, float("nan"), float("inf"), "", "x", "NaN", "../../etc", "a\0b", [], [1], [[]],
    ["x"], [-1], [10**12], {}, {"type": "Box"}, {"": 0}, "{}", "[]", '{"id": 3}', '{"type": "Dict", "subspaces": {}}',
    '{"type": "Dict", "subspaces": [1]}', '{"type": "Box", "dtype": "O", "shape": [2], "low": [0], "high": [1]}',
    '{"type": "Box", "dtype": "f4,(", "shape": [1], "low": [0], "high": [1]}',
    '{"type": "Box", "dtype": "float32", "shape": [100000000000], "low": -9, "high": 9}',
    '{"type": "Box", "dtype": "float32", "shape": [1], "low": -9, "high": 9}', "[" * 5000,
)  # fmt: skip


def with_odd_value(value: Any, rng: random.Random) -> Any:
    """The same JSON with one value replaced, removed or renamed, at any depth, in JSON within strings too."""
    if isinstance(value, str) and value.startswith("{") and rng.random() < 0.8:
        return json.dumps(with_odd_value(json.loads(value), rng))
    if not isinstance(value, (dict, list)) or not value or rng.random() < 0.15:
        return rng.choice(ODD)
    if isinstance(value, list):
        at = rng.randrange(len(value))
        return [with_odd_value(item, rng) if index == at else item for index, item in enumerate(value)]
    key = rng.choice(list(value))
    others = {name: item for name, item in value.items() if name != key}
    how = rng.random()
    if how < 0.15:
        return others
    return others | ({f"{key}x": value[key]} if how < 0.25 else {key: with_odd_value(value[key], rng)})


# --- What happens to arrays -------------------------------------------------------------------------------------------


def odd_array(array: np.ndarray, rng: random.Random) -> np.ndarray:
    """Of another type, shape or value."""
    changed = np.array(array, np.float64)
    if changed.size:
        changed.flat[rng.randrange(changed.size)] = rng.choice((np.nan, np.inf, -1e300, 0.5, 2.0, -1.0))
    return rng.choice(
        (
            changed,
            array[:0],
            array[:1],
            array[:-1],
            np.concatenate([array, array]),
            array[..., None],
            array.reshape(-1),
            np.array(rng.choice((0, 1, np.nan))),
            np.array([b"text"] * len(array)) if array.ndim else np.array(b"text"),
            array.astype(complex),
            array.astype(np.float16),
            np.full(array.shape, np.iinfo(np.uint64).max, np.uint64),
            np.full(array.shape, np.finfo(np.float64).max),
            np.zeros(array.shape),
            np.ones(array.shape, np.int8),
            np.zeros((0, 0)),
            np.zeros((len(array) if array.ndim else 1, 2, 2)),
        )
    )


def with_odd_arrays(arrays: dict[str, np.ndarray], rng: random.Random) -> dict[str, np.ndarray]:
    """One removed or changed, or two swapped; of a text, the JSON in it."""
    changed = dict(arrays)
    texts = [name for name, array in arrays.items() if array.dtype.kind not in "fiub"]
    if texts and rng.random() < 0.3:
        return changed | {texts[0]: np.array(json.dumps(with_odd_value(json.loads(str(arrays[texts[0]])), rng)))}
    a, b = rng.choice(list(arrays)), rng.choice(list(arrays))
    how = rng.random()
    if how < 0.15:
        del changed[a]
    elif how < 0.4:
        changed[a], changed[b] = changed[b], changed[a]
    else:
        changed[a] = odd_array(arrays[a], rng) if arrays[a].dtype.kind in "fiub" else np.array("{}")
    return changed


def elsewhere(file: h5py.File, name: str, value: np.ndarray, other: Path, rng: random.Random) -> None:
    """What a name leads to lies in another file: a whole one, a pipe, or none at all."""
    how, other = rng.randrange(5), other.with_suffix(rng.choice((".hdf5", ".pipe", ".none")))
    if other.suffix == ".hdf5":
        with h5py.File(other, "a") as there:
            there.require_group("/").create_dataset("x", data=np.zeros(value.shape))
    elif other.suffix == ".pipe":
        os.mkfifo(other)
    if how == 0:
        file[name] = h5py.SoftLink(rng.choice(("/loop", f"/{name}", "/")))
    elif how == 1 or not value.ndim or not value.size:
        file[name] = h5py.ExternalLink(str(other), rng.choice(("x", "/", "/nowhere")))
    elif how == 2:
        group, _, _ = name.rpartition("/")
        if group in file:
            del file[group]
        file[group or name] = h5py.ExternalLink(str(other), "/")
    elif how == 3:
        file.create_dataset(name, value.shape, "f4", external=[(str(other), 0, 4 * value.size)])
    else:
        layout = h5py.VirtualLayout(value.shape, "f8")
        layout[...] = h5py.VirtualSource(str(other), "x", value.shape)
        file.create_virtual_dataset(name, layout)


def change_hdf5(path: Path, rng: random.Random) -> None:
    with h5py.File(path, "r+") as file:
        found: dict[str, np.ndarray] = {}
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
        plain = {name: np.array(value.decode() if isinstance(value, bytes) else value) for name, value in found.items()}
        changed = with_odd_arrays(plain, rng)
        for name in found:
            del file[name]
        how = rng.random()
        moved = rng.choice(list(changed))
        for name, value in changed.items():
            if how < 0.1 and name == moved:
                file.require_group(name)["inside"] = value.astype(np.float32) if value.dtype.kind in "fiub" else 0
            else:
                file[name] = value if value.dtype.kind != "U" else str(value)
        if 0.1 < how < 0.4:
            del file[moved]
            elsewhere(file, moved, changed[moved], path.with_name("other"), rng)


def change_npz(path: Path, rng: random.Random) -> None:
    with np.load(path) as file:
        arrays = dict(file)
    changed = with_odd_arrays(arrays, rng)
    if rng.random() < 0.1:
        changed[rng.choice(list(changed))] = np.array([{"pickled": print}, None], dtype=object)
        np.savez(path, **changed)
    else:
        (np.savez_compressed if rng.random() < 0.5 else np.savez)(path, **changed)


def change_parquet(path: Path, rng: random.Random) -> None:
    rows = parquet.read_table(path)
    name, other = rng.choice(rows.column_names), rng.choice(rows.column_names)
    at, other_at = rows.column_names.index(name), rows.column_names.index(other)
    values = rows.column(name).to_pylist()
    new: list[Any] = rng.choice(
        (
            [None] * len(values),
            [*values[:-1], None],
            [str(value) for value in values],
            [[1.0] * (index % 3) for index in range(len(values))],
            [[[1.0]]] * len(values),
            [{"a": 1}] * len(values),
            [float("nan")] * len(values),
            [1e300] * len(values),
            [-1] * len(values),
            [b"x"] * len(values),
            rows.column(other).to_pylist(),
        )
    )
    changed = rows.set_column(at, name, pa.array(new))
    how = rng.random()
    if how < 0.15:
        changed = rows.drop_columns([name])
    elif how < 0.25:
        changed = rows.rename_columns(
            [
                name if index == other_at else other if index == at else old
                for index, old in enumerate(rows.column_names)
            ]
        )
    elif how < 0.3:
        changed = rows.slice(0, rng.choice((0, 1)))
    parquet.write_table(changed, path)


def change_npy(path: Path, rng: random.Random) -> None:
    np.save(path, odd_array(np.load(path), rng))


STRUCTURED: dict[str, Callable[[Path, random.Random], None]] = {
    ".json": lambda path, rng: _change_json(path, rng),
    ".hdf5": change_hdf5,
    ".npz": change_npz,
    ".parquet": change_parquet,
    ".npy": change_npy,
}
BYTES = (flip, truncate, insert, erase, garbage)


def _change_json(path: Path, rng: random.Random) -> None:
    path.write_text(json.dumps(with_odd_value(json.loads(path.read_text()), rng)))


def damage(root: Path, rng: random.Random) -> str:
    """Damages one file of a data set; says how."""
    files = sorted(path for path in root.rglob("*") if path.is_file()) if root.is_dir() else [root]
    path = rng.choice(files)
    how = rng.random()
    if how < 0.5:
        STRUCTURED[path.suffix](path, rng)
        return f"content of {path.name}"
    if how < 0.95:
        change = rng.choice(BYTES)
        path.write_bytes(change(path.read_bytes(), rng))
        return f"{change.__name__} {path.name}"
    path.unlink()
    if how < 0.975 and path != root:
        path.mkdir()
        return f"folder {path.name}"
    if path == root:
        path.write_bytes(b"")
    return f"no {path.name}"


# --- The test ---------------------------------------------------------------------------------------------------------


class TooLong(BaseException):
    """Not an `Exception`, so that no reader takes it for a complaint of a library."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_damaged_files_load_or_are_refused(make: Callable[[Path], Path], tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole = make(tmp_path / "whole")
    assert len(load(str(whole))) > 0
    escapes, refused = [], 0
    for case in range(CASES):
        rng = random.Random(f"{make.__name__} {case}")
        root = tmp_path / "damaged" / whole.name
        (shutil.copytree if whole.is_dir() else shutil.copy)(whole, _fresh(root))
        what = damage(root, rng)
        try:
            with time_limit(SECONDS):
                data = load(str(root))
                json.dumps(as_json(describe(data)), allow_nan=make is shards)  # whose values are not looked at to load
                warnings(data)
        except InputError as error:
            refused += 1
            if "\n" in str(error) or str(tmp_path) not in str(error):
                escapes.append(f"case {case}, {what}: says {error!s:.300}")
        except (Exception, TooLong) as error:
            escapes.append(f"case {case}, {what}: {type(error).__name__}: {error!s:.300}")
    assert not escapes, "\n".join(escapes)
    assert CASES / 5 < refused < CASES  # damage that nobody noticed would test nothing


def _fresh(path: Path) -> Path:
    shutil.rmtree(path.parent, ignore_errors=True)
    path.parent.mkdir()
    return path


def test_bounds_beyond_float32_are_refused(tmp_path: Path) -> None:
    space = json.dumps({"type": "Box", "dtype": "float64", "shape": [1], "low": [-1.0], "high": [1e300]})
    root = write_minari(tmp_path / "set", action_space=space)
    with pytest.raises(InputError, match="the action space is .* finite float32 numbers are needed"):
        load(str(root))
