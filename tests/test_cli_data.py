"""`tiltrl data ...` as it is typed: what is written, what is printed, what is refused."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import minari
import numpy as np
import pytest

import tiltrl.cli
import tiltrl.main
from tiltrl.data import load

FACTS = ("data set", "environment", "episodes", "observations", "actions", "rewards", "score", "fingerprint")
DEMO = "demo[:20]"
MAZE = ["collect", "waypoints", "--episodes", "2"]


@pytest.fixture
def data(tmp_path, monkeypatch, capsys):
    """Calls `tiltrl data` in a folder of its own; gives (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "sets"))
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["tiltrl", "data", *arguments])
        return tiltrl.main.answer(tiltrl.cli.main), *capsys.readouterr()

    return call


def test_info_prints_and_writes_the_same(data):
    status, printed, _ = data("info", DEMO)
    assert status == 0
    assert all(fact in printed for fact in FACTS)
    folder = Path("runs/data/demo-20")
    written = json.loads((folder / "info.json").read_text())
    assert f"{written['steps']} " in printed.replace(",", "")
    assert written["episodes"] == 20
    assert written["returns"]["mean"] == pytest.approx(load(DEMO).returns.mean())
    assert written["warnings"][0].startswith("actions are saturated")
    assert written["warnings"][0] in printed
    assert (folder / "info.png").read_bytes().startswith(b"\x89PNG")
    assert str(folder / "info.png") in printed


def test_info_takes_a_folder_and_any_log(data):
    rng = np.random.default_rng(0)
    np.savez("log.npz", state=np.cumsum(rng.normal(size=(30, 2)), axis=0), u=rng.normal(size=30))
    status, printed, _ = data("info", "log.npz?obs=state&action=u", "--out", "here")
    assert status == 0
    assert "rewards: all 29 are 0" in printed
    assert "none named" in printed and "no reference returns" in printed
    assert sorted(os.listdir("here")) == ["info.json", "info.png"]


def test_ends_are_told_apart_only_where_the_time_limit_is_known(data):
    np.savez("log.npz", obs=np.arange(8) % 3, action=np.linspace(-1, 1, 8), episode=np.arange(8) // 4)
    assert "2: 0 end terminally, 2 by a time-out or a cut" in data("info", "log.npz", "--out", "here")[1]
    assert re.search(r"end terminally, \d+ by a time-out, \d+ cut before one", data("info", DEMO)[1])


@pytest.mark.parametrize("name", ["x[/b]", "[bold]y[/]", ":smile:"])
def test_names_in_brackets_or_colons_are_printed_as_they_are(data, name):
    assert data("convert", "demo[:2]", "--out", f"{name}/s.npz")[0] == 0
    for arguments in (
        ["info", f"{name}/s.npz", "--out", name],
        ["convert", f"{name}/s.npz", "--out", f"{name}/set-v0"],
    ):
        status, printed, error = data(*arguments)
        assert (status, error) == (0, "")
        assert name in printed
    status, printed, _ = data("convert", f"{name}/set-v0", "--to", "shards", "--out", f"{name}/shards")
    assert status == 0 and f"tiltrl run {name}/shards" in printed
    status, _, error = data("info", f"{name}/none")
    assert status == 2 and error.count("\n") == 1 and f"{name}/none" in error


def test_info_of_a_very_long_name_writes_a_folder_of_a_possible_name(data):
    status, _, error = data("info", "+".join(["demo[:0.010000000000000000000000000000]"] * 8))
    assert (status, error) == (0, "")
    (folder,) = Path("runs/data").iterdir()
    assert len(folder.name) <= 100 and (folder / "info.png").is_file()


@pytest.mark.parametrize("arguments", [["--to", "minari", "--out", "sets/me/hop-v3"], ["--out", "sets/me/hop-v3"]])
def test_convert_to_minari_below_its_root_takes_the_path_as_id(data, arguments):
    status, printed, _ = data("convert", DEMO, *arguments)
    assert status == 0
    assert "Minari id me/hop-v3" in printed
    theirs, ours = minari.load_dataset("me/hop-v3"), load(DEMO)
    assert theirs.total_steps == len(ours)
    np.testing.assert_array_equal(theirs[0].actions, ours.action[: ours.ends[0] + 1])
    assert load("me/hop-v3").fingerprint() == ours.fingerprint()


@pytest.mark.parametrize(
    ("out", "more", "dataset_id"),
    [("x/some name", [], "some-name-v0"), ("x/hop-v2", [], "hop-v2"), ("x/y", ["--id", "me/z-v1"], "me/z-v1")],
)
def test_ids_elsewhere(data, out, more, dataset_id):
    assert data("convert", "demo[:1]", "--out", out, *more)[0] == 0
    assert json.loads(Path(out, "data", "metadata.json").read_text())["dataset_id"] == dataset_id


@pytest.mark.parametrize("out", ["log.npz", "log.hdf5", "log.h5"])
def test_convert_to_a_file_and_back(data, out):
    assert data("convert", DEMO, "--out", out)[0] == 0
    assert load(out).fingerprint() == load(DEMO).fingerprint()
    assert load(out).task.env_spec == load(DEMO).task.env_spec


def test_convert_to_shards_is_the_joined_set_read_one_at_a_time(data):
    status, printed, _ = data("convert", "demo[:2]+demo[2:5]", "--to", "shards", "--out", "x")
    assert status == 0 and "demo[2:5]: " in printed
    found = load("x")
    assert isinstance(found.obs, np.memmap)
    np.testing.assert_array_equal(found.obs, load("demo[:5]").obs)
    status, _, error = data("convert", "demo[:2]", "--to", "shards", "--out", "x", "--overwrite")
    assert status == 2 and "shards are written to a new folder only" in error


def test_merge_is_the_joined_set(data):
    status, printed, _ = data("merge", "demo[:5]", "demo[5:9]", "demo[9:20]", "--out", "all-v0")
    assert status == 0
    assert "20 episodes" in printed and "tiltrl run all-v0" in printed
    assert load("all-v0").fingerprint() == load(DEMO).fingerprint()


def test_dict_observations_survive_collection_conversion_and_merging(data):
    pytest.importorskip("gymnasium_robotics")
    assert data(*MAZE, "--out", "sets/maze/a-v0")[0] == 0
    assert data("convert", "maze/a-v0", "--out", "a.npz")[0] == 0
    status, printed, _ = data("merge", "a.npz", "maze/a-v0", "--out", "sets/maze/b-v0")
    assert status == 0 and "one flat vector" not in printed
    theirs = minari.load_dataset("maze/b-v0")
    assert set(theirs.observation_space.spaces) == {"observation", "achieved_goal", "desired_goal"}
    a, b = load("maze/a-v0"), load("maze/b-v0")
    assert b.task.obs_keys == a.task.obs_keys != ()
    np.testing.assert_array_equal(b.obs, np.concatenate([a.obs, a.obs]))


def test_dict_observations_without_their_environment_are_written_flat_and_said_so(data, monkeypatch):
    pytest.importorskip("gymnasium_robotics")
    assert data(*MAZE, "--out", "a")[0] == 0

    def refuse(*_):
        raise tiltrl.InputError("not installed")

    monkeypatch.setattr("tiltrl.cli_data.make", refuse)
    status, printed, _ = data("convert", "a", "--out", "b")
    assert status == 0
    assert "observations are written as one flat vector, and the environment" in printed
    assert (load("a").task.env_spec is None, load("b").task.env_spec is None) == (False, True)
    np.testing.assert_array_equal(load("b").obs, load("a").obs)


def test_overwrite_only_when_told(data):
    assert data("convert", "demo[:2]", "--out", "a")[0] == 0
    status, _, error = data("convert", "demo[:3]", "--out", "a")
    assert (status, len(load("a").ends)) == (2, 2)
    assert error == "tiltrl: error: a: exists already; give another path, or ask to overwrite it (--overwrite)\n"
    assert data("convert", "demo[:3]", "--out", "a", "--overwrite")[0] == 0
    assert len(load("a").ends) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "no/such/set.npz"], "no/such/set.npz"),
        (["convert", "demo[:1]", "--to", "npz", "--out", "x.h5"], "x.h5: the file's name must end in .npz"),
        (["convert", "demo[:1]", "--out", "x.npz", "--id", "a-v0"], "--id a-v0: only Minari data sets have one"),
        (["convert", "demo[:1]", "--out", "x", "--id", "robot"], "dataset id 'robot' is no Minari id"),
        (["merge", "demo", "--out", "x"], "merge: 1 data sets; give two or more"),
        (["merge", "demo[:1]", "log.npz", "--out", "x"], "cannot join demo[:1] and log.npz"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else None,
)
def test_what_is_refused_in_one_line(data, arguments, message):
    np.savez("log.npz", obs=np.zeros((4, 2)), action=np.linspace(-1, 1, 4))
    status, _, error = data(*arguments)
    assert status == 2
    assert error.startswith("tiltrl: error: ") and error.count("\n") == 1
    assert message in error
    assert os.listdir(".") == ["log.npz"]


@pytest.mark.parametrize("command", ["info", "convert", "merge", "collect"])
def test_help_teaches_by_example(data, command):
    status, printed, _ = data(command, "--help")
    assert status == 0
    assert f"Example: tiltrl data {command} " in printed
    assert "--out" in printed
