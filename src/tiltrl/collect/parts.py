"""Finished episodes of a collection that is still going on, kept so that the same command continues it.

They lie in `<target>.parts` beside the target: `settings.json`, and blocks of episodes named by their first one. Only
when all are there is the target written and renamed into place, and the parts are removed. One process at a time works
there.
"""

from __future__ import annotations

import dataclasses
import io
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from tiltrl.errors import InputError
from tiltrl.files import read_json, reason, sweep_folder, write_atomically, write_json
from tiltrl.locks import FolderLock, is_unused
from tiltrl.types import Task, Transitions, as_json

_SETTINGS = "settings.json"
_ARRAYS = tuple(field.name for field in dataclasses.fields(Transitions) if field.name != "task")


def concatenate(blocks: list[Transitions]) -> Transitions:
    """The episodes of all blocks, in order."""
    arrays = {name: np.concatenate([getattr(block, name) for block in blocks]) for name in _ARRAYS}
    return Transitions(**arrays, task=blocks[0].task)


class Parts:
    """The folder of a collection's finished episodes."""

    def __init__(self, target: Path, settings: dict[str, Any]):
        """Open what an earlier session left, or begin.

        Raises:
            InputError: the folder holds episodes made with other settings, or anything else, or cannot be written, or
                another process collects the same.
        """
        self.folder = _beside(target)
        _is_of(self.folder, settings)  # first, so that nothing is written to a folder that is refused
        self._lock = FolderLock(self.folder, name=str(target))
        try:
            if not _is_of(self.folder, settings):  # once more, as it may have changed until it was ours
                write_json(self.folder / _SETTINGS, settings)
            sweep_folder(self.folder)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let other processes work here."""
        self._lock.close()

    def load(self, task: Task) -> tuple[list[Transitions], int]:
        """The blocks of episodes that are here, and how many episodes they are.

        Raises:
            InputError: a file is damaged.
        """
        blocks, episodes = [], 0
        for file in sorted(self.folder.glob("episodes-*.npz")):
            if file.name != _name(episodes):
                continue  # after one that was deleted; what it holds is recorded once more
            try:
                # From an open file, because NumPy leaves one that it opened itself open where it is damaged.
                with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
                    block = Transitions(**{name: arrays[name] for name in _ARRAYS}, task=task)
            except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
                raise InputError(f"{file}: is damaged ({error}); delete {self.folder} to start again") from error
            blocks.append(block)
            episodes += len(block.ends)
        return blocks, episodes

    def save(self, first: int, episodes: list[Transitions]) -> None:
        """Keep a block of whole episodes, of which `first` is the number of the first.

        Raises:
            InputError: it cannot be written.
        """
        block, buffer = concatenate(episodes), io.BytesIO()
        np.savez(buffer, **{name: getattr(block, name) for name in _ARRAYS})
        write_atomically(self.folder / _name(first), buffer.getvalue())

    def remove(self) -> None:
        """Delete the folder; all of it is in the target now."""
        _delete(self.folder)
        self.close()


def remove_leftovers(target: Path, settings: dict[str, Any]) -> None:
    """Delete the parts of a finished target, which a process killed at its very end has left."""
    file = _beside(target) / _SETTINGS
    if file.is_file() and _other(read_json(file), settings) is None:
        _delete(file.parent)


def _is_of(folder: Path, settings: dict[str, Any]) -> bool:
    """Whether the folder holds episodes of these settings; False where it holds nothing.

    Raises:
        InputError: it holds others, or other things, or cannot be looked into.
    """
    file = folder / _SETTINGS
    try:
        begun = file.exists()
        unused = not folder.exists() or (folder.is_dir() and is_unused(folder))
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {reason(error)}; give another --out") from error
    if begun:
        refuse_other_settings(folder, read_json(file), settings)
    elif not unused:
        raise InputError(f"{folder}: is where unfinished episodes go, but holds something else; move it away")
    return begun


def _delete(folder: Path) -> None:
    """All of it, the settings last: without them, what a kill leaves would be nobody's and stay."""
    with suppress(OSError):  # not ours to delete, or gone meanwhile
        for file in folder.iterdir():
            if file.name != _SETTINGS:
                file.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def _beside(target: Path) -> Path:
    return target.with_name(f"{target.name}.parts")


def _name(first: int) -> str:
    return f"episodes-{first:09d}.npz"


def refuse_other_settings(folder: Path, found: dict[str, Any], settings: dict[str, Any]) -> None:
    """Compare settings.

    Raises:
        InputError: they differ; names the first that does.
    """
    if (name := _other(found, settings)) is not None:
        raise InputError(
            f"{folder}: was collected with {name} = {found.get(name)!r}, not {settings[name]!r}; give another --out"
        )


def _other(found: dict[str, Any], settings: dict[str, Any]) -> str | None:
    """The first setting that differs; None where all are the same."""
    return next((name for name, value in as_json(settings).items() if found.get(name) != value), None)
