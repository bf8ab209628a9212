"""A run's folder: which run it holds, and which of its stages are finished and may be reused.

A stage lives in `<name>-<key>`, where the key is a hash of all it depends on: its configuration and the keys of the
stages it builds on. Another beta is another key for the alignment and the same for all before it. `stage.json` is
written last, so a folder without one is an interrupted stage, to be continued and never believed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiltrl.errors import InputError
from tiltrl.files import read_json, reason, sweep_folder, write_json
from tiltrl.locks import FolderLock, is_unused
from tiltrl.types import as_json

FORMAT = 2
"""Of a run's folder, in `run.json`; raised when files move, or begin to mean something else."""
LAYOUT = 1
"""Part of every stage's key; raised when the same configuration begins to mean another training."""
UNFINISHED = ("checkpoints", "parts")
"""Folders within a stage's, of work that is going on; deleted once it is finished."""


@dataclass(frozen=True)
class Stage:
    """One stage of a run: where it lives and what it depends on."""

    name: str
    key: str
    folder: Path
    inputs: dict[str, Any]

    @property
    def done(self) -> bool:
        """Whether the stage ran to its end.

        Raises:
            InputError: it did, but its files are damaged or missing.
        """
        return _is_done(self.folder)

    @property
    def summary(self) -> dict[str, Any]:
        """What the finished stage reported."""
        return _finished(self.folder)["summary"]

    @property
    def redo(self) -> str:
        """What to do where the stage's files cannot be used; the end of a message."""
        return _redo(self.folder)

    def files(self, pattern: str) -> list[Path]:
        """The stage's files of that name, in order."""
        return sorted(self.folder.glob(pattern))

    def finish(self, summary: dict[str, Any], began: float) -> None:
        """Mark the stage as finished, and drop the unfinished work it would have resumed from.

        Args:
            summary: what the stage reports.
            began: `time.monotonic()` when its work began, in this session.
        """
        seconds = time.monotonic() - began
        write_json(
            self.folder / "stage.json",
            {
                "key": self.key,
                "seconds_in_last_session": seconds,
                "summary": summary,
                "files": {file.name: file.stat().st_size for file in self.files("*.safetensors")},
                "inputs": self.inputs,
            },
        )
        _drop_unfinished(self.folder)


class RunFolder:
    """The folder of one run: one data set, preset and set of seeds. Other processes are kept out of it meanwhile."""

    def __init__(self, path: str | os.PathLike[str], identity: dict[str, Any]):
        """Open the folder of this run, or make it.

        Args:
            path: the folder.
            identity: what makes it this run; compared with the folder's `run.json`.

        Raises:
            InputError: the folder holds another run, or files that are not a run's, or cannot be written, or another
                process works in it.
        """
        self.path = Path(path)
        identity = as_json(identity)
        _is_of(self.path, identity)  # first, so that nothing is written to a folder that is refused
        self._lock = FolderLock(self.path)
        try:
            if not _is_of(self.path, identity):  # once more, as it may have changed until it was ours
                write_json(self.path / "run.json", {"format": FORMAT} | identity)
            self._sweep()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let other processes work in the folder; closed by itself once nobody refers to this object."""
        self._lock.close()

    def seconds(self) -> dict[str, float]:
        """Wall-clock of each finished stage, in the session that finished it."""
        found = {}
        for file in sorted(self.path.glob("*/stage.json")):
            # A damaged one is of a stage that was not asked for, of another beta; those asked for have been named.
            with suppress(InputError):
                found[file.parent.name] = _finished(file.parent)["seconds_in_last_session"]
        return found

    def stage(self, name: str, **inputs: Any) -> Stage:
        """The stage that depends on exactly these inputs (configurations, keys of other stages, numbers)."""
        plain = as_json(inputs)
        key = hashlib.sha256(json.dumps([LAYOUT, name, plain], sort_keys=True).encode()).hexdigest()[:8]
        return Stage(name, key, self.path / f"{name}-{key}", plain)

    def _sweep(self) -> None:
        """Remove what a process left that was killed while it wrote, or right after a stage's end."""
        sweep_folder(self.path)
        for file in self.path.glob("*/stage.json"):
            # Of a stage whose end is damaged, what it would resume from may be all there is; asked for, it is named.
            with suppress(InputError):
                if _is_done(file.parent):
                    _drop_unfinished(file.parent)


def _is_of(folder: Path, identity: dict[str, Any]) -> bool:
    """Whether the folder is this run's already; False where it is nobody's.

    Raises:
        InputError: it is another run's, or holds other things, or cannot be looked into.
    """
    file = folder / "run.json"
    try:
        begun = file.exists()
        unused = not folder.exists() or (folder.is_dir() and is_unused(folder))
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {reason(error)}; give another folder as --out") from error
    if not begun:
        if unused:
            return False
        raise InputError(f"{folder}: exists and is not a run's folder; give a new or empty folder as --out")
    try:
        found = read_json(file)
    except InputError as error:
        raise InputError(f"{error}; delete {folder} to start this run again, or give another --out") from error
    _refuse_other_format(folder, found.get("format", 1))
    for name, value in identity.items():
        if (there := found.get(name)) == value:
            continue
        if name == "fingerprint":
            raise InputError(
                f"{folder}: its data has changed since the run began (fingerprint {there}, now {value}); give another "
                "--out, or restore the data"
            )
        raise InputError(f"{folder}: holds another run, with {name} = {there!r}, not {value!r}; give another --out")
    return True


def _refuse_other_format(folder: Path, found: Any) -> None:
    if found == FORMAT:
        return
    when = "a later" if isinstance(found, int) and found > FORMAT else "an earlier"
    raise InputError(
        f"{folder}: was written by {when} TiltRL (run.json has format {found!r}, this one writes {FORMAT}); give "
        "another --out, or use that version"
    )


def _is_done(folder: Path) -> bool:
    """Whether the folder is a finished stage's.

    Raises:
        InputError: it is, but its files are damaged or missing.
    """
    if not (folder / "stage.json").exists():
        return False
    for name, size in _finished(folder)["files"].items():
        file = folder / name
        found = file.stat().st_size if file.is_file() else None
        if found != size:
            what = "is missing" if found is None else f"has {found} bytes, not the {size} that were written"
            raise InputError(f"{file}: {what}; {_redo(folder)}")
    return True


def _finished(folder: Path) -> dict[str, Any]:
    """What `stage.json` says.

    Raises:
        InputError: it is damaged.
    """
    file = folder / "stage.json"
    try:
        found = read_json(file)
    except InputError as error:
        raise InputError(f"{error}; {_redo(folder)}") from error
    for name, kind in (("summary", dict), ("files", dict), ("seconds_in_last_session", (int, float))):
        if not isinstance(found.get(name), kind):
            raise InputError(f"{file}: {name} = {found.get(name)!r}, so it is damaged; {_redo(folder)}")
    return found


def _redo(folder: Path) -> str:
    return f"delete {folder} to do this stage again"


def _drop_unfinished(folder: Path) -> None:
    for name in UNFINISHED:
        shutil.rmtree(folder / name, ignore_errors=True)
