"""Files of named arrays, .npz, HDF5 and Parquet, behind one interface. Nothing in them is unpickled or executed."""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5g, h5l, h5o  # pyright: ignore[reportAttributeAccessIssue]: h5py's low level has no stubs

from tiltrl.errors import InputError

_MOST_PACKED = 1100
"""No more bytes than this for each of the file: deflate, which packs .npz and HDF5 files, cannot do better."""
_MOST_ENCODED, _ENCODED_ROOM = 1000, 2**30
"""Parquet stores runs of one value in a few bytes, so a column may take this many bytes for each of the file, and one
of up to 1 GiB any number: a log whose file is that much smaller than one of its columns holds nothing but constants."""


@dataclass(frozen=True)
class Table:
    """An open file of arrays."""

    where: str  # the file, as messages name it
    names: tuple[str, ...]  # of what can be read; "a/b" within groups
    read: Callable[[str], np.ndarray]  # one array by name; raises InputError
    text: Callable[[str], str | None]  # a single string by name; None where that is no string


def kind_of(path: Path) -> str | None:
    """By how a file begins, or else by its name: "npz", "hdf5", "parquet", or None for anything else.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # reading a pipe may wait forever
            raise InputError(f"{path}: cannot be read: it is a pipe or a device, not a file")
        with path.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    for magic, kind in ((b"PK\x03\x04", "npz"), (b"\x89HDF\r\n\x1a\n", "hdf5"), (b"PAR1", "parquet")):
        if start.startswith(magic):
            return kind
    return {".npz": "npz", ".hdf5": "hdf5", ".h5": "hdf5", ".parquet": "parquet"}.get(path.suffix.lower())


@contextmanager
def open_table(path: Path) -> Iterator[Table]:
    """Open a .npz, HDF5 or Parquet file; see `kind_of`.

    Raises:
        InputError: it is none of these, is damaged, or holds what cannot be read safely.
    """
    openers = {"npz": _open_npz, "hdf5": _open_hdf5, "parquet": _open_parquet}
    kind = kind_of(path)
    if kind is None:
        raise InputError(f"{path}: neither .npz, HDF5 nor Parquet; arrays are read from files of these formats")
    with openers[kind](path) as table:
        yield table


@contextmanager
def reading(where: str, kind: str) -> Iterator[None]:
    """What a library finds wrong with a file, as one sentence that names the file."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # a damaged file can make its library raise anything; all of it is about the file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{where}: not readable as {kind} ({reason:.200}); copy or download the file again") from error


def check_size(where: str, shape: tuple[int, ...], itemsize: int, packed: int) -> None:
    """Refuse an array that declares more than its file could hold, before room is made for it.

    Raises:
        InputError: it does.
    """
    declared = itemsize
    for length in shape:
        declared *= length  # Python's integers, which do not overflow
    if declared > _MOST_PACKED * packed:
        raise InputError(
            f"{where}: shape {shape} would take {declared} bytes, which a file of {packed} bytes cannot hold; the "
            "file is damaged, copy or download it again"
        )


def find(group: h5g.GroupID, name: str) -> h5d.DatasetID | h5g.GroupID | None:
    """What lies under a name, such as "a/b", in this very HDF5 file; None for nothing, or a link.

    Links are looked at and not followed: they may lead to other files, and opening one that is a pipe waits forever.
    """
    here = group
    for part in name.encode().split(b"/"):
        if not isinstance(here, h5g.GroupID):
            return None
        if not here.links.exists(part) or here.links.get_info(part).type != h5l.TYPE_HARD:
            return None
        here = h5o.open(here, part)
    return here


def check_inside(where: str, data: h5d.DatasetID) -> None:
    """Refuse an HDF5 array whose values lie in another file, before anything looks there.

    Raises:
        InputError: they do.
    """
    made = data.get_create_plist()
    if made.get_layout() == h5d.VIRTUAL or made.get_external_count():
        raise InputError(f"{where}: lies in another file; save it as an array in this one")


def _unlisted(name: str, names: tuple[str, ...], where: str) -> None:
    if name not in names:
        raise InputError(f"{where}: holds no array {name!r}; it has {', '.join(names) or 'none'}")


# --- .npz -------------------------------------------------------------------------------------------------------------


@contextmanager
def _open_npz(path: Path) -> Iterator[Table]:
    with reading(str(path), ".npz"):
        archive = zipfile.ZipFile(path)
    with archive:
        members = {name.removesuffix(".npy"): name for name in archive.namelist() if name.endswith(".npy")}

        def header(name: str) -> tuple[np.dtype, tuple[int, ...]]:
            with archive.open(members[name]) as file:
                version = np.lib.format.read_magic(file)
                read = {
                    (1, 0): np.lib.format.read_array_header_1_0,
                    (2, 0): np.lib.format.read_array_header_2_0,
                }.get(version)
                if read is None:
                    raise InputError(f"{path}: {name}: .npy format {version}; a plain array of numbers is needed")
                shape, _, dtype = read(file)
            return dtype, shape

        def read(name: str) -> np.ndarray:
            _unlisted(name, tuple(members), str(path))
            with reading(f"{path}: {name}", ".npz"):
                dtype, shape = header(name)
                if dtype.hasobject:
                    raise InputError(
                        f"{path}: {name}: holds pickled Python objects, which are never loaded; save it as a plain "
                        "array of numbers"
                    )
                check_size(f"{path}: {name}", shape, dtype.itemsize, os.path.getsize(path))
                with archive.open(members[name]) as file:
                    return np.lib.format.read_array(file, allow_pickle=False)

        def text(name: str) -> str | None:
            if name not in members:
                return None
            with reading(f"{path}: {name}", ".npz"):
                dtype, shape = header(name)
            return str(read(name)) if dtype.kind == "U" and shape == () else None

        yield Table(str(path), tuple(members), read, text)


# --- HDF5 -------------------------------------------------------------------------------------------------------------


@contextmanager
def _open_hdf5(path: Path) -> Iterator[Table]:
    with reading(str(path), "HDF5"):
        file = h5py.File(path, "r")
    with file:
        names: list[str] = []
        with reading(str(path), "HDF5"):
            # Links are not visited: only what lies in this file is read.
            file.visititems(lambda name, item: names.append(str(name)) if isinstance(item, h5py.Dataset) else None)

        def read(name: str) -> np.ndarray:
            _unlisted(name, tuple(names), str(path))
            with reading(f"{path}: {name}", "HDF5"):
                data: Any = file[name]
                check_inside(f"{path}: {name}", data.id)
                if data.dtype.kind not in "biuf":
                    raise InputError(f"{path}: {name}: type {data.dtype}; numbers are needed")
                check_size(f"{path}: {name}", data.shape or (), data.dtype.itemsize, os.path.getsize(path))
                return np.asarray(data[()])

        def text(name: str) -> str | None:
            if name not in names:
                return None
            with reading(f"{path}: {name}", "HDF5"):
                data: Any = file[name]
                check_inside(f"{path}: {name}", data.id)
                return data.asstr()[()] if h5py.check_string_dtype(data.dtype) and data.shape == () else None

        yield Table(str(path), tuple(names), read, text)


# --- Parquet ----------------------------------------------------------------------------------------------------------


@contextmanager
def _open_parquet(path: Path) -> Iterator[Table]:
    from pyarrow import parquet  # takes a while, and few need it

    with reading(str(path), "Parquet"):
        file = parquet.ParquetFile(path)
    with file:
        names = tuple(file.schema_arrow.names)

        def read(name: str) -> np.ndarray:
            _unlisted(name, names, str(path))
            with reading(f"{path}: {name}", "Parquet"):
                _check_decoded(file, name, path)
                return to_numpy(file.read([name]).column(name), f"{path}: {name}")

        yield Table(str(path), names, read, lambda name: None)


def _check_decoded(file: Any, name: str, path: Path) -> None:
    """Refuse a column of no numbers, or of more than `_MOST_ENCODED` allows, before room is made for it."""
    kind = whole = file.schema_arrow.field(name).type
    while _is_list(kind):
        kind = kind.value_type
    _check_numbers(kind, whole, f"{path}: {name}")
    groups, values = (file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)), 0
    for group in groups:
        columns = (group.column(index) for index in range(group.num_columns))
        counts = [c.num_values for c in columns if c.path_in_schema == name or c.path_in_schema.startswith(f"{name}.")]
        values += max([group.num_rows, *counts])
    packed, size = os.path.getsize(path), values * -(-kind.bit_width // 8)
    if size > max(_MOST_ENCODED * packed, _ENCODED_ROOM):
        raise InputError(
            f"{path}: {name}: {values} values would take {size} bytes, of a file of {packed} bytes; nothing that was "
            "recorded packs so well, so write it again without what is constant"
        )


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _check_numbers(kind: Any, whole: Any, where: str) -> None:
    from pyarrow import types

    if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
        raise InputError(f"{where}: type {whole}; numbers or lists of numbers are needed")


def to_numpy(column: Any, where: str) -> np.ndarray:
    """A column of pyarrow's as one array: (rows,) of numbers, or (rows, n) of lists that are all of length n.

    Raises:
        InputError: a value is missing, lists differ in length, or the values are no numbers.
    """
    import pyarrow as pa

    rows, whole = len(column), column.combine_chunks()
    if isinstance(whole, pa.ChunkedArray):  # combining makes one chunk, or none of an empty column
        whole = pa.concat_arrays(whole.chunks) if whole.num_chunks else pa.array([], whole.type)
    width: tuple[int, ...] = ()
    while _is_list(whole.type):
        lengths = np.unique(whole.value_lengths().to_numpy(zero_copy_only=False)).tolist()
        if whole.null_count or len(lengths) > 1:
            found = "missing ones" if whole.null_count else f"{len(lengths)} lengths, from {min(lengths)}"
            raise InputError(f"{where}: lists of {found}; every row needs a list of the same length")
        width += tuple(lengths)
        whole = whole.flatten()
    if whole.null_count:
        raise InputError(f"{where}: {whole.null_count} values are missing; every row needs a number")
    _check_numbers(whole.type, column.type, where)
    return whole.to_numpy(zero_copy_only=False).reshape(rows, *width)
