"""D4RL's files: every variant of the format, and the traps in it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from server import Answer, Site, serve

from tiltrl.data.d4rl import ADDRESSES, is_d4rl, load_d4rl, read_d4rl
from tiltrl.data.registry import reference
from tiltrl.data.write import write_d4rl
from tiltrl.errors import InputError
from tiltrl.evaluation.rollout import make_env
from tiltrl.evaluation.scores import score_label


def arrays(steps: int, obs: int = 11, act: int = 3, **overrides: Any) -> dict[str, np.ndarray]:
    """One run of consecutive rows as gym_mujoco_v2 has them, no end marked; an override of None drops the array."""
    rows = np.arange((steps + 1) * obs, dtype=np.float32).reshape(-1, obs)
    made = {
        "observations": rows[:-1].copy(),
        "actions": np.linspace(-1, 1, steps * act, dtype=np.float32).reshape(-1, act),
        "rewards": np.arange(steps, dtype=np.float32),
        "terminals": np.zeros(steps, bool),
        "timeouts": np.zeros(steps, bool),
        "next_observations": rows[1:].copy(),
    } | overrides
    return {name: np.asarray(value) for name, value in made.items() if value is not None}


def at(steps: int, *rows: int) -> np.ndarray:
    return np.isin(np.arange(steps), rows)


def write(path: Path, content: Mapping[str, Any], **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, value in (dict(content) | more).items():
            value = str(value) if np.asarray(value).dtype.kind == "U" else value
            file.create_dataset(name, data=value, compression="gzip" if np.ndim(value) else None)
    return path


def test_flags_end_episodes_and_timeouts_are_not_terminal(tmp_path: Path) -> None:
    content = arrays(9, terminals=at(9, 2), timeouts=at(9, 5, 8))
    data = read_d4rl(write(tmp_path / "x.hdf5", content, **{"metadata/algorithm": "SAC"}), "hopper-medium-v2")
    np.testing.assert_array_equal(data.ends, [2, 5, 8])
    np.testing.assert_array_equal(data.terminal, at(9, 2))
    np.testing.assert_array_equal(data.timeout, at(9, 5, 8))
    np.testing.assert_array_equal(data.obs, content["observations"])
    np.testing.assert_array_equal(data.next_obs, content["next_observations"])
    np.testing.assert_array_equal(data.returns, [0 + 1 + 2, 3 + 4 + 5, 6 + 7 + 8])


def test_replay_sets_are_float64_and_columns_may_be_of_width_one(tmp_path: Path) -> None:
    content = arrays(6, terminals=at(6, 2), timeouts=at(6, 5))
    for name in ("observations", "actions", "rewards", "next_observations"):
        content[name] = content[name].astype(np.float64)
    for name in ("rewards", "terminals", "timeouts"):
        content[name] = content[name][:, None]
    data = read_d4rl(write(tmp_path / "x.hdf5", content), "hopper-medium-replay-v2")
    assert {array.dtype for array in (data.obs, data.action, data.reward, data.next_obs)} == {np.dtype(np.float32)}
    assert data.reward.shape == data.terminal.shape == (6,)
    np.testing.assert_array_equal(data.ends, [2, 5])


def test_antmaze_drops_time_out_rows_whose_next_observation_is_lost(tmp_path: Path) -> None:
    goal = {"infos/goal": np.zeros((7, 2)), "infos/qpos": np.zeros((7, 15)), "infos/qvel": np.zeros((7, 14))}
    flags = {"terminals": at(7, 1).astype(np.float32), "timeouts": at(7, 4, 6).astype(np.float32)}
    content = arrays(7, 29, 8, next_observations=None, **flags, **goal)
    data = read_d4rl(write(tmp_path / "x.hdf5", content), "antmaze-umaze-v2")
    np.testing.assert_array_equal(data.reward, [0, 1, 2, 3, 5])  # rows 4 and 6 timed out
    np.testing.assert_array_equal(data.terminal, at(5, 1))
    np.testing.assert_array_equal(data.timeout, at(5, 3, 4))
    np.testing.assert_array_equal(data.next_obs[[0, 2, 3, 4]], content["observations"][[1, 3, 4, 6]])
    assert data.obs.shape[1] == data.task.obs_dim == 29  # the goal is the task's, not observed
    assert (data.task.ref_min, data.task.ref_max, data.task.env_spec) == (0.0, 1.0, None)


def test_kitchen_is_cut_by_its_horizon(tmp_path: Path) -> None:
    terminals = at(900, 99).astype(np.float32)
    infos = np.zeros(900)  # a data set of that name, not a group
    content = arrays(900, 60, 9, terminals=terminals, timeouts=None, next_observations=None, infos=infos)
    data = read_d4rl(write(tmp_path / "x.hdf5", content), "kitchen-mixed-v0")
    # 100 steps to the terminal, 280 and 280 to the horizon, 240 to the end; a cut's last row is dropped.
    np.testing.assert_array_equal(np.diff(data.ends, prepend=-1), [100, 279, 279, 239])
    np.testing.assert_array_equal(data.terminal[data.ends], [True, False, False, False])
    np.testing.assert_array_equal(data.reward[data.ends], [99, 378, 658, 898])


def test_adroit_human_ends_where_demonstrations_end(tmp_path: Path) -> None:
    content = arrays(6, 45, 24, timeouts=at(6, 2, 5), next_observations=None)
    data = read_d4rl(write(tmp_path / "x.hdf5", content), "pen-human-v1")
    assert not data.terminal.any()
    np.testing.assert_array_equal(data.timeout, at(4, 1, 3))
    np.testing.assert_array_equal(data.reward, [0, 1, 3, 4])


@pytest.mark.parametrize("timeouts", [None, np.zeros(6, bool)], ids=["no timeouts", "none set"])
def test_without_ends_the_gaps_between_rows_tell_them(timeouts: Any, tmp_path: Path) -> None:
    content = arrays(6, timeouts=timeouts)
    content["observations"][3:] += 500  # a reset; rounding elsewhere is no reset
    content["next_observations"][3:] += 500
    content["next_observations"][1] *= 1 + 1e-7
    data = read_d4rl(write(tmp_path / "x.hdf5", content), "hopper-medium-v2")
    np.testing.assert_array_equal(data.timeout, at(6, 2, 5))
    np.testing.assert_array_equal(data.next_obs, content["next_observations"])


def test_simulators_clip_actions_and_so_does_the_reader(tmp_path: Path) -> None:
    content = arrays(4, timeouts=at(4, 3))
    content["actions"][1, 2] = 1.3
    data = read_d4rl(write(tmp_path / "x.hdf5", content), "hopper-medium-v2")
    assert data.action[1, 2] == 1 and data.action.max() == 1


FAMILIES = [
    ("hopper-medium-v2", 11, 3, "Hopper-v5", 1000),
    ("halfcheetah-medium-expert-v2", 17, 6, "HalfCheetah-v5", 1000),
    ("walker2d-full-replay-v2", 17, 6, "Walker2d-v5", 1000),
    ("ant-random-v2", 27, 8, "Ant-v5", 1000),
    ("ant-random-v2", 111, 8, None, None),
    ("antmaze-large-diverse-v2", 29, 8, None, None),
    ("maze2d-umaze-v1", 4, 2, None, None),
    ("kitchen-partial-v0", 60, 9, None, None),
    ("pen-human-v1", 45, 24, "AdroitHandPen-v1", 100),
    ("hammer-cloned-v1", 46, 26, "AdroitHandHammer-v1", 200),
    ("door-expert-v1", 39, 28, "AdroitHandDoor-v1", 200),
    ("relocate-human-v0", 39, 30, "AdroitHandRelocate-v1", 200),
]


@pytest.mark.parametrize(("name", "obs", "act", "env", "horizon"), FAMILIES)
def test_families(name: str, obs: int, act: int, env: str | None, horizon: int | None, tmp_path: Path) -> None:
    data = read_d4rl(write(tmp_path / "x.hdf5", arrays(3, obs, act)), name)
    assert data.task.dataset == name
    assert (data.task.action_low, data.task.action_high) == ((-1.0,) * act, (1.0,) * act)
    row = reference(name)
    assert (data.task.ref_min, data.task.ref_max) == (row.ref_min, row.ref_max) != (None, None)
    if env is None:
        assert data.task.env_spec is None
        return
    spec = json.loads(str(data.task.env_spec))
    assert (spec["id"], spec["max_episode_steps"]) == (env, horizon)
    assert "not a D4RL score" in score_label(data.task)


@pytest.mark.parametrize(("name", "obs", "act"), [("hopper-medium-v2", 11, 3), ("ant-medium-v2", 27, 8)])
def test_the_environment_fits_the_data(name: str, obs: int, act: int, tmp_path: Path) -> None:
    task = read_d4rl(write(tmp_path / "x.hdf5", arrays(3, obs, act)), name).task
    make_env(task).close()  # refuses what does not fit


def test_adroit_hands_fit_the_data(tmp_path: Path) -> None:
    pytest.importorskip("gymnasium_robotics")
    for name, obs, act, env, _ in FAMILIES:
        if env is not None and env.startswith("Adroit"):
            make_env(read_d4rl(write(tmp_path / "x.hdf5", arrays(3, obs, act)), name).task).close()


def test_a_file_is_known_by_its_name_where_it_fits(tmp_path: Path) -> None:
    for file in ("hopper_medium-v2.hdf5", "hopper-medium-v2.h5"):
        path = write(tmp_path / file, arrays(3))
        assert read_d4rl(path, str(path)).task.ref_max == 3234.3
    other = write(tmp_path / "hopper_medium-v2.hdf5", arrays(3, obs=5))  # another's file of the same name
    assert read_d4rl(other, str(other)).task.ref_max is None


def test_bounds_of_unknown_files_hold_all_actions(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.hdf5", arrays(3))
    assert read_d4rl(path, "mine").task.action_high == (1.0, 1.0, 1.0)
    path = write(tmp_path / "torque.hdf5", arrays(3, actions=arrays(3)["actions"] * 20))
    assert read_d4rl(path, "torque").task.action_low == (-20.0, -20.0, -20.0)


def test_what_we_write_is_read_as_it_was(tmp_path: Path) -> None:
    data = read_d4rl(write(tmp_path / "x.hdf5", arrays(6, timeouts=at(6, 2, 5))), "hopper-medium-v2")
    write_d4rl(data, tmp_path / "copy.hdf5")
    copy = read_d4rl(tmp_path / "copy.hdf5", "hopper-medium-v2")
    assert copy.fingerprint() == data.fingerprint()
    assert copy.task == data.task


def test_observations_may_be_of_any_type_of_number(tmp_path: Path) -> None:
    for kind in (bool, np.uint8):
        seen = np.array([[0], [1], [0], [1], [1]], kind)
        after = np.array([[1], [0], [0], [1], [0]], kind)
        content = arrays(5, obs=1, act=1, observations=seen, next_observations=after, timeouts=None)
        assert read_d4rl(write(tmp_path / "x.hdf5", content), "x").ends.tolist() == [2, 4]


def test_is_d4rl(tmp_path: Path) -> None:
    for content, expected in ((arrays(3), True), (arrays(3, terminals=None), False), ({"episode_0/rewards": 1}, False)):
        with h5py.File(write(tmp_path / "x.hdf5", content)) as file:
            assert is_d4rl(file) is expected


NAN = np.full((4, 11), np.nan, np.float32)
BAD = {
    "no observations": ({"observations": None}, "holds no array observations; D4RL's observations, actions, rewards"),
    "no actions": ({"actions": None}, "holds no array actions"),
    "no rewards": ({"rewards": None}, "holds no array rewards"),
    "no terminals": ({"terminals": None}, "holds no array terminals"),
    "a group": ({"rewards": None, "rewards/all": np.zeros(4)}, "holds no array rewards"),
    "text": ({"rewards": np.array([b"a"] * 4)}, "rewards: type .*; numbers are needed"),
    "images": ({"observations": np.zeros((4, 8, 8, 3), np.uint8)}, r"observations: shape \(4, 8, 8, 3\); \(steps, s"),
    "flat observations": ({"observations": np.zeros(4)}, r"observations: shape \(4,\)"),
    "wide rewards": ({"rewards": np.zeros((4, 2))}, r"rewards: shape \(4, 2\); \(steps,\) or \(steps, 1\) is needed"),
    "scalar rewards": ({"rewards": np.float32(0)}, r"rewards: shape \(\)"),
    "short actions": ({"actions": np.zeros((3, 3))}, "actions: 3 rows; rewards has 4, and all need as many"),
    "short timeouts": ({"timeouts": np.zeros(3, bool)}, "timeouts: 3 rows; rewards has 4"),
    "narrow next": ({"next_observations": np.zeros((4, 5))}, r"next_observations: shape \(4, 5\); observations has"),
    "no columns": ({"actions": np.zeros((4, 0))}, r"actions: shape \(4, 0\); at least one column"),
    "another's observations": ({"observations": np.zeros((4, 12)), "next_observations": None}, "has 12 observations"),
    "another's actions": ({"actions": np.zeros((4, 6))}, "has 11 observations and 6 actions a step; hopper-medium-v2"),
    "NaN observation": ({"observations": NAN}, "observations, row 0, column 0: nan; finite float32 numbers"),
    "NaN action": ({"actions": NAN[:, :3]}, "actions, row 0, column 0: nan"),
    "infinite reward": ({"rewards": [0, np.inf, 0, 0]}, "rewards, row 1: inf"),
    "too large for float32": ({"rewards": [0, 1e300, 0, 0]}, "rewards, row 1: 1e\\+300"),
    "half a terminal": ({"terminals": [0, 0.5, 0, 0]}, "terminals, row 1: 0.5; 0 or 1 is needed"),
    "NaN terminal": ({"terminals": [0, np.nan, 0, 0]}, "terminals, row 1: nan"),
    "NaN next": ({"next_observations": NAN, "timeouts": at(4, 3)}, "next_observations, row 0, column 0: nan"),
    "task": (
        {"metadata/task": '{"dataset": 1, "action_low": [], "action_high": []}'},
        "metadata/task: field dataset: Input should",
    ),
    "no steps": (arrays(0), "holds no steps"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_in_one_sentence(case: str, tmp_path: Path) -> None:
    content, message = BAD[case]
    path = write(tmp_path / "x.hdf5", arrays(4, **content))
    with pytest.raises(InputError, match=message) as caught:
        read_d4rl(path, "hopper-medium-v2")
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("low", "high"), [([-1.0], [1.0, 1.0]), ([1.0], [1.0]), ([float("nan")], [1.0]), ([-1.0], [float("inf")])]
)
def test_unusable_bounds_in_a_description(low: list[float], high: list[float], tmp_path: Path) -> None:
    task = {"dataset": "x", "env_spec": None, "action_low": low, "action_high": high, "obs_dim": 11}
    path = write(tmp_path / "x.hdf5", arrays(4, act=1), **{"metadata/task": json.dumps(task)})
    with pytest.raises(InputError, match="metadata/task"):
        read_d4rl(path, "x")


@pytest.mark.parametrize("content", [None, b"", b"garbage", b"\x89HDF\r\n\x1a\n"])
def test_files_that_are_no_hdf5(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "x.hdf5"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.hdf5: (cannot be read: No such file|not readable as HDF5)"):
        read_d4rl(path, "hopper-medium-v2")


# --- By name ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    body = write(tmp_path / "x.hdf5", arrays(6, timeouts=at(6, 5))).read_bytes()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "cache"))
    with serve({"/gym_mujoco_v2/hopper_medium-v2.hdf5": Answer(body)}) as site:
        monkeypatch.setenv("TILTRL_D4RL_URL", site.url + "/")
        yield site


def test_a_name_is_downloaded_once_to_where_d4rl_looks(site: Site, tmp_path: Path) -> None:
    for _ in range(2):
        assert len(load_d4rl("hopper-medium-v2")) == 6
    assert site.asked == ["/gym_mujoco_v2/hopper_medium-v2.hdf5"]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["hopper_medium-v2.hdf5"]


def test_files_in_the_cache_need_no_network(site: Site, tmp_path: Path) -> None:
    content = arrays(4, timeouts=at(4, 3))
    write(tmp_path / "cache" / "hopper_expert-v2.hdf5", content)
    write(tmp_path / "cache" / "hopper-random-v2.hdf5", content)
    assert len(load_d4rl("hopper-expert-v2")) == len(load_d4rl("hopper-random-v2")) == 4
    assert site.asked == []


def test_the_cache_is_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("D4RL_DATASET_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / ".d4rl" / "datasets" / "hopper_medium-v2.hdf5", arrays(4, timeouts=at(4, 3)))
    assert len(load_d4rl("hopper-medium-v2")) == 4


def test_another_file_than_d4rls_does_not_stay_in_the_cache(site: Site, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "foreign.hdf5", "w") as file:
        file["observations"], file["actions"] = np.zeros((4, 11)), np.zeros((4, 3))
        file.create_group("rewards")
    site.answers["/gym_mujoco_v2/hopper_medium-v2.hdf5"] = Answer((tmp_path / "foreign.hdf5").read_bytes())
    with pytest.raises(InputError, match="what came is an HDF5 file without rewards, terminals"):
        load_d4rl("hopper-medium-v2")
    assert not (tmp_path / "cache").exists()


def test_what_cannot_be_downloaded_says_where_to_put_it(site: Site, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="404.* save it as .*cache/hopper_expert-v2.hdf5"):
        load_d4rl("hopper-expert-v2")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("name", "near"),
    [("hopper-medum-v2", "hopper-medium-v2"), ("hopper-medium-v9", "hopper-medium-v2"), ("", "hopper-medium-v2")]
    + [("door-human", "door-human-v1"), ("../../etc/passwd", "door-human-v1"), ("Hopper-v5", "hopper-")],
)
def test_unknown_names_list_close_ones(name: str, near: str) -> None:
    with pytest.raises(InputError, match=f"no D4RL data set that is known here.*{near}"):
        load_d4rl(name)


def test_addresses() -> None:
    assert ADDRESSES["halfcheetah-medium-expert-v2"] == "gym_mujoco_v2/halfcheetah_medium_expert-v2.hdf5"
    assert ADDRESSES["walker2d-medium-replay-v0"] == "gym_mujoco/walker_mixed.hdf5"
    assert (
        ADDRESSES["antmaze-large-play-v2"]
        == "ant_maze_v2/Ant_maze_hardest-maze_noisy_multistart_True_multigoal_False_sparse_fixed.hdf5"
    )
    assert ADDRESSES["maze2d-medium-dense-v1"] == "maze2d/maze2d-medium-dense-v1.hdf5"
    assert len({Path(address).name for address in ADDRESSES.values()}) == len(ADDRESSES)  # the cache is one folder
    assert not [name for name in ADDRESSES if reference(name).ref_max is None or reference(name).horizon is None]


def test_episodes_of_a_long_file_are_all_found(tmp_path: Path) -> None:
    steps, rng = 200_000, np.random.default_rng(0)
    rows = rng.normal(size=(steps + 1, 11)).astype(np.float32)
    actions = rng.uniform(-1, 1, (steps, 3)).astype(np.float32)
    content = arrays(steps, observations=rows[:-1], next_observations=rows[1:], actions=actions)
    path = write(tmp_path / "x.hdf5", content, timeouts=np.arange(steps) % 1000 == 999)
    data = read_d4rl(path, "hopper-medium-v2")
    assert (len(data), len(data.ends)) == (steps, 200)
    np.testing.assert_array_equal(data.obs[-3:], rows[-4:-1])
