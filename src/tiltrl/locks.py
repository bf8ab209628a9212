"""Who works in a folder: one process at a time.

`.lock` carries a lock of the operating system, which frees it when the process ends, however it ends. `.owner.json`
says who holds it. Between machines that share a folder such locks are not always seen, so the owner also touches
`.owner.json` every few seconds. Where it has lately, a process on another machine watches for the next time: an owner
that gives no sign of life for a minute is gone, as after a kill, and the folder is taken over. One that was merely
suspended for so long does not notice.
"""

from __future__ import annotations

import errno
import os
import platform
import sys
import threading
import time
import weakref
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from tiltrl.errors import InputError
from tiltrl.files import is_aside, make_folder, process_is_gone, read_json, reason, write_json

LOCK, OWNER = ".lock", ".owner.json"
BEAT_SECONDS = 10.0
"""Time between two signs of life."""
STALE_SECONDS = 60.0
"""Age of the last sign of life from which on an owner on another machine is gone."""

_LOOK_SECONDS = 1.0  # between two looks for a sign of life
_PATIENCE_SECONDS = 1.0  # a process that was killed a moment ago takes its time to end
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}  # some network file systems have none


@dataclass(frozen=True)
class _Owner:
    pid: int
    host: str
    command: str
    started: str

    def __str__(self) -> str:
        text = f"process {self.pid} on {self.host} since {self.started} ({self.command})"
        return " ".join(text.split())  # as it comes from a file


class FolderLock:
    """Keeps other processes out of a folder until it is closed or forgotten, or the process ends.

    Within one process a folder may be locked many times; other processes wait for the last of them.
    """

    def __init__(self, folder: str | os.PathLike[str], *, name: str | None = None):
        """Lock the folder, which is made with its parents where it is missing.

        Args:
            folder: to be worked in.
            name: what the user calls it, for messages. None: as `folder`.

        Raises:
            InputError: another process works in it, or it cannot be written.
        """
        self._hold: _Hold | None = _hold(Path(folder), name or os.fspath(folder))

    def close(self) -> None:
        """Let others in."""
        self._hold = None


def is_unused(folder: Path) -> bool:
    """Whether a folder holds nothing but what a process leaves that is killed before it has written anything."""
    return all(path.name in (LOCK, OWNER) or is_aside(path.name) for path in folder.iterdir())


# --- One hold a folder and process ------------------------------------------------------------------------------------


class _Hold:
    """A locked folder; unlocked when nobody refers to this object anymore, at exit at the latest."""

    def __init__(self, folder: Path, lock: FileLock, owner: _Owner):
        stop = threading.Event()
        # Neither refers to this object, which would then live forever.
        weakref.finalize(self, _unlock, folder, lock, owner, stop)
        threading.Thread(target=_beat, args=(folder / OWNER, stop), name="folder-lock", daemon=True).start()


_holds: weakref.WeakValueDictionary[Path, _Hold] = weakref.WeakValueDictionary()
_guard = threading.RLock()


def _hold(folder: Path, name: str) -> _Hold:
    try:
        key = Path(os.path.realpath(folder))
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        raise InputError(f"{name}: cannot be written: {reason(error)}") from error
    with _guard:
        hold = _holds.get(key)
        if hold is None or not (key / LOCK).exists():  # the folder may have been deleted and made anew
            _holds[key] = hold = _locked(key, name)
        return hold


def _locked(folder: Path, name: str) -> _Hold:
    lock = FileLock(folder / LOCK, thread_local=False, fallback_to_soft=False)
    try:
        make_folder(folder)
        locked = _acquired(lock)
    except Timeout as error:
        raise InputError(_refusal(name, _owner(folder))) from error
    except OSError as error:
        raise InputError(f"{name}: cannot be written: {reason(error)}") from error
    owner = _Owner(os.getpid(), platform.node(), _command(), time.strftime("%Y-%m-%d %H:%M:%S %z"))
    try:
        _outwait(folder, name, seen_by_kernel=locked)
        write_json(folder / OWNER, asdict(owner))
    except BaseException:
        lock.release()
        raise
    return _Hold(folder, lock, owner)


def _acquired(lock: FileLock) -> bool:
    """Take the lock; False where the file system has none."""
    try:
        lock.acquire(timeout=_PATIENCE_SECONDS)
    except Timeout:
        raise
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def _outwait(folder: Path, name: str, *, seen_by_kernel: bool) -> None:
    """Wait until the last owner is surely gone, where the operating system does not say so; says once that it waits.

    Raises:
        InputError: it gave a sign of life meanwhile.
    """
    watched: tuple[_Owner, float] | None = None
    while (owner := _owner(folder)) is not None and not _is_gone(owner, seen_by_kernel):
        try:
            os.utime(folder / LOCK)  # the file system's own clock, which may be another than ours
            seen = (folder / OWNER).stat().st_mtime
            age = abs((folder / LOCK).stat().st_mtime - seen)
        except OSError:  # it ended this moment, or cannot be asked
            return
        if age >= STALE_SECONDS:
            return
        if watched is None:
            watched = owner, seen
            print(
                f"tiltrl: {name}: {owner} gave a sign of life {age:.0f} seconds ago; waiting for the next one, and "
                f"going on in {STALE_SECONDS - age:.0f} seconds if there is none",
                file=sys.stderr,
                flush=True,
            )
        elif watched != (owner, seen):
            raise InputError(_refusal(name, owner))
        time.sleep(_LOOK_SECONDS)


def _is_gone(owner: _Owner, seen_by_kernel: bool) -> bool:
    """Whether an owner on this machine is known to have ended."""
    if owner.host != platform.node():
        return False
    # In containers every process may have the same number, and ours is not the one that wrote it.
    return seen_by_kernel or owner.pid == os.getpid() or process_is_gone(owner.pid)


def _unlock(folder: Path, lock: FileLock, owner: _Owner, stop: threading.Event) -> None:
    stop.set()
    if os.getpid() != owner.pid:
        return  # of a forked process, whose parent holds on
    if _owner(folder) == owner:  # and not of one that took us for dead
        with suppress(OSError):
            (folder / OWNER).unlink()
    with suppress(OSError):
        lock.release()


def _beat(file: Path, stop: threading.Event) -> None:
    while not stop.wait(BEAT_SECONDS):
        with suppress(OSError):  # the next one may get through
            os.utime(file)


# --- The owner --------------------------------------------------------------------------------------------------------


def _owner(folder: Path) -> _Owner | None:
    """Who says to work in the folder; None where nobody does, or it cannot be read."""
    try:
        found = read_json(folder / OWNER)
        pid, *texts = (found[name] for name in ("pid", "host", "command", "started"))
    except (InputError, KeyError):
        return None
    if not isinstance(pid, int) or pid < 1 or not all(isinstance(text, str) for text in texts):
        return None
    return _Owner(pid, *texts)


def _command() -> str:
    program, *words = sys.argv or [""]
    path = Path(program)
    words = [path.parent.name if path.name == "__main__.py" else path.name, *words]
    return " ".join(" ".join(words).split())[:200]


def _refusal(name: str, owner: _Owner | None) -> str:
    who = "another process" if owner is None else str(owner)
    return f"{name}: {who} works in it; wait until that has ended, or give another --out"
