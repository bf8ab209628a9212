"""Configurations from JSON: what fits is built, what does not is named."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from tiltrl.config_io import from_json
from tiltrl.errors import InputError
from tiltrl.presets import FAST, PAPER, Preset
from tiltrl.types import as_json


@dataclass(frozen=True)
class Inner:
    width: int = 3
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Outer:
    rate: float
    inner: Inner = field(default_factory=Inner)
    bounds: tuple[float, ...] = ()
    name: str | None = None


def test_nested_values_are_built() -> None:
    value = {"rate": 1, "inner": {"width": 5, "kind": "b"}, "bounds": [1, 2.5]}
    assert from_json(Outer, value, "file") == Outer(1.0, Inner(5, "b"), (1.0, 2.5))


@pytest.mark.parametrize("preset", [FAST, PAPER])
def test_a_preset_survives_json(preset: Preset) -> None:
    assert from_json(Preset, json.loads(json.dumps(as_json(preset))), "file") == preset


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"rate": 1, "rat": 2}, "field 'rat' is unknown; the fields are rate, inner, bounds, name"),
        ({}, "field rate: "),
        ({"rate": "fast"}, "field rate: "),
        ({"rate": 1, "inner": {"kind": "c"}}, r"field inner\.kind: "),
        ({"rate": 1, "bounds": [1, "x"]}, r"field bounds\.1: "),
        ({"rate": 1, "inner": {"width": 1.5}}, r"field inner\.width: "),
        ({"rate": 1, "inner": {"depth": 3}}, "depth"),
        ([1], "file: "),
    ],
)
def test_what_does_not_fit_is_named(value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        from_json(Outer, value, "file")
    assert str(caught.value).startswith("file: ")
