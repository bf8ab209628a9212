"""OGBench's files: where trajectories end, and rewards as its own package derives them."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from server import Answer, Site, serve

from tiltrl.data.ogbench import NAMES, is_ogbench, load_ogbench, read_ogbench
from tiltrl.errors import InputError
from tiltrl.evaluation.rollout import make_env

CUBE, MAZE = "cube-single-play-singletask-v0", "pointmaze-medium-navigate-singletask-v0"


@pytest.fixture
def ogbench() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about displays
        return pytest.importorskip("ogbench")


def arrays(
    lengths: tuple[int, ...] = (4, 3), obs: int = 2, act: int = 2, nq: int = 2, **overrides: Any
) -> dict[str, Any]:
    """Trajectories of so many rows, one more than steps; an override of None drops the array."""
    rows = sum(lengths)
    rng = np.random.default_rng(0)
    made = {
        "observations": np.arange(rows * obs, dtype=np.float32).reshape(rows, obs),
        "actions": rng.uniform(-1, 1, (rows, act)).astype(np.float32),
        "terminals": np.isin(np.arange(rows), np.cumsum(lengths) - 1),
        "qpos": np.zeros((rows, nq), np.float32),
        "qvel": np.zeros((rows, nq), np.float32),
    } | overrides
    return {name: value for name, value in made.items() if value is not None}


def write(path: Path, content: Mapping[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **content)
    return path


def test_the_last_row_of_a_trajectory_is_no_step(tmp_path: Path) -> None:
    content = arrays()
    data = read_ogbench(write(tmp_path / "x.npz", content), "cube-single-play-v0")
    np.testing.assert_array_equal(data.obs, content["observations"][[0, 1, 2, 4, 5]])
    np.testing.assert_array_equal(data.next_obs, content["observations"][[1, 2, 3, 5, 6]])
    np.testing.assert_array_equal(data.action, content["actions"][[0, 1, 2, 4, 5]])
    np.testing.assert_array_equal(data.timeout, [False, False, True, False, True])
    assert not data.terminal.any() and not data.reward.any()
    assert data.task.env_spec is None
    assert (data.task.action_low, data.task.action_high) == ((-1.0, -1.0), (1.0, 1.0))


def test_a_trajectory_that_is_cut_off_keeps_its_steps(tmp_path: Path) -> None:
    content = arrays((4, 3))
    content["terminals"][-1] = False
    data = read_ogbench(write(tmp_path / "x.npz", content), "x")
    np.testing.assert_array_equal(data.timeout, [False, False, True, False, True])


def test_ogbench_itself_reads_the_same(ogbench: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "x.npz", arrays((5, 2, 9)))
    theirs, ours = ogbench.load_dataset(str(path)), read_ogbench(path, "x")
    for field, name in (("obs", "observations"), ("action", "actions"), ("next_obs", "next_observations")):
        np.testing.assert_array_equal(getattr(ours, field), theirs[name])
    np.testing.assert_array_equal(ours.timeout, theirs["terminals"])


def test_maze_rewards_are_success_less_one_and_success_is_terminal(ogbench: Any, tmp_path: Path) -> None:
    import gymnasium

    env: Any = gymnasium.make("pointmaze-medium-singletask-task3-v0").unwrapped
    env.reset(seed=0)
    goal = np.asarray(env.cur_goal_xy)
    content = arrays((5, 3))
    content["qpos"][:] = goal + 100
    content["qpos"][[1, 2]] = goal + 0.01  # the state a step starts from counts; the trajectory goes on
    content["qpos"][7] = goal  # the row after the last step
    path = write(tmp_path / "x.npz", content)
    data = read_ogbench(path, "pointmaze-medium-navigate-singletask-task3-v0")
    np.testing.assert_array_equal(data.reward, [-1, 0, 0, -1, -1, -1])
    np.testing.assert_array_equal(data.terminal, [False, True, True, False, False, False])
    np.testing.assert_array_equal(data.timeout, [False, False, False, True, False, True])
    other = read_ogbench(path, "pointmaze-medium-navigate-singletask-task1-v0")
    assert (other.reward == -1).all()  # another goal
    spec = json.loads(str(data.task.env_spec))
    assert (spec["id"], spec["max_episode_steps"]) == ("pointmaze-medium-singletask-task3-v0", 1000)
    made = make_env(data.task)
    assert made.unwrapped._reward_task_id == 3  # pyright: ignore[reportAttributeAccessIssue]
    made.close()


@pytest.mark.parametrize(("count", "cubes", "obs"), [("single", 1, 28), ("double", 2, 37)])
def test_cube_rewards_are_cubes_in_place_less_all(
    count: str, cubes: int, obs: int, ogbench: Any, tmp_path: Path
) -> None:
    import gymnasium

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        env: Any = gymnasium.make(f"cube-{count}-singletask-v0").unwrapped
        env.reset(seed=0)
    targets = env._data.mocap_pos.copy()
    content = arrays((5,), obs, 5, nq=14 + 7 * cubes)
    for index, target in enumerate(targets[:cubes]):
        content["qpos"][index + 1 :, 14 + 7 * index : 17 + 7 * index] = target + 0.01
    name = f"cube-{count}-play-singletask-v0"
    path = write(tmp_path / "x.npz", content)
    data = read_ogbench(path, name)
    np.testing.assert_array_equal(data.reward, np.minimum(np.arange(4), cubes) - cubes)
    np.testing.assert_array_equal(data.terminal, data.reward == 0)
    assert read_ogbench(path, name).fingerprint() == data.fingerprint()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the environment's, about its own bounds
        make_env(data.task).close()


def test_rewards_of_puzzles_are_buttons_in_place_less_all(ogbench: Any, tmp_path: Path) -> None:
    buttons = np.zeros((4, 9), np.int64)
    content = arrays((4,), 55, 5, nq=14 + 9, button_states=buttons)
    data = read_ogbench(write(tmp_path / "x.npz", content), "puzzle-3x3-play-singletask-v0")
    assert ((-9 <= data.reward) & (data.reward <= 0)).all() and len(set(data.reward.tolist())) == 1
    del content["button_states"]
    with pytest.raises(InputError, match="no rewards can be derived from this file: 'button_states'"):
        read_ogbench(write(tmp_path / "x.npz", content), "puzzle-3x3-play-singletask-v0")


def test_a_file_named_singletask_has_rewards(ogbench: Any, tmp_path: Path) -> None:
    path = write(tmp_path / f"{MAZE}.npz", arrays())
    assert (read_ogbench(path, str(path)).reward == -1).all()
    path = write(tmp_path / "we ird-play-singletask-v0.npz", arrays())  # which can be the name of no environment
    assert (read_ogbench(path, str(path)).reward == 0).all()


def test_rewards_need_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gymnasium

    monkeypatch.setattr(gymnasium, "registry", {})
    monkeypatch.setitem(sys.modules, "ogbench", None)
    path = write(tmp_path / "x.npz", arrays())
    with pytest.raises(InputError, match=r"pip install 'tiltrl\[ogbench\]'"):
        read_ogbench(path, MAZE)
    assert len(read_ogbench(path, "pointmaze-medium-navigate-v0")) == 5


def test_is_ogbench(tmp_path: Path) -> None:
    assert is_ogbench(write(tmp_path / "x.npz", arrays()))
    others: list[dict[str, Any]] = [{"rewards": np.zeros(7)}, {"next_observations": np.zeros((7, 2))}]
    for more in [*others, *({name: None} for name in ("qpos", "actions"))]:
        assert not is_ogbench(write(tmp_path / "x.npz", arrays(**more)))
    (tmp_path / "x.txt").write_text("text")
    assert not is_ogbench(tmp_path / "x.txt")


NAN = np.full((7, 2), np.nan, np.float32)
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no observations": ({"observations": None}, "holds no array observations; observations, actions, terminals, qpos"),
    "no actions": ({"actions": None}, "holds no array actions"),
    "no terminals": ({"terminals": None}, "holds no array terminals"),
    "no qpos": ({"qpos": None}, "holds no array qpos"),
    "no qvel": ({"qvel": None}, "holds no array qvel"),
    "images": ({"observations": np.zeros((7, 4, 4, 3), np.uint8)}, r"observations: uint8 of shape \(7, 4, 4, 3\)"),
    "text": ({"actions": np.full((7, 2), "a")}, "actions: <U1 of shape"),
    "flat actions": ({"actions": np.zeros(7)}, r"actions: float64 of shape \(7,\); numbers of \(rows, size\)"),
    "no columns": ({"actions": np.zeros((7, 0))}, r"actions: float64 of shape \(7, 0\)"),
    "wide terminals": ({"terminals": np.zeros((7, 1))}, r"terminals: float64 of shape \(7, 1\); numbers of \(rows,\)"),
    "short actions": ({"actions": np.zeros((6, 2))}, "actions: 6 rows; terminals has 7"),
    "short qpos": ({"qpos": np.zeros((6, 2))}, "qpos: 6 rows; terminals has 7"),
    "half a terminal": ({"terminals": np.full(7, 0.5)}, "terminals, row 0: 0.5; 0 or 1 is needed"),
    "NaN terminal": ({"terminals": np.full(7, np.nan)}, "terminals, row 0: nan"),
    "all terminal": ({"terminals": np.ones(7)}, "holds no steps"),
    "no rows": (arrays(()), "holds no steps"),
    "NaN observation": ({"observations": NAN}, "observations, row 0, column 0: nan"),
    "NaN at the end": ({"observations": np.array([[0, 0]] * 6 + [[0, np.nan]])}, "observations, row 6, column 1: nan"),
    "NaN action": ({"actions": NAN}, "actions, row 0, column 0: nan"),
    "too large action": ({"actions": np.full((7, 2), 1.5)}, "actions, row 0, column 0: 1.5; the action space is"),
    "objects": ({"actions": np.array([[{}, {}]] * 7, object)}, "pickled Python objects, which are never loaded"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_in_one_sentence(case: str, ogbench: Any, tmp_path: Path) -> None:
    content, message = BAD[case]
    path = write(tmp_path / "x.npz", arrays(**content))
    with pytest.raises(InputError, match=message) as caught:
        read_ogbench(path, MAZE)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ({}, CUBE, "has 28 observations and 5 actions where the data has 2 and 2"),
        ({"nq": 3}, MAZE, "qpos has 3 columns; 2 are needed"),
        ({}, "teapot-play-singletask-v0", "environment teapot-singletask-v0: is unknown to Gymnasium"),
    ],
)
def test_files_that_do_not_fit_the_name(
    content: dict[str, Any], name: str, message: str, ogbench: Any, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        read_ogbench(write(tmp_path / "x.npz", arrays(**content)), name)


@pytest.mark.parametrize("content", [None, b"", b"garbage", b"PK\x03\x04garbage"])
def test_files_that_are_no_npz(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.npz: (cannot be read: No such file|not readable as .npz)"):
        read_ogbench(path, "x")


# --- By name ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    body = write(tmp_path / "x.npz", arrays()).read_bytes()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("OGBENCH_DATA_DIR", str(tmp_path / "cache"))
    answers = {"/pointmaze-medium-navigate-v0.npz": Answer(body), "/scene-play-v0.npz": Answer(b"garbage")}
    with serve(answers) as site:
        monkeypatch.setenv("TILTRL_OGBENCH_URL", site.url)
        yield site


def test_names_with_and_without_rewards_share_a_download(site: Site, ogbench: Any, tmp_path: Path) -> None:
    plain, single = load_ogbench("pointmaze-medium-navigate-v0"), load_ogbench(MAZE)
    assert site.asked == ["/pointmaze-medium-navigate-v0.npz"]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["pointmaze-medium-navigate-v0.npz"]
    assert (single.task.dataset, plain.task.dataset) == (MAZE, "pointmaze-medium-navigate-v0")
    np.testing.assert_array_equal(plain.obs, single.obs)
    assert (single.reward == -1).all() and (plain.reward == 0).all()


def test_the_cache_is_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OGBENCH_DATA_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / ".ogbench" / "data" / "cube-single-play-v0.npz", arrays())
    assert len(load_ogbench("cube-single-play-v0")) == 5


def test_another_file_than_ogbenchs_does_not_stay_in_the_cache(site: Site, tmp_path: Path) -> None:
    site.answers["/cube-single-play-v0.npz"] = Answer(write(tmp_path / "y.npz", {"x": np.zeros(3)}).read_bytes())
    with pytest.raises(InputError, match="what came is an .npz file without observations, actions, terminals"):
        load_ogbench("cube-single-play-v0")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("name", "message"), [("scene-play-v0", "no whole .npz file"), ("scene-noisy-v0", "404.* save it as .*scene-noisy")]
)
def test_what_cannot_be_downloaded_leaves_nothing_behind(name: str, message: str, site: Site, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        load_ogbench(name)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("cube-singel-play-v0", "cube-single-play-v0"),
        ("cube-single-v0", "cube-single-play-v0"),
        ("visual-cube-single-play-v0", "cube-single-play-v0"),
        ("cube-single-play-singletask-task6-v0", "cube-single-play-v0"),
        ("pointmaze-medium-navigate-singletask", "pointmaze-medium-navigate-v0"),
        ("../../etc/passwd", "cube-single-play-v0"),
        ("", "cube-single-play-v0"),
    ],
)
def test_unknown_names_list_close_ones(name: str, near: str) -> None:
    with pytest.raises(InputError, match=f"no OGBench data set that is known here.*{near}"):
        load_ogbench(name)


def test_every_name_has_an_environment(ogbench: Any) -> None:
    import gymnasium

    for name in NAMES:
        place = "-".join(name.split("-")[:-2])
        assert f"{place}-singletask-task5-v0" in gymnasium.registry, name
