"""Fetches a file once: whole and of the right kind, or not at all."""

from __future__ import annotations

import json
import os
import shutil
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from types import TracebackType

import h5py
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from tiltrl.data.aside import flush_tree, reported
from tiltrl.errors import InputError
from tiltrl.files import aside_of, sweep_aside

OnProgress = Callable[[int, int | None], None]
"""Called with (bytes that have come, bytes in all; None where the server does not say)."""

Check = Callable[[Path], None]
"""Raises InputError where a file is not what it should be; the message says what it is not, without naming the file."""

_PIECE = 1 << 18  # bytes read at once: small enough to show progress on slow lines
_QUIET_SECONDS = 2.0  # a download this short shows nothing


def fetch(
    url: str, target: Path, *, check: Check, on_progress: OnProgress | None = None, timeout: float = 30.0
) -> Path:
    """The file at `target`, downloaded from `url` unless it is there.

    It is written aside, checked and renamed: another process sees it whole or not at all, and of two that download at
    once the later one replaces the file by an equal one. On failure, interrupts included, nothing is left behind, and
    folders made for it are removed again; what a killed process has left is removed by the next call.

    Args:
        url: begins with http:// or https://.
        target: where the file belongs; missing parent folders are made.
        check: see `Check`; is asked before the file gets its name.
        on_progress: see `OnProgress`. None: progress goes to standard error, once two seconds have passed.
        timeout: seconds without a single byte after which the server is given up.

    Returns:
        `target`.

    Raises:
        InputError: no answer, a refusal, a web page, too few bytes, the wrong kind of file, or no place to write it;
            the message names the address, and where to put the file by hand.
    """
    sweep_aside(target)
    if os.path.isfile(target):  # which is False, too, where the folder may not be looked into
        return target
    if not url.startswith(("http://", "https://")):
        raise InputError(f"{url}: not an address to download from; it must begin with http:// or https://")
    with _open(url, target, timeout) as response, reported(target):
        total = _length(response)
        with made(target.parent):
            aside = aside_of(target)
            try:
                with aside.open("xb") as file, _Shown(url, on_progress) as show:
                    size = 0
                    for piece in _pieces(response, url, target):
                        file.write(piece)
                        size += len(piece)
                        show(size, total)
                    if total not in (None, size):
                        raise _failed(url, target, f"only {size} of {total} bytes came")
                    file.flush()
                    os.fsync(file.fileno())
                try:
                    check(aside)
                except InputError as error:
                    raise _failed(url, target, f"what came is {error}") from error
                os.replace(aside, target)
            finally:
                aside.unlink(missing_ok=True)
    return target


@contextmanager
def made(folder: Path) -> Iterator[None]:
    """`folder` and its parents exist inside; those made for it are removed on failure, where they are empty."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:  # an interrupt, too, leaves nothing behind
        with suppress(OSError):  # from the first that is not empty on: another process uses it by now
            for path in missing:
                path.rmdir()
        raise


@contextmanager
def folder_aside(target: Path) -> Iterator[Path]:
    """A folder beside `target` to fill; renamed on success, removed on failure, dropped where `target` came meanwhile.

    Raises:
        InputError: the operating system refuses.
    """
    sweep_aside(target)
    with reported(target), made(target.parent):
        aside = aside_of(target)
        try:
            aside.mkdir()
            yield aside
            flush_tree(aside)
            if not target.is_dir() or not any(target.iterdir()):
                os.replace(aside, target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


# --- What a file should be --------------------------------------------------------------------------------------------


def check_hdf5(path: Path) -> None:
    """A whole HDF5 file: h5py compares the size with what the header says."""
    _refuse_pages(path)
    try:
        with h5py.File(path, "r"):
            return
    except OSError as error:
        raise InputError("no whole HDF5 file") from error


def check_npz(path: Path) -> None:
    """A whole .npz file: its table of contents is at the end."""
    _refuse_pages(path)
    if not zipfile.is_zipfile(path):
        raise InputError("no whole .npz file")


def check_hdf5_of(*names: str) -> Check:
    """A whole HDF5 file with arrays of these names, so that no other one stays where it would be found again."""

    def check(path: Path) -> None:
        check_hdf5(path)
        try:
            with h5py.File(path, "r") as file:
                missing = [name for name in names if not _holds(file, name)]
        except (OSError, RuntimeError, ValueError, KeyError) as error:  # h5py raises any, by where the damage is
            raise InputError("a damaged HDF5 file") from error
        _refuse_without(missing, "an HDF5 file")

    return check


def _holds(file: h5py.File, name: str) -> bool:
    """Whether it is an array of this very file; a link to another one is not followed."""
    return file.get(name, getclass=True, getlink=True) is h5py.HardLink and isinstance(file[name], h5py.Dataset)


def check_npz_of(*names: str) -> Check:
    """A whole .npz file with arrays of these names; likewise."""

    def check(path: Path) -> None:
        check_npz(path)
        try:
            with zipfile.ZipFile(path) as file:
                there = set(file.namelist())
        except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
            raise InputError("a damaged .npz file") from error
        _refuse_without([name for name in names if f"{name}.npy" not in there], "an .npz file")

    return check


def _refuse_without(missing: list[str], kind: str) -> None:
    if missing:
        raise InputError(f"{kind} without {', '.join(missing)}, so another data set than was asked for")


def check_json(path: Path) -> None:
    """A JSON object."""
    _refuse_pages(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError("no JSON") from error
    if not isinstance(value, dict):
        raise InputError("no JSON object")


def _refuse_pages(path: Path) -> None:
    """Servers and captive networks answer with a page and status 200 where they mean "not here"."""
    with path.open("rb") as file:
        if file.read(512).lstrip().lower().startswith((b"<!doctype html", b"<html")):
            raise InputError("a web page, not a data set")


# --- The network ------------------------------------------------------------------------------------------------------


def _failed(url: str, target: Path, reason: str) -> InputError:
    return InputError(f"{url}: cannot be downloaded: {reason}; download it by hand and save it as {target}")


def _open(url: str, target: Path, timeout: float) -> HTTPResponse:
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers={"User-Agent": "tiltrl"}), timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        raise _failed(url, target, f"the server answers {error.code} {error.reason}") from error
    except (OSError, HTTPException, ValueError) as error:  # ValueError: no valid host or port in the address
        raise _failed(url, target, _reason(error)) from error


def _pieces(response: HTTPResponse, url: str, target: Path) -> Iterator[bytes]:
    while True:
        try:
            piece = response.read1(_PIECE)
        except (OSError, HTTPException) as error:
            raise _failed(url, target, _reason(error)) from error
        if not piece:
            return
        yield piece


def _length(response: HTTPResponse) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isdecimal() else None


def _reason(error: Exception) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return "the server has stopped answering"
    text = (cause.strerror if isinstance(cause, OSError) else None) or str(cause) or type(cause).__name__
    return " ".join(text.split())


# --- Progress ---------------------------------------------------------------------------------------------------------


class _Shown:
    """Passes progress on, or shows it: a bar on a terminal, else a line every tenth of the way."""

    def __init__(self, url: str, on_progress: OnProgress | None):
        self._name = url.rpartition("/")[2]
        self._tell = on_progress
        self._console = Console(stderr=True, markup=False, emoji=False)  # names are the user's
        self._bar: Progress | None = None
        self._tenth = -1

    def __enter__(self) -> _Shown:
        self._start = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, size: int, total: int | None) -> None:
        if self._tell is not None:
            self._tell(size, total)
        elif time.monotonic() - self._start >= _QUIET_SECONDS:
            self._show(size, total)

    def _show(self, size: int, total: int | None) -> None:
        if not self._console.is_terminal:
            tenth = 10 * size // total if total else size // 10_000_000
            if tenth > self._tenth:
                whole = f" of {total / 1e6:.1f}" if total else ""
                self._console.print(f"download   {self._name}: {size / 1e6:.1f}{whole} MB", highlight=False)
            self._tenth = tenth
            return
        if self._bar is None:
            columns = (BarColumn(24), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
            self._bar = Progress(
                TextColumn("download   {task.description}", markup=False), *columns, console=self._console
            )
            self._bar.add_task(self._name, total=total)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=size, total=total)
