"""What all readers end with: the checks they share, and what follows a step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiltrl.data.assemble import apart, assemble
from tiltrl.errors import InputError
from tiltrl.types import Task

TASK = Task("set", None, (-1.0,), (1.0,), obs_dim=2)
STEPS = 4
GOOD: dict[str, Any] = {
    "where": "file",
    "task": TASK,
    "obs": np.arange(8.0).reshape(4, 2),
    "action": np.zeros((4, 1)),
    "reward": np.arange(4),
    "terminal": np.zeros(4),
    "timeout": np.array([[0], [1], [0], [0]]),
}


def test_types_and_shapes_of_what_comes_out() -> None:
    data = assemble(**GOOD | {"next_obs": GOOD["obs"]})
    assert {a.dtype for a in (data.obs, data.action, data.reward, data.next_obs)} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(data.timeout, [False, True, False, True])  # the last step ends in any case
    assert data.terminal.dtype == bool and data.task is TASK


def test_terminal_wins_over_timeout() -> None:
    data = assemble(**GOOD | {"terminal": np.array([0, 1, 0, 1]), "timeout": np.ones(4), "next_obs": GOOD["obs"]})
    np.testing.assert_array_equal(data.terminal, [False, True, False, True])
    np.testing.assert_array_equal(data.timeout, [True, False, True, False])


def test_actions_beyond_a_bound_by_rounding_are_clipped() -> None:
    data = assemble(**GOOD | {"action": np.full((4, 1), 1 + 5e-6), "next_obs": GOOD["obs"]})
    assert data.action.max() == 1.0


@given(st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=8))
@settings(deadline=None, max_examples=50, derandomize=True)
def test_without_next_obs_a_timed_out_row_is_only_what_was_seen_last(episodes: list[tuple[int, bool]]) -> None:
    """Against a plain loop over the episodes."""
    rows: list[tuple[int, int, bool, bool]] = []  # row, the row seen next, terminal, timeout
    terminal, timeout, start = [], [], 0
    for length, terminates in episodes:
        steps = range(start, start + length - (not terminates))
        for row in steps:
            last = row == steps[-1]
            rows.append((row, row if last and terminates else row + 1, last and terminates, last and not terminates))
        ends = [False] * (length - 1)
        terminal, timeout = terminal + [*ends, terminates], timeout + [*ends, not terminates]
        start += length
    obs = np.arange(start, dtype=float)[:, None] * [1, 2]
    arguments = GOOD | {"obs": obs, "action": np.zeros((start, 1)), "reward": 1 + np.arange(start)}
    arguments |= {"terminal": terminal, "timeout": timeout}
    if not rows:
        with pytest.raises(InputError, match="no episode has a second step"):
            assemble(**arguments)
        return
    data = assemble(**arguments)
    np.testing.assert_array_equal(data.reward, [1 + row for row, *_ in rows])
    np.testing.assert_array_equal(data.next_obs, obs[[following for _, following, *_ in rows]])
    np.testing.assert_array_equal(data.terminal, [ends for *_, ends, _ in rows])
    np.testing.assert_array_equal(data.timeout, [ends for *_, ends in rows])


def test_rows_that_are_dropped_may_not_be_all_that_have_a_reward() -> None:
    ends = {"timeout": np.array([0, 1, 0, 1]), "reward": np.array([0, 5, 0, 5])}
    with pytest.raises(InputError, match="file: score: only the last rows of timed-out episodes have any, .* terminal"):
        assemble(**GOOD | ends, names={"reward": "score"})
    assert assemble(**GOOD | ends | {"terminal": [0, 1, 0, 0]}).reward.sum() == 5
    assert assemble(**GOOD | ends, next_obs=GOOD["obs"]).reward.sum() == 10
    assert assemble(**GOOD | ends | {"reward": np.zeros(4)}).reward.sum() == 0


def test_apart_is_more_than_rounding() -> None:
    obs = np.random.default_rng(0).normal(size=(9, 3))
    assert apart(obs[:-1].astype(np.float32), obs[1:]).tolist() == [False] * 7 + [True]
    moved = obs[1:].copy()
    moved[2, 1] += 1e-3
    assert apart(obs[:-1].astype(np.float32), moved).tolist() == [False, False, True, *[False] * 4, True]
    for kind in (bool, np.uint8):
        few = np.array([[0], [1], [0]], kind)
        assert apart(few, np.array([[1], [1], [1]], kind)).tolist() == [False, True, True]
    assert apart(np.full((2, 1), np.inf), np.full((2, 1), np.inf)).tolist() == [False, True]


BAD = [
    ({"reward": []}, r"file: obs: shape \(4, 2\); \(0, 2\) is needed"),
    ({"reward": 1.0}, r"obs: shape \(4, 2\); \(1, 2\) is needed"),
    ({"obs": np.zeros((4, 3))}, r"file: obs: shape \(4, 3\); \(4, 2\) is needed"),
    ({"action": np.zeros(4)}, r"file: action: shape \(4,\); \(4, 1\) is needed"),
    ({"terminal": np.zeros((4, 2))}, r"file: terminal: shape \(4, 2\); \(4,\) is needed"),
    ({"obs": np.zeros((4, 2), complex)}, "file: obs: type complex128; numbers are needed"),
    ({"reward": np.array(["a"] * 4)}, "file: reward: type <U1; numbers are needed"),
    ({"reward": [0, np.nan, 0, 0]}, "file: reward, row 1: nan; finite float32"),
    ({"obs": np.full((4, 2), 1e39)}, r"file: obs, row 0, column 0: 1e\+39; finite float32"),
    ({"action": [[0], [0], [1.1], [0]]}, r"file: action, row 2, column 0: 1.1; the action space is \(-1.0,\) to"),
    ({"timeout": [0, 0, 3, 0]}, "file: timeout, row 2: 3; 0 or 1 is needed"),
    ({"next_obs": np.full((4, 2), np.inf)}, "file: next_obs, row 0, column 0: inf"),
    ({"timeout": np.ones(4)}, "file: no episode has a second step"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[row[1][:40] for row in BAD])
def test_what_cannot_be_used_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        assemble(**GOOD | changes)


def test_fields_and_rows_are_called_as_the_file_calls_them() -> None:
    with pytest.raises(InputError, match="^file: in part 1 of gains: nan; finite"):
        assemble(
            **GOOD | {"reward": [0, np.nan, 0, 0]},
            names={"reward": "gains"},
            locate=lambda field, row: f"in part {row} of {field}",
        )
