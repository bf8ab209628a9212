"""`tiltrl distill`, from a policy's folder to another's; and what cannot be distilled."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest

import tiltrl
from tiltrl import cli
from tiltrl.diffusion.energy import Energy, EnergyConfig
from tiltrl.distillation import Distillation, DistillOptions, data_of
from tiltrl.errors import InputError
from tiltrl.evaluation.rollout import check_environment
from tiltrl.policy import Policy, PolicyConfig, load_policy
from tiltrl.stages.annotate import SamplerConfig
from tiltrl.stages.distill import DistillConfig
from tiltrl.types import Scaling

NETWORK = EnergyConfig(action_width=8, time_width=4, obs_width=4, blocks=1, expansion=1, time_features=4)
TINY = 0.002


class Silent:
    """A reporter that keeps what it hears."""

    def __init__(self) -> None:
        self.started: list[str] = []

    def start(self, stage: str, total: int) -> None:
        self.started.append(stage)

    def update(self, done: int, total: int, metrics: object) -> None:
        pass

    def say(self, message: str) -> None:
        self.started.append(message)


@pytest.fixture(scope="module")
def teacher() -> Policy:
    """A policy of the demo's task with random weights."""
    task = tiltrl.load("demo").task
    scaling = Scaling((0.0,) * 11, (1.0,) * 11, task.action_low, task.action_high)
    network = eqx.filter_jit(Energy)(11, 3, NETWORK, key=jax.random.key(0))
    sampler = SamplerConfig(calls=3, solver="2m", grid="quadratic")
    config = PolicyConfig(task, scaling, NETWORK, sampler, candidates=2, choice="mean", provenance={"beta": 1.0})
    return Policy(network, config)


@pytest.fixture(scope="module")
def folder(teacher: Policy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("teacher") / "beta1-seed0"
    teacher.save(path)
    return path


def test_a_policy_is_distilled_and_acts(
    folder: Path, teacher: Policy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    cli.distill(DistillOptions(folder, budget=TINY, out=out))
    path = out / "policies" / "beta1-seed0-distilled"
    assert f"policy   {path}" in capsys.readouterr().out
    student = load_policy(path)
    action = student.sample(np.zeros((2, 11), np.float32))
    assert action.shape == (2, 3) and not np.array_equal(*action)
    assert student.config.acting == "mean of 2", "as its teacher"
    kept = student.config.provenance
    assert (kept["beta"], kept["stage"], kept["teacher"]) == (1.0, "distill", load_policy(folder).digest)
    check_environment(student.config.task)
    (summary,) = out.glob("distill-*/stage.json")
    assert set(json.loads(summary.read_text())["summary"]["agreement"]) == {"error", "distance", "spread"}
    with pytest.raises(InputError, match="is distilled"):
        cli.distill(DistillOptions(path, budget=TINY, out=tmp_path / "again"))

    before = {file: file.stat().st_mtime_ns for file in out.rglob("*.safetensors")}
    cli.distill(DistillOptions(folder, budget=TINY, out=out))
    assert {file: file.stat().st_mtime_ns for file in before} == before, "what is done is found"


@pytest.mark.parametrize("where", ["ask teacher", pytest.param("distill", marks=pytest.mark.slow)])
def test_an_interrupted_distillation_goes_on(where: str, folder: Path, tmp_path: Path) -> None:
    whole = Distillation(DistillOptions(folder, budget=TINY, out=tmp_path / "whole"), Silent())
    expected = (whole.save() / "policy.safetensors").read_bytes()

    class Impatient(Silent):
        def update(self, done: int, total: int, metrics: object) -> None:
            if self.started[-1] == where:
                raise KeyboardInterrupt

    options = DistillOptions(folder, budget=TINY, out=tmp_path / "cut")
    cut = Distillation(options, Impatient())
    with pytest.raises(KeyboardInterrupt):
        cut.save()
    cut.folder.close()
    reporter = Silent()
    assert (Distillation(options, reporter).save() / "policy.safetensors").read_bytes() == expected
    assert ("ask teacher" in reporter.started) == (where == "ask teacher")


@pytest.mark.slow
def test_python_and_the_command_line_make_the_same_student(folder: Path, tmp_path: Path) -> None:
    work = Distillation(DistillOptions(folder, budget=TINY, seed=3, out=tmp_path / "out"), Silent())
    made = tiltrl.distill(load_policy(folder), tiltrl.load("demo").obs, DistillConfig().scaled(TINY), seed=3)
    assert load_policy(work.save()).digest == replace_versions(made).digest


def test_policies_of_one_name_and_two_owners_have_folders_of_their_own() -> None:
    names = [DistillOptions(Path(f"hf:{owner}/x@v1")).name for owner in "ab"]
    assert names == ["hf-a-x-v1-distilled", "hf-b-x-v1-distilled"]


def replace_versions(policy: Policy) -> Policy:
    """As it is once saved, which adds the versions that it was made with."""
    return policy.replace(provenance={"versions": tiltrl.policy.versions()} | policy.config.provenance)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 0.0}, "budget = 0.0"),
        ({"seed": -1}, "seed = -1; it must lie in 0 to 99999"),
        ({"data": "no-such.npz"}, "data set 'no-such.npz' is of no known kind"),
        ({"policy": Path("nosuch")}, "nosuch: there is no such folder"),
    ],
)
def test_what_cannot_be_distilled_is_said_before_anything_is_made(
    options: dict, message: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        Distillation(DistillOptions(**({"policy": folder, "out": tmp_path / "out"} | options)), Silent())
    assert not (tmp_path / "out").exists()


def test_states_of_another_task_are_refused(teacher: Policy, folder: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "log.npz", obs=np.zeros((9, 4)), action=np.zeros((9, 3)), episode=np.zeros(9, int))
    with pytest.raises(InputError, match=r"obs has shape \(8, 4\); the policy's task has states of 11 dimensions"):
        Distillation(DistillOptions(folder, data=str(tmp_path / "log.npz"), out=tmp_path / "out"), Silent())
    with pytest.raises(InputError, match=r"obs has shape \(11,\)"):
        tiltrl.distill(teacher, np.zeros(11))


@pytest.mark.parametrize("name", ["log.npz", "/etc", "d4rl:hopper-medium-v2", "no/such-v0", "demo+demo", "../x/y-v0"])
def test_a_policy_does_not_choose_what_is_read(name: str, teacher: Policy) -> None:
    named = teacher.replace(task=replace(teacher.config.task, dataset=name))
    with pytest.raises(InputError, match="name the data with --data"):
        data_of(named)
    assert data_of(teacher) == "demo"
