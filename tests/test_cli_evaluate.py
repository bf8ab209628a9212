"""`tiltrl evaluate`, interrupted: what is done of many episodes is not done again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import pytest
from hostile_policies import CONFIG, NETWORK, SHAPE

from tiltrl import api, cli
from tiltrl.cli import EvaluateConfig
from tiltrl.diffusion.energy import Energy
from tiltrl.policy import Policy, acting
from tiltrl.stages.critics.networks import init_critic


def save(folder: Path, seed: int) -> Path:
    network = eqx.filter_jit(Energy)(11, 3, NETWORK, key=jax.random.key(seed))
    Policy(network, CONFIG, eqx.filter_jit(init_critic)(11, 3, SHAPE, key=jax.random.key(1))).save(folder)
    return folder


@pytest.mark.parametrize("out", [None, Path("numbers", "mine.json")], ids=["default", "with --out"])
def test_an_interrupted_evaluation_goes_on_from_what_is_saved(
    out: Path | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for module in (cli, api):
        monkeypatch.setattr(module, "EPISODES_AT_ONCE", 2)
    policy, other = save(tmp_path / "policy", 0), save(tmp_path / "other", 2)
    whole, result = Path("whole.json"), out or policy / "evaluation-seed0.json"
    cli.evaluate(EvaluateConfig(policy, episodes=5, out=whole))

    seeds: list[int] = []

    def rollout(*arguments: Any, **options: Any) -> Any:
        seeds.append(options["seed"])
        if len(seeds) == 3:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    original = api.rollout
    monkeypatch.setattr(api, "rollout", rollout)
    with pytest.raises(KeyboardInterrupt):
        cli.evaluate(EvaluateConfig(policy, episodes=5, out=out))
    assert not result.exists()
    cli.evaluate(EvaluateConfig(policy, episodes=5, out=out))
    assert len(seeds) == 4, "the third block alone"
    assert seeds[2] == seeds[3]
    assert result.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.rglob("*.parts")), "nothing is left"

    cli.evaluate(EvaluateConfig(other, episodes=5, out=out))
    cli.evaluate(EvaluateConfig(policy, episodes=5, out=out, best_of=2))
    assert len(seeds) == 4 + 3 + 3, "another policy, or another way to act, has nothing to do with it"


def test_what_is_kept_belongs_to_one_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, other = save(tmp_path / "policy", 0), save(tmp_path / "other", 2)
    configs = [
        EvaluateConfig(policy),
        EvaluateConfig(other),
        EvaluateConfig(policy, episodes=21),
        EvaluateConfig(policy, seed=1),
        EvaluateConfig(policy, best_of=2),
        EvaluateConfig(policy, mean_of=2),
    ]
    places = [
        cli._unfinished(config, acting(cli.load_policy(config.policy), config.mean_of, config.best_of))
        for config in configs
    ]
    assert len({place.name.split("-")[-1] for place in places}) == len(configs)
    assert not any(place.is_relative_to(policy) for place in places)


def test_each_way_to_act_has_a_file_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    policy = save(tmp_path / "policy", 0)
    cli.evaluate(EvaluateConfig(policy, episodes=1))
    cli.evaluate(EvaluateConfig(policy, episodes=1, best_of=2))
    cli.evaluate(EvaluateConfig(policy, episodes=1, mean_of=2))
    found = {path.name: json.loads(path.read_text()) for path in policy.glob("evaluation*")}
    ways = {name: (each["policy"]["candidates"], each["policy"]["choice"]) for name, each in found.items()}
    assert ways.pop("evaluation-seed0.json")[0] == 1
    assert ways == {"evaluation-best-of-2-seed0.json": (2, "best"), "evaluation-mean-of-2-seed0.json": (2, "mean")}
