"""A run's folder: whose it is, and which stages are finished."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tiltrl.diffusion.energy import EnergyConfig
from tiltrl.errors import InputError
from tiltrl.runs import RunFolder

IDENTITY = {"data": "abc", "preset": "fast", "seeds": (0, 1)}


def test_a_new_folder_says_whose_it_is_and_opens_again(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run", IDENTITY)
    assert json.loads((tmp_path / "run" / "run.json").read_text()) == IDENTITY | {"seeds": [0, 1]}
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
    with pytest.raises(InputError, match="run.json: not a readable"):
        RunFolder(tmp_path, IDENTITY)


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
