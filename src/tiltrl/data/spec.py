"""How data sets are named: `a+b`, `d4rl:hopper-medium-v2`, `log.npz?obs=state&action=u`, `runs/x[:0.1]`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields

from tiltrl.errors import InputError

KINDS = ("minari", "d4rl", "ogbench", "lerobot")
"""What may stand before a name, as in `d4rl:hopper-medium-v2`."""

_PREFIX = re.compile(rf"({'|'.join(KINDS)}):(.*)", re.DOTALL)
_SLICED = re.compile(r"(.*)\[([^\[\]]*)\]", re.DOTALL)
_BOUND = r"(\d+\.\d*|\.\d+|\d{0,18})"  # Python refuses to read integers of thousands of digits
_BOUNDS = re.compile(f"{_BOUND}:{_BOUND}", re.ASCII)


@dataclass(frozen=True)
class Columns:
    """What a file of arrays calls each field; None: found by its usual names."""

    obs: tuple[str, ...] = ()  # several are joined, in this order; (): found
    action: str | None = None  # as all that follow: one name, or several separated by commas
    reward: str | None = None  # where a file has none, rewards are zero
    next_obs: str | None = None
    terminal: str | None = None
    timeout: str | None = None
    episode: str | None = None  # a number that is the same for all steps of one episode
    env: str | None = None  # id of the Gymnasium environment to evaluate in, such as Hopper-v5


FOUND = Columns()
"""All of them found by their usual names."""


@dataclass(frozen=True)
class Slice:
    """Which episodes of a data set to take, in recorded order: shares of them (float) or counts (int)."""

    start: float | int | None
    stop: float | int | None


@dataclass(frozen=True)
class Part:
    """One of the data sets that a name joins."""

    text: str  # as it was written
    kind: str | None  # one of `KINDS`; None: to be found out
    name: str  # an id or a path
    columns: Columns | None
    slice: Slice | None


def parse(spec: str) -> list[Part]:
    """Take a data set's name apart: parts joined by "+", each `[kind:]name[?columns][slice]`.

    Whatever exists as a path is taken as one, with any "+", "?" or "[" in it.

    Raises:
        InputError: the columns or the slice are not written as such.
    """
    pieces, parts = spec.split("+"), []
    while pieces:
        joined = ("+".join(pieces[:count]) for count in range(len(pieces), 1, -1))
        text = next(filter(_is_a_path_with_plus, joined), pieces[0])
        parts.append(_part(text))
        pieces = pieces[text.count("+") + 1 :]
    return parts


def _is_a_path_with_plus(text: str) -> bool:
    """Whether the text is a path, perhaps with columns or a slice behind it, and every "+" in it is the path's."""
    return any(_exists(name) and name.count("+") == text.count("+") for name, *_ in _readings(text))


def _part(text: str) -> Part:
    readings = list(_readings(text))
    name, columns, cut = next((reading for reading in readings if _exists(reading[0])), readings[-1])
    prefixed = None if os.path.exists(os.path.expanduser(name)) else _PREFIX.fullmatch(name)
    kind, name = (prefixed[1], prefixed[2]) if prefixed else (None, name)
    return Part(
        text=text,
        kind=kind,
        name=name,
        columns=None if columns is None else _columns(columns, text),
        slice=None if cut is None else _slice(cut, text),
    )


def _readings(text: str) -> Iterator[tuple[str, str | None, str | None]]:
    """Every way to see name, columns and slice in a part, those with the longest name first."""
    yield text, None, None
    cut = None
    if sliced := _SLICED.fullmatch(text):
        text, cut = sliced[1], sliced[2]
        yield text, None, cut
    for at in reversed([match.start() for match in re.finditer(r"\?", text)]):
        yield text[:at], text[at + 1 :], cut


def _exists(name: str) -> bool:
    prefixed = _PREFIX.fullmatch(name)
    names = (name, prefixed[2]) if prefixed else (name,)
    return any(os.path.exists(os.path.expanduser(name)) for name in names)


def _columns(text: str, spec: str) -> Columns:
    known = [field.name for field in fields(Columns)]
    found: dict[str, str] = {}
    for pair in text.split("&"):
        key, equals, value = pair.partition("=")
        if key not in known or not equals or not all(value.split(",")):
            raise InputError(
                f"{spec}: {pair!r} names no column; write ?obs=NAME&action=NAME, with any of {', '.join(known)}"
            )
        if key in found:
            raise InputError(f"{spec}: {key} is named twice, as {found[key]!r} and {value!r}; name it once")
        found[key] = value
    return Columns(obs=tuple(filter(None, found.pop("obs", "").split(","))), **found)


def _slice(text: str, spec: str) -> Slice:
    bounds = _BOUNDS.fullmatch(text)
    if not bounds:
        raise InputError(
            f"{spec:.300}: [{text:.80}] is no slice of episodes; write [:0.1] or [0.5:] for shares of them, [:100] for "
            "a count"
        )
    start, stop = (None if not bound else float(bound) if "." in bound else int(bound) for bound in bounds.groups())
    for bound in (start, stop):
        if isinstance(bound, float) and bound > 1:
            raise InputError(
                f"{spec:.300}: [{text:.80}]: {bound:g} is no share of the episodes; give 0.0 to 1.0, or a count"
            )
    return Slice(start, stop)
