"""LeRobot's folders: the order of frames, ends of episodes, and what is missing or in the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tiltrl.data.lerobot import is_lerobot, read_lerobot
from tiltrl.data.spec import Columns
from tiltrl.errors import InputError

IMAGES = "observation.images.front"


def frames(lengths: tuple[int, ...] = (4, 3), **overrides: Any) -> dict[str, np.ndarray]:
    """Frames of so many rows an episode; an override of None drops the column."""
    rows = sum(lengths)
    made = {
        "observation.state": np.arange(rows * 2, dtype=np.float32).reshape(-1, 2),
        "action": np.linspace(-3, 5, rows * 2, dtype=np.float32).reshape(-1, 2),
        "timestamp": np.arange(rows) / 30,
        "frame_index": np.concatenate([np.arange(length) for length in (*lengths, 0)]).astype(np.int64),
        "episode_index": np.repeat(np.arange(len(lengths)), lengths),
    } | overrides
    return {name: np.asarray(value) for name, value in made.items() if value is not None}


def column(array: np.ndarray, fixed: bool) -> pa.Array:
    if array.ndim == 1:
        return pa.array(array)
    kind = pa.from_numpy_dtype(array.dtype)
    return pa.array(list(array), pa.list_(kind, array.shape[1]) if fixed else pa.list_(kind))


def write(
    folder: Path,
    content: dict[str, np.ndarray],
    *,
    parts: int = 1,
    features: dict[str, Any] | None = None,
    stats: Any = None,
    fixed: bool = False,
    **info: Any,
) -> Path:
    """Writes a data set in so many files; an override of None drops a key of info.json."""
    described = {name: {"dtype": str(a.dtype), "shape": list(a.shape[1:]) or [1]} for name, a in content.items()}
    described |= {IMAGES: {"dtype": "video", "shape": [480, 640, 3]}} | (features or {})
    rows = len(content["action"])
    told = {
        "codebase_version": "v3.0",
        "fps": 30,
        "total_frames": rows,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "features": {name: feature for name, feature in described.items() if feature is not None},
    } | info
    if "episode_index" in content:
        told.setdefault("total_episodes", len(np.unique(content["episode_index"])))
    (folder / "meta").mkdir(parents=True)
    (folder / "meta" / "info.json").write_text(json.dumps({k: v for k, v in told.items() if v is not None}))
    if stats is not None:
        (folder / "meta" / "stats.json").write_text(json.dumps(stats))
    for index, rows_of in enumerate(np.array_split(np.arange(rows), parts)):
        path = folder / "data" / f"chunk-{index // 2:03d}" / f"file-{index % 2:03d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({name: column(array[rows_of], fixed) for name, array in content.items()}), path)
    return folder


@pytest.mark.parametrize("fixed", [False, True], ids=["lists", "lists of fixed size"])
@pytest.mark.parametrize("parts", [1, 3])
def test_ends_that_nothing_marks_are_timeouts(parts: int, fixed: bool, tmp_path: Path) -> None:
    content = frames()
    data = read_lerobot(write(tmp_path / "x", content, parts=parts, fixed=fixed), "x")
    np.testing.assert_array_equal(data.obs, content["observation.state"][[0, 1, 2, 4, 5]])
    np.testing.assert_array_equal(data.next_obs, content["observation.state"][[1, 2, 3, 5, 6]])
    np.testing.assert_array_equal(data.action, content["action"][[0, 1, 2, 4, 5]])
    np.testing.assert_array_equal(data.timeout, [False, False, True, False, True])
    assert not data.terminal.any() and not data.reward.any()
    assert (data.task.dataset, data.task.env_spec, data.task.obs_keys) == ("x", None, ())


def test_frames_are_put_in_order(tmp_path: Path) -> None:
    content = frames((4, 3))
    expected = read_lerobot(write(tmp_path / "a", content), "x")
    mixed = np.random.default_rng(0).permutation(7)
    shuffled = write(tmp_path / "b", {name: array[mixed] for name, array in content.items()}, parts=3)
    assert read_lerobot(shuffled, "x").fingerprint() == expected.fingerprint()


def test_a_missing_frame_ends_an_episode(tmp_path: Path) -> None:
    content = {name: array[np.arange(9) != 3] for name, array in frames((9,)).items()}
    data = read_lerobot(write(tmp_path / "x", content), "x")
    np.testing.assert_array_equal(data.obs[:, 0], [0, 2, 8, 10, 12, 14])
    np.testing.assert_array_equal(data.next_obs[:, 0], [2, 4, 10, 12, 14, 16])
    np.testing.assert_array_equal(data.ends, [1, 5])


@pytest.mark.parametrize(
    ("flags", "terminal", "timeout"),
    [
        ({"next.done": [0, 0, 1, 0, 1]}, [0, 0, 1, 0, 1], [0, 0, 0, 0, 0]),
        ({"next.done": [0, 0, 1, 0, 1], "next.success": [0, 1, 1, 0, 0]}, [0, 0, 1, 0], [0, 0, 0, 1]),
        ({"next.success": [0, 1, 1, 0, 0]}, [0, 0, 1, 0], [0, 0, 0, 1]),
        ({"next.done": [1, 0, 0, 0, 1]}, [1, 0, 0, 1], [0, 1, 0, 0]),
    ],
)
def test_done_ends_and_success_decides(
    flags: dict[str, list[int]], terminal: list[int], timeout: list[int], tmp_path: Path
) -> None:
    content = frames((3, 2), **{name: np.array(values, bool) for name, values in flags.items()})
    data = read_lerobot(write(tmp_path / "x", content), "x")
    np.testing.assert_array_equal(data.terminal, np.array(terminal, bool))
    np.testing.assert_array_equal(data.timeout, np.array(timeout, bool))


def test_rewards_and_states_are_found(tmp_path: Path) -> None:
    more: dict[str, Any] = {
        "next.reward": np.arange(7, dtype=np.float32),
        "observation.environment_state": np.full((7, 3), 9.0),
    }
    data = read_lerobot(write(tmp_path / "x", frames(**more)), "x")
    np.testing.assert_array_equal(data.reward, [0, 1, 2, 4, 5])
    np.testing.assert_array_equal(data.obs[0], [0, 1, 9, 9, 9])
    assert data.task.obs_keys == ("observation.state", "observation.environment_state")
    assert data.task.obs_dim == 5


def test_columns_are_named(tmp_path: Path) -> None:
    more: dict[str, Any] = {
        "pose": np.ones((7, 1)),
        "torque": np.full((7, 1), 2.0),
        "score": np.arange(7.0),
        "run": np.zeros(7, int),
    }
    done: dict[str, Any] = {"next.done": np.ones(7, bool)}
    flags: dict[str, Any] = {
        "won": np.isin(np.arange(7), 6),
        "cut": np.isin(np.arange(7), 1),
        "frame_index": np.arange(7),
    }
    columns = Columns(("pose", "torque"), "torque,pose", "score", None, "won", "cut", "run")
    folder = write(tmp_path / "x", frames(**more, **flags, **done))
    data = read_lerobot(folder, "x", columns)
    np.testing.assert_array_equal(data.reward, [0, 2, 3, 4, 5, 6])  # row 1 was cut
    np.testing.assert_array_equal(data.obs, [[1, 2]] * 6)
    np.testing.assert_array_equal(data.action, [[2, 1]] * 6)
    np.testing.assert_array_equal(data.terminal, np.arange(6) == 5)
    assert data.task.action_low == (1.5, 0.5)  # actions that never change


def test_an_environment_is_named(tmp_path: Path) -> None:
    rows = frames((4,), **{"observation.state": np.zeros((4, 3)), "action": np.zeros((4, 1))})
    data = read_lerobot(write(tmp_path / "x", rows), "x", Columns(env="Pendulum-v1"))
    assert data.task.action_high == (2.0,)


def test_bounds_are_those_seen_or_told(tmp_path: Path) -> None:
    content = frames()
    assert read_lerobot(write(tmp_path / "a", content), "x").task.action_high == pytest.approx(
        (13 / 3 + 0.0513, 5.0), 1e-2
    )
    stats = {"action": {"min": [-10, 0], "max": [1, 10]}}
    task = read_lerobot(write(tmp_path / "b", content, stats=stats), "x").task
    assert task.action_low == pytest.approx((-10, content["action"][:, 1].min()))
    assert task.action_high == pytest.approx((content["action"][:, 0].max(), 10))
    assert read_lerobot(write(tmp_path / "c", content, stats={}), "x").task.action_high[1] == 5


def test_version_2_has_a_file_an_episode(tmp_path: Path) -> None:
    content = frames()
    pattern = "data/chunk-{episode_chunk:03d}/file-{episode_index:03d}.parquet"
    folder = write(tmp_path / "x", content, codebase_version="v2.1", data_path=pattern, parts=2)
    assert len(read_lerobot(folder, "x")) == 5


def test_is_lerobot(tmp_path: Path) -> None:
    assert is_lerobot(write(tmp_path / "x", frames()))
    assert not is_lerobot(tmp_path)
    assert not is_lerobot(tmp_path / "none")


STATE = "observation.state"
GAP = np.array([[0.0, np.nan]] * 7)
BAD: dict[str, tuple[dict[str, Any], dict[str, Any], Columns, str]] = {
    "old version": ({}, {"codebase_version": "v1.6"}, Columns(), "codebase_version is 'v1.6'; LeRobot's v3"),
    "no version": ({}, {"codebase_version": None}, Columns(), "codebase_version is None"),
    "no shape": (
        {},
        {"features": {"action": {"dtype": "float32"}}},
        Columns(),
        "features is no description of columns",
    ),
    "no state": ({STATE: None}, {}, Columns(), "no feature observation.state or .*images and videos are not read"),
    "no action": ({}, {"features": {"action": None}}, Columns(), "no feature action; images and videos"),
    "a video": ({}, {}, Columns((IMAGES,)), "front, named for obs, holds no vectors, and images are not read"),
    "no such column": ({}, {}, Columns(reward="r"), "r, named for reward, is not there; it has observation.state, act"),
    "no episodes": ({"episode_index": None}, {}, Columns(), "no feature episode_index"),
    "no frame numbers": ({"frame_index": None}, {}, Columns(), "no feature frame_index"),
    "missing column": ({}, {"features": {"next.reward": {"dtype": "float32", "shape": [1]}}}, Columns(), "next.reward"),
    "another shape": (
        {},
        {"features": {STATE: {"dtype": "float32", "shape": [3]}}},
        Columns(),
        r"rows of shape \(2,\)",
    ),
    "a picture": (
        {},
        {"features": {"action": {"dtype": "float32", "shape": [2, 2]}}},
        Columns(),
        "feature action: float",
    ),
    "absolute": ({}, {"data_path": "/etc/{x}.parquet"}, Columns(), "data_path is '/etc/{x}.parquet'; a path such as"),
    "outside": ({}, {"data_path": "../{x}.parquet"}, Columns(), "leads out of the folder; nothing there is read"),
    "outside below": ({}, {"data_path": "data/../../{x}.parquet"}, Columns(), "leads out of the folder"),
    "no path": ({}, {"data_path": None}, Columns(), "data_path is None"),
    "another kind": ({}, {"data_path": "data/{x}.pkl"}, Columns(), "data_path is 'data/{x}.pkl'"),
    "no files": ({}, {"data_path": "elsewhere/{x}.parquet"}, Columns(), "no file is there for elsewhere/{x}.parquet"),
    "missing frames": (
        {},
        {"total_frames": 8},
        Columns(),
        "holds frames: 7, where meta/info.json says total_frames = 8",
    ),
    "missing episodes": ({}, {"total_episodes": 3}, Columns(), "holds episodes: 2, where .* total_episodes = 3"),
    "a frame twice": ({"frame_index": [0, 1, 1, 2, 0, 1, 2]}, {}, Columns(), "episode 0 has frame 1 twice"),
    "NaN episode": (
        {"episode_index": [0, 0, 0, 0, 1, 1, np.nan]},
        {},
        Columns(),
        "episode_index: a value is not finite",
    ),
    "NaN state": ({STATE: GAP}, {}, Columns(), "observation.state, episode 0, frame 0, column 1: nan; finite"),
    "NaN action": ({"action": GAP}, {}, Columns(), "action, episode 0, frame 0, column 1: nan"),
    "infinite reward": (
        {"next.reward": [0, 0, 0, 0, 0, np.inf, 0]},
        {},
        Columns(),
        "next.reward, episode 1, frame 1: inf",
    ),
    "half done": ({"next.done": [0, 0.5, 0, 1, 0, 0, 1]}, {}, Columns(), "next.done, episode 0, frame 1: 0.5; 0 or 1"),
    "half cut": ({"cut": [0, 0.5, 0, 1, 0, 0, 1]}, {}, Columns(timeout="cut"), "cut, episode 0, frame 1: 0.5"),
    "two rewards": ({}, {}, Columns(reward="action"), "action, for reward: 2 numbers a frame; one is needed"),
    "two episodes": ({}, {}, Columns(episode="episode_index,frame_index"), "for episode: 2 numbers a frame"),
    "two flags": ({"next.done": np.zeros((7, 2))}, {}, Columns(), "next.done, for done: 2 numbers a frame"),
    "text": ({"next.reward": ["a"] * 7}, {}, Columns(), "next.reward: type string; numbers"),
    "stats of another size": (
        {},
        {"stats": {"action": {"min": [0], "max": [1]}}},
        Columns(),
        "action: min is not 2 fin",
    ),
    "stats without max": (
        {},
        {"stats": {"action": {"min": [0, 0]}}},
        Columns(),
        "stats.json: action: max is not 2 fin",
    ),
    "stats beyond floats": (
        {},
        {"stats": {"action": {"min": [-(10**400), 0], "max": [1, 1]}}},
        Columns(),
        "stats.json: action: min is not 2 finite numbers",
    ),
    "stats of text": ({}, {"stats": {"action": "none"}}, Columns(), "stats.json: action: min is not 2 finite numbers"),
    "stats as a list": ({}, {"stats": [1]}, Columns(), "stats.json: not a readable description"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_folders_are_refused_in_one_sentence(case: str, tmp_path: Path) -> None:
    content, info, columns, message = BAD[case]
    folder = write(tmp_path / "x", frames(**content), **info)
    with pytest.raises(InputError, match=message) as caught:
        read_lerobot(folder, "x", columns)
    assert str(caught.value).startswith(str(folder))
    assert "\n" not in str(caught.value)


def test_no_frames(tmp_path: Path) -> None:
    empty = {name: array[:0] for name, array in frames().items()}
    with pytest.raises(InputError, match="holds no frames"):
        read_lerobot(write(tmp_path / "x", empty, fixed=True), "x")
    features = {"action": {"dtype": "float32", "shape": [10**30]}}
    with pytest.raises(InputError, match="holds no frames"):
        read_lerobot(write(tmp_path / "y", empty, fixed=True, features=features), "y")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("meta/info.json", "{", "info.json: not a readable JSON file"),
        ("meta/info.json", "[]", "info.json: not a readable description"),
        ("meta/info.json", '{"codebase_version": "v3.0", "features": []}', "features is no description"),
        ("data/chunk-000/file-000.parquet", "garbage", "file-000.parquet: not readable as Parquet"),
        ("data/chunk-000/file-001.parquet", "PAR1", "file-001.parquet: not readable as Parquet"),
    ],
)
def test_damaged_files(file: str, content: str, message: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "x", frames(), parts=2)
    (folder / file).write_text(content)
    with pytest.raises(InputError, match=message):
        read_lerobot(folder, "x")


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="info.json: cannot be read: No such file"):
        read_lerobot(tmp_path / "none", "x")
