"""Many episodes, some at a time: so many environments fit in memory, and what is done need not be done again."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tiltrl.config_io import from_json
from tiltrl.errors import InputError
from tiltrl.evaluation.rollout import Episodes
from tiltrl.files import read_json, write_json

EPISODES_AT_ONCE = 100
"""Environments that act in lockstep; so many episodes at most are lost with a killed process."""

Kept = Callable[[int, Callable[[], Episodes]], Episodes]
"""The episodes of block number i: by calling the function given, or as they were kept."""


def anew(block: int, run: Callable[[], Episodes]) -> Episodes:
    """Keep nothing."""
    return run()


@dataclass(frozen=True)
class _Block:
    """Episodes as they are kept."""

    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    seeds: tuple[int, ...]


def kept_in(folder: str | os.PathLike[str]) -> Kept:
    """Keep every block in a file of the folder, which belongs to one policy, seed and number of episodes.

    Raises:
        InputError: (when called) a file is damaged, or cannot be written.
    """

    def kept(block: int, run: Callable[[], Episodes]) -> Episodes:
        path = Path(folder) / f"block{block}.json"
        if not path.is_file():
            done = run()
            write_json(path, _Block(*(array.tolist() for array in (done.returns, done.lengths, done.seeds))))
            return done
        found = from_json(_Block, read_json(path), str(path))
        if not len(found.returns) == len(found.lengths) == len(found.seeds):
            raise InputError(f"{path}: returns, lengths and seeds are of different numbers; delete it to run it again")
        return Episodes(np.array(found.returns), np.array(found.lengths), np.array(found.seeds))

    return kept


def joined(blocks: list[Episodes]) -> Episodes:
    """The episodes of all blocks, in order."""
    return Episodes(
        np.concatenate([block.returns for block in blocks]),
        np.concatenate([block.lengths for block in blocks]),
        np.concatenate([block.seeds for block in blocks]),
    )
