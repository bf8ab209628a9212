"""`tiltrl export` through the real command line."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import onnxruntime
import pytest

from tiltrl import cli, cli_export
from tiltrl.cli_export import ExportOptions
from tiltrl.diffusion.energy import Energy, EnergyConfig
from tiltrl.diffusion.one_step import OneStep, OneStepConfig
from tiltrl.errors import InputError
from tiltrl.policy import Policy, PolicyConfig
from tiltrl.stages.annotate import SamplerConfig
from tiltrl.types import Scaling, Task

NETWORK = EnergyConfig(action_width=4, time_width=4, obs_width=4, blocks=1, expansion=1, time_features=4)
CONFIG = PolicyConfig(
    task=Task("somebody's", None, (-1.0,), (1.0,), 2),
    scaling=Scaling((0.0, 0.0), (1.0, 1.0), (-1.0,), (1.0,)),
    energy=NETWORK,
    sampler=SamplerConfig(calls=2, solver="2mf", grid="quadratic"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy without a critic, one that is distilled, and a log."""
    folder = tmp_path_factory.mktemp("policies")
    Policy(eqx.filter_jit(Energy)(2, 1, NETWORK, key=jax.random.key(0)), CONFIG).save(folder / "diffusion")
    shape = OneStepConfig(width=4, blocks=1, expansion=1)
    student = eqx.filter_jit(OneStep)(2, 1, shape, key=jax.random.key(0))
    Policy(student, replace(CONFIG, energy=None, one_step=shape)).save(folder / "distilled")
    random = np.random.default_rng(0)
    ends = np.arange(200) % 50 == 49
    arrays = {"observations": random.normal(size=(200, 2)), "actions": random.uniform(-1, 1, (200, 1))}
    np.savez(folder / "log.npz", **arrays, rewards=np.zeros(200), terminals=np.zeros(200, bool), timeouts=ends)
    return folder


def tiltrl(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["tiltrl", *map(str, arguments)])
    cli.main()


def test_writes_a_file_beside_the_policy(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli_export.console, "file", sys.stdout)
    log = f"{folder / 'log.npz'}"
    tiltrl(monkeypatch, "export", folder / "diffusion", "--data", log, "--calls", 3, "--anomaly", folder / "diffusion")
    said = capsys.readouterr().out
    # Of 4 episodes the last steps have no next observation.
    assert "of the policy at 196 observations" in said and "python -m tiltrl.runtime" in said
    session = onnxruntime.InferenceSession(folder / "diffusion.onnx", providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_outputs()] == ["action", "denoising_error"]
    assert '"calls": 3' in session.get_modelmeta().custom_metadata_map["tiltrl"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("diffusion", "--best-of", 4), "the best of 4: .* holds none"),
        (("diffusion", "--best-of", 4, "--mean-of", 4), "a policy acts in one way"),
        (("diffusion", "--mean-of", 0), "mean_of = 0; it must lie in 1 to 4096"),
        (("distilled", "--calls", 2), "calls = 2: .* is distilled"),
        (("diffusion", "--what", "critic"), "has no critic"),
        (("diffusion", "--anomaly", "distilled"), "is distilled"),
        (("diffusion", "--what", "energy", "--calls", 3), "calls = 3: what = energy draws no actions"),
        (("diffusion", "--out", "policy.pt"), "has to end in .onnx"),
        (("nowhere",), "there is no such folder"),
    ],
)
def test_what_cannot_be_exported(
    folder: Path, arguments: tuple[Any, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    before = sorted(folder.iterdir())
    with pytest.raises(InputError, match=message):
        tiltrl(monkeypatch, "export", *arguments, "--data", "log.npz")
    assert sorted(folder.iterdir()) == before


def test_data_that_only_the_policy_names_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="name the data with --data"):
        tiltrl(monkeypatch, "export", folder / "diffusion", "--out", folder / "other.onnx")


def test_where_the_file_goes() -> None:
    assert ExportOptions(Path("runs/a/policies/beta1")).file == Path("runs/a/policies/beta1.onnx")
    assert ExportOptions(Path("p"), what="energy").file == Path("p-energy.onnx")
    assert ExportOptions(Path("hf:owner/name")).file.parent == Path("runs")
