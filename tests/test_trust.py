"""`tiltrl critic check`: verdicts, folders that hold no critic, and the whole command on a tiny run."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from tiny import small_presets

from tiltrl import cli_critic, trust
from tiltrl.cli_critic import CheckOptions
from tiltrl.data import from_arrays, load
from tiltrl.data.write import write_npz
from tiltrl.errors import InputError
from tiltrl.evaluation.ranking import Estimate, Ranking, mean_of
from tiltrl.evaluation.truth import RolloutCheck, rollout_check
from tiltrl.main import answer
from tiltrl.options import RunConfig
from tiltrl.stages.critics.check import TrustCheck
from tiltrl.trust import LEAST_STATES, critic_folder, judged
from tiltrl.trust_rollouts import RolloutConfig
from tiltrl.types import Transitions

GOOD = TrustCheck(0.1, 0.05, 0.15, 1.0, 0.1, 0.9, 0.2, "good", 0.45)
NOTHING = Estimate(0.0, -1.0, 1.0)


def rollouts(gain: Estimate, rank: Estimate) -> RolloutCheck:
    rng = np.random.default_rng(0)
    found = rollout_check(
        rng.normal(size=(4, 3)),
        rng.normal(size=(4, 3, 2)),
        rng.normal(size=(4, 2, 2)),
        horizon=5,
        discount=0.9,
        reproduced=1.0,
        steps_ahead=2,
    )
    return replace(found, states=64, gain=gain, ranking=Ranking(rank, NOTHING, 0.5, NOTHING))


@pytest.mark.parametrize(
    ("gain", "rank", "verdict"),
    [
        (Estimate(2.0, 1.0, 3.0), NOTHING, "good"),
        (Estimate(0.5, -1.0, 3.0), Estimate(0.1, 0.05, 0.2), "weak"),
        (Estimate(-2.0, -3.0, -1.0), Estimate(0.1, 0.05, 0.2), "harmful"),
        (Estimate(2.0, 1.0, 3.0), Estimate(-0.1, -0.2, -0.05), "harmful"),
    ],
)
def test_rollouts_decide_where_there_are_any(gain: Estimate, rank: Estimate, verdict: str) -> None:
    assert judged(GOOD, None)[0] == "good"
    assert judged(GOOD, rollouts(gain, rank))[0] == verdict
    assert judged(replace(GOOD, verdict="harmful"), rollouts(gain, rank))[0] == verdict


def test_rollouts_from_few_states_decide_nothing() -> None:
    certain = Estimate(2.0, 1.0, 3.0)
    few = replace(rollouts(certain, certain), states=LEAST_STATES - 1)
    assert judged(GOOD, few) == ("weak", "too few states: rollouts from 15 decide nothing, from 16 they may")
    assert judged(replace(GOOD, verdict="harmful"), few)[0] == "weak"
    assert judged(GOOD, replace(few, states=LEAST_STATES))[0] == "good"


def test_a_resampled_interval_of_noise_rarely_excludes_zero_from_so_many_states() -> None:
    noise = np.random.default_rng(0).normal(size=(200, LEAST_STATES))
    found = [mean_of(values) for values in noise]
    assert np.mean([one.low > 0 or one.high < 0 for one in found]) < 0.11


def test_q_is_not_followed_beyond_the_horizon() -> None:
    with pytest.raises(InputError, match="steps_ahead = 20; it must lie in 1 to the horizon, 10"):
        RolloutConfig(states=16, horizon=10)
    RolloutConfig(states=16, horizon=20)


def test_what_following_q_brings_is_measured_against_the_behavior() -> None:
    rng = np.random.default_rng(1)
    level, better = 10.0 * rng.normal(size=(50, 1, 1)), rng.normal(size=(50, 8))
    returns = level + better[:, :, None] + 0.1 * rng.normal(size=(50, 8, 4))
    greedy = level + 2.0 + 0.1 * rng.normal(size=(50, 4, 4))
    found = rollout_check(
        3.0 + level[:, :, 0] + 2.0 * better,
        returns,
        greedy,
        horizon=100,
        discount=0.99,
        reproduced=0.95,
        steps_ahead=20,
    )
    assert found.gain.value == pytest.approx(2.0, abs=0.15) and found.gain.low > 1.5
    assert found.gain_share == pytest.approx(0.2, abs=0.05)
    assert found.one_step_gain.value == pytest.approx(1.42, abs=0.15)  # the largest of eight normal numbers
    assert found.ranking.slope.value == pytest.approx(0.5, abs=0.02)
    assert found.overestimation.value == pytest.approx(3.0, abs=0.3)
    assert found.level_slope.value == pytest.approx(1.0, abs=0.05)
    assert found.weight_left == pytest.approx(0.366, abs=0.001)
    assert (found.states, found.candidates, found.repeats, found.followed) == (50, 8, 4, 16)


# --- Folders ----------------------------------------------------------------------------------------------------------


def refused(path: Path) -> str:
    with pytest.raises(InputError) as error:
        critic_folder(path)
    return str(error.value)


def test_a_folder_without_a_critic_is_named(tmp_path: Path) -> None:
    assert "is not a run's folder (no run.json in it)" in refused(tmp_path)
    assert "is not a run's folder" in refused(tmp_path / "nosuch")
    (tmp_path / "run.json").write_text("{}")
    assert "holds no finished critic; `tiltrl critic train" in refused(tmp_path)
    (tmp_path / "critic-1").mkdir()
    assert "holds no finished critic" in refused(tmp_path)
    assert "the critic is not finished" in refused(tmp_path / "critic-1")
    for name in ("critic-1", "critic-2"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "stage.json").write_text("{}")
    assert "holds 2 critics (critic-1, critic-2)" in refused(tmp_path)
    assert critic_folder(tmp_path / "critic-2") == tmp_path / "critic-2"


@pytest.mark.parametrize("number", [1, -1, 10**6])
def test_a_number_of_states_is_checked(number: int, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"rollouts = {number}; a number of states"):
        cli_critic.check(CheckOptions(tmp_path, rollouts=number))


# --- The command ------------------------------------------------------------------------------------------------------


def some_of(data: Transitions, episodes: int) -> Transitions:
    return data.take(np.arange(data.ends[episodes - 1] + 1))


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """The preset, small."""
    with pytest.MonkeyPatch.context() as patch:
        small_presets(patch)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a critic of hardly any training, on some of the demo data."""
    folder = tmp_path_factory.mktemp("trust")
    write_npz(some_of(load("demo"), 60), folder / "log.npz")
    cli_critic.train(RunConfig(f"{folder / 'log.npz'}?env=Hopper-v5", budget=0.005, out=folder / "run"))
    return folder / "run"


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run, tmp_path / "run")


def found_in(folder: Path) -> dict:
    return json.loads((folder / "critic-check.json").read_text())


def test_a_check_needs_the_folder_alone(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in copied.glob("critic-*/*") if path.is_file()}
    cli_critic.check(CheckOptions(copied))
    (check,) = found_in(copied)["checks"]
    assert check["verdict"] == check["trust"]["verdict"] and check["rollouts"] is None
    assert check["held_out"]["episodes"] >= 5 and len(check["held_out"]["bins"]) == 10
    assert (copied / "critic-check.png").read_bytes().startswith(b"\x89PNG")
    assert f"seed 0: {check['verdict']}" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in before} == before


def test_rollouts_are_kept_and_an_interrupted_check_goes_on(
    copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = partial(RolloutConfig, candidates=3, repeats=2, greedy=1, states_at_once=2)
    monkeypatch.setattr(cli_critic, "RolloutConfig", few)
    options = CheckOptions(copied, rollouts=4, horizon=3, steps_ahead=2)
    original, calls = trust.check_by_rollouts.__globals__["returns_from"], []

    def returns_from(*arguments, **others):
        calls.append(len(arguments[1]))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*arguments, **others)

    monkeypatch.setitem(trust.check_by_rollouts.__globals__, "returns_from", returns_from)
    with pytest.raises(KeyboardInterrupt):
        cli_critic.check(options)
    assert list(copied.glob("rollouts-*/parts/rows-*")) and not (copied / "critic-check.json").exists()
    cli_critic.check(options)
    assert len(calls) == 3 + 2, "the second two states alone, by candidates and along Q"
    (check,) = found_in(copied)["checks"]
    assert check["rollouts"]["states"] == 4 and check["rollouts"]["reproduced"] >= 0.9
    assert check["verdict"] == "weak" and check["reason"].startswith("too few states")
    assert "rollouts: rank correlation within a state" in capsys.readouterr().out
    cli_critic.check(options)
    assert len(calls) == 5, "returns that are there are not made again"
    assert found_in(copied)["checks"] == [check]


def test_a_critic_of_an_earlier_version_is_named(copied: Path) -> None:
    (file,) = copied.glob("critic-*/stage.json")
    found = json.loads(file.read_text())
    del found["summary"]["options"]
    file.write_text(json.dumps(found))
    with pytest.raises(InputError, match=r"stage.json: summary.options: is missing.* `tiltrl critic train`"):
        cli_critic.check(CheckOptions(copied))


def test_no_folder_chooses_code_to_execute(copied: Path, tmp_path: Path) -> None:
    trap = tmp_path / "trap.py"
    trap.write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\ndef q(obs, action): return obs[:, 0]\n")
    (file,) = copied.glob("critic-*/stage.json")
    found = json.loads(file.read_text())
    found["summary"]["options"]["critic"] = f"{trap}:q"
    file.write_text(json.dumps(found))
    with pytest.raises(InputError, match="not executed because a folder says so"):
        cli_critic.check(CheckOptions(copied))
    assert not (tmp_path / "sprung").exists()


def test_data_that_is_gone_or_has_changed_is_named(copied: Path, tmp_path: Path) -> None:
    (file,) = copied.glob("critic-*/stage.json")
    found = json.loads(file.read_text())
    log, told = tmp_path / "moved.npz", json.loads((copied / "run.json").read_text())
    name = f"{log}?env=Hopper-v5"
    for text, path in ((found, file), (told, copied / "run.json")):
        path.write_text(json.dumps(text).replace(found["summary"]["options"]["dataset"], name))
    with pytest.raises(InputError, match=r"moved\.npz"):
        cli_critic.check(CheckOptions(copied))
    write_npz(some_of(load("demo"), 61), log)
    with pytest.raises(InputError, match="its data has changed|holds another run"):
        cli_critic.check(CheckOptions(copied))


def test_a_behavior_that_is_gone_is_not_trained_anew(copied: Path) -> None:
    (folder,) = copied.glob("behavior-*")
    shutil.rmtree(folder)
    with pytest.raises(InputError, match=f"{folder.name}: is not finished"):
        cli_critic.check(CheckOptions(copied))
    assert not folder.exists()


@pytest.mark.slow
def test_rollouts_need_an_environment(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    steps = np.arange(300)
    data = from_arrays(rng.normal(size=(300, 4)), rng.uniform(-1, 1, (300, 2)), steps % 7, episode=steps // 20)
    write_npz(data, tmp_path / "log.npz")
    out = tmp_path / "run"
    cli_critic.train(RunConfig(str(tmp_path / "log.npz"), budget=0.001, out=out))
    with pytest.raises(InputError, match="--rollouts 4: .*log.npz names no environment to roll out in"):
        cli_critic.check(CheckOptions(out, rollouts=4))
    cli_critic.check(CheckOptions(out))
    assert found_in(out)["checks"][0]["rollouts"] is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["check"], "Missing"), (["check", "nosuch"], "is not a run's folder"), (["demo"], "train")],
)
def test_mistakes_are_one_line(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tiltrl.cli import main

    monkeypatch.setattr(sys, "argv", ["tiltrl", "critic", *arguments])
    assert answer(main) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
