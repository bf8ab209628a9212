"""`python -m tiltrl.runtime`: what it prints and how it ends."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from exported import HIGH, LOW, policy_file
from gymnasium.spaces import Box, Dict

from tiltrl.runtime.__main__ import main
from tiltrl.runtime.clock import Beat, percentiles

ACTIONS = Box(np.array(LOW, np.float32), np.array(HIGH, np.float32))


class Reach(gymnasium.Env):
    """Three steps of reward 2; the second observation of each episode is `second`."""

    observation_space = Box(-np.inf, np.inf, (3,))
    action_space = ACTIONS

    def __init__(self, second: Any = (0.0, 0.0, 0.0), fails: Exception | type[BaseException] | None = None):
        self.second, self.fails, self.steps = np.array(second, np.float32), fails, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        if isinstance(self.fails, Exception):
            raise self.fails
        self.steps = 0
        return np.zeros(3, np.float32), {}

    def step(self, action: Any) -> Any:
        assert action in self.action_space
        self.steps += 1
        if self.fails is KeyboardInterrupt and self.steps == 2:
            raise KeyboardInterrupt
        return self.second if self.steps == 1 else np.zeros(3, np.float32), 2.0, False, False, {}


class Goals(Reach):
    observation_space = Dict({"desired_goal": Box(-1, 1, (1,)), "observation": Box(-1, 1, (2,))})  # type: ignore

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        return (self.observation_space.sample(), *super().step(action)[1:])


@pytest.fixture(autouse=True, scope="module")
def _environments() -> Iterator[None]:
    names = {"Reach-v0": Reach, "Goals-v0": Goals, "Endless-v0": Reach}
    for name, made in names.items():
        gymnasium.register(name, made, max_episode_steps=None if name == "Endless-v0" else 3)
    yield
    for name in names:
        del gymnasium.registry[name]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(policy_file(tmp_path / "p.onnx"))


def lines(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """What was printed, by the first word of each line."""
    return {line.split()[0]: " ".join(line.split()[1:]) for line in capsys.readouterr().out.splitlines()}


def replace_kwargs(monkeypatch: pytest.MonkeyPatch, **kwargs: Any) -> None:
    monkeypatch.setattr(gymnasium.registry["Reach-v0"], "kwargs", kwargs)


def test_episodes_and_their_returns(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([path, "--env", "Reach-v0", "--episodes", "4"]) == 0
    told = lines(capsys)
    assert told["returns"] == "mean 6.0, 6.0 to 6.0 (4 whole episodes)"
    assert re.fullmatch(r"p50 [\d.]+, p99 [\d.]+, max [\d.]+ ms \(12 steps\)", told["latency"])
    assert told["anomaly"].endswith("median 0.500, 0.00% below 0.01, 0.00% below 0.001")
    assert told["fallback"] == "0 of 12 steps"
    assert "rate" not in told


def test_anomalies_and_fallbacks_are_counted(
    path: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_kwargs(monkeypatch, second=(20.0, 0.0, 0.0))  # an error above all in the table
    assert main([path, "--env", "Reach-v0", "--episodes", "2", "--bound", "0.01"]) == 0
    told = lines(capsys)
    assert told["fallback"] == "2 of 6 steps (anomaly 2)"
    assert "33.33% below 0.01" in told["anomaly"]
    replace_kwargs(monkeypatch, second=(np.nan, 0.0, 0.0))
    assert main([path, "--env", "Reach-v0", "--episodes", "2"]) == 0
    assert lines(capsys)["fallback"] == "2 of 6 steps (not finite 2)"


def test_dict_observations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = {"dataset": "made", "env_id": "Goals-v0", "obs_keys": ["observation", "desired_goal"]}
    path = policy_file(tmp_path / "p.onnx", task=task)
    assert main([str(path), "--env", "Goals-v0", "--episodes", "1"]) == 0
    assert lines(capsys)["returns"].startswith("mean 6.0")


def test_noise_at_a_rate(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([path, "--hz", "100", "--seconds", "0.2"]) == 0
    told = lines(capsys)
    found = re.fullmatch(r"100 Hz: (\d+) of (\d+) deadlines missed", told["rate"])
    steps = re.search(r"\((\d+) steps\)", told["latency"])
    assert found and steps and int(found[2]) - int(found[1]) == int(steps[1]) > 1
    assert re.fullmatch(r"p50 [\d.]+, p99 [\d.]+, max [\d.]+ ms", told["lateness"])
    assert "anomaly" not in told and "returns" not in told  # noise has none


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env", "Hopper-v99"], "environment Hopper-v99 cannot be made: .*Hopper"),
        (
            ["--env", "Pendulum-v1"],
            r"its actions are Box\(-2.0, 2.0, \(1,\), float32\), but the policy's are 2 numbers",
        ),
        (["--env", "CartPole-v1"], r"its observations are Box.*but the policy takes 3 numbers"),
        (["--env", "Goals-v0"], r"its observations are Dict.*but the policy takes 3 numbers"),
        (["--env", "Endless-v0"], "has no limit of steps, so an episode may never end: --seconds"),
        (["--bound", "2"], "bound = 2.0"),
        (["--seed", "-1"], "seed = -1"),
        (["--threads", "999999999"], "threads = 999999999; a whole number from 1 to 1024 is needed"),
    ],
)
def test_bad_input_is_told_in_one_line(
    path: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([path, *arguments]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert re.fullmatch(rf"tiltrl.runtime: error: .*{message}.*\n", told.err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hz", "0"], "'0' is no positive number"),
        (["--hz", "abc"], "'abc' is no positive number"),
        (["--seconds", "nan"], "'nan' is no positive number"),
        (["--episodes", "0"], "'0' is no whole number from 1"),
        (["--threads", "x"], "'x' is no whole number from 1"),
    ],
)
def test_wrong_numbers_end_with_two(
    path: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main([path, *arguments])
    assert end.value.code == 2
    assert capsys.readouterr().err.endswith(f"argument {arguments[0]}: {message}\n")


def test_an_environment_that_needs_a_display_is_told(
    path: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_kwargs(monkeypatch, fails=RuntimeError("no display\nfound"))
    assert main([path, "--env", "Reach-v0"]) == 2
    assert capsys.readouterr().err.endswith("environment Reach-v0 cannot be reset: no display found\n")


def test_an_interrupt_tells_what_was_measured(
    path: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_kwargs(monkeypatch, fails=KeyboardInterrupt)
    assert main([path, "--env", "Reach-v0"]) == 3
    told = capsys.readouterr()
    assert "returns    none ended (0 whole episodes)" in told.out and "(2 steps)" in told.out
    assert told.err == "tiltrl.runtime: interrupted; the numbers are of what was done until then\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_three(path: str, number: int) -> None:
    command = [sys.executable, "-m", "tiltrl.runtime", path, "--seconds", "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert re.fullmatch(r"\d s, \d+ steps\n", process.stderr.readline())  # the progress line, after two seconds
        process.send_signal(number)
        out, error = process.communicate(timeout=20)
    assert process.returncode == 3
    assert "latency" in out and error.endswith("the numbers are of what was done until then\n")


# --- The clock --------------------------------------------------------------------------------------------------------


class Clock:
    """Time passes by sleeping, a little too long each time, and by work."""

    def __init__(self, oversleep: float):
        self.now, self.oversleep = 5.0, oversleep

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds + self.oversleep


def test_ticks_come_at_multiples_of_the_period_and_overrun_ones_are_missed() -> None:
    clock = Clock(oversleep=0.001)
    beat = Beat(100.0, clock, clock.sleep)
    kept = []
    work = iter([0.002, 0.025, 0.002, 0.0])  # the second takes two and a half periods
    for tick in beat:
        kept.append(tick)
        seconds = next(work)
        clock.now += seconds
        if not seconds:
            break
    assert kept == [0, 1, 4, 5]
    assert beat.missed == 2
    assert beat.late == pytest.approx([0.0, 0.001, 0.001, 0.001])


def test_percentiles_are_in_milliseconds() -> None:
    assert percentiles([i / 1000.0 for i in range(101)]) == "p50 50.000, p99 99.000, max 100.000 ms"
