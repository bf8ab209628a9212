"""The metrics log: one line a chunk, and no line twice after a resume."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from tiltrl.errors import InputError
from tiltrl.training.metrics import MetricsLog


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def write(folder: Path, *steps: int, size: int = 0) -> int:
    """Logs the steps; the log's size after them."""
    log = MetricsLog(folder, size)
    for step in steps:
        log.write(step, {"loss": np.array([0.5, 1.5]), "step_size": 0.25})
    size = log.flush()
    log.close()
    return size


def events(folder: Path) -> list[tuple[int, str, float]]:
    """Step, name and value of every event on disk."""
    found = []
    for path in sorted((folder / "tensorboard").iterdir()):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + length])
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
            content = content[16 + length :]
    return found


def test_a_line_holds_one_number_a_member(tmp_path: Path) -> None:
    write(tmp_path, 250)
    assert lines(tmp_path) == [{"step": 250, "loss": [0.5, 1.5], "step_size": 0.25}]
    assert events(tmp_path) == [(250, "loss", 1.0), (250, "step_size", 0.25)]


@pytest.mark.parametrize("rest", [b"", b'{"step": 3, "lo', b"\0" * 50 + b"\n", b"\xff\n", b'{"step": 3}\n'])
def test_resuming_drops_whatever_follows_the_checkpoint(tmp_path: Path, rest: bytes) -> None:
    size = write(tmp_path, 1, 2)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(rest)
    write(tmp_path, 3, size=size)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]
    assert [step for step, name, _ in events(tmp_path) if name == "loss"] == [1, 2, 3]


def test_starting_anew_empties_the_log(tmp_path: Path) -> None:
    write(tmp_path, 1, 2)
    write(tmp_path, 1)
    assert [line["step"] for line in lines(tmp_path)] == [1]


def test_missing_and_damaged_steps_are_named(tmp_path: Path) -> None:
    size = write(tmp_path, 1, 2)
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    for content, message in ((whole[:-5], "bytes of at least"), (whole.replace(b"{", b"\0"), "is damaged")):
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"metrics.jsonl: .*{message}.*delete"):
            MetricsLog(tmp_path, size)
