"""Configurations from JSON: every field checked against its dataclass, nothing unknown accepted."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from tiltrl.errors import InputError

Config = TypeVar("Config")


def from_json(kind: type[Config], value: Any, where: str) -> Config:
    """Build a (nested) dataclass from plain JSON values.

    Raises:
        InputError: a field is missing, unknown, or of another type; `where` and the field are named.
    """
    known = getattr(kind, "__dataclass_fields__", {})
    if isinstance(value, dict) and (unknown := sorted(set(value) - set(known))):
        raise InputError(f"{where}: field {unknown[0]!r} is unknown; the fields are {', '.join(known)}")
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{where}: field {field}: {first['msg']}") from error
