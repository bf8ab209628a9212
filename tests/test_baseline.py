"""EDA's rivals in a run's folder: each trains, acts, is saved and evaluated by the real commands, small."""

import json
import shutil
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

import tiltrl
from tiltrl import main
from tiltrl.baseline import Baseline
from tiltrl.errors import InputError
from tiltrl.methods import METHODS, MethodName
from tiltrl.options import RunConfig
from tiltrl.policy_folder import read_policy
from tiltrl.presets import PRESETS

SMALL = ("demo[:0.05]", "--budget", "0.001", "--episodes", "2", "--label-fraction", "1")
CHEAP = ("bc",)
"""Those that the usual tests run whole; the others' parts are tested beside their files."""


class Silent:
    """Hears of progress and keeps what is said."""

    def __init__(self):
        self.said = []

    def start(self, stage, total):
        self.said.append(stage)

    def update(self, done, total, metrics):
        pass

    def say(self, message):
        self.said.append(message)


def tiltrl_command(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["tiltrl", *arguments])
    from tiltrl.cli import main as command_line

    return main.answer(command_line)


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """A run's folder that all share, so that behavior and critics are trained once."""
    return tmp_path_factory.mktemp("baselines") / "run"


@pytest.mark.parametrize(
    "name", [name if name in CHEAP else pytest.param(name, marks=pytest.mark.slow) for name in get_args(MethodName)]
)
def test_a_rival_trains_acts_and_is_evaluated(name, shared, monkeypatch, capsys):
    assert tiltrl_command(monkeypatch, "baseline", name, *SMALL, "--out", str(shared)) == 0
    printed = capsys.readouterr().out
    found = json.loads((shared / f"baseline-{name}.json").read_text())
    rows = {row["policy"]: row["scores"] for row in found["rows"]}
    policy = tiltrl.load_policy(shared / "policies" / f"{name}-seed0")
    how = policy.config.acting
    assert how == ("" if policy.config.candidates == 1 else f"best of {policy.config.candidates}")
    own = {f"{name}, {how}"} if how else {name}
    if policy.config.candidates == 1 and policy.network.noise_dim:
        own |= {f"{name}, mean of 8"}
    assert set(rows) == {"data"} | own | ({"behavior"} if METHODS[name].behavior else set())
    for row in own:
        assert np.isfinite(rows[row]).all()
        assert np.shape(rows[row]) == (1, 2)
    assert name in printed
    assert (shared / f"baseline-{name}.png").read_bytes().startswith(b"\x89PNG")
    action = policy.sample(np.zeros((3, 11), np.float32))
    assert action.shape == (3, 3)
    assert np.isfinite(action).all()
    assert np.abs(action).max() <= 1.0
    assert policy.config.candidates == METHODS[name].configs["fast"].candidates
    again = tiltrl.load_policy(shared / "policies" / f"{name}-seed0")
    np.testing.assert_array_equal(again.sample(np.zeros((3, 11), np.float32)), action)


def test_a_rival_that_is_done_is_not_trained_again(shared):
    config = RunConfig("demo[:0.05]", budget=0.001, episodes=2, out=shared)
    heard = Silent()
    first = Baseline("bc", config, heard)
    assert first.outcome is not None and first.stage.done
    again = Silent()
    first.run.folder.close()
    assert Baseline("bc", config, again).outcome is not None
    assert any("reused" in line for line in again.said)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", get_args(MethodName))
def test_every_preset_describes_an_actor_that_can_be_rebuilt(name, preset):
    import equinox as eqx
    import jax

    config = METHODS[name].configs[preset]
    if METHODS[name].train is None:
        assert config.candidates >= 1
        return
    actor = eqx.filter_eval_shape(config.actor.make, 11, 3, key=jax.random.key(0))
    assert actor.noise_dim >= 0
    assert config.candidates == 1 or METHODS[name].critic is not None or config.own_critic is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta": (0.5,)}, "beta = (0.5,): bc has no use for it"),
        ({"kl": (0.5,)}, "kl = (0.5,): bc has no use for it"),
        ({"critic": "iql"}, "critic = iql: bc has no use for it"),
        ({"k": 4}, "k = 4: bc has no use for it"),
        ({"label_fraction": 0.1}, "label_fraction = 0.1: bc has no use for it"),
    ],
)
def test_what_a_rival_has_no_use_for_is_refused_before_anything_is_read(change, message):
    with pytest.raises(InputError, match=message.replace("(", r"\(").replace(")", r"\)")):
        Baseline("bc", RunConfig("no such data", **change), Silent())


def test_an_unknown_rival_is_refused_with_those_that_exist():
    with pytest.raises(InputError, match="method 'cql' is unknown; choose one of bc, bc-diffusion, iql"):
        Baseline("cql", RunConfig("demo"), Silent())


def test_a_rival_has_no_energy(shared):
    policy = tiltrl.load_policy(shared / "policies" / "bc-seed0")
    with pytest.raises(InputError, match="a baseline's \\('bc'\\), which gives actions only"):
        policy.energy(np.zeros((1, 11), np.float32), np.zeros((1, 3), np.float32))


def test_a_rival_of_another_kind_is_refused_by_its_folder(shared, tmp_path):
    folder = tmp_path / "policy"
    shutil.copytree(shared / "policies" / "bc-seed0", folder)
    described = json.loads((folder / "policy.json").read_text())
    described["actor"]["kind"] = "oracle"
    (folder / "policy.json").write_text(json.dumps(described))
    with pytest.raises(InputError, match="actor"):
        read_policy(folder)
