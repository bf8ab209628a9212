"""Training state on disk through Orbax: parameters, averages, optimizer. Nothing here is meant to be handed on."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp

from tiltrl.errors import InputError

State = TypeVar("State")

# Orbax speaks of every file it touches; a user wants to hear of the ones that fail, and those raise.
logging.getLogger("absl").setLevel(logging.CRITICAL)
# Of many writes that fail together, as on a full disk, one raises; asyncio would print the others' tracebacks.
logging.getLogger("asyncio").setLevel(logging.CRITICAL)


class Checkpoints:
    """The last two saved states of one stage, each with the step it was saved at."""

    def __init__(self, folder: os.PathLike[str] | str):
        self.folder = Path(folder)
        self._manager: ocp.CheckpointManager | None = None

    def _open(self) -> ocp.CheckpointManager:
        if self._manager is None:
            # Synchronous: a state here is small, and the loop donates its buffers to the next chunk.
            options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
            self._manager = ocp.CheckpointManager(
                self.folder.absolute(), options=options, item_handlers=ocp.StandardCheckpointHandler()
            )
        return self._manager

    def restore(self, state: State) -> tuple[State, int]:
        """The newest saved state and its step; the given state and 0 when nothing was saved.

        Raises:
            InputError: the saved state does not have the shape of the given one.
        """
        if not self.folder.is_dir() or (step := self._open().latest_step()) is None:
            return state, 0
        # Compared first, because Orbax reads all arrays at once and leaves some half-read when one does not fit.
        saved, wanted = _shapes(self._open().item_metadata(step).tree), _shapes(state)
        if saved != wanted:
            odd = sorted(name for name in saved.keys() | wanted.keys() if saved.get(name) != wanted.get(name))[0]
            raise InputError(
                f"{self.folder}: the checkpoint at step {step} cannot be continued: {odd} has shape {saved.get(odd)}, "
                f"not {wanted.get(odd)}; delete the folder to start this stage again"
            )
        like = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        try:
            restored: Any = self._open().restore(step, args=ocp.args.StandardRestore(like))
        except (ValueError, KeyError, FileNotFoundError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"{self.folder}: the checkpoint at step {step} cannot be continued ({reason}); delete the folder to "
                "start this stage again"
            ) from error
        return restored, step

    def save(self, step: int, state: object) -> None:
        """Save the state (a container of arrays) under its step; the oldest of three is deleted.

        Raises:
            InputError: the operating system refuses (disk full, no permission).
        """
        try:
            if step not in self._open().all_steps():
                self._open().save(step, args=ocp.args.StandardSave(state))
        except (OSError, ValueError) as error:
            # Orbax passes on what its storage library says of a full disk as a ValueError of many lines.
            raise InputError(f"{self.folder}: cannot be written: {str(error).splitlines()[0]}") from error

    def close(self) -> None:
        """Release Orbax's threads and files."""
        if self._manager is not None:
            self._manager.close()
            self._manager = None


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """The shape of each leaf, by its dotted name."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): tuple(leaf.shape) for path, leaf in leaves}
