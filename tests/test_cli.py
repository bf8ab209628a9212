"""The main job through the real command line, small; and what happens when it is asked for the impossible."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import tiltrl
from tiltrl import cli
from tiltrl.main import answer

SMALL = ["--budget", "0.005", "--episodes", "2", "--label-fraction", "0.004"]
DATA = "demo[:0.2]"


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tiltrl", *arguments]


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=900, check=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("cli") / "run"
    done = call("run", DATA, *SMALL, "--out", str(out))
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def test_a_run_ends_with_table_picture_numbers_and_a_policy(finished):
    out, printed = finished
    for row in ("data", "behavior", "behavior, best of 4", "aligned, beta 1", "aligned, beta 1, mean of 8"):
        assert row in printed
    assert (out / "report.png").read_bytes().startswith(b"\x89PNG")
    results = json.loads((out / "results.json").read_text())
    assert [row["policy"] for row in results["rows"]][0] == "data"
    assert all(len(row["scores"][0]) == 2 for row in results["rows"][1:])
    assert results["trust"][0]["verdict"] in ("good", "weak", "harmful")
    assert "not a D4RL score" in results["scores_are"]
    policy = tiltrl.load_policy(out / "policies" / "beta1-labels0.004-seed0")
    assert policy.config.acting == "mean of 8"
    action = policy.sample(np.zeros((5, 11), np.float32))
    assert action.shape == (5, 3)
    assert np.abs(action).max() <= 1.0


def test_raw_returns_are_kept_with_their_seeds(finished):
    out, _ = finished
    (file,) = out.glob("evaluation-*/aligned-beta-1-seed0.json")
    found = json.loads(file.read_text())
    assert len(found["returns"]) == len(found["environment_seeds"]) == 2


def test_another_beta_trains_nothing_but_the_alignment(finished):
    out, _ = finished
    before = {file: file.stat().st_mtime_ns for file in out.glob("*/networks.safetensors")}
    done = call("align", DATA, *SMALL, "--out", str(out), "--beta", "2.0", "4.0")
    assert done.returncode == 0, done.stderr
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert len(list(out.glob("align-*"))) == 2
    assert (out / "policies" / "beta4-labels0.004-seed0" / "policy.json").is_file()


def test_a_saved_policy_is_evaluated(finished):
    done = call("evaluate", str(finished[0] / "policies" / "behavior-seed0"), "--episodes", "2")
    assert done.returncode == 0, done.stderr
    assert "behavior-seed0" in done.stdout


def test_an_interrupted_run_continues(tmp_path):
    arguments = command("behavior", "demo", "--budget", "0.5", "--out", str(tmp_path / "run"))
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "run"
    deadline = time.monotonic() + 600
    while not any(file.stat().st_size for file in log.glob("behavior-*/metrics.jsonl")):
        assert time.monotonic() < deadline, "no step was logged"
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 3
    assert "goes on from what is saved" in error
    saved = list(log.glob("behavior-*/checkpoints/step-*.safetensors"))
    assert saved and all(int(path.stem.removeprefix("step-")) > 0 for path in saved)
    assert not list(log.glob("behavior-*/stage.json"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "demo", "--beta", "0"], "beta = 0.0"),
        (["run", "demo", "--beta", "nan"], "beta = nan"),
        (["run", "demo", "--seeds", "0"], "seeds = 0"),
        (["run", "demo", "--episodes", "0"], "episodes = 0"),
        (["run", "demo", "--label-fraction", "2"], "label_fraction = 2.0"),
        (["run", "demo", "--budget", "0"], "budget = 0.0"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, message, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    monkeypatch.setattr(sys, "argv", ["tiltrl", *arguments, "--out", str(out)])
    assert answer(cli.main) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and "Traceback" not in said
    assert not out.exists()


def test_bad_input_ends_the_process_likewise(tmp_path):
    done = call("run", "no-such/data-v0", "--out", str(tmp_path / "run"))
    assert done.returncode == 2
    assert "no-such/data-v0" in done.stderr and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_folder_of_another_run_is_refused(finished):
    before = sorted(finished[0].rglob("*"))
    done = call("run", DATA, "--seeds", "2", *SMALL, "--out", str(finished[0]))
    assert done.returncode == 2
    assert "holds another run, with seeds = 1, not 2" in done.stderr
    assert sorted(finished[0].rglob("*")) == before


def test_a_folder_of_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    done = call("run", DATA, *SMALL, "--out", str(tmp_path))
    assert done.returncode == 2
    assert "is not a run's folder" in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]
