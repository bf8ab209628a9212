"""Joining, splitting, rewards, returns and statistics, against values worked out by hand or by a plain loop."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import transitions

from tiltrl.data import from_arrays
from tiltrl.data.transforms import (
    discounted_returns,
    join,
    observation_statistics,
    rewards_for,
    scale_rewards,
    split_episodes,
    take_episodes,
)
from tiltrl.errors import InputError


def test_join_appends_the_second() -> None:
    joined = join(transitions([3, 2]), transitions([4], dataset="other"))
    np.testing.assert_array_equal(joined.obs[:, 0], [0, 1, 2, 3, 4, 0, 1, 2, 3])
    np.testing.assert_array_equal(joined.ends, [2, 4, 8])
    assert joined.task.dataset == "set+other"


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"env_spec": json.dumps({"id": "Ant-v5"})}, "the environment is Hopper-v5 in the first and Ant-v5"),
        ({"env_spec": None}, "the environment is Hopper-v5 in the first and None"),
        ({"obs_dim": 7}, "the observation size is 1 in the first and 7"),
        ({"action_low": (-2.0,)}, "the lower action bound"),
        ({"action_high": (2.0,)}, "the upper action bound"),
        ({"ref_min": 0.0, "ref_max": 1.0}, "the reference"),
    ],
)
def test_join_refuses_different_tasks(task: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        join(transitions([2]), transitions([2], **task))


def test_join_accepts_specs_that_differ_beside_the_id() -> None:
    spec = json.dumps({"id": "Hopper-v5", "reward_threshold": 1.0})
    assert len(join(transitions([2]), transitions([2], env_spec=spec))) == 4


def test_join_of_logs_without_environment_takes_the_wider_bounds() -> None:
    a = transitions([2], env_spec=None, action_low=(-1.0,), action_high=(2.0,))
    b = transitions([3], env_spec=None, action_low=(-3.0,), action_high=(1.0,))
    task = join(a, b).task
    assert (task.action_low, task.action_high) == ((-3.0,), (2.0,))
    with pytest.raises(InputError, match="the lower action bound"):
        join(a, transitions([3], env_spec=None, action_low=(-3.0, 0.0), action_high=(1.0, 1.0)))


@given(st.lists(st.integers(1, 5), min_size=2, max_size=20), st.floats(0, 1), st.data())
@settings(deadline=None, max_examples=50, derandomize=True)
def test_slices_partition_the_episodes_and_joins_restore_them(lengths: list[int], share: float, draw: Any) -> None:
    data = transitions(lengths)
    for cut in (share, draw.draw(st.integers(0, len(lengths)))):
        first = round(cut * len(lengths)) if isinstance(cut, float) else cut
        if not 0 < first < len(lengths):  # nothing on one side
            with pytest.raises(InputError, match="the slice takes no episode"):
                join(take_episodes(data, None, cut), take_episodes(data, cut, None))
            continue
        a, b = take_episodes(data, None, cut), take_episodes(data, cut, None)
        assert (len(a.ends), len(b.ends)) == (first, len(lengths) - first)
        assert join(a, b).fingerprint() == data.fingerprint()
        assert len(take_episodes(data, 0, len(lengths) + 7)) == len(data)


def test_locomotion_divides_by_the_range_of_returns() -> None:
    data = transitions([2, 1, 2], reward=[1, 2, 1, 2, 3])  # returns 3, 1, 5
    np.testing.assert_allclose(scale_rewards(data, "locomotion"), np.array([1, 2, 1, 2, 3]) * 250, rtol=1e-6)


def test_the_range_of_returns_is_that_of_episodes_that_timed_out_too() -> None:
    timeout = np.array([0, 0, 1, 0, 0, 1])  # each with a last row that is no step, as there is no next_obs
    data = from_arrays(np.arange(6), np.zeros(6), [1, 2, 9, 4, 5, 9], timeout=timeout)
    np.testing.assert_array_equal(data.returns, [3, 9])
    np.testing.assert_allclose(scale_rewards(data, "locomotion"), np.array([1, 2, 4, 5]) * 1000 / 6, rtol=1e-6)


def test_other_reward_transforms() -> None:
    data = transitions([3], reward=[0, 0, 1])
    np.testing.assert_array_equal(scale_rewards(data, "antmaze"), [-1, -1, 0])
    np.testing.assert_array_equal(scale_rewards(data, "none"), [0, 0, 1])
    np.testing.assert_array_equal(scale_rewards(data, "kitchen"), [0, 0, 1])
    assert scale_rewards(data, "antmaze").dtype == np.float32


def test_normalize_gives_rewards_the_scale_of_one_and_does_not_center_them() -> None:
    data = transitions([2, 2], reward=[100.0, 300.0, 100.0, 300.0])
    np.testing.assert_allclose(scale_rewards(data, "normalize"), [1, 3, 1, 3])


def test_the_usual_rewards_are_the_environments_unless_others_are_asked_for() -> None:
    hopper, log = transitions([2]).task, transitions([2], env_spec=None).task
    assert (rewards_for(hopper), rewards_for(log)) == ("locomotion", "none")
    assert rewards_for(hopper, "normalize") == "normalize"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("locomotion", "all 2 episodes return 2; use the reward transform 'none'"),
        ("normalize", "all 4 are 1; use the reward transform 'none'"),
        ("maze", "choose one of auto, locomotion, antmaze, kitchen, normalize, none"),
    ],
)
def test_unusable_reward_transforms(name: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        scale_rewards(transitions([2, 2]), name)


@pytest.mark.parametrize(("fraction", "held_out_count"), [(0.7, 7), (0.2, 5), (0.001, 5), (0.999, 9)])
def test_split_is_by_whole_episodes(fraction: float, held_out_count: int) -> None:
    data = transitions(list(range(1, 11)))
    whole, rows, held_out = split_episodes(data, fraction, seed=0)
    train = whole.take(rows)
    assert len(held_out.ends) == held_out_count
    assert len(train.ends) == 10 - held_out_count
    np.testing.assert_array_equal(np.sort(np.concatenate([train.obs, held_out.obs])[:, 0]), data.obs[:, 0])
    for part in (train, held_out):
        np.testing.assert_array_equal(part.obs[part.ends, 0] - part.obs[part.starts, 0], part.ends - part.starts)


def test_split_depends_on_the_seed_alone() -> None:
    data = transitions([2] * 50)
    fingerprints = [split_episodes(data, 0.1, seed)[2].fingerprint() for seed in (0, 0, 1)]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_a_single_episode_is_cut_and_the_cut_times_out() -> None:
    whole, rows, held_out = split_episodes(transitions([10]), 0.2, seed=0)
    train = whole.take(rows)
    np.testing.assert_array_equal(held_out.obs[:, 0], [8, 9])
    np.testing.assert_array_equal(train.timeout, np.arange(8) == 7)
    assert not train.terminal.any()
    np.testing.assert_array_equal(held_out.terminal, [False, True])


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_split_refuses_fractions_out_of_range(fraction: float) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        split_episodes(transitions([2, 2]), fraction, seed=0)


def test_split_refuses_one_step() -> None:
    with pytest.raises(InputError, match="one step cannot be split"):
        split_episodes(transitions([1]), 0.5, seed=0)


@pytest.mark.parametrize("discount", [0.0, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("lengths", [[1], [1, 1, 1], [7], [5, 1, 64, 2, 33]])
def test_discounted_returns_match_a_plain_loop(lengths: list[int], discount: float) -> None:
    rng = np.random.default_rng(0)
    data = transitions(lengths, reward=rng.normal(size=sum(lengths)))
    odd = np.arange(len(data.ends)) % 2 == 1  # every second episode times out instead
    timeout = np.isin(np.arange(len(data)), data.ends[odd])
    expected, following = np.zeros(len(data)), 0.0
    for step in reversed(range(len(data))):
        following = float(data.reward[step]) + discount * following * (not data.terminal[step])
        expected[step] = following
    actual = discounted_returns(data.reward, data.terminal & ~timeout, timeout, discount)
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)


def test_discounted_returns_of_data_that_stops_mid_episode() -> None:
    never = np.zeros(3, bool)
    np.testing.assert_allclose(discounted_returns(np.ones(3, np.float32), never, never, 0.5), [1.75, 1.5, 1.0])


def test_observation_statistics() -> None:
    obs = np.array([[1.0, 0.1, 1e-6, 0.0], [3.0, 0.1, 3e-6, 0.0]], np.float32)
    mean, std = observation_statistics(obs)
    np.testing.assert_allclose(mean, [2.0, 0.1, 2e-6, 0.0], rtol=1e-6)
    np.testing.assert_allclose(std, [1.0, 1.0, 1e-6, 1.0], rtol=1e-6)  # constant, even if not 0: deviation 1
    assert (mean.dtype, std.dtype) == (np.float32, np.float32)
