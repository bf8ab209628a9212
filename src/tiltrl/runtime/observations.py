"""Observations, as whatever a robot or an environment gives, to the rows of numbers that a model takes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any

import numpy as np

from tiltrl.errors import InputError

SHAPE, TYPE, NOT_FINITE = "shape", "type", "not finite"


class BadObservation(InputError):
    """An observation that cannot be acted on; `reason` is "shape", "type", "not finite" or "output"."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


def vectors(obs: Any, keys: tuple[str, ...], size: int) -> np.ndarray:
    """An observation as (*batch, size) in float32; a Dict's parts are joined in the order of `keys`, as for training.

    Infinite and NaN values are left in, for the caller to say what becomes of them.

    Raises:
        BadObservation: parts are missing, or the last dimension is not `size`; or it holds no numbers.
    """
    if isinstance(obs, Mapping):
        obs = _joined(obs, keys)
    return rows("obs", obs, size)


def rows(name: str, value: Any, size: int) -> np.ndarray:
    """Anything like an array as (*batch, size) in float32; what is too large for that becomes infinite.

    Raises:
        BadObservation: the last dimension is not `size`, or it holds no numbers; the message calls it `name`.
    """
    array = _numbers(name, value)
    if array.ndim == 0 or array.shape[-1] != size:
        raise BadObservation(SHAPE, f"{name} has shape {array.shape}; its last dimension must be {size}")
    return array


def _joined(obs: Mapping[str, Any], keys: tuple[str, ...]) -> np.ndarray:
    if not keys:
        raise BadObservation(SHAPE, f"obs is a Dict of {', '.join(map(str, obs))}; this policy takes plain vectors")
    try:
        leaves = [_numbers(path, reduce(lambda tree, key: tree[key], path.split("/"), obs)) for path in keys]
        return np.concatenate(leaves, axis=-1)
    except BadObservation:
        raise
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise BadObservation(
            SHAPE,
            f"obs cannot be joined from its parts {', '.join(keys)} ({type(error).__name__}: {error}); all are needed, "
            "as arrays with the same leading dimensions",
        ) from error


def _numbers(name: str, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError as error:  # lists of unequal lengths
        raise BadObservation(SHAPE, f"{name} is no array of numbers: {error}") from error
    except Exception as error:  # whatever an object of another library says that is asked to be an array
        raise BadObservation(TYPE, f"{name} is no array of numbers: {type(error).__name__}: {error}") from error
    if array.dtype == np.float32:
        return array
    if array.dtype.kind not in "biuf":
        raise BadObservation(TYPE, f"{name} is of dtype {array.dtype}; numbers are needed")
    with np.errstate(over="ignore"):
        return array.astype(np.float32)
