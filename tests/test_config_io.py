"""Configurations from JSON: what fits is built, what does not is named."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from tiltrl.config_io import check_ranges, from_json, parse_json
from tiltrl.errors import InputError
from tiltrl.presets import FAST, PAPER, Preset
from tiltrl.types import as_json


@dataclass(frozen=True)
class Inner:
    width: int = 3
    kind: Literal["a", "b"] = "a"

    def __post_init__(self) -> None:
        check_ranges(self, width=(1, 9))


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
        ({"rate": "1"}, "field rate: "),
        ({"rate": True}, "field rate: "),
        ({"rate": 1, "inner": {"width": True}}, r"field inner\.width: "),
        ({"rate": 1, "inner": {"width": 99}}, r"field inner: width = 99; it must lie in 1 to 9"),
        ({"rate": 1, "x" * 10_000: 2}, r"field 'x{100,200} is unknown"),
        ([1], "file: "),
    ],
)
def test_what_does_not_fit_is_named(value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        from_json(Outer, value, "file")
    assert str(caught.value).startswith("file: ")


@pytest.mark.parametrize(("value", "fits"), [(1, True), (2.5, True), (None, True), (0, False), (math.nan, False)])
def test_ranges_include_their_ends_and_no_nan(value: Any, fits: bool) -> None:
    config = SimpleNamespace(rate=value)
    if fits:
        check_ranges(config, rate=(1, 2.5))
        return
    with pytest.raises(InputError, match=rf"rate = {value}; it must lie in 1 to 2\.5"):
        check_ranges(config, rate=(1, 2.5))


def test_plain_values_are_read() -> None:
    value = {"a": [1, -2.5, 1e-3, True, None, "\u00e9\n"], "b": {"c": {}}}
    assert (
        parse_json(json.dumps(value), "file")
        == parse_json(b"\xef\xbb\xbf" + json.dumps(value).encode(), "file")
        == value
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        (b"\xff\xfe{}", "can't decode"),
        ('{"a": 1, "b": 2, "a": 3}', "key 'a' is there twice"),
        ('{"a": {"b": 1, "b": 1}}', "key 'b' is there twice"),
        ("[NaN]", "NaN is no number of JSON"),
        ("[-Infinity]", "-Infinity is no number of JSON"),
        ("[1e400]", "1e400 is beyond the floats"),
        (f"[{2**63}]", "is beyond the integers of 64 bits"),
        (f"[{'9' * 5000}]", "is beyond the integers of 64 bits"),
        ("[" * 100_000, "recursion"),
        ("[" * 33 + "]" * 33, "nested more than 32 deep"),
        ('{"a":' * 40 + "1" + "}" * 40, "nested more than 32 deep"),
        ("[" + "0," * 200_000 + "0]", "200000 values or more"),
        ("{" + ",".join(f'"{i // 2}":0' for i in range(100_000)) + "}", "is there twice"),
    ],
)
def test_texts_that_are_not_plain(text: str | bytes, message: str) -> None:
    with pytest.raises(InputError, match="^file: not readable as JSON: ") as caught:
        parse_json(text, "file")
    assert message in str(caught.value) and len(str(caught.value)) < 500
