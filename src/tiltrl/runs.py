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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiltrl.errors import InputError
from tiltrl.files import read_json, write_json
from tiltrl.types import as_json

LAYOUT = 1
"""Part of every stage's key; raised when the same configuration begins to mean another training."""


@dataclass(frozen=True)
class Stage:
    """One stage of a run: where it lives and what it depends on."""

    name: str
    key: str
    folder: Path
    inputs: dict[str, Any]

    @property
    def done(self) -> bool:
        """Whether the stage ran to its end."""
        return (self.folder / "stage.json").is_file()

    @property
    def summary(self) -> dict[str, Any]:
        """What the finished stage reported."""
        return read_json(self.folder / "stage.json").get("summary", {})

    def files(self, pattern: str) -> list[Path]:
        """The stage's files of that name, in order."""
        return sorted(self.folder.glob(pattern))

    def finish(self, summary: dict[str, Any], began: float) -> None:
        """Mark the stage as finished, and drop the training state it would have resumed from.

        Args:
            summary: what the stage reports.
            began: `time.monotonic()` when its work began, in this session.
        """
        seconds = time.monotonic() - began
        write_json(
            self.folder / "stage.json",
            {"key": self.key, "seconds_in_last_session": seconds, "summary": summary, "inputs": self.inputs},
        )
        shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)


class RunFolder:
    """The folder of one run: one data set, preset and set of seeds."""

    def __init__(self, path: str | os.PathLike[str], identity: dict[str, Any]):
        """Open the folder of this run, or make it.

        Args:
            path: the folder.
            identity: what makes it this run; compared with the folder's `run.json`.

        Raises:
            InputError: the folder holds another run, or files that are not a run's, or cannot be written.
        """
        self.path = Path(path)
        identity = as_json(identity)
        file = self.path / "run.json"
        if file.is_file():
            found = read_json(file)
            for name, value in identity.items():
                if found.get(name) != value:
                    raise InputError(
                        f"{self.path}: holds another run, with {name} = {found.get(name)!r}, not {value!r}; "
                        "give another --out"
                    )
        elif self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise InputError(f"{self.path}: exists and is not a run's folder; give a new or empty folder as --out")
        else:
            write_json(file, identity)

    def seconds(self) -> dict[str, float]:
        """Wall-clock of each finished stage, in the session that finished it."""
        files = sorted(self.path.glob("*/stage.json"))
        return {file.parent.name: read_json(file).get("seconds_in_last_session", 0.0) for file in files}

    def stage(self, name: str, **inputs: Any) -> Stage:
        """The stage that depends on exactly these inputs (configurations, keys of other stages, numbers)."""
        plain = as_json(inputs)
        key = hashlib.sha256(json.dumps([LAYOUT, name, plain], sort_keys=True).encode()).hexdigest()[:8]
        return Stage(name, key, self.path / f"{name}-{key}", plain)
