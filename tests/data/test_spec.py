"""Taking a data set's name apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiltrl.data.spec import Columns, Part, Slice, parse
from tiltrl.errors import InputError


def part(
    text: str, name: str, kind: str | None = None, columns: Columns | None = None, cut: Slice | None = None
) -> Part:
    return Part(text, kind, name, columns, cut)


ALL = Columns(("x", "y"), "u", "r", "n", "d", "t", "e", "Hopper-v5")
PARSED = [
    ("demo", [part("demo", "demo")]),
    ("", [part("", "")]),
    ("a+b+a", [part("a", "a"), part("b", "b"), part("a", "a")]),
    ("d4rl:hopper-medium-v2", [part("d4rl:hopper-medium-v2", "hopper-medium-v2", "d4rl")]),
    ("ogbench:x[:2]+b", [part("ogbench:x[:2]", "x", "ogbench", cut=Slice(None, 2)), part("b", "b")]),
    ("x[0.5:]", [part("x[0.5:]", "x", cut=Slice(0.5, None))]),
    ("x[.25:1.]", [part("x[.25:1.]", "x", cut=Slice(0.25, 1.0))]),
    ("x[1:100]", [part("x[1:100]", "x", cut=Slice(1, 100))]),
    ("l.npz?env=A-v1[:3]", [part("l.npz?env=A-v1[:3]", "l.npz", columns=Columns(env="A-v1"), cut=Slice(None, 3))]),
    (
        "l.npz?obs=x,y&action=u&reward=r&next_obs=n&terminal=d&timeout=t&episode=e&env=Hopper-v5",
        [
            part(
                "l.npz?obs=x,y&action=u&reward=r&next_obs=n&terminal=d&timeout=t&episode=e&env=Hopper-v5",
                "l.npz",
                columns=ALL,
            )
        ],
    ),
    ("other:x", [part("other:x", "other:x")]),
]


@pytest.mark.parametrize(("spec", "parts"), PARSED, ids=[row[0] for row in PARSED])
def test_parts_of_a_name(spec: str, parts: list[Part]) -> None:
    assert parse(spec) == parts


@pytest.mark.parametrize("name", ["a+b", "a+b+c.npz", "a[:0.1]", "a?obs=x", "what?.npz", "d4rl:x", "a+b[1]?c.npz"])
def test_what_exists_is_taken_as_a_path(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).touch()
    (plain,) = parse(name)
    assert (plain.kind, plain.name, plain.columns, plain.slice) == (None, name, None, None)
    first, second, third = parse(f"demo+{name}?obs=s[:2]+demo[:1]")
    assert (second.name, second.columns, second.slice) == (name, Columns(obs=("s",)), Slice(None, 2))
    assert (first.name, third.name, third.slice) == ("demo", "demo", Slice(None, 1))
    (whole,) = parse(str(tmp_path / name))
    assert whole.name == str(tmp_path / name)


BAD = [
    ("x[3]", r"\[3\] is no slice of episodes; write \[:0.1\]"),
    ("x[]", r"\[\] is no slice"),
    ("x[-1:]", r"\[-1:\] is no slice"),
    ("x[::2]", r"\[::2\] is no slice"),
    ("x[a:b]", r"\[a:b\] is no slice"),
    ("x[:" + "9" * 5000 + "]", r"\[:9+\] is no slice"),
    ("x[:.]", r"\[:.\] is no slice"),
    ("x[:1.5]", "1.5 is no share of the episodes; give 0.0 to 1.0, or a count"),
    ("x.npz?", "'' names no column; write"),
    ("x.npz?obs", "'obs' names no column"),
    ("x.npz?obs=", "'obs=' names no column"),
    ("x.npz?obs=a,,b", "'obs=a,,b' names no column"),
    ("x.npz?colour=a", "'colour=a' names no column.*any of obs, action, reward, next_obs, terminal, timeout"),
    ("x.npz?obs=a&obs=b", "obs is named twice, as 'a' and 'b'"),
]


@pytest.mark.parametrize(("spec", "message"), BAD, ids=[row[0][:20] for row in BAD])
def test_what_is_not_written_as_it_should_be(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        parse(spec)
    assert str(raised.value).startswith(spec[:300]) and "\n" not in str(raised.value)
