"""Arrays on disk as safetensors: named arrays and nothing that can be executed.

A module's arrays are named by their place in it (`blocks.0.fc1.weight`), so a reader in another language needs only
the JSON beside the file. Loading fills a module of the right shape, and refuses anything else. Every file carries a
checksum of what is in it, against accidents: whoever can write the file can write another checksum.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from tiltrl.errors import InputError
from tiltrl.files import read_file, reason, write_atomically

Tree = TypeVar("Tree")

HEADER_BYTES = 1 << 20
"""Names, shapes and facts of a file may take this much (1 MiB) beside its arrays."""
_DIGEST = "sha256"


class DamagedError(InputError):
    """A file is not what was written."""


def _names(tree: Any) -> tuple[list[str], list[Any], Any]:
    """Dotted names and values of a pytree's leaves, and its structure."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    return (
        [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves],
        [v for _, v in leaves],
        structure,
    )


def save_arrays(path: str | os.PathLike[str], tree: Any, facts: Mapping[str, str] | None = None) -> None:
    """Write a pytree of arrays atomically.

    Args:
        path: the file.
        tree: arrays of NumPy or JAX.
        facts: what else there is to say of them, kept in the file's header with their checksum.

    Raises:
        InputError: the file cannot be written.
    """
    write_atomically(path, pack(tree, facts))


def load_arrays(path: str | os.PathLike[str], like: Tree) -> Tree:
    """Read arrays into the structure of `like` (arrays or `jax.ShapeDtypeStruct`s).

    Raises:
        DamagedError: the file is not what was written.
        InputError: the file is missing, or holds other names, shapes or dtypes than `like`.
    """
    return unpack(read_file(path, bytes_of(like) + HEADER_BYTES), like, os.fspath(path))


def load_facts(path: str | os.PathLike[str]) -> dict[str, str]:
    """What was said of a file's arrays, which are not read.

    Raises:
        DamagedError: the file's header cannot be understood, or has no checksum.
        InputError: the operating system refuses to read the file.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(8 + HEADER_BYTES)
    except OSError as error:
        raise InputError(f"{os.fspath(path)}: cannot be read: {reason(error)}") from error
    facts = _facts(content, os.fspath(path))
    if facts.pop(_DIGEST, None) is None:
        raise DamagedError(f"{os.fspath(path)}: is damaged: it has no checksum")
    return facts


def fingerprint(tree: Any) -> str:
    """A short hash of the arrays of a pytree: equal arrays under equal names, equal fingerprint."""
    names, leaves, _ = _names(tree)
    return _digest({name: np.asarray(leaf) for name, leaf in zip(names, leaves, strict=True)}, {})[:16]


def bytes_of(like: Any) -> int:
    """What a pytree's arrays (or `jax.ShapeDtypeStruct`s) take."""
    return sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(like))


def pack(tree: Any, facts: Mapping[str, str] | None = None) -> bytes:
    """What `save_arrays` writes."""
    names, leaves, _ = _names(tree)
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in zip(names, leaves, strict=True)}
    known = dict(facts or {})
    return save(arrays, known | {_DIGEST: _digest(arrays, known)})


def unpack(content: bytes, like: Tree, where: str) -> Tree:
    """What `load_arrays` makes of a file's content; `where` names the file.

    Raises:
        DamagedError: the content is not what was written.
        InputError: it holds other names, shapes or dtypes than `like`.
    """
    names, leaves, structure = _names(like)
    arrays, _ = _parse(content, where)
    if set(names) != set(arrays):
        odd = sorted(set(names) ^ set(arrays))[0]
        raise InputError(
            f"{where}: array {odd!r:.200} is {'missing' if odd in names else 'unexpected'}; the file does not belong "
            "to the configuration beside it"
        )
    for name, leaf in zip(names, leaves, strict=True):
        found = arrays[name]
        if found.shape != leaf.shape or found.dtype != leaf.dtype:
            raise InputError(
                f"{where}: array {name!r} is {found.dtype}{list(found.shape)}; expected {leaf.dtype}{list(leaf.shape)}"
            )
    # Not `jnp.asarray`, which compiles a program for each shape.
    return jax.tree.unflatten(structure, [jax.device_put(arrays[name]) for name in names])


def _parse(content: bytes, where: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and facts of a file's content, its checksum verified where it has one."""
    facts = _facts(content, where)
    try:
        arrays = load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise DamagedError(f"{where}: not a readable safetensors file: {reason(error)}") from error
    if _DIGEST in facts and facts[_DIGEST] != _digest(arrays, facts):
        raise DamagedError(f"{where}: is damaged: its checksum is not that of its contents")
    return arrays, facts


def _facts(content: bytes, where: str) -> dict[str, str]:
    """What a file's header says beside names and shapes, its checksum included."""
    size = int.from_bytes(content[:8], "little")
    if size > HEADER_BYTES:  # before it is taken apart, which takes many times as much memory
        raise DamagedError(f"{where}: is damaged: its header takes {size} bytes, more than the {HEADER_BYTES} allowed")
    try:
        header = json.loads(content[8 : 8 + size])
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{where}: not a readable safetensors file: {reason(error)}") from error
    facts = (header.get("__metadata__") or {}) if isinstance(header, dict) else None
    if not isinstance(facts, dict):
        raise DamagedError(f"{where}: not a readable safetensors file: its header is none")
    return facts


def _digest(arrays: Mapping[str, np.ndarray], facts: Mapping[str, str]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, and the other facts."""
    others = {name: value for name, value in facts.items() if name != _DIGEST}
    digest = hashlib.sha256(json.dumps(others, sort_keys=True).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype} {array.shape};".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
