"""What users get wrong, one case each: `tiltrl.load` refuses it in one line that says what, and leaves nothing behind.

`test_fuzz.py` damages files at random; here is what happens to people, and what an attacker would send them.
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from bad_files import (
    GARBAGE,
    NAN,
    OBJECTS,
    ODD_TASK,
    STEPS,
    Build,
    Trap,
    archive_of,
    both,
    content,
    d4rl,
    external,
    h5,
    hdf5,
    huge,
    lerobot,
    linked,
    loop,
    minari,
    minari_then,
    nothing,
    npz,
    ogbench,
    outside,
    shards_then,
    table,
    told_otherwise,
    truncated,
)
from synthetic import box, episode

import tiltrl
import tiltrl.cli
import tiltrl.main
from tiltrl.errors import InputError

# --- The cases: what is wrong, who writes it, how it is asked for, what is said ---------------------------------------

CASES: dict[str, tuple[Build, str, str]] = {
    # Names.
    "nothing": (nothing, "", "is of no known kind"),
    "a null byte": (nothing, "x\0y", "is of no known kind"),
    "a missing file": (nothing, "none.npz", "none.npz"),
    "a missing folder": (nothing, "runs/none", "runs/none"),
    "a parent folder": (nothing, "../../up-v0", "no such file or folder"),
    "an id that leads out": (nothing, "minari:../../up-v0", "no Minari id"),
    "an absolute id": (nothing, "minari:/etc/x-v0", "no Minari id"),
    "an id with a link out": (outside, "minari:me-v0", "leads out of .* by a link"),
    "an unknown D4RL set": (nothing, "d4rl:hopper-medum-v2", "hopper-medium-v2"),
    "a D4RL path": (nothing, "d4rl:../../etc/passwd", "no D4RL data set"),
    "an unknown OGBench set": (nothing, "ogbench:cube-simple-play-v0", "cube-single-play-v0"),
    "an OGBench path": (nothing, "ogbench:../cube-v0", "no OGBench data set"),
    "a missing LeRobot folder": (nothing, "lerobot:none", "none/meta/info.json: cannot be read: No such file"),
    "a link to itself": (loop, "x.npz", "x.npz"),
    "an empty folder": (lambda folder: (folder / "x").mkdir(), "x", "not a Minari data set"),
    "another kind of file": (content("x.csv", b"a,b\n1,2\n"), "x.csv", "no .npz, HDF5 or Parquet file"),
    # Slices and columns.
    "an empty slice": (npz(), "x.npz[5:5]", "takes no episode"),
    "a slice after the end": (npz(), "x.npz[100000:]", "takes no episode"),
    "a slice backwards": (npz(), "x.npz[0.5:0.2]", "takes no episode"),
    "a slice of steps": (npz(), "x.npz[::2]", "is no slice of episodes"),
    "a negative slice": (npz(), "x.npz[-3:]", "is no slice of episodes"),
    "a share above one": (npz(), "x.npz[:1.5]", "1.5 is no share"),
    "an unknown column": (npz(), "x.npz?colour=obs", "'colour=obs' names no column"),
    "a column twice": (npz(), "x.npz?obs=obs&obs=action", "obs is named twice"),
    "a column without a name": (npz(), "x.npz?obs=", "names no column"),
    "columns of a Minari set": (nothing, "demo?obs=x", "columns cannot be named"),
    "a missing column": (npz(), "x.npz?obs=none", "no array 'none' for obs"),
    "an unknown environment": (npz(), "x.npz?env=None-v0", "environment 'None-v0' is unknown"),
    "another environment": (npz(), "x.npz?env=Pendulum-v1", "obs has 2 dimensions where .* has 3"),
    "two tasks": (both, "x.hdf5+x.npz", "cannot join x.hdf5 and x.npz"),
    "half of a joined name": (npz(), "x.npz+", "is of no known kind"),
    # .npz.
    "a pickle": (content("x.npz", pickle.dumps(Trap())), "x.npz", "not readable as .npz"),
    "a pickle in .npz": (npz(obs=OBJECTS), "x.npz", "obs: holds pickled Python objects, which are never loaded"),
    "pickled rewards": (npz(reward=OBJECTS), "x.npz", "reward: holds pickled Python objects"),
    "garbage as .npz": (content("x.npz", GARBAGE), "x.npz", "not readable as .npz"),
    "an empty .npz": (content("x.npz", b""), "x.npz", "not readable as .npz"),
    "half of an .npz": (truncated("x.npz", npz()), "x.npz", "not readable as .npz"),
    "no arrays in .npz": (archive_of("readme.txt"), "x.npz", "it has none"),
    "an archive that leads out": (archive_of("../obs.npy", "/tmp/action.npy"), "x.npz", "no array is called obs"),
    "an array that is none": (archive_of("obs.npy", "action.npy"), "x.npz", "obs: not readable as .npz"),
    "a terabyte in a header": (huge, "x.npz", "which a file of .* bytes cannot hold"),
    "no actions": (npz(action=None), "x.npz", "say which is the action"),
    "text for actions": (npz(action=np.array(["a"] * STEPS)), "x.npz", "action: type <U1; numbers are needed"),
    "complex actions": (npz(action=np.ones(STEPS, complex)), "x.npz", "action: type complex128"),
    "images": (npz(obs=np.zeros((STEPS, 8, 8, 3))), "x.npz", "obs: shape .*images are not read"),
    "no columns": (npz(obs=np.zeros((STEPS, 0))), "x.npz", "obs: shape"),
    "no steps": (npz(obs=np.zeros((0, 2)), action=np.zeros((0, 1)), reward=None), "x.npz", "holds no steps"),
    "one step": (npz(obs=np.zeros((1, 2)), action=np.zeros(1), reward=np.zeros(1)), "x.npz", "no episode has a second"),
    "fewer actions": (npz(action=np.zeros(STEPS - 1)), "x.npz", "action: shape"),
    "more rewards": (npz(reward=np.zeros(STEPS + 1)), "x.npz", "shape .* is needed"),
    "a scalar": (npz(action=np.float32(1)), "x.npz", "action: shape"),
    "NaN seen": (npz(obs=np.stack([NAN, NAN], axis=1)), "x.npz", "obs, row 3, column 0: nan"),
    "NaN done": (npz(action=NAN), "x.npz", "action, row 3, column 0: nan"),
    "NaN earned": (npz(reward=NAN), "x.npz", "reward, row 3: nan"),
    "infinite": (npz(obs=np.full((STEPS, 2), np.inf)), "x.npz", "obs, row 0, column 0: inf"),
    "too large for float32": (npz(reward=np.full(STEPS, 1e300)), "x.npz", "reward, row 0: 1e\\+300"),
    "a flag of two": (npz(terminal=np.full(STEPS, 2)), "x.npz", "terminal, row 0: 2; 0 or 1"),
    "a flag too short": (npz(terminal=np.zeros(3)), "x.npz", "terminal: float64 of shape"),
    "an episode that is none": (npz(episode=NAN), "x.npz", "episode, row 3: nan"),
    # HDF5.
    "garbage as HDF5": (content("x.h5", GARBAGE), "x.h5", "not readable as HDF5"),
    "half of an HDF5": (truncated("x.h5", h5()), "x.h5", "not readable as HDF5"),
    "foreign HDF5": (hdf5("x.h5", {"music": np.zeros(9)}), "x.h5", "no array is called .*it has music"),
    "an empty HDF5": (hdf5("x.h5", {}), "x.h5", "it has none"),
    "text in HDF5": (h5(action=np.array([b"x"] * STEPS)), "x.h5", "action: type .*numbers are needed"),
    "a group for an array": (h5(action=None, **{"action/x": np.zeros(STEPS)}), "x.h5", "say which is the action"),
    "another file's bytes": (external, "x.h5", "reward: lies in another file"),
    # D4RL.
    "D4RL of another task": (d4rl(actions=np.zeros((STEPS, 2))), "d4rl:x.hdf5?obs=x", "columns cannot be named"),
    "D4RL without rewards": (d4rl(rewards=None), "d4rl:x.hdf5", "holds no array rewards"),
    "D4RL with fewer rows": (d4rl(actions=np.zeros((STEPS - 2, 3))), "x.hdf5", "actions: 4 rows; rewards has 6"),
    "D4RL with flat rows": (d4rl(observations=np.zeros(STEPS)), "x.hdf5", r"observations: shape \(6,\)"),
    "D4RL with NaN": (d4rl(rewards=NAN), "x.hdf5", "rewards, row 3: nan"),
    "D4RL with odd flags": (d4rl(terminals=np.full(STEPS, 0.5)), "x.hdf5", "terminals, row 0: 0.5"),
    "D4RL with another next": (
        d4rl(next_observations=np.zeros((STEPS, 12))),
        "x.hdf5",
        "next_observations: shape .*both must be alike",
    ),
    "D4RL with an odd task": (d4rl(**{"metadata/task": ODD_TASK}), "x.hdf5", "metadata/task"),
    # OGBench.
    "OGBench without ends": (ogbench(terminals=None), "ogbench:x.npz", "holds no array terminals"),
    "OGBench with fewer rows": (ogbench(actions=np.zeros((2, 2))), "x.npz", "actions: 2 rows; terminals has 6"),
    "OGBench with odd ends": (ogbench(terminals=np.full(STEPS, 3)), "x.npz", "terminals, row 0: 3; 0 or 1"),
    "OGBench with a pickle": (ogbench(actions=OBJECTS), "x.npz", "actions: holds pickled Python objects"),
    "OGBench of single rows": (ogbench(terminals=np.ones(STEPS, bool)), "x.npz", "x.npz"),
    "OGBench with NaN": (ogbench(observations=np.stack([NAN] * 4, axis=1)), "x.npz", "observations, row 3, column 0"),
    # Parquet.
    "garbage as Parquet": (content("x.parquet", GARBAGE), "x.parquet", "not readable as Parquet"),
    "half of a Parquet": (truncated("x.parquet", table()), "x.parquet", "not readable as Parquet"),
    "Parquet without it": (table(), "x.parquet?action=torque", "no array 'torque' for action; it has obs, action"),
    "Parquet without actions": (table(action=None), "x.parquet", "say which is the action"),
    "lists that differ": (table(obs=[[1.0]] * 5 + [[1.0, 2.0]]), "x.parquet", "x.parquet: obs"),
    "a missing value": (table(action=[None] + [0.5] * 5), "x.parquet", "x.parquet: action"),
    "text in Parquet": (table(action=["a"] * STEPS), "x.parquet", "x.parquet: action: type"),
    # Minari.
    "no metadata": (
        minari_then(lambda folder: (folder / "x/data/metadata.json").unlink()),
        "x",
        "metadata.json: no such file",
    ),
    "no data": (
        minari_then(lambda folder: (folder / "x/data/main_data.hdf5").unlink()),
        "x",
        "main_data.hdf5: no such file",
    ),
    "half of a Minari set": (truncated("x/data/main_data.hdf5", minari()), "x", "not readable as HDF5"),
    "odd metadata": (minari_then(content("x/data/metadata.json", b"[1, 2]")), "x", "Minari's metadata is a JSON"),
    "deep metadata": (minari_then(content("x/data/metadata.json", b"[" * 100_000)), "x", "not readable as JSON"),
    "Arrow": (minari(data_format="arrow"), "x", "only 'hdf5' is supported"),
    "no action space": (minari(action_space=None), "x", "'action_space' is missing"),
    "discrete actions": (minari(action_space='{"type": "Discrete", "n": 2}'), "x", "action_space is Discrete"),
    "unbounded actions": (minari(action_space=box([1], [-np.inf], [np.inf])), "x", "they must be finite"),
    "images seen": (minari(observation_space=box([8, 8, 3], 0, 255)), "x", "images and nested shapes"),
    "an environment that is none": (minari(env_spec='{"id": 5}'), "x", "env_spec is"),
    "no episodes": (minari([]), "x", "holds no episodes"),
    "episodes missing": (minari(total_episodes=7), "x", "2 episodes where metadata.json says total_episodes = 7"),
    "an empty episode": (minari([episode(0)]), "x", "episode_0 has no steps"),
    "no rewards": (minari([episode(3, rewards=None)]), "x", "episode_0: rewards is missing"),
    "too few observations": (
        minari([episode(3, observations=np.zeros((3, 2), np.float32))]),
        "x",
        "observations: 3 rows; rewards has 3, so 4",
    ),
    "wide actions": (minari([episode(3, actions=np.zeros((3, 2)))]), "x", "actions: shape"),
    "an early end": (minari([episode(3, terminations=[True, False, False])]), "x", "only an episode's last row"),
    "actions out of bounds": (minari([episode(3, actions=[[0.0], [7.0], [0.0]])]), "x", "actions, row 1.*7.0"),
    "a link to a file": (linked("rewards"), "x", "rewards.*(link|missing)"),
    # LeRobot.
    "LeRobot that leads out": (lerobot(data_path="../data/{x}.parquet"), "x", "leads out of the folder"),
    "LeRobot elsewhere": (lerobot(data_path="/etc/{x}.parquet"), "x", "data_path is '/etc"),
    "LeRobot without files": (lerobot(data_path="none/{x}.parquet"), "x", "no file is there for none"),
    "an old LeRobot": (lerobot(codebase_version="v1.6"), "x", "codebase_version is 'v1.6'"),
    "LeRobot without columns": (lerobot(features=[]), "x", "features is no description of columns"),
    "LeRobot of images": (lerobot({"observation.state": None}), "x", "no feature observation.state"),
    "LeRobot without frames": (lerobot(total_frames=99), "x", "total_frames = 99; files are missing"),
    "a frame twice": (lerobot({"frame_index": [0, 1, 1, 2, 3, 4]}), "x", "has frame 1 twice"),
    "LeRobot of another shape": (lerobot({"action": [[0.1, 0.2]] * STEPS}), "x", "action: rows of shape"),
    "LeRobot with NaN": (lerobot({"action": [[value] for value in NAN]}), "x", "action, episode 0, frame 3"),
    "a LeRobot that is no JSON": (content("x/meta/info.json", b"{"), "x", "info.json: not a readable JSON file"),
    "garbage in LeRobot": (
        lambda folder: [
            lerobot()(folder),
            content("x/data/chunk-000/file-000.parquet", GARBAGE)(folder),
        ][1],
        "x",
        "not readable as Parquet",
    ),
    # Shards.
    "shards of the future": (told_otherwise(version=9), "x", "version = 9; this release reads version 1"),
    "no shards": (told_otherwise(steps=0), "x", "steps = 0; at least one"),
    "more steps than shards": (told_otherwise(steps=STEPS + 1), "x", "write the shards again"),
    "a missing shard": (shards_then(lambda folder: (folder / "obs.npy").unlink()), "x", "obs.npy: cannot be read"),
    "half of a shard": (shards_then(lambda folder: os.truncate(folder / "reward.npy", 130)), "x", "reward.npy: 130"),
    "a pickled shard": (
        shards_then(lambda folder: np.save(folder / "action.npy", OBJECTS, allow_pickle=True)),
        "x",
        "action.npy: .* write the shards again",
    ),
}


def files(folder: Path) -> dict[str, float]:
    return {str(path.relative_to(folder)): path.lstat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with all caches in it and no network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "sets"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name, below in (("MINARI", ""), ("D4RL", "d4rl"), ("OGBENCH", "ogbench")):
        monkeypatch.setenv(f"TILTRL_{name}_URL", "http://127.0.0.1:9")
        if below:
            monkeypatch.delenv(f"{name}_DATASET_DIR" if name == "D4RL" else "OGBENCH_DATA_DIR", raising=False)
    return tmp_path


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_refused_in_one_line_and_leaves_nothing_behind(case: str, folder: Path) -> None:
    build, spec, message = CASES[case]
    build(folder)
    before = files(folder)
    with pytest.raises(InputError, match=message) as caught:
        tiltrl.load(spec)
    assert "\n" not in str(caught.value)
    assert files(folder) == before
    assert not (folder / "trap").exists()


@pytest.mark.parametrize("case", ["a pickle in .npz", "two tasks", "an unknown D4RL set", "no metadata"])
@pytest.mark.parametrize("command", [["info"], ["convert", "--out", "new"], ["merge", "demo[:1]", "--out", "new"]])
def test_commands_refuse_it_likewise(
    case: str, command: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build, spec, _ = CASES[case]
    build(folder)
    before = files(folder)
    monkeypatch.setattr("sys.argv", ["tiltrl", "data", command[0], spec, *command[1:]])
    assert tiltrl.main.answer(tiltrl.cli.main) == 2
    error = capsys.readouterr().err
    assert error.startswith("tiltrl: error: ") and error.count("\n") == 1
    assert files(folder) == before


def test_the_trap_is_one(folder: Path) -> None:
    pickle.loads(pickle.dumps(Trap()))
    assert (folder / "trap").is_dir()


def test_there_are_many_cases_and_each_is_its_own() -> None:
    assert len(CASES) >= 60
    assert len({(id(build), spec, message) for build, spec, message in CASES.values()}) == len(CASES)
