"""Files are written whole or not at all."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np
import pytest

from tiltrl import files
from tiltrl.errors import InputError
from tiltrl.files import read_file, read_json, slug, sweep_folder, writable, write_atomically, write_json


@dataclass(frozen=True)
class Result:
    scores: tuple[float, ...]
    episodes: np.int64


GONE = 99999999
"""The number of no process."""


def left_by(process, name, machine=None, age=0.0):
    """The name of a file that a process wrote aside, made that long ago."""
    path = files.aside_of(name)
    old = f"{os.getpid()}-"
    path = path.with_name(path.name.replace(old, f"{process}-", 1))
    if machine is not None:
        path = path.with_name(f".{machine}{path.name[9:]}")
    path.write_bytes(b"half")
    then = time.time() - age
    os.utime(path, (then, then))
    return path


def test_content_replaces_what_was_there_and_nothing_is_left_aside(tmp_path):
    path = tmp_path / "new" / "file"
    write_atomically(path, b"old, longer")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a.png", "a.png: the file's name has to end in .mp4"),
        ("folder.mp4", "folder.mp4: is a folder"),
        ("file/new/a.mp4", "a.mp4: cannot be written, as .*file is no folder that may be written to"),
        ("lost/a.mp4", "a.mp4: cannot be written, as .*lost is no folder"),
        ("shut/a.mp4", "a.mp4: cannot be written, as .*shut is no folder"),
    ],
)
def test_a_target_is_looked_at_before_the_work(tmp_path, monkeypatch, name, said):
    for folder in ("folder.mp4", "shut"):
        (tmp_path / folder).mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere")
    monkeypatch.setattr(os, "access", lambda path, _: "shut" not in str(path))  # root may write anywhere
    with pytest.raises(InputError, match=said):
        writable(tmp_path / name, ".mp4")
    assert writable(tmp_path / "new" / "a.MP4", ".mp4") == tmp_path / "new" / "a.MP4"
    assert not (tmp_path / "new").exists()


def test_a_link_is_kept_and_its_target_replaced(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"new"


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "No space left on device"),
        (errno.EDQUOT, "Disk quota exceeded"),
        (errno.EIO, "Input/output error"),
        (errno.EFBIG, "File too large"),
        (errno.EROFS, "Read-only file system"),
    ],
)
def test_a_write_that_fails_names_the_path_and_keeps_the_old_file(tmp_path, monkeypatch, call, number, said):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(InputError, match=rf"file: cannot be written: {said}$"):
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


def test_file_and_folder_are_flushed_before_and_after_the_rename(tmp_path, monkeypatch):
    calls, fsync, replace = [], os.fsync, os.replace

    def flush(handle):
        calls.append(os.path.basename(os.readlink(f"/proc/self/fd/{handle}")).rpartition(".")[2])
        fsync(handle)

    def rename(source, target):
        calls.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "replace", rename)
    write_atomically(tmp_path / "a" / "b" / "file", b"new")
    assert calls == [tmp_path.name, "a", "file", "rename", "b"]  # a's name, b's name, content, the file's name


def test_a_folder_that_cannot_be_flushed_is_an_error_only_where_it_should_be(tmp_path, monkeypatch):
    fsync = os.fsync
    for number in (errno.EINVAL, errno.EIO):

        def fail(handle, number=number):
            if os.path.isdir(f"/proc/self/fd/{handle}"):
                raise OSError(number, os.strerror(number))
            fsync(handle)

        monkeypatch.setattr(os, "fsync", fail)
        if number == errno.EIO:
            with pytest.raises(InputError, match="file: cannot be written: Input/output error"):
                write_atomically(tmp_path / "file", b"new")
        else:
            write_atomically(tmp_path / "file", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_dead_processes_left_aside_is_removed_and_no_more(tmp_path):
    mine, other = tmp_path / "file", tmp_path / "other"
    long_ago = files._ABANDONED_SECONDS + 60
    dead = [left_by(GONE, mine), left_by(GONE, mine, machine="0a0a0a0a", age=long_ago)]
    kept = [
        left_by(os.getpid(), mine),
        left_by(os.getppid(), mine),
        left_by(GONE, mine, machine="0a0a0a0a"),
        left_by(GONE, other),
    ]
    foreign = tmp_path / ".file.12345678"
    foreign.touch()
    write_atomically(mine, b"new")
    assert not any(path.exists() for path in dead)
    assert sorted(tmp_path.iterdir()) == sorted([mine, foreign, *kept])


def test_a_folder_is_swept_with_all_in_it(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    dead = left_by(GONE, tmp_path / "deep" / "er" / "file")
    folder = left_by(GONE, tmp_path / "deep" / "set")
    folder.unlink()
    folder.mkdir()
    (folder / "half").touch()
    live = left_by(os.getppid(), tmp_path / "deep" / "file")
    sweep_folder(tmp_path)
    assert not dead.exists() and not folder.exists() and live.exists()
    sweep_folder(tmp_path / "nowhere")


def test_killed_at_any_moment_the_file_is_whole_and_nothing_stays_aside(tmp_path):
    path = tmp_path / "file.json"
    program = (
        "import itertools, sys; from tiltrl.files import write_json\n"
        "for i in itertools.count(): write_json(sys.argv[1], {'number': i, 'list': [i] * 20000})"
    )
    for wait in (0.0, 0.01, 0.023, 0.05):
        with subprocess.Popen([sys.executable, "-c", program, str(path)]) as process:
            deadline = time.monotonic() + 600
            while not path.exists():
                assert time.monotonic() < deadline and process.poll() is None
            time.sleep(wait)
            os.kill(process.pid, signal.SIGKILL)
        found = read_json(path)
        assert found["list"] == [found["number"]] * 20000
        write_atomically(path, b"new")
        assert [file.name for file in tmp_path.iterdir()] == ["file.json"]
        path.unlink()


def test_names_that_leave_no_room_are_written_too(tmp_path):
    for name in ("x" * 255, "ü" * 120):
        left_by(GONE, tmp_path / name)
        write_atomically(tmp_path / name, b"new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x" * 255, "ü" * 120]


def test_a_path_with_a_null_character_is_refused():
    with pytest.raises(InputError, match="cannot be written: embedded null"):
        write_atomically("a\0b", b"")
    with pytest.raises(InputError, match="cannot be read: embedded null"):
        read_file("a\0b", 10)


def test_a_file_is_read_up_to_its_bound(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert read_file(tmp_path / "file", 5) == read_file(tmp_path / "link", 5) == b"12345"
    with pytest.raises(InputError, match="file: cannot be read: it has 5 bytes, more than the 4 allowed here$"):
        read_file(tmp_path / "file", 4)


def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")  # nobody will ever write to it
    (tmp_path / "pointer").symlink_to(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket")[:107])
        for name, said in (
            ("none", "No such file or directory"),
            ("folder/none/x", "No such file or directory"),
            ("folder", "it is a folder, not a file"),
            ("pipe", "it is a pipe, a socket or a device"),
            ("pointer", "it is a pipe, a socket or a device"),
            ("/dev/zero", "it is a pipe, a socket or a device"),
        ):
            for read in (lambda path: read_file(path, 10), read_json):
                with pytest.raises(InputError, match=f"{name}: cannot be read: {said}"):
                    read(tmp_path / name)


def test_a_file_that_becomes_a_pipe_meanwhile_is_refused_too(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    seen = os.stat(tmp_path / "file")
    monkeypatch.setattr(os, "stat", lambda *_, **__: seen)
    with pytest.raises(InputError, match="pipe: cannot be read: it is a pipe"):
        read_file(tmp_path / "pipe", 10)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_read_that_the_system_refuses_names_the_path(tmp_path, monkeypatch, number):
    (tmp_path / "file").touch()

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)  # permissions would not stop root
    with pytest.raises(InputError, match=rf"file: cannot be read: {os.strerror(number)}$"):
        read_file(tmp_path / "file", 10)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a readable JSON file: Expecting value"),
        (b'{"a": 1', "not a readable JSON file: "),
        (b"\xff\xfe{", "not a readable JSON file: "),
        (b"[" * 100_000, "not a readable JSON file: "),
        (b'{"a": ' + b"1" * 5000 + b"}", "not a readable JSON file: "),
        (b"[1]", "not a readable description: it holds no JSON object"),
    ],
)
def test_json_that_is_none_is_named(tmp_path, content, said):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=f"a.json: {said}") as error:
        read_json(tmp_path / "a.json")
    assert "\n" not in str(error.value)


def test_json_may_begin_with_a_mark_of_its_encoding(tmp_path):
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": "\xc3\xbc"}')
    assert read_json(tmp_path / "a.json") == {"a": "ü"}


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


def test_a_description_larger_than_its_bound_is_refused_unread(tmp_path):
    (tmp_path / "info.json").write_text('{"a": [' + "[]," * 10 + "0]}")
    assert len(read_json(tmp_path / "info.json", 100)["a"]) == 11
    with pytest.raises(InputError, match=r"info\.json: cannot be read: it has \d+ bytes, more than the 20 allowed"):
        read_json(tmp_path / "info.json", 20)
