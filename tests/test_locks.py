"""One process works in a folder at a time, and one that died is in nobody's way."""

from __future__ import annotations

import gc
import json
import os
import platform
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tiltrl import locks
from tiltrl.errors import InputError
from tiltrl.locks import LOCK, OWNER, FolderLock, is_unused

HOLD = "import sys; from tiltrl.locks import FolderLock; held = FolderLock(sys.argv[1]); print('held', flush=True); "
WAIT = "sys.stdin.read()"
ELSEWHERE = {"pid": 1, "host": "elsewhere", "command": "tiltrl run demo", "started": "2026-01-01 00:00:00 +0000"}


@contextmanager
def other_process(folder: Path, then: str = WAIT) -> Iterator[subprocess.Popen[str]]:
    """A process that has locked the folder."""
    command = [sys.executable, "-c", HOLD + then, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def owned_elsewhere(folder: Path, age: float, **changes: object) -> None:
    folder.mkdir(exist_ok=True)
    (folder / OWNER).write_text(json.dumps(ELSEWHERE | changes))
    then = time.time() - age
    os.utime(folder / OWNER, (then, then))


def test_a_locked_folder_says_who_works_in_it(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path / "new" / "run")
    owner = json.loads((tmp_path / "new" / "run" / OWNER).read_text())
    assert (owner["pid"], owner["host"]) == (os.getpid(), platform.node())
    assert is_unused(tmp_path / "new" / "run")
    lock.close()
    assert [path.name for path in (tmp_path / "new" / "run").iterdir()] == [LOCK]


def test_another_process_is_refused_with_who_and_what_to_do(tmp_path: Path) -> None:
    with other_process(tmp_path / "run") as other:
        before = sorted((tmp_path / "run").iterdir())
        with pytest.raises(InputError) as error:
            FolderLock(tmp_path / "run", name="runs/mine")
        assert sorted((tmp_path / "run").iterdir()) == before
    message = str(error.value)
    assert message.startswith(f"runs/mine: process {other.pid} on {platform.node()} since 20")
    assert message.endswith("works in it; wait until that has ended, or give another --out")
    assert "\n" not in message


def test_a_killed_process_frees_the_folder(tmp_path: Path) -> None:
    with other_process(tmp_path) as other:
        os.kill(other.pid, signal.SIGKILL)
        lock = FolderLock(tmp_path)  # at once, while it is still ending
    assert json.loads((tmp_path / OWNER).read_text())["pid"] == os.getpid()
    lock.close()


def test_a_process_that_ends_leaves_no_owner(tmp_path: Path) -> None:
    with other_process(tmp_path, then="sys.exit(3)") as other:
        other.wait()
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_one_process_may_lock_a_folder_many_times(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "run")
    first, second = FolderLock(tmp_path / "run"), FolderLock(tmp_path / "link")
    first.close()
    first.close()
    assert (tmp_path / "run" / OWNER).exists()
    del second
    gc.collect()
    assert not (tmp_path / "run" / OWNER).exists()


def test_a_forked_child_does_not_unlock(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    program = "import os\nif os.fork() == 0:\n    held.close(); os._exit(0)\nos.wait(); print('forked', flush=True);"
    with other_process(tmp_path / "other", then=f"exec({program!r}); {WAIT}") as other:
        assert other.stdout is not None and other.stdout.readline() == "forked\n"
        with pytest.raises(InputError, match=f"process {other.pid} on"):
            FolderLock(tmp_path / "other")
    lock.close()


@contextmanager
def beating(folder: Path) -> Iterator[None]:
    """Somebody gives signs of life."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(0.05):
            os.utime(folder / OWNER)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_an_owner_elsewhere_is_believed_when_it_gives_another_sign_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(locks, "_LOOK_SECONDS", 0.02)
    owned_elsewhere(tmp_path, age=40)
    with beating(tmp_path), pytest.raises(InputError, match=r"runs/mine: process 1 on elsewhere .* works in it; wait"):
        FolderLock(tmp_path, name="runs/mine")
    assert json.loads((tmp_path / OWNER).read_text()) == ELSEWHERE
    said = capsys.readouterr().err
    assert said.startswith("tiltrl: runs/mine: process 1 on elsewhere since 2026") and said.count("\n") == 1
    FolderLock(tmp_path / "other").close()


def test_an_owner_elsewhere_that_was_killed_is_waited_for_and_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(locks, "_LOOK_SECONDS", 0.02)
    owned_elsewhere(tmp_path, age=59.5)
    began = time.monotonic()
    lock = FolderLock(tmp_path)
    assert 0.2 < time.monotonic() - began < 30
    assert json.loads((tmp_path / OWNER).read_text())["pid"] == os.getpid()
    said = capsys.readouterr().err
    assert re.search(r"sign of life (59|60) seconds ago; .* going on in (0|1) seconds if there is none\n$", said)
    lock.close()


def test_an_owner_elsewhere_that_ends_meanwhile_is_waited_for_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owned_elsewhere(tmp_path, age=0)
    monkeypatch.setattr("time.sleep", lambda _: (tmp_path / OWNER).unlink())
    FolderLock(tmp_path).close()


def test_a_signal_ends_the_wait_and_frees_the_folder(tmp_path: Path) -> None:
    owned_elsewhere(tmp_path, age=0)
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None and "waiting for the next one" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.stderr.read().endswith("KeyboardInterrupt\n")
    assert json.loads((tmp_path / OWNER).read_text()) == ELSEWHERE


@pytest.mark.parametrize("age", [61, 1e6, -1e6], ids=["just stale", "long gone", "from the future"])
def test_an_owner_elsewhere_without_signs_of_life_is_gone(tmp_path: Path, age: float) -> None:
    owned_elsewhere(tmp_path, age)
    lock = FolderLock(tmp_path)
    assert json.loads((tmp_path / OWNER).read_text())["pid"] == os.getpid()
    lock.close()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", json.dumps(ELSEWHERE | {"pid": "x"})])
def test_an_unreadable_owner_is_nobody(tmp_path: Path, text: str) -> None:
    (tmp_path / OWNER).write_text(text)
    FolderLock(tmp_path).close()


def test_the_owner_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.02)
    lock = FolderLock(tmp_path)
    os.utime(tmp_path / OWNER, (1.0, 1.0))
    deadline = time.monotonic() + 300
    while (tmp_path / OWNER).stat().st_mtime == 1.0:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    lock.close()


def test_an_owner_that_was_taken_for_dead_leaves_the_new_one_alone(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    owned_elsewhere(tmp_path, age=0)
    lock.close()
    assert json.loads((tmp_path / OWNER).read_text()) == ELSEWHERE


def test_without_the_systems_locks_signs_of_life_decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(locks, "_LOOK_SECONDS", 0.02)
    monkeypatch.setattr(locks.FileLock, "acquire", missing)
    (tmp_path / LOCK).touch()
    owned_elsewhere(tmp_path, age=0, host=platform.node(), pid=os.getppid())
    with beating(tmp_path), pytest.raises(InputError, match=f"process {os.getppid()} on"):
        FolderLock(tmp_path)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for pid in (gone.pid, os.getpid()):  # ours, where every container has but one process
        owned_elsewhere(tmp_path, age=0, host=platform.node(), pid=pid)
        monkeypatch.setattr("time.sleep", pytest.fail)
        FolderLock(tmp_path).close()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file/run: cannot be written: (Not a directory|File exists)"):
        FolderLock(tmp_path / "file" / "run")
    with pytest.raises(InputError, match="cannot be written: embedded null"):
        FolderLock("a\0b")


def test_a_folder_made_anew_is_locked_anew(tmp_path: Path) -> None:
    first = FolderLock(tmp_path / "run")
    (tmp_path / "run" / LOCK).unlink()
    (tmp_path / "run" / OWNER).unlink()
    second = FolderLock(tmp_path / "run")
    assert (tmp_path / "run" / LOCK).exists() and (tmp_path / "run" / OWNER).exists()
    first.close()
    second.close()
