"""Builders of bad files for `test_bad_input.py`: each writes what is wrong into a folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import h5py
import numpy as np
import pyarrow as pa
from pyarrow import parquet
from synthetic import transitions, write_minari

from tiltrl.data.shards import write_shards

Build = Callable[[Path], None]
STEPS = 6


class Trap:
    """Runs, when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("trap",)


def nothing(_: Path) -> None:
    """The name alone is bad."""


def content(name: str, data: bytes) -> Build:
    def build(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)

    return build


def arrays(**overrides: Any) -> dict[str, Any]:
    """A plain log; an override of None drops the array."""
    made = {
        "obs": np.arange(STEPS * 2, dtype=np.float32).reshape(-1, 2),
        "action": np.linspace(-1, 1, STEPS, dtype=np.float32),
        "reward": np.ones(STEPS, np.float32),
    } | overrides
    return {name: value for name, value in made.items() if value is not None}


def npz(**overrides: Any) -> Build:
    return lambda folder: np.savez(folder / "x.npz", **arrays(**overrides))


def hdf5(name: str, content: dict[str, Any]) -> Build:
    def build(folder: Path) -> None:
        with h5py.File(folder / name, "w") as file:
            for key, value in content.items():
                file[key] = value

    return build


def h5(**overrides: Any) -> Build:
    return hdf5("x.h5", arrays(**overrides))


def d4rl(**overrides: Any) -> Build:
    made: dict[str, Any] = {
        "observations": np.zeros((STEPS, 11)),
        "actions": np.zeros((STEPS, 3)),
        "rewards": np.ones(STEPS),
        "terminals": np.arange(STEPS) == STEPS - 1,
    } | overrides
    return hdf5("x.hdf5", {name: value for name, value in made.items() if value is not None})


def ogbench(**overrides: Any) -> Build:
    made: dict[str, Any] = {
        "observations": np.zeros((STEPS, 4)),
        "actions": np.zeros((STEPS, 2)),
        "terminals": np.arange(STEPS) == STEPS - 1,
        "qpos": np.zeros((STEPS, 2)),
        "qvel": np.zeros((STEPS, 2)),
    } | overrides
    return lambda folder: np.savez(folder / "x.npz", **{k: v for k, v in made.items() if v is not None})


def truncated(name: str, build: Build) -> Build:
    def cut(folder: Path) -> None:
        build(folder)
        path = folder / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])

    return cut


def minari(episodes: list[dict[str, Any]] | None = None, **metadata: Any) -> Build:
    return lambda folder: [write_minari(folder / "x", episodes, **metadata), None][1]


def minari_then(change: Build) -> Build:
    def build(folder: Path) -> None:
        write_minari(folder / "x")
        change(folder)

    return build


def linked(field: str) -> Build:
    """A Minari set, one of whose arrays is a link to another file."""

    def build(folder: Path) -> None:
        h5()(folder)
        write_minari(folder / "x")
        with h5py.File(folder / "x" / "data" / "main_data.hdf5", "a") as file:
            del file[f"episode_0/{field}"]
            file[f"episode_0/{field}"] = h5py.ExternalLink(str(folder / "x.h5"), "/reward")

    return build


def external(folder: Path) -> None:
    """An HDF5 file whose rewards are the bytes of another file."""
    (folder / "secret").write_bytes(bytes(8 * STEPS))
    with h5py.File(folder / "x.h5", "w") as file:
        for name, value in arrays(reward=None).items():
            file[name] = value
        file.create_dataset("reward", (STEPS,), "f8", external=[(str(folder / "secret"), 0, 8 * STEPS)])


def table(**columns: Any) -> Build:
    made = {
        "obs": [[float(row), 1.0] for row in range(STEPS)],
        "action": [0.1 * row for row in range(STEPS)],
    } | columns
    kept = {name: value for name, value in made.items() if value is not None}
    return lambda folder: parquet.write_table(pa.table(kept), folder / "x.parquet")


def lerobot(columns: dict[str, Any] | None = None, **told: Any) -> Build:
    def build(folder: Path) -> None:
        rows = {
            "observation.state": [[float(row), 0.5] for row in range(STEPS)],
            "action": [[0.1 * row] for row in range(STEPS)],
            "episode_index": [0] * STEPS,
            "frame_index": list(range(STEPS)),
        } | (columns or {})
        rows = {name: value for name, value in rows.items() if value is not None}
        shapes = {"observation.state": [2]}
        features = {name: {"dtype": "float32", "shape": shapes.get(name, [1])} for name in rows}
        info = {
            "codebase_version": "v3.0",
            "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
            "features": features,
            "total_frames": STEPS,
        } | told
        content("x/meta/info.json", json.dumps(info).encode())(folder)
        (folder / "x" / "data" / "chunk-000").mkdir(parents=True)
        parquet.write_table(pa.table(rows), folder / "x" / "data" / "chunk-000" / "file-000.parquet")

    return build


def shards_then(change: Callable[[Path], object]) -> Build:
    def build(folder: Path) -> None:
        change(write_shards([transitions([STEPS])], folder / "x"))

    return build


def told_otherwise(**changes: Any) -> Build:
    def change(folder: Path) -> None:
        path = folder / "shards.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return shards_then(change)


def archive_of(*names: str) -> Build:
    def build(folder: Path) -> None:
        with ZipFile(folder / "x.npz", "w") as file:
            for name in names:
                file.writestr(name, b"data")

    return build


def huge(folder: Path) -> None:
    """A header that declares a terabyte, of a file of some bytes."""
    with ZipFile(folder / "x.npz", "w") as archive:
        for name, shape in (("obs", (10**11, 2)), ("action", (10**11, 1))):
            with archive.open(f"{name}.npy", "w") as file:
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)


def both(folder: Path) -> None:
    npz()(folder)
    d4rl()(folder)


def loop(folder: Path) -> None:
    (folder / "x.npz").symlink_to(folder / "x.npz")


def outside(folder: Path) -> None:
    """A link below Minari's root that leads out of it."""
    write_minari(folder / "elsewhere")
    (folder / "sets").mkdir()
    (folder / "sets" / "me-v0").symlink_to(folder / "elsewhere")


NAN = np.where(np.arange(STEPS) == 3, np.nan, 1.0)
OBJECTS = np.array([Trap()] * STEPS, dtype=object)
GARBAGE = b"garbage" * 50
ODD_TASK = json.dumps({"dataset": 3, "action_low": [], "action_high": []})
