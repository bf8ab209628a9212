"""Files of arrays and arrays in Python: what is found, how episodes end, and what each kind of bad input says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from tiltrl.data import from_arrays, load
from tiltrl.data.write import write_npz
from tiltrl.errors import InputError
from tiltrl.types import Transitions

STEPS = 12
OBS = np.arange(STEPS * 2, dtype=np.float32).reshape(STEPS, 2)
ACTION = np.linspace(-1, 1, STEPS, dtype=np.float32)[:, None]
REWARD = np.arange(STEPS, dtype=np.float64)
EPISODE = np.repeat([5, 2, 5], 4)
Arrays = dict[str, Any]


def write_hdf5(path: Path, arrays: Arrays) -> None:
    with h5py.File(path, "w") as file:
        for name, value in arrays.items():
            file[name] = value


def write_parquet(path: Path, arrays: Arrays) -> None:
    columns = {name: list(value) if np.ndim(value) == 2 else value for name, value in arrays.items()}
    parquet.write_table(pa.table(columns), path, row_group_size=5)


def write_arrays(path: Path, arrays: Arrays) -> None:
    with path.open("wb") as file:  # given a path, NumPy would add an ending
        np.savez(file, **arrays)


WRITERS: dict[str, Callable[[Path, Arrays], None]] = {
    "log.npz": write_arrays,
    "log.hdf5": write_hdf5,
    "log.h5": write_hdf5,
    "log.parquet": write_parquet,
    "log": write_arrays,  # told by how it begins
}


@pytest.fixture(params=WRITERS)
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Arrays], str]:
    def written(arrays: Arrays) -> str:
        WRITERS[request.param](tmp_path / request.param, arrays)
        return str(tmp_path / request.param)

    return written


def same(a: Transitions, b: Transitions) -> None:
    for field in ("obs", "action", "reward", "next_obs", "terminal", "timeout"):
        np.testing.assert_array_equal(getattr(a, field), getattr(b, field), err_msg=field)


EXPECTED = from_arrays(OBS, ACTION, REWARD, episode=EPISODE)


@pytest.mark.parametrize(
    ("obs", "action", "reward", "episode"),
    [
        ("observations", "actions", "rewards", "episode_index"),
        ("obs", "action", "reward", "episode"),
        ("state", "control", "reward", "episode_id"),
        ("observation.state", "u", "next.reward", "episode_index"),
    ],
)
def test_usual_names_are_found(
    write: Callable[[Arrays], str], obs: str, action: str, reward: str, episode: str
) -> None:
    path = write({obs: OBS, action: ACTION, reward: REWARD, episode: EPISODE, "other": REWARD})
    data = load(path)
    same(data, EXPECTED)
    assert data.task.dataset == path


def test_columns_are_named_and_joined(write: Callable[[Arrays], str]) -> None:
    path = write({"x": OBS[:, 0], "y": OBS[:, 1], "force": ACTION, "gain": REWARD, "run": EPISODE, "obs": OBS * 7})
    same(load(f"{path}?obs=x,y&action=force&reward=gain&episode=run"), EXPECTED)
    assert load(f"{path}?obs=obs,x&action=x,y").obs.shape == (STEPS - 1, 3)
    assert load(f"{path}?obs=obs,x&action=x,y").action.shape == (STEPS - 1, 2)


def test_slices_and_joins_of_a_file(write: Callable[[Arrays], str]) -> None:
    path = write({"obs": OBS, "action": ACTION, "reward": REWARD, "episode": EPISODE})
    data = load(f"{path}[1:]+{path}[:1]")
    np.testing.assert_array_equal(data.reward, [4, 5, 6, 8, 9, 10, 0, 1, 2])
    assert data.task.dataset == f"{path}[1:]+{path}[:1]"


def test_hdf5_groups(tmp_path: Path) -> None:
    write_hdf5(tmp_path / "a.h5", {"robot/joints": OBS, "robot/torque": ACTION, "task/gain": REWARD[:, None]})
    data = load(f"{tmp_path / 'a.h5'}?obs=robot/joints&action=robot/torque&reward=task/gain")
    same(data, from_arrays(OBS, ACTION, REWARD))


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.list_(pa.float32(), 2), pa.large_list(pa.float64())])
def test_parquet_lists(tmp_path: Path, kind: pa.DataType) -> None:
    table = pa.table({"obs": pa.array(OBS.tolist(), kind), "action": ACTION[:, 0], "reward": REWARD})
    parquet.write_table(table, tmp_path / "a.parquet")
    same(load(str(tmp_path / "a.parquet")), from_arrays(OBS, ACTION, REWARD))


def test_a_file_we_wrote_comes_back_with_its_task(tmp_path: Path) -> None:
    data = from_arrays(np.zeros((9, 11)), np.zeros((9, 3)), np.ones(9), env="Hopper-v5", terminal=np.arange(9) == 8)
    write_npz(data, tmp_path / "a.npz")
    again = load(str(tmp_path / "a.npz"))
    same(again, data)
    assert again.task.env_spec == data.task.env_spec and again.task.ref_max == 3234.3


# --- How episodes are found -------------------------------------------------------------------------------------------


def test_without_any_end_it_is_one_episode() -> None:
    data = from_arrays(OBS, ACTION)
    np.testing.assert_array_equal(data.ends, [STEPS - 2])  # the last row is what the one before it saw
    np.testing.assert_array_equal(data.next_obs, OBS[1:])
    assert data.timeout[-1] and not data.terminal.any() and not data.reward.any()


def test_an_episode_is_a_run_of_equal_numbers() -> None:
    np.testing.assert_array_equal(from_arrays(OBS, ACTION, episode=EPISODE).ends, [2, 5, 8])
    ends = np.arange(STEPS) % 4 == 3
    same(from_arrays(OBS, ACTION, episode=EPISODE), from_arrays(OBS, ACTION, timeout=ends))


def test_terminal_steps_keep_their_row_and_win_over_timeouts() -> None:
    ends = np.arange(STEPS) % 4 == 3
    data = from_arrays(OBS, ACTION, terminal=ends, timeout=ends[:, None].astype(float), episode=EPISODE)
    np.testing.assert_array_equal(data.terminal, ends)
    assert not data.timeout.any() and len(data) == STEPS


def test_next_obs_tells_where_a_log_was_cut() -> None:
    following = OBS + 2
    following[3] = 99.0
    data = from_arrays(OBS, ACTION, next_obs=following)
    np.testing.assert_array_equal(data.ends, [3, STEPS - 1])
    np.testing.assert_array_equal(data.next_obs, following)
    assert len(from_arrays(OBS, ACTION, next_obs=following, episode=np.zeros(STEPS)).ends) == 1
    odd = np.random.default_rng(0).normal(size=(STEPS + 1, 2))  # which float32 rounds
    assert len(from_arrays(odd[:-1].astype(np.float32), ACTION, next_obs=odd[1:]).ends) == 1


def test_gymnasiums_old_done_is_no_terminal_where_it_is_a_timeout(tmp_path: Path) -> None:
    done, timeout = np.arange(STEPS) % 4 == 3, np.arange(STEPS) == 7
    np.savez(tmp_path / "a.npz", obs=OBS, action=ACTION, next_obs=OBS + 2, dones=done, timeouts=timeout)
    data = load(str(tmp_path / "a.npz"))
    np.testing.assert_array_equal(np.flatnonzero(data.terminal), [3, 11])
    np.testing.assert_array_equal(np.flatnonzero(data.timeout), [7])


def test_bounds_are_those_seen_or_the_environments() -> None:
    action = np.stack([np.linspace(-3, 1, STEPS), np.full(STEPS, 2.0)], axis=1)
    task = from_arrays(OBS, action).task
    assert (task.action_low, task.action_high, task.env_spec) == ((-3.0, 1.5), (1.0, 2.5), None)
    task = from_arrays(np.zeros((STEPS, 3)), np.zeros(STEPS), env="Pendulum-v1").task
    assert (task.action_low, task.action_high) == ((-2.0,), (2.0,))
    assert json.loads(task.env_spec or "")["id"] == "Pendulum-v1"


EPISODES = st.lists(
    st.tuples(st.integers(1, 6), st.booleans()), min_size=1, max_size=8
)  # lengths, and whether they terminate


@given(EPISODES, st.booleans(), st.booleans())
@settings(deadline=None, max_examples=50, derandomize=True)
def test_no_step_looks_across_an_end(episodes: list[tuple[int, bool]], with_next: bool, by_number: bool) -> None:
    """Each row tells its episode and place in it; whatever comes back must agree with them."""
    index = np.concatenate([np.full(length, i) for i, (length, _) in enumerate(episodes)])
    place = np.concatenate([np.arange(length) for length, _ in episodes])
    last = np.append(index[1:] != index[:-1], True)
    terminates = np.array([terminal for _, terminal in episodes])[index]
    obs = np.stack([index, place], axis=1).astype(float)
    ends = {"episode": index} if by_number else {"timeout": last & ~terminates}
    kept = np.ones(len(index), bool) if with_next else ~last | terminates
    arguments = {"terminal": last & terminates, **ends} | ({"next_obs": obs + [0, 1]} if with_next else {})
    if not kept.any():
        with pytest.raises(InputError, match="no episode has a second step"):
            from_arrays(obs, place, place + 1, **arguments)
        return
    data = from_arrays(obs, place, place + 1, **arguments)
    np.testing.assert_array_equal(data.obs, obs[kept])
    np.testing.assert_array_equal(data.reward, place[kept] + 1)
    alive = ~data.terminal  # nothing is learned from what follows a terminal step
    np.testing.assert_array_equal(data.next_obs[alive], (data.obs + [0, 1])[alive])
    np.testing.assert_array_equal(data.terminal, (last & terminates)[kept])
    ended = np.append(data.obs[1:, 0] != data.obs[:-1, 0], True)
    np.testing.assert_array_equal(data.terminal | data.timeout, ended)
    assert not (data.terminal & data.timeout).any()


# --- Bad input --------------------------------------------------------------------------------------------------------

GOOD: Arrays = {"obs": OBS, "action": ACTION, "reward": REWARD, "episode": EPISODE}


def but(**changes: Any) -> Arrays:
    """Good arrays with some changed, or dropped where None."""
    return {name: value for name, value in (GOOD | changes).items() if value is not None}


def spoiled(array: np.ndarray, value: float, *index: int) -> np.ndarray:
    array = array.astype(float)
    array[index] = value
    return array


ARRAYS_BAD: list[tuple[Arrays, str, str]] = [
    (
        but(obs=None),
        "",
        "no array is called observations or obs .* it has action, reward, episode; say which is the obs",
    ),
    (but(action=None), "", r"no array is called actions .* as in 'log.npz\?action=NAME', with quotes"),
    (but(), "?obs=speed", "holds no array 'speed' for obs; it has obs, action, reward, episode"),
    (but(), "?obs=obs,speed", "holds no array 'speed' for obs"),
    (but(), "?action=obs,nothing", "holds no array 'nothing' for action"),
    (but(), "?episode=run", "holds no array 'run' for episode"),
    (but(), "?colour=obs", "'colour=obs' names no column"),
    (but(), "?env=Nothing-v0", "environment 'Nothing-v0' is unknown to Gymnasium"),
    (but(), "?env=Hopper-v5", "obs has 2 dimensions where environment Hopper-v5 has 11"),
    (but(), "?env=CartPole-v1", "environment CartPole-v1 has observations .* vectors are needed"),
    (but(action=ACTION[:-1]), "", r"action: shape \(11, 1\); \(12, 1\) is needed"),
    (
        but(reward=REWARD[:-1]),
        "",
        r"reward: shape \(11,\); \(12,\) is needed|obs: shape \(12, 2\); \(11, 2\) is needed",
    ),
    (but(episode=EPISODE[:-1]), "", r"episode: int64 of shape \(11,\); 12 numbers are needed, one a step"),
    (but(terminal=np.zeros(5)), "", r"terminal: float64 of shape \(5,\); 12 numbers are needed"),
    (but(next_obs=OBS[:, :1]), "", r"next_obs: shape \(12, 1\); \(12, 2\) is needed"),
    (but(obs=np.zeros((STEPS, 4, 4))), "", r"obs: shape \(12, 4, 4\); \(steps, n\) is needed.*images"),
    (but(obs=np.zeros((STEPS, 0))), "", r"obs: shape \(12, 0\); \(steps, n\) is needed"),
    (but(obs=np.float32(1)), "", r"obs: shape \(\); \(steps, n\) is needed"),
    (but(obs=np.zeros((0, 2))), "", "obs: holds no steps"),
    (but(obs=OBS.astype(complex)), "", "obs: type complex128; numbers are needed"),
    (but(obs=OBS.astype(str)), "", "obs: type <U.*; numbers are needed"),
    (but(action=ACTION.astype("datetime64[s]")), "", "action: type datetime64.*; numbers are needed"),
    (but(episode=EPISODE.astype(str)), "", "episode: <U.* of shape .*numbers are needed"),
    (but(obs=spoiled(OBS, np.nan, 3, 1)), "", "obs, row 3, column 1: nan; finite float32 numbers"),
    (but(action=spoiled(ACTION, np.inf, 3, 0)), "", "action, row 3, column 0: inf; finite"),
    (but(action=spoiled(ACTION, np.nan, 3, 0)), "", "action, row 3, column 0: nan; finite"),
    (but(reward=spoiled(REWARD, -np.inf, 2)), "", "reward, row 2: -inf; finite"),
    (but(reward=spoiled(REWARD, 1e300, 2)), "", r"reward, row 2: 1e\+300; finite float32"),
    (but(episode=spoiled(EPISODE, np.nan, 2)), "", "episode, row 2: nan; finite"),
    (but(terminal=np.full(STEPS, 0.5)), "", "terminal, row 0: 0.5; 0 or 1 is needed"),
    (but(timeout=np.full(STEPS, 2)), "", "timeout, row 0: 2; 0 or 1 is needed"),
    (but(episode=np.arange(STEPS)), "", "no episode has a second step"),
    (but(obs=np.array([{}] * STEPS)), "", "obs: holds pickled Python objects, which are never loaded"),
    (but(x=OBS[:3]), "?obs=x,obs", r"obs: float32 of shape \(12, 2\) cannot be joined with x of shape \(3, 2\)"),
    (but(x=np.zeros((STEPS, 2, 2))), "?obs=obs,x", r"x: float64 of shape \(12, 2, 2\) cannot be joined"),
    (but(meta=np.array('{"dataset": 1, "action_low": [], "action_high": []}')), "", "meta: field dataset"),
    (but(), "[3:]", "the slice takes no episode: it begins at number 3 and ends before number 3, of 3"),
    (but(), "[:0]", "the slice takes no episode"),
    (but(), "[:0.01]", "the slice takes no episode"),
    (but(), "[2:1]", "the slice takes no episode"),
]


@pytest.mark.parametrize(("arrays", "suffix", "message"), ARRAYS_BAD, ids=[row[2][:50] for row in ARRAYS_BAD])
def test_arrays_that_cannot_be_used(tmp_path: Path, arrays: Arrays, suffix: str, message: str) -> None:
    np.savez(tmp_path / "log.npz", **arrays)
    refused(f"{tmp_path / 'log.npz'}{suffix}", message, "log.npz")


def refused(spec: str, message: str, name: str) -> None:
    """Loading raises InputError: one line that names the file and matches `message`."""
    with pytest.raises(InputError) as raised:
        load(spec)
    text = str(raised.value)
    assert name in text and "\n" not in text
    assert re.search(message, text), text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"obs": None}, "arrays: obs is None"),
        ({"action": None}, "arrays: action is None"),
        ({"obs": [[1, 2], [3]]}, "arrays: obs: not an array"),
        ({"reward": REWARD[:3]}, r"arrays: obs: shape \(12, 2\); \(3, 2\)"),
        ({"env": "Pendulum-v1", "obs": np.zeros((STEPS, 3)), "action": ACTION * 3}, "the action space is"),
        ({"name": "mine", "obs": "text"}, "mine: obs: type <U4; numbers are needed"),
    ],
)
def test_arguments_that_cannot_be_used(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_arrays(**({"obs": OBS, "action": ACTION} | arguments))
