"""What a data set is said to hold; each warning where it is due, with its numbers, and nowhere else."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from synthetic import transitions

from tiltrl.data import from_arrays, load
from tiltrl.data.describe import Spread, describe, warnings
from tiltrl.errors import InputError
from tiltrl.types import Transitions, as_json


def walks(lengths: tuple[int, ...] = (60, 50, 70), dims: int = 4, **task: Any) -> Transitions:
    """Smooth motion of unit size, episodes that start anew, an action between the bounds: nothing to warn of."""
    rng = np.random.default_rng(1)
    obs, next_obs = [], []
    for length in lengths:
        phase, rate = rng.uniform(0, 6, dims), rng.uniform(0.05, 0.2, dims)
        path = np.sin(phase + rate * np.arange(length + 1)[:, None]).astype(np.float32)
        obs.append(path[:-1])
        next_obs.append(path[1:])
    data = transitions(list(lengths), rng.normal(size=sum(lengths)), obs_dim=dims, **task)
    action = rng.uniform(-0.9, 0.9, (len(data), 1)).astype(np.float32)
    return replace(data, obs=np.concatenate(obs), next_obs=np.concatenate(next_obs), action=action)


def test_summary_counts_and_sums() -> None:
    data = transitions([3, 2, 1], reward=[1, 2, 3, 0, 0, 10], ref_min=0.0, ref_max=20.0)
    data = replace(data, terminal=np.arange(6) == 2, timeout=np.isin(np.arange(6), [4, 5]))
    found = describe(data)
    assert (found.episodes, found.steps) == (3, 6)
    assert (found.terminal_ends, found.timeout_ends, found.cut_ends) == (1, 0, 2)  # Hopper's limit is 1000 steps
    assert found.lengths == Spread(1, 2, 2, 3)
    assert found.returns == Spread(0, 16 / 3, 6, 10)
    assert found.scores == Spread(0, pytest.approx(80 / 3), 30, 50)
    assert (found.environment, found.reward_transform) == ("Hopper-v5", "locomotion")
    assert found.rewarded == pytest.approx(4 / 6)
    assert (found.obs_dim, found.act_dim) == (1, 1)
    assert found.fingerprint == data.fingerprint()
    assert json.loads(json.dumps(as_json(found)))["returns"]["max"] == 10


def test_summary_without_references_or_environment() -> None:
    found = describe(transitions([2], env_spec=None))
    assert (found.scores, found.environment, found.reward_transform) == (None, None, "none")


def test_an_end_at_the_time_limit_is_a_time_out_and_an_earlier_one_a_cut() -> None:
    spec = json.dumps({"id": "Hopper-v5", "max_episode_steps": 3})
    found = describe(transitions([3, 1, 3], terminal=False, env_spec=spec))
    assert (found.terminal_ends, found.timeout_ends, found.cut_ends) == (0, 2, 1)
    unknown = describe(transitions([3, 2, 3], terminal=False, env_spec=None))
    assert (unknown.horizon, unknown.timeout_ends, unknown.cut_ends) == (None, 3, 0)


def test_a_timed_out_episode_without_its_last_row_is_no_cut() -> None:
    steps, ends = 2000, np.isin(np.arange(2000), [999, 1999])
    data = from_arrays(np.arange(steps) % 7, np.linspace(-1, 1, steps), np.ones(steps), timeout=ends)
    spec = json.dumps({"id": "Hopper-v5", "max_episode_steps": 1000})
    found = describe(replace(data, task=replace(data.task, env_spec=spec)))
    assert (found.horizon, found.lengths.max) == (1000, 999)
    assert (found.timeout_ends, found.cut_ends) == (2, 0)


@pytest.mark.parametrize("of", [describe, warnings])
def test_half_an_episode_is_refused(of: Callable[[Transitions], object]) -> None:
    data = transitions([4])
    with pytest.raises(InputError, match="step 3, the last, ends no episode"):
        of(replace(data, terminal=np.zeros(4, bool)))
    with pytest.raises(InputError, match="holds no steps"):
        of(data.take(np.arange(0)))


def test_sound_data_gives_no_warning() -> None:
    assert warnings(walks()) == []


def test_the_demo_is_only_saturated() -> None:
    (found,) = warnings(load("demo"))
    assert found.startswith("actions are saturated in 2 of 3 dimensions")


def with_nan(data: Transitions) -> Transitions:
    reward = data.reward.copy()
    reward[[61, 70]] = np.nan
    return replace(data, reward=reward)


def saturated(data: Transitions) -> Transitions:
    action = data.action.copy()
    action[:45] = 0.9999
    return replace(data, action=action)


def of_obs(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Transitions], Transitions]:
    return lambda data: replace(data, obs=change(data.obs), next_obs=change(data.next_obs))


def frozen(obs: np.ndarray) -> np.ndarray:
    return np.concatenate([obs[:, :3], np.full_like(obs[:, :1], 0.1)], axis=1)


def doubled(obs: np.ndarray) -> np.ndarray:
    return np.concatenate([obs[:, :3], obs[:, 1:2]], axis=1)


def in_millimeters(obs: np.ndarray) -> np.ndarray:
    return obs * np.array([1, 1, 1000, 1], np.float32)


def rewarded_once(data: Transitions) -> Transitions:
    return replace(data, reward=(np.arange(len(data)) == 59).astype(np.float32))


def merged(data: Transitions) -> Transitions:
    """The first two episodes as one whose next_obs is what was seen next: time-out rows that were dropped."""
    terminal, next_obs = data.terminal.copy(), data.next_obs.copy()
    terminal[59] = False
    next_obs[59] = data.obs[60] + 10
    obs = data.obs.copy()
    obs[60:110] += 10
    next_obs[60:110] += 10
    return replace(data, terminal=terminal, obs=obs, next_obs=next_obs)


def unmarked(data: Transitions) -> Transitions:
    """The first two episodes as one, with the next_obs that were recorded."""
    terminal = data.terminal.copy()
    terminal[59] = False
    return replace(data, terminal=terminal)


def all_equally_long(data: Transitions) -> Transitions:
    return walks((60, 60, 60), env_spec=None)


def at_the_horizon(data: Transitions) -> Transitions:
    return walks((60, 60, 20), env_spec=json.dumps({"id": "Robot-v0", "max_episode_steps": 60}))


WARNINGS = [
    (with_nan, r"rewards: 2 of 180 steps hold NaN or infinite.*first at step 61 \(episode 1, row 1\)"),
    (saturated, r"actions are saturated in 1 of 1 dimensions.*: 0 \(25%\)"),
    (of_obs(frozen), r"observations never change in 1 of 4 dimensions.*: 3 \(always 0.1\)"),
    (of_obs(doubled), r"observations repeat another dimension in every step in 1 of 4: 3 \(equals 1\)"),
    (of_obs(in_millimeters), r"observations are unscaled in 1 of 4 dimensions.*100 times off 1.*: 2 \(\d+\)"),
    (of_obs(lambda obs: obs * np.float32(1e-3)), "observations are unscaled in 4 of 4 dimensions"),
    (lambda data: replace(data, action=0 * data.action), r"actions never change in 1 of 1 .*: 0 \(always 0\)"),
    (lambda data: replace(data, reward=0 * data.reward), "rewards: all 180 are 0; .* a critic has nothing to learn"),
    (lambda data: replace(data, reward=0 * data.reward - 1), "rewards: all 180 are -1; they rank no action"),
    (rewarded_once, "rewards are sparse: 1 of 180 steps have another reward than 0, in 1 of 3 episodes"),
    (lambda data: replace(data, reward=rewarded_once(data).reward - 1), "sparse: 1 of 180 steps .* than -1"),
    (all_equally_long, "all 3 episodes end terminally after exactly 60 steps: these look like time-outs"),
    (at_the_horizon, "2 of 3 episodes end terminally at exactly step 60, the environment's horizon"),
    (unmarked, r"run into each other: 1 of 178 steps .* did not see, the first at step 59 \(episode 0, row 59\)"),
    (merged, r"run into each other: 1 of 178 steps .* jump over 3 times as far.*step 59 \(episode 0, row 59\)"),
]


@pytest.mark.parametrize(("change", "sentence"), WARNINGS, ids=[row[1][:40] for row in WARNINGS])
def test_each_warning_where_it_is_due(change: Callable[[Transitions], Transitions], sentence: str) -> None:
    (found,) = warnings(change(walks()))
    assert re.search(sentence, found), found


@pytest.mark.parametrize(
    "data",
    [
        walks((60, 60, 60), terminal=False, env_spec=None),
        walks((59, 60), env_spec=json.dumps({"id": "Robot-v0", "max_episode_steps": 60})),
    ],
    ids=["time-outs", "one terminal at the horizon by chance"],
)
def test_ends_at_one_length_that_are_sound(data: Transitions) -> None:
    assert warnings(data) == []


def test_a_single_episode_is_remarked_on_and_on_nothing_else() -> None:
    (found,) = warnings(walks((60,), env_spec=None))
    assert found.startswith("all 60 steps are one episode") and "?episode=NAME" in found


def test_numbers_do_not_depend_on_how_the_passes_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    data = merged(saturated(walks()))
    whole = warnings(data)
    sevens = lambda rows: (slice(i, min(i + 7, rows)) for i in range(0, rows, 7))  # noqa: E731
    monkeypatch.setattr("tiltrl.data.describe.parts", sevens)
    assert warnings(data) == whole
    assert len(whole) == 2


def test_long_lists_are_cut() -> None:
    data = walks(dims=40)
    (found,) = warnings(replace(data, obs=data.obs * np.float32(1e-3), next_obs=data.next_obs * np.float32(1e-3)))
    assert found.endswith("and 32 more")


def test_hopper_is_warned_of_where_episodes_of_the_demo_are_merged() -> None:
    demo = load("demo")
    ends = demo.ends[:-1:2]
    terminal, timeout, next_obs = demo.terminal.copy(), demo.timeout.copy(), demo.next_obs.copy()
    terminal[ends] = timeout[ends] = False
    next_obs[ends] = demo.obs[ends + 1]  # what a reader makes of it that has no next_obs
    found = warnings(replace(demo, terminal=terminal, timeout=timeout, next_obs=next_obs))
    assert "jump over 3 times as far" in found[0]
