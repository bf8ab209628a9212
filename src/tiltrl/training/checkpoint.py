"""Training state on disk: parameters, averages, optimizer. Nothing here is meant to be handed on."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from tiltrl.errors import InputError
from tiltrl.serialization import DamagedError, load_arrays, load_facts, save_arrays

State = TypeVar("State")

FORMAT = "1"
"""Version of a checkpoint's contents; one of another version is refused."""
KEPT = 2
"""Should the last one be damaged, there is the one before."""
_PATTERN = "step-*.safetensors"
_MOST_BYTES = 1 << 34  # of one checkpoint


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
        self._again = f"delete {folder} to start this stage again"

    def steps(self) -> list[int]:
        """The steps that something was saved at, ascending."""
        return sorted(int(path.stem.removeprefix("step-")) for path in self.folder.glob(_PATTERN))

    def restore(self, state: State) -> tuple[State, int]:
        """The newest saved state that is not damaged and its step; the given state and 0 where there is none.

        A damaged one is named and put aside.

        Raises:
            InputError: the saved state is of another version, or does not have the shape of the given one.
        """
        for step in reversed(self.steps()):
            path = self._path(step)
            try:
                return self._load(path, state), step
            except DamagedError as error:
                os.replace(path, path.with_name(f"damaged-{path.name}"))
                self._say(f"WARNING: {error}; going on from the one before it")
        return state, 0

    def check(self) -> None:
        """Refuse what could not be continued anyway, before anything is made for it.

        Raises:
            InputError: the newest saved state is of another version.
        """
        for step in self.steps()[-1:]:
            with suppress(DamagedError):  # which `restore` deals with
                self._facts(self._path(step))

    def _facts(self, path: Path) -> dict[str, str]:
        facts = load_facts(path, _MOST_BYTES)
        if facts.get("format") != FORMAT:
            raise InputError(
                f"{path}: is a checkpoint of format {facts.get('format')!r}; this version goes on from format {FORMAT} "
                f"only; {self._again}"
            )
        return facts

    def _load(self, path: Path, state: State) -> State:
        facts = self._facts(path)
        try:
            restored = load_arrays(path, state)
        except DamagedError:
            raise
        except InputError as error:
            raise InputError(f"{error}; the checkpoint cannot be continued: {self._again}") from error
        if changed := [name for name, version in _versions().items() if facts.get(name) != version]:
            before = ", ".join(f"{name} {facts.get(name)}" for name in changed)
            self._say(f"{path.parent.parent.name}: begun with {before}: equal to a run by one version up to rounding")
        return restored

    def save(self, step: int, state: Any) -> None:
        """Save the state (a pytree of arrays) under its step; the oldest of three is deleted.

        Raises:
            InputError: the operating system refuses (disk full, no permission).
        """
        save_arrays(self._path(step), state, {"format": FORMAT, "step": str(step)} | _versions())
        for old in self.steps()[:-KEPT]:
            self._path(old).unlink(missing_ok=True)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:010d}.safetensors"


def _versions() -> dict[str, str]:
    """Of what decides the last bit of a training step."""
    return {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")}
