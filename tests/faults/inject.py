"""Makes one write fail: run in the process that is to meet it, before its command.

    import inject; inject.install(out, skip, code, told, every=True)

The first write below the folder `out` that is made from a place not in `skip` fails with the error number `code`, as a
disk or file system would have it: opening for writing, writing (half of it is written), flushing, renaming, making
folders. The place goes into the file `told`. It is the innermost lines of TiltRL that led there; or, where not every
one is asked for, the line that asked for the file, of whose steps one is chosen. What threads do on their own clock is
left alone.
"""

from __future__ import annotations

import builtins
import io
import os
import sys
import threading
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import tiltrl

SOURCE = str(Path(tiltrl.__file__).parent) + os.sep
DEPTH = 3  # lines of TiltRL that make a place
SERVANTS = ("files.py", "serialization.py")  # who write for others
STEPS = ("open", "write", "fsync", "replace")  # of a file that is written aside
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def install(out: str, skip: Collection[str], code: int, told: str, *, every: bool) -> None:
    """Put failing functions in the place of the operating system's."""
    root = os.path.realpath(out)
    state = {"left": True}
    raw_write, raw_open, raw_close = os.write, os.open, os.close

    def check(kind: str, path: Any) -> None:
        if not state["left"] or threading.current_thread() is not threading.main_thread():
            return
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        full = os.path.realpath(os.fsdecode(path))
        if full != root and not full.startswith(root + os.sep):
            return
        place = _place(kind) if every else _asker(kind)
        if place is None or place in skip:
            return
        state["left"] = False
        handle = raw_open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        raw_write(handle, f"{place}\n{full}".encode())
        raw_close(handle)
        raise OSError(code, os.strerror(code), full)

    class Failing(io.FileIO):
        """A file of which half of a write gets through, as on a disk that fills up, and the rest is refused."""

        refusal: OSError | None = None

        def write(self, content: Any) -> int:
            if self.refusal is not None:
                refusal, self.refusal = self.refusal, None
                raise refusal
            try:
                check("write", self.name)
            except OSError as error:
                half = memoryview(content).nbytes // 2
                if half == 0:
                    raise
                self.refusal = error
                return super().write(memoryview(content)[:half])
            return super().write(content)

    def opening(file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **named: Any) -> Any:
        if isinstance(file, int) or not set(mode) & set("wxa+"):
            return real_open(file, mode, buffering, *rest, **named)
        check("open", file)
        full = os.path.realpath(os.fsdecode(file))
        if not full.startswith(root + os.sep):
            return real_open(file, mode, buffering, *rest, **named)
        raw = Failing(os.fspath(file), mode.replace("b", "").replace("t", ""), opener=named.get("opener"))
        whole = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        if "b" in mode:
            return whole
        encoding = named.get("encoding") or (rest[0] if rest else None)
        return io.TextIOWrapper(whole, encoding=encoding or "utf-8")

    def low_open(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if flags & _WRITING:
            check("open", path)
        return raw_open(path, flags, *rest, **named)

    def making(path: Any, *rest: Any, **named: Any) -> None:
        if not os.path.lexists(path):  # else it is refused for that, whatever else is wrong
            check("mkdir", path)
        real_mkdir(path, *rest, **named)

    def checked(kind: str, real: Any, which: int = 0) -> Any:
        def call(*args: Any, **named: Any) -> Any:
            check(kind, args[which])
            return real(*args, **named)

        return call

    real_open, real_mkdir = builtins.open, os.mkdir
    builtins.open = io.open = opening  # type: ignore[assignment]
    os.open = low_open  # type: ignore[assignment]
    os.fsync = checked("fsync", os.fsync)
    os.replace = checked("replace", os.replace, 1)
    os.rename = checked("rename", os.rename, 1)
    os.mkdir = making


def _place(kind: str) -> str:
    """The innermost lines of TiltRL that are being run, the outermost first."""
    return f"{kind} at {' > '.join(reversed(_lines()[:DEPTH]))}"


def _asker(kind: str) -> str | None:
    """The line that wants something written; None at steps of a file's writing other than that line's share."""
    lines = _lines()
    asking = [line for line in lines if not line.startswith(SERVANTS)] or ["outside"]
    served = lines[:1] != asking[:1]
    if served and kind != STEPS[zlib.crc32(asking[0].encode()) % len(STEPS)]:
        return None
    return asking[0]


def _lines() -> list[str]:
    """The lines of TiltRL that are being run, the innermost first."""
    frame, lines = sys._getframe(3), []
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(SOURCE):
            lines.append(f"{name.removeprefix(SOURCE)}:{frame.f_lineno}")
        frame = frame.f_back
    return lines
