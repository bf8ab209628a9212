"""What a run decides before it trains anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tiltrl.data import from_arrays
from tiltrl.data.registry import RewardsOption
from tiltrl.data.write import write_npz
from tiltrl.errors import InputError
from tiltrl.evaluation.report import Row
from tiltrl.options import RunConfig
from tiltrl.pipeline import Run
from tiltrl.scoring import write_run


class Silent:
    """Hears and says nothing."""

    def start(self, stage: str, total: int) -> None: ...
    def update(self, done: int, total: int, metrics: dict[str, Any]) -> None: ...
    def say(self, message: str) -> None: ...


@pytest.fixture
def log(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    steps = np.arange(60)
    data = from_arrays(rng.normal(size=(60, 11)), rng.uniform(-1, 1, (60, 3)), steps % 7, episode=steps // 10)
    write_npz(data, tmp_path / "log.npz")
    return str(tmp_path / "log.npz")


@pytest.mark.parametrize(
    ("env", "asked", "chosen"),
    [("", "auto", "none"), ("?env=Hopper-v5", "auto", "locomotion"), ("?env=Hopper-v5", "normalize", "normalize")],
)
def test_the_rewards_chosen_are_told_and_are_part_of_the_critic(
    log: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, env: str, asked: RewardsOption, chosen: str
) -> None:
    run = Run(RunConfig(log + env, rewards=asked, out=tmp_path / "out"), Silent())
    assert run.critic_stage.inputs["rewards"] == chosen
    monkeypatch.setattr(Run, "trust", [])  # of a critic that was never trained
    found = json.loads(write_run(run, [Row("data", np.ones((1, 2)))], [], "raw", []).read_text())
    assert found["config"]["rewards"] == chosen


def test_a_reward_transform_that_does_not_fit_the_data_is_refused_at_once(log: str, tmp_path: Path) -> None:
    data = from_arrays(np.zeros((9, 2)), np.linspace(-1, 1, 9), np.ones(9))
    write_npz(data, tmp_path / "constant.npz")
    with pytest.raises(InputError, match="'normalize' divides by the deviation of the rewards, and all 8 are 1"):
        Run(RunConfig(str(tmp_path / "constant.npz"), rewards="normalize", out=tmp_path / "out"), Silent())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("dataset", "folder"),
    [
        ("demo", "runs/demo-fast"),
        ("d4rl:hopper-medium-v2[:0.1]", "runs/d4rl-hopper-medium-v2-0.1-fast"),
        ("../up/log.npz?obs=a,b", "runs/up-log.npz-obs-a-b-fast"),
        ("x" * 400, f"runs/{'x' * 100}-fast"),
    ],
)
def test_a_run_is_named_after_its_data(dataset: str, folder: str) -> None:
    assert str(RunConfig(dataset).folder) == folder
