"""Rows of a long computation, kept on disk as they come: what was interrupted goes on after the last kept row."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from tiltrl.serialization import DamagedError, load_arrays, save_arrays

_NAME = re.compile(r"rows-(\d{10})-(\d{10})\.safetensors")


class KeptRows:
    """Rows in files of their own, each holding what was computed between two ticks of the clock.

    Use as a context manager: what is not yet on disk is written at the end, an interrupt included.
    """

    def __init__(self, folder: os.PathLike[str] | str, say: Callable[[str], None], every: float = 60.0):
        """Keep rows in a folder.

        Args:
            folder: made with the first file. It belongs to one computation: nothing in the files tells which.
            say: hears of a file that is damaged.
            every: seconds between files.
        """
        self.folder = Path(folder)
        self._say = say
        self._every = every
        self._saved_at = time.monotonic()
        self._done = 0
        self._unsaved: list[np.ndarray] = []

    def __enter__(self) -> KeptRows:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After an error the same disk would only refuse again.
        if error is None or isinstance(error, KeyboardInterrupt):
            self._save()

    def restore(self, shape: tuple[int, ...]) -> Float[np.ndarray, "done ..."]:
        """The rows that are there, each of the given shape, up to the first file that is missing or damaged.

        Raises:
            InputError: a file holds rows of another shape.
        """
        found = [np.empty((0, *shape), np.float32)]
        for path in sorted(self.folder.glob("*")):
            if (span := _NAME.fullmatch(path.name)) is None:
                continue
            start, stop = int(span[1]), int(span[2])
            if start > self._done:
                break  # a gap, where one is damaged
            if start < self._done:
                continue  # from before that gap was filled
            try:
                like: Any = jax.ShapeDtypeStruct((stop - start, *shape), np.float32)
                found.append(np.asarray(load_arrays(path, like)))
            except DamagedError as error:
                os.replace(path, path.with_name(f"damaged-{path.name}"))
                self._say(f"WARNING: {error}; its rows are computed again")
                break
            self._done = stop
        self._saved_at = time.monotonic()
        return np.concatenate(found)

    def add(self, rows: Float[np.ndarray, "rows ..."]) -> None:
        """Keep the rows that come next; writes them when it is time.

        Raises:
            InputError: the folder cannot be written.
        """
        self._unsaved.append(rows)
        if time.monotonic() - self._saved_at > self._every:
            self._save()

    def _save(self) -> None:
        if not self._unsaved:
            return
        rows = np.concatenate(self._unsaved)
        start, stop = self._done, self._done + len(rows)
        # First forgotten, so that an interrupt after the write does not lead to a second one of the same rows; those it
        # cuts off are drawn again.
        self._unsaved, self._done = [], stop
        save_arrays(self.folder / f"rows-{start:010d}-{stop:010d}.safetensors", rows)
        self._saved_at = time.monotonic()


def compute_rows(
    compute: Callable[[Int[np.ndarray, " batch"], int], Float[np.ndarray, "batch ..."]],
    rows: int,
    shape: tuple[int, ...],
    *,
    batch: int,
    kept: KeptRows | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Float[np.ndarray, "rows ..."]:
    """Rows that are computed a batch at a time, from where an interrupted call was cut off.

    Args:
        compute: maps indices of rows, and the first of them as the batch's number for its randomness, to the rows. The
            last batch wraps around, so that every call has one shape and compiles once.
        rows: how many.
        shape: of one row.
        batch: rows computed at once.
        kept: where rows are kept as they come; the same rows are then computed to the same bits.
        on_progress: called with (rows done, rows in all).
    """
    out = np.empty((rows, *shape), np.float32)
    before = out[:0] if kept is None else kept.restore(shape)
    out[: len(before)] = before
    for start in range(len(before), rows, batch):
        stop = min(start + batch, rows)
        out[start:stop] = compute(np.arange(start, start + batch) % rows, start)[: stop - start]
        if kept is not None:
            kept.add(out[start:stop])
        if on_progress is not None:
            on_progress(stop, rows)
    return out
