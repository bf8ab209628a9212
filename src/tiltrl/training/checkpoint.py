"""Training state on disk: parameters, averages, optimizer. Nothing here is meant to be handed on."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from tiltrl.errors import InputError
from tiltrl.serialization import DamagedError, load_arrays, load_facts, save_arrays

State = TypeVar("State")

FORMAT = "1"
"""Version of a checkpoint's contents; one of another version is refused."""
KEPT = 2
"""Should the last one be damaged, there is the one before."""
_NAME = re.compile(r"step-(\d{10})\.safetensors")


class Checkpoints:
    """The last two saved states of one stage, a file each, named by the step they were saved at."""

    def __init__(self, folder: os.PathLike[str] | str, say: Callable[[str], None]):
        """Keep checkpoints in a folder.

        Args:
            folder: made with the first one.
            say: hears of what is odd about those that are found.
        """
        self.folder = Path(folder)
        self._say = say

    def steps(self) -> list[int]:
        """The steps that something was saved at, ascending."""
        return sorted(int(found[1]) for path in self.folder.glob("*") if (found := _NAME.fullmatch(path.name)))

    def check(self) -> None:
        """Refuse what could not be continued anyway, before anything is made for it.

        Raises:
            InputError: the newest saved state is of another version, or may not be read.
        """
        for step in self.steps()[-1:]:
            try:
                self._facts(self._path(step))
            except InputError as error:
                if not _is_damage(error):  # which `restore` deals with
                    raise

    def restore(self, like: State) -> tuple[State, int, dict[str, str]] | None:
        """The newest saved state that is whole, its step, and what was said of it; None where there is none.

        A damaged one is named and put aside.

        Raises:
            InputError: the saved state is of another version, or does not have the shape of the given one.
        """
        steps = self.steps()
        while steps:
            step = steps.pop()
            path = self._path(step)
            try:
                facts = self._facts(path)
                return load_arrays(path, like), step, facts
            except InputError as error:
                if not _is_damage(error):
                    raise InputError(f"{error}; {self._again}") from error
                os.replace(path, path.with_name(f"damaged-{path.name}"))
                then = f"going on from step {steps[-1]}" if steps else "there is none before it: starting again"
                self._say(f"WARNING: {error}; {then}")
        return None

    def _facts(self, path: Path) -> dict[str, str]:
        facts = load_facts(path)
        if facts.get("format") != FORMAT:
            raise InputError(
                f"{path}: is a checkpoint of format {facts.get('format')!r}; this version goes on from format {FORMAT} "
                f"only; {self._again}"
            )
        return facts

    def save(self, step: int, state: Any, facts: Mapping[str, str] | None = None) -> None:
        """Save the state (a pytree of arrays) under its step; the oldest of three is deleted.

        Raises:
            InputError: the operating system refuses (disk full, no permission).
        """
        save_arrays(self._path(step), state, {"format": FORMAT, "step": str(step)} | dict(facts or {}))
        for old in self.steps()[:-KEPT]:
            self._path(old).unlink(missing_ok=True)

    @property
    def _again(self) -> str:
        return f"delete {self.folder} to start this stage again"

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:010d}.safetensors"


def _is_damage(error: InputError) -> bool:
    """Whether another copy would do: the contents are wrong, or the disk cannot read them."""
    cause = error.__cause__
    return isinstance(error, DamagedError) or (isinstance(cause, OSError) and cause.errno == errno.EIO)
