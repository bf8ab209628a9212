"""Files that are either the old one or the new one, never half of one; and reads that never wait or fill the memory."""

from __future__ import annotations

import errno
import json
import math
import os
import platform
import re
import secrets
import shutil
import stat
import time
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

from tiltrl.errors import InputError
from tiltrl.types import as_json

DESCRIPTION_BYTES = 8_000_000
"""More than the description of any data set; others make those."""
_JSON_AT_MOST = 64_000_000
_ABANDONED_SECONDS = 3600.0  # what nobody has written to for so long is of a process that is gone
_ASIDE = re.compile(r"\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.(.+)", re.DOTALL)


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Write aside, flush to disk, then rename: whoever reads `path` sees the old content or the new, never a part.

    That holds over a power cut, too. Missing parent folders are made. A link is kept and the file behind it replaced.
    Nothing is left aside on failure, and what killed processes have left aside of this file is removed.

    Raises:
        InputError: the operating system refuses (disk full, no permission, a folder in the way); names the path.
    """
    try:
        target = Path(os.path.realpath(path))
        make_folder(target.parent)
        sweep_aside(target)
        aside = aside_of(target)
        try:
            with open(aside, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, target)
        finally:
            aside.unlink(missing_ok=True)  # where it failed; an interrupt, too, leaves nothing aside
        flush_folder(target.parent)
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        raise InputError(f"{os.fspath(path)}: cannot be written: {reason(error)}") from error


def writable(path: Path, suffix: str) -> Path:
    """The path, if a file of that name can be put there: to be asked before long work.

    Raises:
        InputError: it has another suffix, is a folder, or its folder cannot be written to.
    """
    if path.suffix.lower() != suffix:
        raise InputError(f"{path}: the file's name has to end in {suffix}")
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give the name of a file")
    there = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{path}: cannot be written, as {there} is no folder that may be written to")
    return path


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write a value (dataclasses, tuples and NumPy scalars included) as indented JSON, atomically.

    Raises:
        InputError: a number is NaN or infinite, which JSON cannot say; or the file cannot be written.
    """
    plain = as_json(value)
    if (bad := _not_finite(plain)) is not None:
        raise InputError(f"{os.fspath(path)}: cannot be written: {bad}; JSON holds finite numbers only")
    write_atomically(path, (json.dumps(plain, indent=2, allow_nan=False) + "\n").encode())


def read_file(path: str | os.PathLike[str], at_most: int) -> bytes:
    """What a regular file holds. Pipes and devices are refused unopened: reading one may wait forever, or never end.

    Args:
        path: of the file.
        at_most: so many bytes; a larger file is refused unread.

    Raises:
        InputError: there is no such file, it is none, it is too large, or the operating system refuses.
    """
    try:
        _refuse_irregular(os.stat(path).st_mode)
        with open(path, "rb", opener=_open_at_once) as file:
            found = os.fstat(file.fileno())
            _refuse_irregular(found.st_mode)  # once more, as it may be another one by now
            if found.st_size > at_most:
                raise ValueError(f"it has {found.st_size} bytes, more than the {at_most} allowed here")
            return file.read(found.st_size)
    except (OSError, ValueError) as error:
        raise InputError(f"{os.fspath(path)}: cannot be read: {reason(error)}") from error


def read_tail(path: str | os.PathLike[str], at_most: int) -> bytes:
    """The last bytes of a regular file, however large it is.

    Args:
        path: of the file.
        at_most: so many bytes.

    Raises:
        InputError: as `read_file`.
    """
    try:
        _refuse_irregular(os.stat(path).st_mode)
        with open(path, "rb", opener=_open_at_once) as file:
            found = os.fstat(file.fileno())
            _refuse_irregular(found.st_mode)  # once more, as it may be another one by now
            file.seek(max(0, found.st_size - at_most))
            return file.read(at_most)
    except (OSError, ValueError) as error:
        raise InputError(f"{os.fspath(path)}: cannot be read: {reason(error)}") from error


def read_json(path: str | os.PathLike[str], at_most: int = _JSON_AT_MOST) -> dict[str, Any]:
    """The object that a JSON file holds.

    Args:
        path: of the file.
        at_most: so many bytes; lists of nothing take thirty times that in memory.

    Raises:
        InputError: the file cannot be read, is damaged, or holds anything but an object.
    """
    content = read_file(path, at_most)
    try:
        value = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{os.fspath(path)}: not a readable JSON file: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{os.fspath(path)}: not a readable description: it holds no JSON object")
    return value


def reason(error: Exception) -> str:
    """Why the operating system refused, in one line."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return " ".join(text.split())


def slug(name: str, keep: str = ".-") -> str:
    """A name as a part of a path: each run of other characters than ASCII letters, digits and `keep` is one hyphen.

    Of a long name the end is kept, as the name of a file has one.
    """
    return re.sub(rf"[^A-Za-z0-9{re.escape(keep)}]+", "-", name).strip("-.")[-100:].lstrip("-.")


# --- Aside ------------------------------------------------------------------------------------------------------------


def aside_of(target: Path) -> Path:
    """A new name beside `target` that says which process writes there, so that what it leaves behind can be told.

    In the same folder, because a rename is atomic only within one file system.
    """
    return target.with_name(f".{_machine()}-{os.getpid()}-{secrets.token_hex(4)}.{_short(target.name)}")


def is_aside(name: str) -> bool:
    """Whether a file or folder of this name was being written aside."""
    return _ASIDE.fullmatch(name) is not None


def sweep_aside(target: Path) -> None:
    """Remove what processes that are gone have left aside of `target`; what a live one writes is kept."""
    with suppress(OSError):  # no such folder yet, or not ours to clean
        for path in target.parent.iterdir():
            if (found := _ASIDE.fullmatch(path.name)) and found[3] == _short(target.name):
                _remove_abandoned(path, found[1], int(found[2]))


def sweep_folder(folder: Path) -> None:
    """Remove what processes that are gone have left aside anywhere in the folder; what a live one writes is kept."""
    for parent, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            if found := _ASIDE.fullmatch(name):
                with suppress(OSError):  # gone meanwhile, or not ours to clean
                    _remove_abandoned(Path(parent, name), found[1], int(found[2]))


def _remove_abandoned(path: Path, machine: str, process: int) -> None:
    if _abandoned(path, machine, process):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _abandoned(path: Path, machine: str, process: int) -> bool:
    if machine == _machine() and process_is_gone(process):
        return True
    written = max(file.lstat().st_mtime for file in (path, *path.rglob("*")))
    return time.time() - written > _ABANDONED_SECONDS


def process_is_gone(process: int) -> bool:
    """Whether no process of this number runs here; False where that cannot be asked."""
    if os.name != "posix":  # elsewhere, os.kill(process, 0) is no question
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:  # it runs, and is another user's
        return False
    return False


def _machine() -> str:
    """Where process numbers mean the same: folders may be shared by several machines, and one runs many containers."""
    numbers = ""
    with suppress(OSError):  # only Linux has these
        numbers = os.readlink("/proc/self/ns/pid")
    return f"{zlib.crc32(f'{platform.node()} {numbers}'.encode()):08x}"


def _short(name: str) -> str:
    """The name, unless there would be no room to write before it."""
    raw = os.fsencode(name)
    return name if len(raw) <= 200 else f"{zlib.crc32(raw):08x}"


# --- Folders ----------------------------------------------------------------------------------------------------------


def make_folder(folder: Path) -> None:
    """Make the folder with its parents, where missing, so that they outlast a power cut."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in reversed(missing):
        flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Have the names in the folder on disk, as a new file or a renamed one is only there once its name is."""
    if os.name != "posix":
        return  # Windows does not open folders
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return  # one may write into a folder that one may not read
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems do not flush folders
            raise
    finally:
        os.close(handle)


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _refuse_irregular(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise ValueError("it is a folder, not a file")
    if not stat.S_ISREG(mode):
        raise ValueError("it is a pipe, a socket or a device, not a regular file")


def _not_finite(value: Any, where: str = "value") -> str | None:
    """Where the first NaN or infinite number is, as in "value.scores[3] is nan"; None when there is none."""
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{where} is {value}"
    if isinstance(value, dict):
        inside = ((f"{where}.{key}", item) for key, item in value.items())
    elif isinstance(value, list):
        inside = ((f"{where}[{i}]", item) for i, item in enumerate(value))
    else:
        return None
    return next((bad for place, item in inside if (bad := _not_finite(item, place))), None)
