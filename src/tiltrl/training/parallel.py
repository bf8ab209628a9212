"""Training on several devices: each computes its part of a step's batch, and everything else is on all of them.

Only the batch is told where to be. XLA does the rest: what is computed of the batch is computed where its rows are, and
gradients are summed over the devices. With one device nothing is left to do, and the program is as if none of this were
there. Random numbers are functions of their keys and places alone, so a step draws the same on any number of devices,
and differs by the order in which sums are taken.

The devices may be those of several processes, which then all take the same steps; the first one's word counts where
they could differ: where to start from, and when to stop.
"""

from __future__ import annotations

from functools import cache
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tiltrl.errors import InputError
from tiltrl.serialization import pack, unpack

Tree = TypeVar("Tree")


@cache
def _mesh() -> Mesh:
    """All devices of all processes, in a row."""
    return Mesh(np.array(jax.devices()), ("batch",))


def everywhere() -> NamedSharding:
    """The placement of what every device has whole."""
    return NamedSharding(_mesh(), PartitionSpec())


def split(batch: Tree) -> Tree:
    """A step's batch, or what it is drawn by, of which each device has a part; for use in a compiled function.

    Args:
        batch: arrays with a leading axis of examples.

    Raises:
        InputError: it has no such parts.
    """
    devices = _mesh().size
    for leaf in jax.tree.leaves(batch):
        if leaf.shape[0] % devices:
            raise InputError(
                f"batch = {leaf.shape[0]}; it cannot be split over {devices} devices: let JAX see a number of them "
                "that divides it (on GPUs: CUDA_VISIBLE_DEVICES=0 for one)"
            )
    return jax.lax.with_sharding_constraint(batch, NamedSharding(_mesh(), PartitionSpec("batch")))


def replicate(tree: Tree) -> Tree:
    """The arrays of a pytree on every device; each process gives the same ones, or what `replicate` returned."""
    if jax.process_count() == 1:
        return jax.device_put(tree, everywhere())
    return jax.tree.map(_replicated, tree)


def _replicated(leaf: jax.Array | np.ndarray) -> jax.Array:
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return leaf
    return jax.make_array_from_callback(leaf.shape, everywhere(), lambda _: leaf)


def on_one(tree: Tree) -> Tree:
    """What is on every device, as arrays of this process's first."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)


def of_first(tree: Tree) -> Tree:
    """What the first process has, bit for bit, in all; each has to ask, with arrays of the same names and shapes."""
    if jax.process_count() == 1:
        return tree
    content = np.frombuffer(pack(tree), np.uint8)
    return unpack(multihost_utils.broadcast_one_to_all(content).tobytes(), tree, "what the first process sent")


def any_of(mine: bool) -> bool:
    """Whether it is so in any process; each has to ask."""
    return mine if jax.process_count() == 1 else bool(np.any(multihost_utils.process_allgather(np.array(mine))))
