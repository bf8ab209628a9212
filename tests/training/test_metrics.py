"""The metrics log: one line a chunk, and no line twice after a resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tiltrl.training.metrics import MetricsLog


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def write(folder: Path, *steps: int, resume_at: int = 0) -> None:
    log = MetricsLog(folder, resume_at)
    for step in steps:
        log.write(step, {"loss": np.array([0.5, 1.5]), "step_size": 0.25})
    log.close()


def test_a_line_holds_one_number_a_member(tmp_path: Path) -> None:
    write(tmp_path, 250)
    assert lines(tmp_path) == [{"step": 250, "loss": [0.5, 1.5], "step_size": 0.25}]
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_resuming_drops_the_lines_after_the_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 3)
    write(tmp_path, 3, 4, resume_at=2)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]


def test_half_a_last_line_is_dropped(tmp_path: Path) -> None:
    write(tmp_path, 1, 2)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    write(tmp_path, 3, resume_at=2)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]


def test_starting_anew_empties_the_log(tmp_path: Path) -> None:
    write(tmp_path, 1, 2)
    write(tmp_path, 1)
    assert [line["step"] for line in lines(tmp_path)] == [1]
