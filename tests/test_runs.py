"""A run's folder: whose it is, and which stages are finished."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tiltrl import runs
from tiltrl.diffusion.energy import EnergyConfig
from tiltrl.errors import InputError
from tiltrl.runs import FORMAT, RunFolder, Stage

IDENTITY = {"data": "abc", "preset": "fast", "seeds": (0, 1)}


def test_a_new_folder_says_whose_it_is_and_opens_again(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run", IDENTITY)
    assert json.loads((tmp_path / "run" / "run.json").read_text()) == IDENTITY | {"format": FORMAT, "seeds": [0, 1]}
    assert RunFolder(tmp_path / "run", IDENTITY).path == tmp_path / "run"


def test_another_run_is_refused(tmp_path: Path) -> None:
    RunFolder(tmp_path, IDENTITY)
    with pytest.raises(InputError, match="holds another run, with preset = 'fast', not 'paper'; give another --out"):
        RunFolder(tmp_path, IDENTITY | {"preset": "paper"})


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="exists and is not a run's folder"):
        RunFolder(tmp_path, IDENTITY)
    with pytest.raises(InputError, match="exists and is not a run's folder"):
        RunFolder(tmp_path / "notes.txt", IDENTITY)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("text", ["{", "", "[]", "\udcff"])
def test_a_damaged_description_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text, errors="surrogateescape")
    with pytest.raises(InputError, match="run.json: not a readable.*; delete .* to start this run again, or give"):
        RunFolder(tmp_path, IDENTITY)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize(("found", "when"), [(None, "an earlier"), (FORMAT + 1, "a later"), ("x", "an earlier")])
def test_another_versions_folder_is_refused(tmp_path: Path, found: Any, when: str) -> None:
    changed = IDENTITY | ({} if found is None else {"format": found})
    (tmp_path / "run.json").write_text(json.dumps(changed))
    with pytest.raises(InputError, match=f"was written by {when} TiltRL .*; give another --out, or use that version"):
        RunFolder(tmp_path, IDENTITY)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_changed_data_is_named_as_such(tmp_path: Path) -> None:
    RunFolder(tmp_path, IDENTITY | {"fingerprint": "aa"})
    message = "its data has changed since the run began .fingerprint aa, now bb.; give another --out, or restore"
    with pytest.raises(InputError, match=message):
        RunFolder(tmp_path, IDENTITY | {"fingerprint": "bb"})


def test_a_folder_of_a_process_killed_right_after_locking_is_empty(tmp_path: Path) -> None:
    for name in (".lock", ".owner.json", ".0123abcd-99999999-89abcdef.run.json"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    run = RunFolder(tmp_path, IDENTITY)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", ".owner.json", "run.json"]
    run.close()


def test_another_process_is_kept_out_with_one_line_and_leaves_no_trace(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, {"experiment": "bandit", "seed": 0})
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    command = [sys.executable, "-m", "tiltrl", "bandit", "--dataset", "moons", "--out", str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    (line,) = found.stderr.splitlines()
    assert (found.returncode, found.stdout) == (2, "")
    assert line.startswith(f"tiltrl: error: {tmp_path}: process {os.getpid()} on {platform.node()} since ")
    assert line.endswith("works in it; wait until that has ended, or give another --out")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    run.close()


def test_a_folder_that_may_not_be_looked_into_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "exists", refuse)  # permissions would not stop root
    with pytest.raises(InputError, match="run: cannot be read: Permission denied"):
        RunFolder(tmp_path / "run", IDENTITY)


def test_a_stage_is_keyed_by_all_it_depends_on(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, IDENTITY)
    stage = run.stage("behavior", config=EnergyConfig(), seed=0)
    assert stage.folder == tmp_path / f"behavior-{stage.key}"
    assert run.stage("behavior", seed=0, config=EnergyConfig()).key == stage.key
    others = [
        run.stage("behavior", config=EnergyConfig(blocks=2), seed=0),
        run.stage("behavior", config=EnergyConfig(), seed=1),
        run.stage("critic", config=EnergyConfig(), seed=0),
    ]
    assert len({stage.key, *(other.key for other in others)}) == 4


def test_a_stage_is_done_when_finished_and_not_before(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, IDENTITY)
    stage = run.stage("align", beta=0.5)
    (stage.folder / "checkpoints" / "10").mkdir(parents=True)
    assert not run.stage("align", beta=0.5).done
    stage.finish({"loss": 1.5}, began=0.0)
    again = run.stage("align", beta=0.5)
    assert again.done and again.summary == {"loss": 1.5}
    assert not run.stage("align", beta=1.0).done
    assert not (stage.folder / "checkpoints").exists()
    assert json.loads((stage.folder / "stage.json").read_text())["inputs"] == {"beta": 0.5}


def finished(tmp_path: Path) -> Stage:
    stage = RunFolder(tmp_path, IDENTITY).stage("align", beta=0.5)
    stage.folder.mkdir()
    (stage.folder / "networks.safetensors").write_bytes(b"numbers")
    stage.finish({"loss": 1.5}, began=0.0)
    return stage


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "networks.safetensors: is missing"),
        (b"numb", "networks.safetensors: has 4 bytes, not the 7 that were written"),
    ],
)
def test_a_finished_stage_without_its_files_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    stage = finished(tmp_path)
    file = stage.folder / "networks.safetensors"
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(InputError, match=f"{message}; delete {stage.folder} to do this stage again"):
        _ = stage.done


@pytest.mark.parametrize("text", ["{", "", "[]", "{}", '{"summary": 3}'])
def test_a_damaged_stage_is_named(tmp_path: Path, text: str) -> None:
    stage = finished(tmp_path)
    (stage.folder / "stage.json").write_text(text)
    for look in (lambda: stage.done, lambda: stage.summary):
        with pytest.raises(InputError, match=f"stage.json: .*; delete {stage.folder} to do this stage again"):
            look()


def test_a_damaged_stage_of_another_beta_costs_a_run_nothing(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, IDENTITY)
    for beta in (0.5, 1.0):
        stage = run.stage("align", beta=beta)
        stage.folder.mkdir()
        stage.finish({}, began=0.0)
    (run.stage("align", beta=0.5).folder / "stage.json").write_text("{}")
    assert run.seconds().keys() == {run.stage("align", beta=1.0).folder.name}


def test_what_a_kill_leaves_is_swept_when_the_folder_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(runs, "_drop_unfinished", lambda folder: None)  # as if killed right after stage.json
        stage = finished(tmp_path)
    left = [stage.folder / "checkpoints" / "step-1", stage.folder / "parts" / "0"]
    left.append(tmp_path / "policies" / ".0123abcd-99999999-89abcdef.policy.json")
    kept = tmp_path / "critic-0" / "checkpoints" / "step-1"
    for file in (*left, kept):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    os.utime(left[-1], (0, 0))  # of another machine, long ago
    RunFolder(tmp_path, IDENTITY)
    assert kept.exists() and not any(file.exists() for file in left)
    assert not (stage.folder / "checkpoints").exists()
