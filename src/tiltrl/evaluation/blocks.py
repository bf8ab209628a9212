"""Many episodes, some at a time: so many environments fit in memory, and what is done need not be done again."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tiltrl.evaluation.rollout import Episodes
from tiltrl.files import read_json, write_json

EPISODES_AT_ONCE = 100
"""Environments that act in lockstep; so many episodes at most are lost with a killed process."""

Kept = Callable[[int, Callable[[], Episodes]], Episodes]
"""The episodes of block number i: by calling the function given, or as they were kept."""


def anew(block: int, run: Callable[[], Episodes]) -> Episodes:
    """Keep nothing."""
    return run()


def kept_in(folder: str | os.PathLike[str]) -> Kept:
    """Keep every block in a file of the folder, which belongs to one policy, seed and number of episodes.

    Raises:
        InputError: (when called) a file is damaged, or cannot be written.
    """

    def kept(block: int, run: Callable[[], Episodes]) -> Episodes:
        path = Path(folder) / f"block{block}.json"
        if not path.is_file():
            done = run()
            arrays = {"returns": done.returns, "lengths": done.lengths, "seeds": done.seeds}
            write_json(path, {name: array.tolist() for name, array in arrays.items()})
        found = read_json(path)
        return Episodes(np.array(found["returns"]), np.array(found["lengths"]), np.array(found["seeds"]))

    return kept


def joined(blocks: list[Episodes]) -> Episodes:
    """The episodes of all blocks, in order."""
    return Episodes(
        np.concatenate([block.returns for block in blocks]),
        np.concatenate([block.lengths for block in blocks]),
        np.concatenate([block.seeds for block in blocks]),
    )
