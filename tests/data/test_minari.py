"""Minari data sets: what is read, the format's traps, and what each kind of damage says."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
import pytest
from synthetic import ACT, OBS, box, episode, write_minari

from tiltrl.data.minari import load_minari
from tiltrl.errors import InputError

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "tiltrl" / "hopper" / "medium-v0"


def with_value(field: str, index: tuple[int, ...], value: float, steps: int = 3) -> dict[str, Any]:
    """An episode with one entry replaced."""
    arrays = episode(steps)
    arrays[field] = arrays[field].astype(np.float64)
    arrays[field][index] = value
    return arrays


def test_fields_are_read_as_recorded(tmp_path: Path) -> None:
    data = load_minari(str(write_minari(tmp_path / "set")))
    np.testing.assert_array_equal(data.obs, [[0, 1], [2, 3], [4, 5], [100, 101], [102, 103]])
    np.testing.assert_array_equal(data.next_obs, [[2, 3], [4, 5], [6, 7], [102, 103], [104, 105]])
    np.testing.assert_array_equal(data.action[:, 0], [-1, 0, 1, -1, 1])
    np.testing.assert_array_equal(data.reward, [0, 1, 2, 0, 1])
    np.testing.assert_array_equal(data.terminal, [False, False, True, False, False])
    np.testing.assert_array_equal(data.timeout, [False, False, False, False, True])
    assert {a.dtype for a in (data.obs, data.next_obs, data.action, data.reward)} == {np.dtype(np.float32)}
    assert (data.task.obs_dim, data.task.action_low, data.task.action_high) == (OBS, (-1.0,), (1.0,))
    assert data.task.dataset == str(tmp_path / "set")


def test_the_data_folder_itself_may_be_given(tmp_path: Path) -> None:
    folder = write_minari(tmp_path / "set")
    assert load_minari(str(folder / "data")).fingerprint() == load_minari(str(folder)).fingerprint()


def test_id_is_looked_up_in_the_data_sets_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_minari(tmp_path / "mujoco" / "hopper" / "medium-v0")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    assert load_minari("mujoco/hopper/medium-v0").task.dataset == "mujoco/hopper/medium-v0"
    with pytest.raises(InputError, match="has mujoco/hopper/medium-v0.*minari download mujoco/hopper/e-v0") as raised:
        load_minari("mujoco/hopper/e-v0")
    assert str(tmp_path) in str(raised.value)


def test_missing_data_sets_folder_is_not_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "none"))
    with pytest.raises(InputError, match="which has none"):
        load_minari("mujoco/hopper/expert-v0")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("terminated", "truncated", "terminal", "timeout"),
    [(True, False, True, False), (False, True, False, True), (True, True, True, False), (False, False, False, True)],
    ids=["terminated", "truncated", "both: terminal wins", "neither: cut, so timed out"],
)
def test_how_an_episode_ends(tmp_path: Path, terminated: bool, truncated: bool, terminal: bool, timeout: bool) -> None:
    flags = {"terminations": np.array([False, terminated]), "truncations": np.array([False, truncated])}
    data = load_minari(str(write_minari(tmp_path / "set", [episode(2, **flags), episode(2)])))
    assert (data.terminal[1], data.timeout[1]) == (terminal, timeout)
    assert len(data.ends) == 2


def test_episodes_come_in_numeric_order(tmp_path: Path) -> None:
    data = load_minari(str(write_minari(tmp_path / "set", [episode(2, start=10.0 * k) for k in range(12)])))
    np.testing.assert_array_equal(data.obs[::2, 0], 10.0 * np.arange(12))


def test_single_one_step_episodes_are_fine(tmp_path: Path) -> None:
    data = load_minari(str(write_minari(tmp_path / "set", [episode(1), episode(2), episode(1)])))
    np.testing.assert_array_equal(data.ends, [0, 2, 3])


def test_actions_beyond_a_bound_by_rounding_are_clipped(tmp_path: Path) -> None:
    data = load_minari(str(write_minari(tmp_path / "set", [with_value("actions", (2, 0), 1 + 5e-6)])))
    assert data.action.max() == 1.0


def test_keys_of_old_gymnasium_are_dropped_from_the_env_spec(tmp_path: Path) -> None:
    spec = json.dumps({"id": "Hopper-v4", "apply_api_compatibility": False, "autoreset": False})
    data = load_minari(str(write_minari(tmp_path / "set", env_spec=spec)))
    assert json.loads(data.task.env_spec or "") == {"id": "Hopper-v4"}


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({}, (-20.272305, 3234.3)),
        ({"ref_min_score": 1.0, "ref_max_score": 2.0}, (1.0, 2.0)),
        ({"env_spec": json.dumps({"id": "Unheard-v0"})}, (None, None)),
        ({"env_spec": None}, (None, None)),
    ],
    ids=["registry", "own wins", "unknown environment", "no environment"],
)
def test_reference_scores(tmp_path: Path, metadata: dict[str, Any], expected: tuple[float | None, ...]) -> None:
    task = load_minari(str(write_minari(tmp_path / "set", **metadata))).task
    assert (task.ref_min, task.ref_max) == expected


def goal_space(**more: Any) -> str:
    """A Dict space as Minari writes it, in another order than that of joining."""
    parts = {"zoom": 1, "achieved_goal": 2, "desired_goal": 2, "observation": 3, **more}
    boxes = {name: json.loads(box([size], 0, 1)) if isinstance(size, int) else size for name, size in parts.items()}
    return json.dumps({"type": "Dict", "subspaces": boxes})


def goal_episode(steps: int, start: float, **changes: Any) -> dict[str, Any]:
    """Each leaf holds its own number, and the step in every column."""
    sizes = {"zoom": 1, "achieved_goal": 2, "desired_goal": 2, "observation": 3}
    rows = start + np.arange(steps + 1, dtype=np.float64)[:, None]
    leaves = {name: rows + np.full(size, 100.0 * i) for i, (name, size) in enumerate(sizes.items())}
    return episode(steps, observations={name: leaf for name, leaf in (leaves | changes).items() if leaf is not None})


def test_dict_observations_are_joined_in_one_order(tmp_path: Path) -> None:
    folder = write_minari(
        tmp_path / "set", [goal_episode(3, 0.0), goal_episode(2, 50.0)], observation_space=goal_space()
    )
    data = load_minari(str(folder))
    assert data.task.obs_keys == ("observation", "achieved_goal", "desired_goal", "zoom")
    assert data.task.obs_dim == 8
    offsets = np.array([300, 300, 300, 100, 100, 200, 200, 0.0])
    np.testing.assert_array_equal(data.obs, np.array([0, 1, 2, 50, 51])[:, None] + offsets)
    np.testing.assert_array_equal(data.next_obs, np.array([1, 2, 3, 51, 52])[:, None] + offsets)
    with h5py.File(folder / "data" / "main_data.hdf5") as file:
        first = {name: leaf[:-1] for name, leaf in file["episode_0/observations"].items()}  # type: ignore[union-attr]
    np.testing.assert_array_equal(data.task.flat_obs(first), data.obs[:3])


def test_nested_dict_observations(tmp_path: Path) -> None:
    inner = {"type": "Dict", "subspaces": {"b": json.loads(box([1], 0, 1)), "a": json.loads(box([2], 0, 1))}}
    space = json.dumps({"type": "Dict", "subspaces": {"x": json.loads(box([1], 0, 1)), "achieved_goal": inner}})
    leaves = {"x": np.full((4, 1), 1.0), "achieved_goal": {"b": np.full((4, 1), 2.0), "a": np.full((4, 2), 3.0)}}
    data = load_minari(str(write_minari(tmp_path / "set", [episode(3, observations=leaves)], observation_space=space)))
    assert data.task.obs_keys == ("achieved_goal/a", "achieved_goal/b", "x")
    np.testing.assert_array_equal(data.obs, np.tile([3.0, 3.0, 2.0, 1.0], (3, 1)))


DICT_ERRORS = [
    (goal_space(), goal_episode(3, 0.0, zoom=None), "episode_0: observations/zoom is missing"),
    (goal_space(), goal_episode(3, 0.0, zoom=np.zeros((3, 1))), "episode_0, observations/zoom: 3 rows;.*4 rows are"),
    (goal_space(), goal_episode(3, 0.0, zoom=np.zeros((4, 2))), r"observations/zoom: shape \(4, 2\); \(rows, 1\) is"),
    (goal_space(), goal_episode(3, 0.0, zoom={}), "episode_0, observations/zoom: not an array"),
    (goal_space(), goal_episode(3, 0.0, zoom=np.full((4, 1), np.nan)), "observations, row 0, column 7: nan; finite"),
    (goal_space(), episode(3), "observations/observation|not readable as HDF5"),
    (goal_space(camera=json.loads(box([8, 8], 0, 1))), goal_episode(3, 0.0), r"observation_space camera has shape \[8"),
    (goal_space(mode={"type": "Discrete", "n": 2}), goal_episode(3, 0.0), "observation_space mode is Discrete"),
    (goal_space(inner={"type": "Dict", "subspaces": {}}), goal_episode(3, 0.0), "inner is a Dict without subspaces"),
    (goal_space(**{"a/b": 1}), goal_episode(3, 0.0), "has the part 'a/b'; names without '/' are needed"),
]


@pytest.mark.parametrize(("space", "arrays", "message"), DICT_ERRORS, ids=[row[2][:45] for row in DICT_ERRORS])
def test_unusable_dict_observations(tmp_path: Path, space: str, arrays: dict[str, Any], message: str) -> None:
    check_error(write_minari(tmp_path / "set", [arrays], observation_space=space), message)


def test_an_episode_that_declares_more_than_the_file_holds(tmp_path: Path) -> None:
    folder = write_minari(tmp_path / "set", [])
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        group = file.create_group("episode_0")
        group.create_dataset("observations", (10**13, OBS), "f4", chunks=(1000, OBS))
    check_error(folder, "episode_0, observations: shape .* would take 80000000000000 bytes")


DISCRETE = json.dumps({"type": "Discrete", "dtype": "int64", "start": 0, "n": 4})
DICT = json.dumps({"type": "Dict", "subspaces": {}})
METADATA_ERRORS = [
    ({"action_space": DISCRETE}, "action_space is Discrete; only continuous"),
    ({"action_space": box([1], [float("-inf")], [1.0])}, r"bounds \[-inf, 1\] in dimension 0; they must be finite"),
    ({"action_space": box([1], [1.0], [1.0])}, r"bounds \[1, 1\] in dimension 0.*low < high"),
    ({"action_space": box([1], [0], [3], "int64")}, "dtype int64; only continuous"),
    ({"action_space": box([1], [-1], [1], "f4,(")}, r"dtype f4,\(; only continuous"),
    ({"action_space": box([10**11], -1, 1)}, r"shape \(1e\+11,\); at most 100000 actions"),
    ({"action_space": box([2], [-1], [1, 1])}, r"low of shape \(1,\), high of \(2,\)\); \(2,\) is needed"),
    ({"action_space": box([1], [-(10**400)], [1])}, "action_space is unusable .*too large"),
    ({"action_space": box([1], [-1.0, 0.0], [1.0])}, "action_space is unusable"),
    ({"action_space": None}, "'action_space' is missing"),
    ({"action_space": "Box(1,)"}, "action_space is not a space in JSON"),
    ({"observation_space": DICT}, "observation_space is a Dict without subspaces"),
    ({"observation_space": box([64, 64, 3], 0, 255, "uint8")}, r"shape \[64, 64, 3\]; images"),
    ({"observation_space": box([3], [0] * 3, [1] * 3)}, r"episode_0, observations: shape \(4, 2\); \(rows, 3\)"),
    ({"env_spec": "{}"}, "env_spec is '{}'; it must be Gymnasium's EnvSpec"),
    ({"ref_min_score": 5.0, "ref_max_score": 5.0}, r"are 5.0, 5.0; two finite numbers are needed, min < max"),
    ({"ref_min_score": 0, "ref_max_score": 10**400}, r"are 0, 10+; two finite numbers are needed"),
    ({"ref_min_score": float("nan"), "ref_max_score": 1.0}, r"are nan, 1.0; two finite numbers are needed"),
    ({"data_format": "arrow"}, "data_format is 'arrow'; only 'hdf5'"),
    ({"total_episodes": 7}, "holds 2 episodes where metadata.json says total_episodes = 7"),
]


@pytest.mark.parametrize(("metadata", "message"), METADATA_ERRORS, ids=[row[1][:40] for row in METADATA_ERRORS])
def test_unusable_metadata(tmp_path: Path, metadata: dict[str, Any], message: str) -> None:
    check_error(write_minari(tmp_path / "set", **metadata), message)


ENDS_EARLY = np.array([True, False, True])
EPISODE_ERRORS = [
    ([], "holds no episodes"),
    ([episode(2), episode(0)], "episode_1 has no steps"),
    ([episode(1), episode(1)], "no episode has a second step"),
    (
        [episode(3, rewards=None)],
        "episode_0: rewards is missing, or a link, which is not followed; an episode needs obs",
    ),
    ([episode(3, observations={})], "episode_0, observations: not an array"),
    ([episode(3, rewards=np.zeros((3, 1)))], r"episode_0, rewards: shape \(3, 1\); \(rows,\) is needed"),
    ([episode(3, actions=np.zeros((3, ACT + 1)))], r"episode_0, actions: shape \(3, 2\); \(rows, 1\) is needed"),
    ([episode(3, rewards=np.float32(1))], r"episode_0, rewards: shape \(\)"),
    ([episode(3, rewards=[b"a", b"b", b"c"])], r"episode_0, rewards: dtype object; float32 is needed"),
    ([episode(3, terminations=np.full(3, np.nan))], "episode_0, terminations: dtype float64; bool is needed"),
    ([episode(2), episode(3, observations=np.zeros((3, OBS)))], "episode_1, observations: 3 rows;.*4 rows are needed"),
    ([episode(3, actions=np.zeros((2, ACT)))], "episode_0, actions: 2 rows; rewards has 3, so 3 rows are needed"),
    ([episode(2), with_value("rewards", (1,), np.nan)], "episode_1, rewards, row 1: nan; finite"),
    ([episode(2), with_value("observations", (3, 1), np.inf)], "episode_1, observations, row 3, column 1: inf"),
    ([with_value("observations", (0, 0), 1e300)], r"episode_0, observations, row 0, column 0: 1e\+300; finite float32"),
    ([with_value("actions", (1, 0), -np.inf)], "episode_0, actions, row 1, column 0: -inf"),
    ([with_value("actions", (1, 0), 1.01)], r"actions, row 1, column 0: 1.01; the action space is \(-1.0,\) to"),
    ([episode(3, terminations=ENDS_EARLY)], "episode_0, terminations, row 0: True; only an episode's last row"),
]


@pytest.mark.parametrize(("episodes", "message"), EPISODE_ERRORS, ids=[row[1][:40] for row in EPISODE_ERRORS])
def test_unusable_episodes(tmp_path: Path, episodes: list[dict[str, Any]], message: str) -> None:
    check_error(write_minari(tmp_path / "set", episodes), message)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("main_data.hdf5", b"", "main_data.hdf5: not readable as HDF5"),
        ("main_data.hdf5", b"version https://git-lfs.github.com/spec/v1\n", "main_data.hdf5: not readable as HDF5"),
        ("main_data.hdf5", None, "main_data.hdf5: no such file"),
        ("metadata.json", b"{", "metadata.json: not readable as JSON"),
        ("metadata.json", b"[]", "metadata.json: holds list"),
        ("metadata.json", None, "metadata.json: no such file"),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    folder = write_minari(tmp_path / "set")
    path = folder / "data" / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    check_error(folder, message)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
def test_truncated_file(tmp_path: Path, share: float) -> None:
    folder = write_minari(tmp_path / "set")
    path = folder / "data" / "main_data.hdf5"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    check_error(folder, "not readable as HDF5")


def test_group_that_is_no_group(tmp_path: Path) -> None:
    folder = write_minari(tmp_path / "set", [])
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        file["episode_0"] = 1
    check_error(folder, "episode_0: no group of arrays in this file")


@pytest.mark.parametrize("name", ["episode_0", "episode_0/observations", "episode_0/rewards"])
def test_links_are_not_followed(tmp_path: Path, name: str) -> None:
    """Not to a pipe, either, where opening it would wait forever."""
    folder, path = write_minari(tmp_path / "set"), tmp_path / "set" / "data" / "main_data.hdf5"
    other = write_minari(tmp_path / "other") / "data" / "main_data.hdf5"
    os.mkfifo(tmp_path / "pipe")
    for link in (
        h5py.ExternalLink(str(other), name),
        h5py.ExternalLink(str(tmp_path / "pipe"), name),
        h5py.SoftLink("/elsewhere"),
    ):
        with h5py.File(path, "a") as file:
            del file[name]
            file[name] = link
        check_error(folder, f"{name.split('/')[-1]}.*link")


def test_values_in_another_file_are_not_read(tmp_path: Path) -> None:
    folder = write_minari(tmp_path / "set")
    (tmp_path / "secret.bin").write_bytes(b"secret")
    for external in (True, False):
        with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
            del file["episode_0/rewards"]
            group: Any = file["episode_0"]
            if external:
                group.create_dataset("rewards", (3,), "u1", external=[(str(tmp_path / "secret.bin"), 0, 3)])
            else:
                layout = h5py.VirtualLayout((3,), "f8")
                layout[:] = h5py.VirtualSource(str(tmp_path / "other.hdf5"), "x", (3,))
                group.create_virtual_dataset("rewards", layout)
        check_error(folder, "episode_0, rewards: lies in another file")


def test_a_type_that_numpy_does_not_have(tmp_path: Path) -> None:
    folder = write_minari(tmp_path / "set")
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        del file["episode_0/rewards"]
        space = h5py.h5s.create_simple((3,))
        h5py.h5d.create(file["episode_0"].id, b"rewards", h5py.h5t.UNIX_D32LE, space)
    check_error(folder, "not readable as HDF5")


def test_one_number_may_bound_all_actions(tmp_path: Path) -> None:
    data = load_minari(str(write_minari(tmp_path / "set", action_space=box([ACT], -1, 1))))
    assert data.task.action_low == (-1.0,) * ACT and data.task.action_high == (1.0,) * ACT


def test_folder_without_a_data_set(tmp_path: Path) -> None:
    check_error(tmp_path, "not a Minari data set; the folder must hold data/main_data.hdf5")


def check_error(folder: Path, message: str) -> None:
    """Loading `folder` raises InputError: one line, naming the folder, matching `message`."""
    with pytest.raises(InputError) as raised:
        load_minari(str(folder))
    text = str(raised.value)
    assert str(folder) in text
    assert "\n" not in text
    assert re.search(message, text), text


@pytest.mark.skipif(not REAL.exists(), reason=f"no real data at {REAL}")
def test_real_data_agrees_with_minaris_own_loader() -> None:
    data = load_minari(str(REAL))
    theirs = minari.MinariDataset(REAL / "data")
    assert (len(data), len(data.ends)) == (theirs.total_steps, theirs.total_episodes)
    for index in (0, 9, 10, theirs.total_episodes - 1):
        span = slice(data.starts[index], data.ends[index] + 1)
        expected = theirs[index]
        np.testing.assert_array_equal(data.obs[span], expected.observations[:-1])
        np.testing.assert_array_equal(data.next_obs[span], expected.observations[1:])
        np.testing.assert_array_equal(data.action[span], expected.actions)
        np.testing.assert_array_equal(data.reward[span], expected.rewards.astype(np.float32))
        np.testing.assert_array_equal(data.terminal[span], expected.terminations)


@pytest.mark.parametrize("name", ["metadata.json", "main_data.hdf5"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, name: str) -> None:
    path = write_minari(tmp_path / "set") / "data" / name
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match=f"{name}: (cannot be read|no such file)"):
        load_minari(str(tmp_path / "set"))
