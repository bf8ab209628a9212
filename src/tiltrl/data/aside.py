"""Files and folders built aside and renamed, so that a target is whole or not there, whenever the process is killed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tiltrl.errors import InputError
from tiltrl.files import aside_of, flush_folder, make_folder, reason, sweep_aside


@contextmanager
def file_aside(target: Path, overwrite: bool) -> Iterator[Path]:
    """A path beside `target` to write to, flushed and renamed on success, removed on failure.

    Raises:
        InputError: `target` is a folder, or is there and not to be overwritten, or cannot be written.
    """
    if target.is_dir():
        raise InputError(f"{target}: is a folder; give the path of a file")
    if target.exists() and not overwrite:
        raise InputError(f"{target}: exists already; give another path, or ask to overwrite it (--overwrite)")
    with reported(target):
        make_folder(target.parent)
        sweep_aside(target)
        aside = aside_of(target)
        try:
            yield aside
            _flush(aside)
            os.replace(aside, target)
        finally:
            aside.unlink(missing_ok=True)
        flush_folder(target.parent)


@contextmanager
def data_set_aside(target: Path, overwrite: bool) -> Iterator[Path]:
    """A folder beside `target` to fill with a Minari data set, renamed on success, removed on failure.

    No system call puts one folder in the place of another, so one that is overwritten first goes to `replaced`. A
    process killed at that very moment leaves it there, and the next one that writes to `target` puts it back.

    Raises:
        InputError: `target` is there and not to be overwritten, or holds other things, or cannot be written.
    """
    with reported(target):
        there = not _is_free(target)
        if not there:
            put_back(target)
            there = not _is_free(target)
    if there and not overwrite:
        raise InputError(f"{target}: exists already; give another path, or ask to overwrite it (--overwrite)")
    # Only what is a data set is ever removed: a slip in the path must not cost a folder of other things.
    if there and not _is_data_set(target):
        raise InputError(
            f"{target}: holds other things than a Minari data set, so it is not replaced; give another path"
        )
    with reported(target):
        make_folder(target.parent)
        sweep_aside(target)
        put_back(target)
        aside = aside_of(target)
        try:
            aside.mkdir()
            yield aside
            flush_tree(aside)
            if there:
                os.replace(target, replaced(target))
            os.replace(aside, target)
            flush_folder(target.parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
            put_back(target)


def replaced(target: Path) -> Path:
    """Where a data set is while another one takes its place."""
    return target.with_name(f".{target.name}.replaced")


def put_back(target: Path) -> None:
    """After a write that was cut off while it replaced a data set: have the old one back, unless the new one is there.

    Raises:
        OSError: it cannot be renamed.
    """
    old = replaced(target)
    if not old.is_dir():
        return
    if _is_free(target):
        os.replace(old, target)
    elif old.is_symlink():
        old.unlink()
    else:
        shutil.rmtree(old, ignore_errors=True)


def flush_tree(folder: Path) -> None:
    """Have all of a folder on disk: its files and the names in it."""
    for parent, _, files in os.walk(folder, topdown=False):
        for name in files:
            _flush(Path(parent, name))
        flush_folder(Path(parent))


@contextmanager
def reported(target: Path) -> Iterator[None]:
    """What the operating system refuses, as one sentence that names the target.

    Raises:
        InputError: it refuses.
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"{target}: cannot be written: {reason(error)}") from error


def _is_free(target: Path) -> bool:
    """Whether nothing is there; an empty folder is in nobody's way."""
    return not target.exists() or (target.is_dir() and not any(target.iterdir()))


def _is_data_set(folder: Path) -> bool:
    if not folder.is_dir() or {path.name for path in folder.iterdir()} != {"data"} or not (folder / "data").is_dir():
        return False
    return {path.name for path in (folder / "data").iterdir()} == {"main_data.hdf5", "metadata.json"}


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
