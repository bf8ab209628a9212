"""Training data on the device: all of it where it fits, else a pool that moves through the data set.

A pool holds some hundred blocks of consecutive rows, chosen by permutations of all blocks of the data set, one after
the other. With every chunk of steps a sixteenth of the pool makes room for the next blocks, which are read and prepared
in the background while the steps are computed. A step draws its batch from the pool as it would from the whole set.
Which rows a pool holds, and where, is a function of its number alone: a run that was stopped and continued sees what
the one that was not would have seen, and a member of many sees what it would alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import count, repeat
from typing import Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from tiltrl.training.parallel import everywhere, replicate

DEVICE_BYTES = 1 << 30
"""Prepared data up to this size (1 GiB) is kept whole on the device; more is streamed."""

POOL_BYTES = 1 << 28
"""Size of a pool (256 MiB)."""

GROUPS = 16
"""One of so many parts of a pool is replaced with every chunk of steps."""

BLOCKS = 32
"""So many blocks are such a part."""

Data = TypeVar("Data")
Prepare = Callable[[int, int], Data]
"""Rows `start` to `stop` of a data set as the networks see them: a pytree of NumPy arrays with a leading axis of rows.

It is called from another thread.
"""


@dataclass(frozen=True)
class Stream(Generic[Data]):
    """Data that is on the device in part."""

    prepare: Prepare[Data]
    rows: int  # in all
    block: int  # consecutive rows that come and go together; at most `rows`
    blocks: int  # replaced at once
    groups: int  # of so many blocks each, in a pool

    def group(self, number: int) -> Data:
        """The rows that come with pool number `number - groups + 1`; a pool holds as many groups, its own last."""
        first = number * self.blocks
        spans = [span for block in range(first, first + self.blocks) for span in self._spans(block)]
        prepared = [self.prepare(*span) for span in spans]
        return replicate(jax.tree.map(lambda *leaves: np.concatenate(leaves), *prepared))

    def _spans(self, block: int) -> list[tuple[int, int]]:
        """Where block number `block` of the endless sequence lies: one span of rows, or the last and the first rows."""
        epoch, place = divmod(block, self.rows // self.block)
        offset, order = _epoch(epoch, self.rows, self.rows // self.block)
        start = (offset + int(order[place]) * self.block) % self.rows
        beyond = start + self.block - self.rows
        return [(start, start + self.block)] if beyond <= 0 else [(start, self.rows), (0, beyond)]


@lru_cache(maxsize=4)
def _epoch(number: int, rows: int, blocks: int) -> tuple[int, Int[np.ndarray, " blocks"]]:
    """Where the first block begins, and the order in which the blocks come.

    Blocks begin elsewhere in every epoch and the last may go on with the first row, so that of rows that are no
    multiple of a block none is left out more often than others.
    """
    rng = np.random.default_rng(number)
    return int(rng.integers(rows)), rng.permutation(blocks)


def on_device(prepare: Prepare[Data], rows: int) -> Data | Stream[Data]:
    """What a stage trains on: the whole prepared data on the device if that is small enough, else a stream of it."""
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(prepare(0, 1)))  # of one row
    if rows * size <= DEVICE_BYTES:
        return replicate(prepare(0, rows))
    block = min(rows, max(1, POOL_BYTES // (size * BLOCKS * GROUPS)))
    return Stream(prepare, rows, block, BLOCKS, GROUPS)


def example(data: Data | Stream[Data]) -> Data:
    """Data of the same shapes but for the number of rows."""
    if isinstance(data, Stream):
        return data.prepare(0, 1)
    return data


@contextmanager
def pools(data: Data | Stream[Data], first: int) -> Iterator[Iterator[Data]]:
    """Pools number `first`, `first + 1`, ..., each good until the next is asked for; of whole data, ever the same."""
    if isinstance(data, Stream):
        with ThreadPoolExecutor(1) as loader:
            yield _pools(data, first, loader)
    else:
        yield repeat(data)


def _pools(stream: Stream[Data], first: int, loader: ThreadPoolExecutor) -> Iterator[Data]:
    fresh = stream.group(first)
    rows = stream.groups * stream.blocks * stream.block
    pool = jax.tree.map(lambda leaf: jnp.zeros((rows, *leaf.shape[1:]), leaf.dtype, device=everywhere()), fresh)
    for number in count(first):
        following = loader.submit(stream.group, number + 1)
        pool = _replace(pool, fresh, (number % stream.groups) * stream.blocks * stream.block)
        if number >= first + stream.groups - 1:
            yield pool
        fresh = following.result()


@partial(jax.jit, donate_argnums=0)
def _replace(pool: Data, fresh: Data, start: int) -> Data:
    """The pool with other rows from `start` on, in the same memory."""
    return jax.tree.map(lambda old, new: jax.lax.dynamic_update_slice_in_dim(old, new, start, axis=0), pool, fresh)
