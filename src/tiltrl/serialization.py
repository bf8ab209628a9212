"""Models on disk as safetensors: named arrays and nothing that can be executed.

A module's arrays are named by their place in it (`blocks.0.fc1.weight`), so a reader in another language needs only
the JSON beside the file. Loading fills a module of the right shape, and refuses anything else.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from tiltrl.errors import InputError
from tiltrl.files import write_atomically

Tree = TypeVar("Tree")


def _names(tree: Any) -> tuple[list[str], list[Any], Any]:
    """Dotted names and values of a pytree's leaves, and its structure."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    return (
        [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves],
        [v for _, v in leaves],
        structure,
    )


def save_arrays(path: str | os.PathLike[str], tree: Any) -> None:
    """Write a pytree of arrays atomically.

    Raises:
        InputError: the file cannot be written.
    """
    names, leaves, _ = _names(tree)
    write_atomically(path, save({n: np.ascontiguousarray(v) for n, v in zip(names, leaves, strict=True)}))


def load_arrays(path: str | os.PathLike[str], like: Tree) -> Tree:
    """Read arrays into the structure of `like` (arrays or `jax.ShapeDtypeStruct`s).

    Raises:
        InputError: the file is missing, damaged, or holds other names, shapes or dtypes than `like`.
    """
    try:
        arrays = load(Path(path).read_bytes())
    except (OSError, SafetensorError) as error:
        raise InputError(f"{os.fspath(path)}: not a readable safetensors file: {error}") from error
    names, leaves, structure = _names(like)
    if set(names) != set(arrays):
        odd = sorted(set(names) ^ set(arrays))[0]
        raise InputError(
            f"{os.fspath(path)}: array {odd!r} is {'missing' if odd in names else 'unexpected'}; the file does not "
            "belong to the configuration beside it"
        )
    for name, leaf in zip(names, leaves, strict=True):
        found = arrays[name]
        if found.shape != leaf.shape or found.dtype != leaf.dtype:
            raise InputError(
                f"{os.fspath(path)}: array {name!r} is {found.dtype}{list(found.shape)}; expected "
                f"{leaf.dtype}{list(leaf.shape)}"
            )
    return jax.tree.unflatten(structure, [jnp.asarray(arrays[name]) for name in names])
