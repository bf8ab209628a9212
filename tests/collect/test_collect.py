"""A collection from command to data set: the same after an interruption, and nothing begun that cannot be ended."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import minari
import numpy as np
import pytest

import tiltrl
from tiltrl.collect import cli, parts
from tiltrl.collect.cli import CollectOptions, collect, collect_data
from tiltrl.data.minari import load_minari
from tiltrl.errors import InputError

PENDULUM = {"source": "random", "env": "Pendulum-v1"}


class Silent:
    """Hears of progress; interrupts after so many updates, as Ctrl-C does."""

    def __init__(self, interrupt_after=None):
        self.left, self.said, self.updates = interrupt_after, [], []

    def start(self, stage, total):
        self.total = total

    def update(self, done, total, metrics):
        self.updates.append((done, total))
        if self.left is not None and len(self.updates) == self.left:
            raise KeyboardInterrupt

    def say(self, message):
        self.said.append(message)


def options(out, **changes):
    return CollectOptions(**{**PENDULUM, "episodes": 5, "out": out, **changes})


def make(out, **changes):
    collect_data(options(out, **changes), Silent())
    return load_minari(str(out))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("collect") / "whole"
    return out, make(out)


def left_behind(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_collection_is_a_minari_data_set(whole, monkeypatch):
    out, data = whole
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(out.parent))
    link = out.parent / "Pendulum-v1"
    link.mkdir()
    (link / "random-v0").symlink_to(out)
    found = minari.load_dataset("Pendulum-v1/random-v0")
    assert found.total_episodes == 5 and found.total_steps == len(data) == 1000
    for index, episode in enumerate(found):
        np.testing.assert_array_equal(episode.actions, data.action[200 * index : 200 * (index + 1)])
        assert episode.observations.shape == (201, 3) and episode.truncations[-1]
    assert found.recover_environment().spec.id == "Pendulum-v1"


def test_only_the_target_is_left(whole):
    assert "whole" in left_behind(whole[0].parent) and "whole.parts" not in left_behind(whole[0].parent)


def test_episodes_depend_on_their_own_seed_alone(whole, tmp_path):
    later = make(tmp_path / "later", episodes=2, seed=3)
    np.testing.assert_array_equal(later.obs, whole[1].obs[600:])
    np.testing.assert_array_equal(later.action, whole[1].action[600:])


@pytest.mark.parametrize("every", [5.0, 0.0])
def test_an_interrupted_collection_continues_to_the_same_bits(whole, tmp_path, monkeypatch, every):
    monkeypatch.setattr(cli, "_EVERY", every)  # seconds: one block a session, or one an episode
    out = tmp_path / "cut"
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            collect_data(options(out), Silent(interrupt_after=2))
        assert left_behind(tmp_path) == ["cut.parts"]
    progress = Silent()
    collect_data(options(out), progress)
    assert progress.said == ["continuing after 4 episodes"] and progress.updates == [(5, 5)]
    assert load_minari(str(out)).fingerprint() == whole[1].fingerprint()
    assert left_behind(tmp_path) == ["cut"]


def test_steps_are_whole_episodes_and_resume_too(whole, tmp_path):
    out = tmp_path / "steps"
    with pytest.raises(KeyboardInterrupt):
        collect_data(options(out, episodes=None, steps=850), Silent(interrupt_after=3))
    progress = Silent()
    collect_data(options(out, episodes=None, steps=850), progress)
    assert progress.updates == [(800, 850), (850, 850)]
    assert load_minari(str(out)).fingerprint() == whole[1].fingerprint()


@pytest.mark.slow
def test_a_killed_process_continues_to_the_same_bits(tmp_path):
    pytest.importorskip("gymnasium_robotics")
    words = ["waypoints", "--episodes", "100", "--out", str(tmp_path / "maze")]
    program = (
        "import sys; from tiltrl.collect import cli; cli._EVERY = 0.0\n"
        "import tyro; cli.collect(tyro.cli(cli.CollectOptions))"
    )
    process = subprocess.Popen([sys.executable, "-c", program, *words], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while len(list(tmp_path.glob("maze.parts/episodes-*.npz"))) < 3:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "maze").exists()
    two = [CollectOptions("waypoints", episodes=100, out=tmp_path / name) for name in ("maze", "uninterrupted")]
    progress = Silent()
    collect_data(two[0], progress)
    assert "continuing after" in progress.said[0]
    collect_data(two[1], Silent())
    assert tiltrl.load(str(two[0].out)).fingerprint() == tiltrl.load(str(two[1].out)).fingerprint()


def test_a_second_process_is_refused_and_the_first_goes_on(tmp_path):
    program = "import tyro; from tiltrl.collect import cli; cli.collect(tyro.cli(cli.CollectOptions))"
    words = ["random", "--env", "Pendulum-v1", "--episodes", "100000", "--out", str(tmp_path / "out")]
    process = subprocess.Popen([sys.executable, "-c", program, *words], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while not (tmp_path / "out.parts" / "settings.json").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    with pytest.raises(InputError, match=rf"out: process {process.pid} on .* works in it; wait until that has ended"):
        collect_data(options(tmp_path / "out", episodes=100000), Silent())
    assert process.poll() is None
    process.kill()
    process.wait()
    with pytest.raises(KeyboardInterrupt):  # which is no refusal
        collect_data(options(tmp_path / "out", episodes=100000), Silent(interrupt_after=1))


def test_what_another_process_finished_meanwhile_is_not_recorded_again(tmp_path, monkeypatch):
    out, lock = tmp_path / "out", parts.FolderLock

    def late(*args, **kwargs):
        monkeypatch.setattr(parts, "FolderLock", lock)
        collect_data(options(out, episodes=1), Silent())  # the other one
        return lock(*args, **kwargs)

    monkeypatch.setattr(parts, "FolderLock", late)
    progress = Silent()
    assert collect_data(options(out, episodes=1), progress) is None
    assert "nothing to do" in progress.said[0]
    assert left_behind(tmp_path) == ["out"]


@pytest.mark.parametrize("removals", [0, 1, 2, 3])
def test_parts_of_a_kill_while_they_are_removed_go_with_the_next_command(tmp_path, monkeypatch, removals):
    monkeypatch.setattr(cli, "_EVERY", 0.0)
    unlink, left = Path.unlink, [removals]

    def unlink_some(path, missing_ok=False):
        if path.name.startswith("episodes-"):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", unlink_some)
        with pytest.raises(KeyboardInterrupt):
            collect_data(options(tmp_path / "out"), Silent())
    assert len(list(tmp_path.glob("out.parts/episodes-*.npz"))) == 5 - removals
    collect_data(options(tmp_path / "out"), Silent())
    assert left_behind(tmp_path) == ["out"]


def test_an_empty_current_folder_may_be_the_target(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    collect_data(options(Path("."), episodes=1), Silent())
    assert (tmp_path / "here" / "data" / "metadata.json").is_file() and left_behind(tmp_path) == ["here"]


def test_the_same_command_again_does_nothing(whole, capsys):
    out = whole[0]
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    collect(options(out))
    assert "nothing to do" in " ".join(capsys.readouterr().out.split())
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_a_kill_while_parts_are_removed_leaves_whose_they_were(tmp_path, monkeypatch):
    made = parts.Parts(tmp_path / "out", {"seed": 0})
    (made.folder / "episodes-000000000.npz").touch()
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda *_, **__: None)  # as if killed right before the last file
        made.remove()
    assert left_behind(made.folder) == ["settings.json"]
    parts.remove_leftovers(tmp_path / "out", {"seed": 0})
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("seed", [0, 1])
def test_parts_left_by_a_kill_at_the_very_end_are_removed_if_they_are_the_targets(tmp_path, monkeypatch, seed):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(cli.Parts, "remove", lambda parts: None)
        collect_data(options(out, episodes=1), Silent())
    assert left_behind(tmp_path) == ["out", "out.parts"]
    file = tmp_path / "out.parts" / "settings.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"seed": seed}))
    collect_data(options(out, episodes=1), Silent())
    assert left_behind(tmp_path) == (["out"] if seed == 0 else ["out", "out.parts"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"episodes": 6}, "collected with episodes = 5, not 6"),
        ({"seed": 1}, "collected with seed = 0, not 1"),
        ({"env": "Hopper-v5"}, "collected with env = 'Pendulum-v1', not 'Hopper-v5'"),
        ({"id": "mine-v0"}, "collected with id = 'Pendulum-v1/random-v0', not 'mine-v0'"),
    ],
)
def test_a_target_of_other_settings_is_refused(whole, changes, message):
    with pytest.raises(InputError, match=message):
        collect_data(options(whole[0], **changes), Silent())


@pytest.mark.parametrize("collected", [5, None, [], "5", "[" * 100_000, "no JSON"])
def test_a_data_set_that_says_odd_things_of_its_origin_is_refused(tmp_path, collected):
    (tmp_path / "set" / "data").mkdir(parents=True)
    (tmp_path / "set" / "data" / "metadata.json").write_text(json.dumps({"collected": collected}))
    with pytest.raises(InputError, match="exists and is not a data set collected by TiltRL"):
        make(tmp_path / "set")


def test_a_folder_in_brackets_is_printed_as_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    collect(options(Path("col[", "x]"), episodes=1))
    collect(options(Path("col[", "x]"), episodes=1))
    assert "tiltrl run col[/x]" in capsys.readouterr().out
    assert (tmp_path / "col[" / "x]").is_dir()


def test_parts_of_other_settings_are_refused_and_kept(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        collect_data(options(tmp_path / "cut"), Silent(interrupt_after=2))
    with pytest.raises(InputError, match=r"cut.parts: was collected with seed = 0, not 7"):
        collect_data(options(tmp_path / "cut", seed=7), Silent())
    assert len(list(tmp_path.glob("cut.parts/episodes-*.npz"))) == 1


def test_a_damaged_part_is_named(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        collect_data(options(tmp_path / "cut"), Silent(interrupt_after=2))
    (part,) = tmp_path.glob("cut.parts/episodes-*.npz")
    part.write_bytes(part.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"episodes-000000000.npz: is damaged .*; delete .*cut.parts to start again"):
        collect_data(options(tmp_path / "cut"), Silent())


@pytest.mark.parametrize("what", ["a file", "a folder of other things", "a foreign data set", "other parts"])
def test_what_is_in_the_way_is_left_alone(tmp_path, what):
    out = tmp_path / "out"
    if what == "a file":
        kept = out
    elif what == "a folder of other things":
        kept = out / "thesis.txt"
    elif what == "a foreign data set":
        kept = out / "data" / "metadata.json"
    else:
        kept = tmp_path / "out.parts" / "thesis.txt"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps({"dataset_id": "theirs-v0"}))
    with pytest.raises(InputError, match=r"out(\.parts)?: (exists and is not|is where unfinished)"):
        collect_data(options(out), Silent())
    assert json.loads(kept.read_text()) == {"dataset_id": "theirs-v0"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "sing"}, "source 'sing' is unknown; choose one of waypoints, cube, random or policy:FOLDER"),
        ({"source": "policy:"}, "source 'policy:' is unknown"),
        ({"source": "random:x"}, "source 'random:x' is unknown"),
        ({"source": "policy:nowhere", "env": None}, "nowhere: "),
        ({"env": None}, "--env: random needs an environment"),
        ({"env": "Nowhere-v7"}, "'Nowhere-v7' is unknown"),
        ({"env": "CartPole-v1"}, "only continuous ones"),
        ({"source": "waypoints"}, "--env Pendulum-v1: waypoints need a PointMaze"),
        ({"source": "cube"}, "--env Pendulum-v1: cube needs one of OGBench's"),
        ({"episodes": 0}, "--episodes 0: must be 1 or more"),
        ({"steps": -3, "episodes": None}, "--steps -3: must be 1 or more"),
        ({"steps": 100}, "give one of the two"),
        ({"seed": -1}, "--seed -1: must be 0 or more"),
        ({"noise": 0.5}, "--noise 0.5: random actions have none"),
        ({"noise": -1.0, "source": "waypoints"}, "--noise -1.0: is a standard deviation"),
        ({"noise": float("nan"), "source": "waypoints"}, "--noise nan: is a standard deviation"),
        ({"wander": 0.5}, "--wander 0.5: is for waypoints"),
        ({"wander": 1.5, "source": "waypoints"}, "--wander 1.5: is a share"),
        ({"id": "no version"}, "--id no version: is no Minari id"),
    ],
)
def test_what_cannot_be_collected_is_refused_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises(InputError) as error:
        collect_data(options(tmp_path / "out", **changes), Silent())
    assert message in str(error.value) and "\n" not in str(error.value)
    assert left_behind(tmp_path) == []


def test_defaults_are_a_maze(monkeypatch, tmp_path):
    pytest.importorskip("gymnasium_robotics")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "_EPISODES", 3)
    collect_data(CollectOptions("waypoints"), Silent())
    data = load_minari("runs/waypoints-PointMaze_UMaze-v3")
    assert data.task.obs_keys == ("observation", "achieved_goal", "desired_goal") and data.task.obs_dim == 8
    assert len(data.ends) == 3 and len(data) == 900
    metadata = json.loads(Path("runs/waypoints-PointMaze_UMaze-v3/data/metadata.json").read_text())
    assert metadata["dataset_id"] == "PointMaze_UMaze-v3/waypoints-v0"
    assert json.loads(metadata["env_spec"])["id"] == "PointMaze_UMaze-v3"
