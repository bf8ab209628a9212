"""Configurations from JSON: every field checked against its dataclass, nothing unknown accepted."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from tiltrl.errors import InputError

Config = TypeVar("Config")


def from_json(kind: type[Config], value: Any, where: str) -> Config:
    """Build a (nested) dataclass from plain JSON values.

    Raises:
        InputError: a field is missing, unknown, or of another type; `where` and the field are named.
    """
    try:
        config = TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{where}: field {field}: {first['msg']}") from error
    _refuse_unknown(config, value, where)
    return config


def _refuse_unknown(config: Any, value: Any, where: str, place: str = "") -> None:
    """Pydantic ignores keys that no field has, at any depth; here they are errors, as a typing slip would be."""
    if not is_dataclass(config) or not isinstance(value, dict):
        return
    known = [f.name for f in fields(config)]
    if unknown := sorted(set(value) - set(known)):
        raise InputError(f"{where}: field {place + unknown[0]!r} is unknown; the fields are {', '.join(known)}")
    for name in value:
        _refuse_unknown(getattr(config, name), value[name], where, f"{place}{name}.")
