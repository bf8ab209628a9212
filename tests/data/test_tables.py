"""Files of arrays: damage, foreign files, and what must never be loaded."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from tiltrl.data import tables
from tiltrl.data.tables import find, open_table
from tiltrl.errors import InputError

X = np.random.default_rng(0).normal(size=(500, 3))


def read_all(path: Path) -> dict[str, np.ndarray]:
    with open_table(path) as table:
        return {name: table.read(name) for name in table.names}


def write(path: Path) -> None:
    if path.suffix == ".npz":
        np.savez_compressed(path, x=X, y=np.arange(500))
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file.create_dataset("x", data=X, compression="gzip")
            file.create_dataset("y", data=np.arange(500))
    else:
        parquet.write_table(pa.table({"x": list(X), "y": np.arange(500)}), path)


KINDS = ("a.npz", "a.h5", "a.parquet")


@pytest.mark.parametrize("name", KINDS)
def test_arrays_come_back(tmp_path: Path, name: str) -> None:
    write(tmp_path / name)
    found = read_all(tmp_path / name)
    np.testing.assert_array_equal(found["x"], X)
    np.testing.assert_array_equal(found["y"], np.arange(500))


def refused(path: Path, message: str = "") -> None:
    with pytest.raises(InputError, match=message) as raised:
        read_all(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.99])
def test_truncated_files(tmp_path: Path, name: str, share: float) -> None:
    path = tmp_path / name
    write(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(path, "not readable as")


@pytest.mark.parametrize("name", KINDS)
def test_flipped_bytes_are_reported_or_harmless(tmp_path: Path, name: str) -> None:
    """Wherever the damage is, there is an answer or an InputError, never another exception."""
    path = tmp_path / name
    write(path)
    content, rng, reported = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(150):
        broken = bytearray(content)
        for place in rng.integers(0, len(content), 4):
            broken[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(broken)
        try:
            read_all(path)
        except InputError as error:
            assert str(path) in str(error)
            reported += 1
    assert reported > 0


@pytest.mark.parametrize("name", [*KINDS, "a.hdf5"])
@pytest.mark.parametrize(
    "content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"<html>", b"\x00" * 100], ids=str
)
def test_foreign_files(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, "not readable as")


def test_files_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    refused(tmp_path / "a.csv", "neither .npz, HDF5 nor Parquet")
    refused(tmp_path / "missing.npz", "cannot be read: No such file")
    refused(tmp_path, "cannot be read: Is a directory")


def npz_with(path: Path, content: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", content)


def npy(header: str, version: bytes = b"\x01\x00") -> bytes:
    text = header.encode() + b"\n"
    size = len(text).to_bytes(2 if version == b"\x01\x00" else 4, "little")
    return b"\x93NUMPY" + version + size + text


NPY_BAD = [
    (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,)}"), "would take 8000000000000 bytes"),
    (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}"), "x"),
    (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (4,)}"), "not readable as .npz"),
    (npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}") + b"N.", "pickled Python objects"),
    (npy("{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (1,)}"), "pickled Python objects"),
    (npy("__import__('os').system('true')"), "not readable as .npz"),
    (npy("{'descr': '<f8'}"), "not readable as .npz"),
    (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (4,)}", b"\x03\x00"), r"\.npy format \(3, 0\)"),
    (npy("(" * 5000), "not readable as .npz"),
    (b"", "not readable as .npz"),
]


@pytest.mark.parametrize(("content", "message"), NPY_BAD, ids=[row[1] + str(i) for i, row in enumerate(NPY_BAD)])
def test_members_that_must_not_be_read(tmp_path: Path, content: bytes, message: str) -> None:
    npz_with(tmp_path / "a.npz", content)
    refused(tmp_path / "a.npz", message)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([0], dtype=object), allow_pickle=True)
    header = buffer.getvalue()[: buffer.getvalue().index(b"\n") + 1]
    npz_with(tmp_path / "a.npz", header + b"cos\nsystem\n(S'exit 1'\ntR.")
    refused(tmp_path / "a.npz", "never loaded")


def test_hdf5_reads_nothing_beyond_its_file(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(b"\x00" * 80)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = X
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["link"] = h5py.ExternalLink("other.h5", "x")
    assert read_all(tmp_path / "a.h5") == {}
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_dataset("x", (10,), "f8", external=[(str(tmp_path / "secret.bin"), 0, 80)])
    refused(tmp_path / "b.h5", "lies in another file")
    with h5py.File(tmp_path / "c.h5", "w") as file:
        space, made = h5py.h5s.create(h5py.h5s.SCALAR), h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        made.set_external(str(tmp_path / "secret.bin").encode(), 0, 80)
        h5py.h5d.create(file.id, b"text", h5py.h5t.py_create(np.dtype("S80")), space, made)
    with open_table(tmp_path / "c.h5") as table, pytest.raises(InputError, match="lies in another file"):
        table.text("text")


def test_find_follows_no_link(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # opening it would wait forever
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a/b"] = X
        file["soft"], file["pipe"] = h5py.SoftLink("/a/b"), h5py.ExternalLink(str(tmp_path / "pipe"), "x")
        for name in ("soft", "pipe", "pipe/x", "a/c", "a/b/c", "x"):
            assert find(file.id, name) is None
        assert find(file.id, "a/b") == file["a/b"].id and find(file.id, "a") == file["a"].id


def test_hdf5_that_declares_more_than_it_holds(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", (10**12, 3), "f8", chunks=(1000, 3))
    refused(tmp_path / "a.h5", r"shape \(1000000000000, 3\) would take 24000000000000 bytes")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["x"] = [b"a", b"b"]
    refused(tmp_path / "b.h5", "type object; numbers are needed")


PARQUET_BAD = [
    ({"x": pa.array([1.0, None])}, "1 values are missing"),
    ({"x": pa.array([[1.0, 2.0], [3.0]])}, "lists of 2 lengths"),
    ({"x": pa.array([[1.0, 2.0], None])}, "lists of missing ones"),
    ({"x": pa.array([[1.0, None], [3.0, 4.0]])}, "1 values are missing"),
    ({"x": pa.array(["a", "b"])}, "type string; numbers or lists of numbers"),
    ({"x": pa.array([{"y": 1}])}, "type struct<y: int64>; numbers"),
    ({"x": pa.array([["a"], ["b"]])}, "type list<.*string>; numbers"),
]


@pytest.mark.parametrize(("columns", "message"), PARQUET_BAD, ids=[row[1] for row in PARQUET_BAD])
def test_parquet_columns_that_are_no_numbers(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", message)


@pytest.mark.parametrize("wide", [False, True])
def test_parquet_that_unpacks_to_more_than_was_recorded(
    tmp_path: Path, wide: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_ENCODED_ROOM", 2**16)
    zeros = pa.array(np.zeros(2_000_000, np.float32))
    x = pa.FixedSizeListArray.from_arrays(zeros, 1000) if wide else zeros
    parquet.write_table(pa.table({"x": x}), tmp_path / "a.parquet", compression="zstd")
    refused(tmp_path / "a.parquet", "x: 2000000 values would take 8000000 bytes, of a file of .* bytes")
    monkeypatch.setattr(tables, "_ENCODED_ROOM", 2**23)
    assert read_all(tmp_path / "a.parquet")["x"].size == 2_000_000


def test_parquet_of_nested_lists_of_equal_length(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"x": pa.array([[[1, 2], [3, 4]], [[5, 6], [7, 8]]])}), tmp_path / "a.parquet")
    np.testing.assert_array_equal(read_all(tmp_path / "a.parquet")["x"], np.arange(1, 9).reshape(2, 2, 2))


@pytest.mark.parametrize("name", ["x.npz", "x.hdf5", "x.parquet", "x"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="cannot be read: it is a pipe or a device"), open_table(tmp_path / name):
        pass
