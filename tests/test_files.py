"""Files are written whole or not at all."""

import errno
import json
import os
from dataclasses import dataclass

import numpy as np
import pytest

from tiltrl.errors import InputError
from tiltrl.files import slug, write_atomically, write_json


@dataclass(frozen=True)
class Result:
    scores: tuple[float, ...]
    episodes: np.int64


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_content_replaces_what_was_there_and_nothing_is_left_aside(tmp_path):
    path = tmp_path / "new" / "file"
    write_atomically(path, b"old, longer")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_a_link_is_kept_and_its_target_replaced(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"new"


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_full_disk_names_the_path_and_keeps_the_old_file(tmp_path, monkeypatch, call):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, call, full_disk)
    with pytest.raises(InputError, match=r"file: cannot be written: No space left on device$"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_no_permission_names_the_path(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("builtins.open", refuse)  # a read-only folder would not stop root
    with pytest.raises(InputError, match=r"file: cannot be written: Permission denied$"):
        write_atomically(tmp_path / "file", b"new")
    assert not list(tmp_path.iterdir())


def test_a_folder_in_the_way_is_named(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="folder: cannot be written: Is a directory"):
        write_atomically(tmp_path / "folder", b"new")
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


def test_an_interrupt_leaves_nothing_aside(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", b"new")
    assert not list(tmp_path.iterdir())


def test_json_holds_dataclasses_and_numpy_scalars(tmp_path):
    write_json(tmp_path / "a.json", {"result": Result((1.0, 2.5), np.int64(3))})
    assert json.loads((tmp_path / "a.json").read_text()) == {"result": {"scores": [1.0, 2.5], "episodes": 3}}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), np.float32("nan")])
def test_json_refuses_what_is_not_finite_and_says_where(tmp_path, bad):
    with pytest.raises(InputError, match=r"a.json: cannot be written: value.scores\[1\] is (nan|inf); JSON"):
        write_json(tmp_path / "a.json", {"scores": [1.0, bad]})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "keep", "expected"),
    [
        ("demo[:0.1]", ".-", "demo-0.1"),
        ("../../etc", ".-", "etc"),
        ("a_b.c", "_-", "a_b-c"),
        ("[:1]", ".-", "1"),
        ("???", ".-", ""),
        ("x" * 300, ".-", "x" * 100),
        ("y" * 50 + "/" + "x" * 99, ".-", "x" * 99),
    ],
)
def test_slugs_are_parts_of_paths(name, keep, expected):
    assert slug(name, keep) == expected
