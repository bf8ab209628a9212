"""Configurations from JSON: every field checked against its dataclass, nothing unknown accepted."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from tiltrl.errors import InputError

Config = TypeVar("Config")

_MOST_VALUES = 200_000
_DEEPEST = 32
_MOST_DIGITS = 1000


def parse_json(text: bytes | str, where: str, constants: Mapping[str, float] = MappingProxyType({})) -> Any:
    """Plain values from a JSON text that may be anybody's.

    What other readers let pass is refused: keys that are there twice, of which each reader believes another; numbers
    beyond floats; so many values, or so deep, that they fill the memory or the stack.

    Args:
        text: of a size that the caller has bounded.
        where: names it in the message.
        constants: what counts as a number beside those of JSON, such as Python's `Infinity`.

    Raises:
        InputError: it is not JSON, or as said.
    """

    def constant(name: str) -> float:
        if name not in constants:
            raise ValueError(f"{name} is no number of JSON")
        return constants[name]

    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        if text.count(",") >= _MOST_VALUES:
            raise ValueError(f"it holds {_MOST_VALUES} values or more")
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=constant, parse_float=_float, parse_int=_int)
        _check_depth(value, _DEEPEST)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not readable as JSON: {' '.join(str(error).split())}") from error
    return value


def from_json(kind: type[Config], value: Any, where: str) -> Config:
    """Build a (nested) dataclass from plain JSON values. A number in quotes is a text, and true is no number.

    Raises:
        InputError: a field is missing, unknown, of another type or out of its bounds; `where` and the field are named.
    """
    try:
        config = _adapter(kind).validate_json(json.dumps(value), strict=True)
    except RecursionError as error:
        raise InputError(f"{where}: is nested too deep to be a {kind.__name__}") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{where}: field {field:.200}: {first['msg'].removeprefix('Value error, ')}") from error
    _refuse_unknown(config, value, where)
    return config


@lru_cache(maxsize=64)
def _adapter(kind: type) -> TypeAdapter[Any]:
    """Its checks, which take far longer to put together than to make."""
    return TypeAdapter(kind)


def check_ranges(config: Any, **ranges: tuple[float, float]) -> None:
    """Refuse a dataclass's numbers that lie outside their bounds, which belong to them; None has none.

    Raises:
        InputError: naming the first such field, its value and its bounds.
    """
    for name, (least, most) in ranges.items():
        value = getattr(config, name)
        if value is not None and not least <= value <= most:  # NaN, too, lies within no bounds
            raise InputError(f"{name} = {value!r:.40}; it must lie in {least} to {most}")


def _refuse_unknown(config: Any, value: Any, where: str, place: str = "") -> None:
    """Pydantic ignores keys that no field has, at any depth; here they are errors, as a typing slip would be."""
    if not is_dataclass(config) or not isinstance(value, dict):
        return
    known = [f.name for f in fields(config)]
    if unknown := sorted(set(value) - set(known)):
        raise InputError(f"{where}: field {place + unknown[0]!r:.200} is unknown; the fields are {', '.join(known)}")
    for name in value:
        _refuse_unknown(getattr(config, name), value[name], where, f"{place}{name}.")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"key {twice!r:.200} is there twice")
    return found


def _float(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text:.40} is beyond the floats")
    return value


def _int(text: str) -> int:
    if len(text) > _MOST_DIGITS or not -(1 << 63) <= (value := int(text)) < 1 << 63:
        raise ValueError(f"{text:.40} is beyond the integers of 64 bits")
    return value


def _check_depth(value: Any, allowed: int) -> None:
    if not allowed:
        raise ValueError(f"it is nested more than {_DEEPEST} deep")
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        if isinstance(item, dict | list):
            _check_depth(item, allowed - 1)
