"""The values that travel between stages: what was recorded, where, and which actions could have been taken instead."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property, reduce
from pathlib import PurePath
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from tiltrl.errors import InputError


@dataclass(frozen=True)
class Task:
    """What the data was recorded in, and all that acting in it needs."""

    dataset: str  # the name the data was asked for by: "a+b" for two joined sets
    env_spec: str | None  # Gymnasium's EnvSpec as JSON; None: nothing to evaluate in
    action_low: tuple[float, ...]  # bounds of the action space, in the environment's units
    action_high: tuple[float, ...]
    obs_dim: int
    ref_min: float | None = None  # raw returns that count as 0 and 100 (D4RL's convention); None: no reference
    ref_max: float | None = None
    obs_keys: tuple[str, ...] = ()  # leaves of a Dict observation in the order they are joined, "a/b" for nested ones

    @property
    def act_dim(self) -> int:
        """Number of action dimensions."""
        return len(self.action_low)

    def flat_obs(self, obs: Any) -> Float[np.ndarray, "*batch obs"]:
        """An observation as one vector, float32: as it is, or the leaves `obs_keys` of a Dict joined in that order."""
        if not self.obs_keys:
            return np.asarray(obs, np.float32)
        leaves = [reduce(lambda tree, key: tree[key], path.split("/"), obs) for path in self.obs_keys]
        return np.concatenate([np.asarray(leaf, np.float32) for leaf in leaves], axis=-1)


@dataclass(frozen=True)
class Transitions:
    """Logged steps of whole episodes, one after the other, as NumPy arrays on the host.

    An episode ends at `terminal` (the task ended: no value follows) or `timeout` (recording ended: value follows).
    Actions are in the environment's units.
    """

    obs: Float[np.ndarray, "steps obs"]
    action: Float[np.ndarray, "steps act"]
    reward: Float[np.ndarray, " steps"]
    next_obs: Float[np.ndarray, "steps obs"]
    terminal: Bool[np.ndarray, " steps"]
    timeout: Bool[np.ndarray, " steps"]
    task: Task

    def __len__(self) -> int:
        return len(self.reward)

    @property
    def ends(self) -> np.ndarray:
        """Index of each episode's last step, ascending."""
        return np.flatnonzero(self.terminal | self.timeout)

    @property
    def starts(self) -> np.ndarray:
        """Index of each episode's first step, ascending."""
        return np.concatenate([[0], self.ends[:-1] + 1])

    @property
    def returns(self) -> np.ndarray:
        """Undiscounted raw return of each episode."""
        return np.add.reduceat(self.reward.astype(np.float64), self.starts)

    def take(self, index: np.ndarray) -> Transitions:
        """The given steps; pass whole episodes to keep `starts` and `ends` meaningful."""
        arrays = {f.name: read(getattr(self, f.name), index) for f in fields(self) if f.name != "task"}
        return replace(self, **arrays)

    def fingerprint(self) -> str:
        """SHA-256 over the arrays' bytes and shapes: equal data, equal fingerprint, whatever the file."""
        return self._fingerprint

    @cached_property  # asked for by every policy made of the data, and a matter of seconds where that is large
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for field in fields(self):
            if field.name != "task":
                array = getattr(self, field.name)
                digest.update(f"{field.name} {array.dtype} {array.shape};".encode())
                for part in parts(len(array)):
                    digest.update(np.ascontiguousarray(read(array, part)).data)
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Scaling:
    """Between the units of the environment and those of the networks.

    Networks see actions in [-1, 1], and observations less a mean and over a deviation (0 and 1: as they are).
    """

    obs_mean: tuple[float, ...]
    obs_std: tuple[float, ...]
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]

    def normalize_obs(self, obs: Float[np.ndarray, "*batch obs"]) -> Float[np.ndarray, "*batch obs"]:
        """Environment's observations to the networks'."""
        return ((np.asarray(obs) - np.array(self.obs_mean)) / np.array(self.obs_std)).astype(np.float32)

    def to_unit(self, action: Float[np.ndarray, "*batch act"]) -> Float[np.ndarray, "*batch act"]:
        """Environment's actions to the unit box."""
        low, high = np.array(self.action_low), np.array(self.action_high)
        return (2.0 * (np.asarray(action) - low) / (high - low) - 1.0).astype(np.float32)

    def to_env(self, action: Float[np.ndarray, "*batch act"]) -> Float[np.ndarray, "*batch act"]:
        """Unit actions to the environment's."""
        low, high = np.array(self.action_low), np.array(self.action_high)
        return (low + 0.5 * (np.asarray(action) + 1.0) * (high - low)).astype(np.float32)


@dataclass(frozen=True)
class Candidates:
    """Alignment data: for each state, K actions sampled from the behavior and their values (EDA, Section 3.2)."""

    obs: Float[np.ndarray, "*members states obs"]
    action: Float[np.ndarray, "*members states k act"]
    q: Float[np.ndarray, "*members states k"]

    def __post_init__(self) -> None:
        if self.action.shape[:-1] != self.q.shape or self.obs.shape[:-1] != self.q.shape[:-1]:
            raise InputError(
                f"candidates: shapes disagree: obs {self.obs.shape}, action {self.action.shape}, q {self.q.shape}; "
                "expected (..., states, obs), (..., states, k, act), (..., states, k)"
            )
        if self.q.shape[-1] < 2:
            raise InputError(f"candidates: K = {self.q.shape[-1]}; at least 2 actions per state are needed to compare")
        if not np.isfinite(self.q).all():
            raise InputError("candidates: q holds NaN or infinite values; every candidate needs a finite value")


def parts(rows: int, size: int = 1 << 16) -> Iterator[slice]:
    """Consecutive parts of that many rows, for passes over arrays of which a copy should not be in memory."""
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def read(array: np.ndarray, rows: slice | np.ndarray) -> np.ndarray:
    """Some rows of an array; where it maps a file, a copy of them, after which the file's pages are let go.

    A page that was merely looked at stays resident for as long as nobody else needs the memory, so that a pass over a
    large file would seem to load it.

    Args:
        array: in memory, or a read-only `np.memmap` (or a view of one).
        rows: a slice, or indices.
    """
    if (file := _mapped(array)) is None:
        return array[rows]
    if isinstance(rows, slice):
        found = np.array(array[rows])
        file.madvise(mmap.MADV_DONTNEED)
        return found
    found = np.empty((len(rows), *array.shape[1:]), array.dtype)
    for part in parts(len(rows), 1000):  # each index may bring in several pages; those of a thousand are still few
        found[part] = array[rows[part]]
        file.madvise(mmap.MADV_DONTNEED)
    return found


def _mapped(array: np.ndarray) -> mmap.mmap | None:
    """The read-only map of a file that the array looks into, if it does and the system can let its pages go."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    # Pages that were written to must not be let go: of a copy-on-write map they are all there is.
    readable = isinstance(array, np.memmap) and array.mode == "r" and hasattr(mmap, "MADV_DONTNEED")
    return array.base if readable and isinstance(array.base, mmap.mmap) else None


def as_json(value: Any) -> Any:
    """Dataclasses, tuples, paths and NumPy scalars as plain JSON values."""
    if hasattr(value, "__dataclass_fields__"):
        return {f.name: as_json(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {str(k): as_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(v) for v in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, PurePath):
        return str(value)
    return value
