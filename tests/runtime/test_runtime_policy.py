"""What an exported policy does on a robot, with numbers worked out by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported import (
    ACT,
    CANDIDATES,
    HIGH,
    LOW,
    OBS,
    RANGE,
    WEIGHTS,
    critic_file,
    energy_file,
    fragile_file,
    policy_file,
)

from tiltrl.errors import InputError
from tiltrl.runtime import BadObservation, Critic, Energy, Policy
from tiltrl.types import Task

MIDDLE = [0.0, 1.0]
KEYS = ["observation", "goal/near"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return policy_file(tmp_path_factory.mktemp("policy") / "policy.onnx")


def expected(obs: np.ndarray, seed: int) -> np.ndarray:
    """Actions of the linear policy for rows of observations, from a seed's noises."""
    noise = np.random.default_rng(seed).standard_normal((len(obs), CANDIDATES, ACT), np.float32)
    return np.clip(obs @ WEIGHTS + noise[:, 0], LOW, HIGH)


OBSERVATIONS = np.random.default_rng(7).normal(size=(5, OBS)).astype(np.float32)


def test_an_action_is_the_networks_for_the_seeds_noise(path: Path) -> None:
    policy = Policy(path, seed=3)
    found = [policy.act(obs) for obs in OBSERVATIONS]
    assert found[0].shape == (ACT,) and found[0].dtype == np.float32
    np.testing.assert_allclose(found, expected(OBSERVATIONS, 3), rtol=1e-6)


def test_a_seed_reproduces_and_another_does_not(path: Path) -> None:
    policy = Policy(path, seed=3)
    first = policy.act(OBSERVATIONS[0])
    assert (policy.act(OBSERVATIONS[0]) != first).any()
    policy.reset(3)
    assert (policy.act(OBSERVATIONS[0]) == first).all()
    policy.reset(4)
    assert (policy.act(OBSERVATIONS[0]) != first).any()


def test_a_batch_is_as_many_single_calls(path: Path) -> None:
    single, batch = Policy(path, seed=5), Policy(path, seed=5)
    found = [single.act(obs) for obs in OBSERVATIONS]
    np.testing.assert_allclose(batch.act_batch(OBSERVATIONS), found, rtol=1e-6)
    np.testing.assert_allclose(batch.act(OBSERVATIONS[0]), single.act(OBSERVATIONS[0]), rtol=1e-6)  # and go on alike
    assert batch.counts == single.counts


@pytest.mark.parametrize(
    ("error", "share"),
    [(20.0, 0.0), (10.0, 0.0), (7.5, 0.05), (5.0, 0.1), (4.0, 0.18), (-5.0, 0.75), (-10.0, 1.0), (-11.0, 1.0)],
)
def test_the_share_is_linear_between_quantiles(path: Path, error: float, share: float) -> None:
    assert Policy(path).step([error, 0.0, 0.0]).share == pytest.approx(share)


def test_above_a_table_that_begins_later_nothing_was_logged(tmp_path: Path) -> None:
    anomaly = {"score": "denoising_error", "quantiles": [[0.01, 5.0], [0.5, 0.0], [0.99, -5.0]]} | RANGE
    policy = Policy(policy_file(tmp_path / "p.onnx", anomaly=anomaly))
    assert [policy.step([error, 0.0, 0.0]).share for error in (5.1, 5.0, -5.0, -5.1)] == [0.0, 0.01, 0.99, 1.0]


def test_without_a_table_there_is_no_share_and_no_bound(tmp_path: Path) -> None:
    path = policy_file(tmp_path / "p.onnx", anomaly=None)
    assert Policy(path).step(OBSERVATIONS[0]).share is None
    with pytest.raises(InputError, match=r"p\.onnx: was exported without --anomaly, so bound = 0\.01"):
        Policy(path, bound=0.01)


def test_an_unusual_action_is_replaced_and_counted(path: Path) -> None:
    policy = Policy(path, bound=0.05)
    usual, edge, unusual = (policy.step([error, 0.0, 0.0]) for error in (0.0, 7.5, 7.6))
    assert usual.replaced is None and edge.replaced is None  # a share of the bound itself is not below it
    assert unusual.replaced == "anomaly" and unusual.share == pytest.approx(0.048)
    assert unusual.action.tolist() == MIDDLE
    assert (policy.counts["anomaly"], policy.counts["steps"]) == (1, 3)


def test_what_lies_far_beyond_the_logged_range_has_no_share_whatever_its_score(path: Path) -> None:
    """Further outside than half of the range's width: from 4 on where it is -2 to 2."""
    policy = Policy(path, bound=0.05)
    edge, beyond = policy.step([0.0, 4.0, -4.0]), policy.step([0.0, 4.1, 0.0])
    assert edge.share == 0.5 and edge.replaced is None
    assert beyond.share == 0.0 and beyond.replaced == "anomaly" and beyond.action.tolist() == MIDDLE
    both = policy.act_batch([[0.0, 4.0, -4.0], [0.0, 4.1, 0.0]])
    assert both[1].tolist() == MIDDLE != both[0].tolist()


class Stubborn:
    """Says what an array on another device says."""

    def __array__(self, *arguments: Any, **options: Any) -> np.ndarray:
        raise RuntimeError("Can't call numpy() on Tensor that requires grad")


def test_an_object_that_is_no_array_is_a_bad_observation(path: Path) -> None:
    with pytest.raises(BadObservation, match="obs is no array of numbers: RuntimeError: Can't call"):
        Policy(path).step(Stubborn())
    assert Policy(path, on_bad_input="fallback").step(Stubborn()).replaced == "type"


def test_an_observation_that_onnxruntime_fails_on_is_a_bad_one(tmp_path: Path) -> None:
    path = fragile_file(tmp_path / "p.onnx")
    fine, beyond = [1.0, 0.0, 0.0], [CANDIDATES + 1.0, 0.0, 0.0]
    falling = Policy(path, on_bad_input="fallback")
    step = falling.step(beyond)
    assert (step.action.tolist(), step.share, step.replaced) == (MIDDLE, None, "output")
    assert falling.counts["output"] == 1 and falling.step(fine).replaced is None
    for act in (Policy(path).step, lambda obs: falling.act_batch([fine, obs])):
        with pytest.raises(BadObservation, match="the networks cannot be run for this obs: ") as caught:
            act(beyond)
        assert caught.value.reason == "output" and str(caught.value).isprintable()


def test_a_bound_may_be_a_number_of_numpy(path: Path) -> None:
    assert Policy(path, bound=np.float32(0.05)).step([7.6, 0.0, 0.0]).replaced == "anomaly"  # type: ignore[arg-type]


BAD: list[tuple[Any, str, str]] = [
    ([0.0, 0.0], "shape", r"obs has shape \(2,\); its last dimension must be 3"),
    (0.0, "shape", r"obs has shape \(\)"),
    ([[0.0, 0.0, 0.0]], "shape", "act_batch"),
    ([[0.0], [0.0, 0.0], 0.0], "shape", "no array of numbers"),
    ({"observation": [0.0]}, "shape", "Dict of observation; this policy takes plain vectors"),
    (["a", "b", "c"], "type", "dtype <U1"),
    (None, "type", "dtype object"),
    ([1j, 0.0, 0.0], "type", "complex"),
    ([np.nan, 0.0, 0.0], "not finite", "NaN or infinite"),
    ([np.inf, 0.0, 0.0], "not finite", "NaN or infinite"),
    ([1e300, 0.0, 0.0], "not finite", "NaN or infinite"),  # beyond float32
    ([3e38, 3e38, 0.0], "output", "the networks come out"),  # the error overflows
]


@pytest.mark.parametrize(("obs", "reason", "message"), BAD)
def test_a_bad_observation_raises_or_falls_back(path: Path, obs: Any, reason: str, message: str) -> None:
    raising, falling = Policy(path), Policy(path, on_bad_input="fallback")
    with pytest.raises(InputError, match=message) as caught:
        raising.act(obs)
    assert isinstance(caught.value, BadObservation) and caught.value.reason == reason
    step = falling.step(obs)
    assert (step.action.tolist(), step.share, step.replaced) == (MIDDLE, None, reason)
    for policy in (raising, falling):
        assert {name: count for name, count in policy.counts.items() if count} == {"steps": 1, reason: 1}
        np.testing.assert_allclose(policy.act(OBSERVATIONS[0]), second_action(path), rtol=1e-6)


def second_action(path: Path) -> np.ndarray:
    """The action for the first observation by a policy's second noise: a bad observation took the first."""
    policy = Policy(path)
    policy.act(OBSERVATIONS[0])
    return policy.act(OBSERVATIONS[0])


def test_rows_of_a_batch_are_replaced_as_single_ones_are(path: Path) -> None:
    rows = np.array([[0, 0, 0], [np.nan, 0, 0], [9, 0, 0], [3e38, 3e38, 0], [1, 1, 1]], np.float32)
    made = {"seed": 2, "bound": 0.05, "on_bad_input": "fallback", "fallback": [0.25, 0.5]}
    batch, single = Policy(path, **made), Policy(path, **made)
    found = batch.act_batch(rows)
    np.testing.assert_allclose(found, [single.act(row) for row in rows], rtol=1e-6)
    assert found[[1, 2, 3]].tolist() == [[0.25, 0.5]] * 3
    assert batch.counts == single.counts
    assert batch.counts == {"steps": 5, "shape": 0, "type": 0, "not finite": 1, "output": 1, "anomaly": 1}
    with pytest.raises(BadObservation, match=r"obs\[1\]"):
        Policy(path).act_batch(rows)


@pytest.mark.parametrize("rows", [np.zeros((0, OBS)), np.zeros(OBS), np.zeros((2, OBS + 1)), np.full((1, OBS), "x")])
def test_what_is_no_batch_raises_even_with_a_fallback(path: Path, rows: np.ndarray) -> None:
    with pytest.raises(InputError):
        Policy(path, on_bad_input="fallback").act_batch(rows)


def test_a_fallback_function_gets_the_observation_as_it_was_given(path: Path) -> None:
    seen = []

    def brake(obs: Any) -> list[float]:
        seen.append(obs)
        return [9.0, 0.5]

    policy = Policy(path, fallback=brake, on_bad_input="fallback")
    given = ["no", "numbers"]
    assert policy.act(given).tolist() == [HIGH[0], 0.5]  # within the bounds
    assert seen == [given]


def test_the_caller_may_write_into_an_action(path: Path) -> None:
    policy = Policy(path, on_bad_input="fallback")
    policy.act([np.nan] * OBS)[:] = 7.0
    assert policy.act([np.nan] * OBS).tolist() == MIDDLE


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"bound": 0.0}, "bound = 0.0; a share above 0 and below 1"),
        ({"bound": 1.5}, "bound = 1.5"),
        ({"bound": float("nan")}, "bound = nan"),
        ({"bound": "0.1"}, "bound = '0.1'"),
        ({"bound": 0.1 + 0j}, "bound = "),
        ({"seed": -1}, "seed = -1"),
        ({"seed": "x"}, "seed = 'x'"),
        ({"threads": 0}, "threads = 0; a whole number from 1 to 1024"),
        ({"threads": 999_999_999}, "threads = 999999999; a whole number from 1 to 1024"),
        ({"on_bad_input": "ignore"}, "on_bad_input = 'ignore'"),
        ({"fallback": [0.0]}, "2 finite numbers are needed"),
        ({"fallback": [0.0, np.nan]}, "2 finite numbers are needed"),
        ({"fallback": [0.0, 3.5]}, r"fallback is \[0.0, 3.5\]; within"),
        ({"fallback": "stop"}, "fallback is 'stop'"),
    ],
)
def test_wrong_arguments_are_refused(path: Path, made: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Policy(path, **made)


@pytest.mark.parametrize("action", [[0.0], [0.0, np.inf], None])
def test_a_fallback_function_that_returns_no_action_raises(path: Path, action: Any) -> None:
    with pytest.raises(InputError, match="fallback is"):
        Policy(path, fallback=lambda obs: action, on_bad_input="fallback").act([])


def test_actions_are_within_the_bounds_whatever_the_file_computes(tmp_path: Path) -> None:
    path = policy_file(tmp_path / "p.onnx", action_low=[-0.1, 0.0], action_high=[0.1, 0.01])  # its graph has others
    policy = Policy(path)
    assert policy.act([9.0, 9.0, 0.0]).tolist() == pytest.approx([0.1, 0.01])
    assert policy.act_batch([[9.0, 9.0, 0.0]]).tolist() == [pytest.approx([0.1, 0.01])]


# --- Dict observations ------------------------------------------------------------------------------------------------


def test_dict_observations_are_joined_as_for_training(tmp_path: Path) -> None:
    path = policy_file(tmp_path / "p.onnx", task={"dataset": "made", "env_id": None, "obs_keys": KEYS})
    task = Task("made", None, tuple(LOW), tuple(HIGH), OBS, obs_keys=tuple(KEYS))
    obs = {"goal": {"near": np.array([0.3]), "far": np.zeros(9)}, "observation": np.array([0.1, 0.2])}  # float64
    joined = task.flat_obs(obs)
    assert (Policy(path).act(obs) == Policy(path).act(joined)).all()
    many = {"goal": {"near": np.ones((4, 1))}, "observation": np.zeros((4, 2), np.int64)}
    assert (Policy(path).act_batch(many) == Policy(path).act_batch(task.flat_obs(many))).all()


@pytest.mark.parametrize(
    ("obs", "reason"),
    [
        ({"observation": [0.0, 0.0]}, "shape"),
        ({"observation": [0.0, 0.0], "goal": 1.0}, "shape"),
        ({"observation": [0.0, 0.0], "goal": {"near": 1.0}}, "shape"),
        ({"observation": [0.0, 0.0], "goal": {"near": [[1.0]]}}, "shape"),
        ({"observation": [0.0, 0.0, 0.0], "goal": {"near": [1.0]}}, "shape"),
        ({"observation": ["a", "b"], "goal": {"near": [1.0]}}, "type"),
        ({"observation": [0.0, 0.0], "goal": {"near": [np.nan]}}, "not finite"),
    ],
)
def test_a_bad_part_of_a_dict_is_told(tmp_path: Path, obs: Any, reason: str) -> None:
    path = policy_file(tmp_path / "p.onnx", task={"dataset": "made", "env_id": None, "obs_keys": KEYS})
    with pytest.raises(BadObservation) as caught:
        Policy(path).act(obs)
    assert caught.value.reason == reason


# --- Energies and critics ---------------------------------------------------------------------------------------------


def test_energies_and_values_of_actions(tmp_path: Path) -> None:
    energy, critic = Energy(energy_file(tmp_path / "e.onnx")), Critic(critic_file(tmp_path / "c.onnx"))
    obs, action = np.arange(12.0).reshape(2, 2, 3), np.ones((2, 2, 2))
    sums = obs.sum(axis=-1)
    assert energy(obs, action, 0.5).tolist() == (1.0 - sums).tolist()
    assert energy(obs[0], action[0], [0.5, 1.0]).tolist() == [1.0 - 3.0, 2.0 - 12.0]
    assert energy(obs[0, 0], action[0, 0], 0.5) == pytest.approx(-2.0)
    assert energy([0.0] * 3, [1.0, 1.0], 1.0) == pytest.approx(2.0)
    assert critic(obs, action).tolist() == (sums - 2.0).tolist()
    assert critic(obs[0, 0], action[0, 0]).shape == ()


@pytest.mark.parametrize(
    ("obs", "action", "t", "message"),
    [
        ([0.0], [0.0, 0.0], 0.5, "obs has shape"),
        ([0.0] * 3, [0.0], 0.5, r"action has shape \(1,\)"),
        ([[0.0] * 3], [0.0, 0.0], 0.5, "one action for each observation"),
        ([np.nan] * 3, [0.0, 0.0], 0.5, "NaN or infinite"),
        ([0.0] * 3, [0.0, np.inf], 0.5, "NaN or infinite"),
        ([0.0] * 3, [0.0, 0.0], 1.5, r"t = 1.5; diffusion times lie in \[0, 1\]"),
        ([0.0] * 3, [0.0, 0.0], np.nan, "t = nan"),
        ([0.0] * 3, [0.0, 0.0], [0.1, 0.2], "one time, or one for each"),
        ([0.0] * 3, [0.0, 0.0], "soon", "t: "),
    ],
)
def test_bad_arguments_of_an_energy(tmp_path: Path, obs: Any, action: Any, t: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Energy(energy_file(tmp_path / "e.onnx"))(obs, action, t)


# --- What it needs ----------------------------------------------------------------------------------------------------


def test_it_needs_numpy_and_onnxruntime_alone(path: Path) -> None:
    program = f"""
import sys
def packages():
    files = (getattr(module, "__file__", None) or "" for module in list(sys.modules.values()))
    return {{file.partition("site-packages")[2][1:].replace("\\\\", "/").split("/")[0] for file in files}}
before = packages()
import tiltrl.runtime, tiltrl.runtime.__main__
imported = packages() - before
policy = tiltrl.runtime.Policy({str(path)!r})
policy.act([0.0, 0.0, 0.0])
import json
ours = sorted(name for name in sys.modules if name.startswith("tiltrl"))
print(json.dumps([sorted(imported), sorted(packages() - before), ours]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    imported, used, ours = json.loads(done.stdout)
    assert set(imported) <= {"", "numpy"}
    assert set(used) <= {"", "numpy", "onnxruntime"}
    assert {name.split(".")[1] for name in ours if "." in name} == {"errors", "runtime", "signals"}
