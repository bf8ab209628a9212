"""Data sets larger than memory: a folder with one NumPy file a field, mapped and not loaded.

`shards.json` describes the task and the number of steps; `obs.npy`, `action.npy` and `next_obs.npy` stay on disk until
rows of them are asked for (`tiltrl.types.read`), the few bytes a step of rewards and ends are in memory.
"""

from __future__ import annotations

import math
import os
import shutil
import stat
from collections.abc import Iterable
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np

from tiltrl.config_io import from_json
from tiltrl.data.aside import reported
from tiltrl.data.assemble import assemble
from tiltrl.data.recorded import check_task
from tiltrl.data.transforms import joined_task
from tiltrl.errors import InputError
from tiltrl.files import (
    DESCRIPTION_BYTES,
    aside_of,
    flush_folder,
    make_folder,
    read_json,
    reason,
    sweep_aside,
    write_json,
)
from tiltrl.types import Task, Transitions, parts, read

META = "shards.json"
VERSION = 1
_MAPPED = ("obs", "action", "next_obs")
_DTYPES = {name: np.dtype(np.float32) for name in (*_MAPPED, "reward")} | {
    name: np.dtype(np.bool_) for name in ("terminal", "timeout")
}


@dataclass(frozen=True)
class _Meta:
    version: int
    steps: int
    task: Task


def is_shards(folder: Path) -> bool:
    """Whether the folder holds what `write_shards` writes."""
    return (folder / META).is_file()


def write_shards(data: Iterable[Transitions], folder: str | os.PathLike[str]) -> Path:
    """Write a data set part by part, so that no more than one part need be in memory.

    Args:
        data: whole episodes, recorded in one task; those of the second part follow those of the first. Tasks without an
            environment may differ in action bounds, and are joined as by `transforms.join`.
        folder: a new one. It is written aside and renamed, so that there is the whole set or none.

    Raises:
        InputError: the folder exists or cannot be written; the parts are none, or cannot be used, or differ in task.
    """
    folder = Path(folder)
    if folder.exists():
        raise InputError(f"{folder}: exists already; shards are written to a new folder")
    with reported(folder):
        make_folder(folder.parent)
        sweep_aside(folder)
        aside = aside_of(folder)
        try:
            aside.mkdir()
            _write(data, aside, str(folder))
            os.rename(aside, folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        flush_folder(folder.parent)
    return folder


def read_shards(folder: str | os.PathLike[str], name: str) -> Transitions:
    """The data set that `write_shards` wrote; what is large of it stays on disk.

    Args:
        folder: where it is.
        name: what the data set is called from here on.

    Raises:
        InputError: a file is missing, damaged, or of another size than the description says.
    """
    folder = Path(folder).expanduser()
    meta = from_json(_Meta, read_json(folder / META, DESCRIPTION_BYTES), str(folder / META))
    if meta.version != VERSION:
        raise InputError(f"{folder / META}: version = {meta.version}; this release reads version {VERSION}")
    if meta.steps < 1:
        raise InputError(f"{folder / META}: steps = {meta.steps}; at least one is needed")
    check_task(meta.task, str(folder / META))
    shapes = _shapes(meta.task, meta.steps)
    maps = {field: _map(folder / f"{field}.npy", field, shape) for field, shape in shapes.items()}
    for field in ("terminal", "timeout"):
        if (maps[field].view(np.uint8) > 1).any():
            raise InputError(f"{folder / field}.npy: holds bytes that are neither 0 nor 1; write the shards again")
    loaded = {field: array if field in _MAPPED else read(array, slice(None)) for field, array in maps.items()}
    if not np.isfinite(loaded["reward"]).all():
        raise InputError(f"{folder / 'reward'}.npy: holds values that are not finite; write the shards again")
    if not loaded["terminal"][-1] | loaded["timeout"][-1]:
        raise InputError(f"{folder / 'timeout'}.npy: the last step does not end its episode; write the shards again")
    return Transitions(**loaded, task=replace(meta.task, dataset=name))


def _shapes(task: Task, steps: int) -> dict[str, tuple[int, ...]]:
    width = {"obs": (task.obs_dim,), "action": (task.act_dim,), "next_obs": (task.obs_dim,)}
    return {field: (steps, *width.get(field, ())) for field in _DTYPES}


def _write(data: Iterable[Transitions], aside: Path, where: str) -> None:
    steps, task = 0, None
    files = {field: (aside / f"{field}.npy").open("wb") for field in _DTYPES}
    try:
        for number, part in enumerate(data):
            try:
                task = part.task if task is None else joined_task(task, part.task)
            except InputError as error:
                raise InputError(f"{where}: part {number}: {error}") from error
            if not steps:
                for field, shape in _shapes(task, 0).items():
                    files[field].write(_header(field, shape))
            for rows in parts(len(part)):
                for field, array in _checked(part, rows, f"{where}: part {number}").items():
                    files[field].write(array.tobytes())
            steps += len(part)
        if task is None or not steps:
            raise InputError(f"{where}: there are no steps to write; at least one episode is needed")
        for field, shape in _shapes(task, steps).items():
            files[field].seek(0)
            files[field].write(_header(field, shape))
            files[field].flush()
            os.fsync(files[field].fileno())
    finally:
        for file in files.values():
            file.close()
    write_json(aside / META, _Meta(VERSION, steps, task))


def _checked(part: Transitions, rows: slice, where: str) -> dict[str, np.ndarray]:
    """Some rows of a part, as all readers return them; of the last, that they end an episode."""
    obs, action, reward, terminal, timeout, next_obs = (
        read(array, rows) for array in (part.obs, part.action, part.reward, part.terminal, part.timeout, part.next_obs)
    )
    found = assemble(
        where=where,
        task=part.task,
        obs=obs,
        action=action,
        reward=reward,
        terminal=terminal,
        timeout=timeout,
        next_obs=next_obs,
        locate=lambda field, row: f"{field}, row {rows.start + row}",
    )
    ended = bool(terminal[-1] or timeout[-1])
    if rows.stop == len(part) and not ended:
        raise InputError(f"{where}: timeout, row {len(part) - 1}: False; the last step has to end its episode")
    # `assemble` ends the episode of the last row it is given; these rows may end within one.
    found.timeout[-1] &= ended
    return {field: getattr(found, field) for field in _DTYPES}


def _header(field: str, shape: tuple[int, ...]) -> bytes:
    """How NumPy begins a file; it leaves room for more rows, so that the length does not depend on their number."""
    written = BytesIO()
    header = {"descr": np.lib.format.dtype_to_descr(_DTYPES[field]), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(written, header)
    return written.getvalue()


def _map(path: Path, field: str, shape: tuple[int, ...]) -> np.memmap:
    header, dtype = _header(field, shape), _DTYPES[field]
    needed = len(header) + math.prod(shape) * dtype.itemsize
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # reading a pipe may wait forever
            raise InputError(f"{path}: is no file; write the shards again")
        size = status.st_size
        with path.open("rb") as file:
            found = file.read(len(header))
        if size == needed and found == header:
            return np.memmap(path, dtype, mode="r", offset=len(header), shape=shape)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}") from error
    raise InputError(
        f"{path}: {size} bytes that begin with {found[:64]!r}; {META} asks for {needed} bytes, a NumPy file of {dtype} "
        f"and shape {shape}; write the shards again"
    )
