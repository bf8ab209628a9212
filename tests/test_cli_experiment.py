"""An experiment through the real command line, small; and how it ends where a cell cannot succeed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

DATA = "demo[:0.2]"
SMALL = ["--values", "0.004", "--budget", "0.002", "--episodes", "2", "--workers", "1"]


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "tiltrl", "experiment", *arguments]
    return subprocess.run(words, capture_output=True, text=True, timeout=900, check=False)


@pytest.mark.slow
def test_an_experiment_on_the_demo_ends_with_a_table_and_is_not_run_twice(tmp_path: Path):
    out = tmp_path / "out"
    done = call("label-fraction", "--data", DATA, *SMALL, "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert (
        "| data set | policy | data | behavior | behavior, mean of 8 | behavior, best of 4 | share 0.004 |"
        in done.stdout
    )
    for name in ("label-fraction.md", "label-fraction.csv", "label-fraction.png", "experiment.json"):
        assert (out / name).stat().st_size > 0
    (cell,) = (out / "cells").glob("*.json")
    found = json.loads(cell.read_text())
    assert found["state"] == "done" and found["command"][:3] == ["tiltrl", "run", DATA]
    assert found["trust"] and found["versions"]["tiltrl"] and len(found["episodes"][0]["returns"]) == 2
    written = cell.stat().st_mtime_ns
    again = call("label-fraction", "--data", DATA, *SMALL, "--out", str(out))
    assert again.returncode == 0 and cell.stat().st_mtime_ns == written


def test_an_experiment_whose_cells_fail_ends_as_bad_input_that_names_the_table(tmp_path: Path):
    out = tmp_path / "out"
    (tmp_path / "log.npz").write_bytes(b"no arrays")
    done = call("label-fraction", "--data", str(tmp_path / "log.npz"), *SMALL, "--out", str(out))
    assert done.returncode == 2
    assert done.stderr.startswith(f"tiltrl: error: 1 of 1 cells failed; {out / 'label-fraction.md'} has their errors")
    (cell,) = (out / "cells").glob("*.json")
    assert "log.npz" in json.loads(cell.read_text())["error"]
    assert "log.npz" in (out / "label-fraction.md").read_text().split("## Failed")[1]


def test_an_unknown_experiment_is_told_with_those_that_exist(tmp_path: Path):
    done = call("score", "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert "'score'" in done.stderr and "label-fraction" in done.stderr
    assert not (tmp_path / "out").exists()
