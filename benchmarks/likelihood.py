"""How likely a preset's behavior model finds held-out actions, against training work.

    MINARI_DATASETS_PATH=<folder of the data sets> python benchmarks/likelihood.py DATASET fast paper:5000

Each model is a preset, with `:STEPS` for a shorter schedule than its own. A tenth of the episodes is held out; their
actions' exact log-densities (`Policy.log_prob`) are averaged over 2,000 of the steps. Nats have no zero to take shares
of, so `gain` is over one Gaussian fitted to all actions, and `share` is of the last model's gain: name the reference
last. Training can be stopped and continued (runs/likelihood); the numbers go, anew after each model, to
benchmarks/results/likelihood-<data set>.json.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from rich.console import Console

from tiltrl.api import member, policy_config
from tiltrl.bench.counts import behavior_step
from tiltrl.data import load
from tiltrl.data.transforms import split_episodes
from tiltrl.diffusion.schedule import T_MIN, alpha_sigma
from tiltrl.errors import InputError
from tiltrl.files import slug, write_json
from tiltrl.policy import Policy
from tiltrl.presets import preset_named
from tiltrl.progress import LiveProgress
from tiltrl.stages.behavior import BehaviorConfig, train_behavior
from tiltrl.stages.keys import stage_key
from tiltrl.stages.prepare import behavior_data, scaling_of
from tiltrl.training.session import FolderSession
from tiltrl.types import Transitions, as_json

RESULTS = Path(__file__).parent / "results"
STATES = 2_000


@dataclasses.dataclass(frozen=True)
class Options:
    """What is compared."""

    dataset: tyro.conf.Positional[str]
    """As `tiltrl run` takes it."""
    models: tyro.conf.Positional[tuple[str, ...]]
    """Presets, each with :STEPS where it is not to take its own number of steps; the last is the reference."""


def described(model: str) -> tuple[str, BehaviorConfig]:
    """The preset's name and how its behavior model is trained.

    Raises:
        InputError: there is no such preset, or the steps are no number above 0.
    """
    name, colon, steps = model.partition(":")
    config = preset_named(name).behavior
    if not colon:
        return name, config
    if not (steps.isdecimal() and int(steps) > 0):
        raise InputError(f"model = {model!r}: after the colon stands a number of steps, such as paper:5000")
    return name, dataclasses.replace(config, steps=int(steps))


def gaussian(train: np.ndarray, held_out: np.ndarray, half_range: np.ndarray) -> float:
    """Mean log-density of held-out actions under one Gaussian, blurred as a diffusion model's density is."""
    _, sigma = alpha_sigma(np.float32(T_MIN))
    cov = np.cov(train.T) + np.diag((float(sigma) * half_range) ** 2)
    centered = held_out - train.mean(axis=0)
    distance = np.sum(centered @ np.linalg.inv(cov) * centered, axis=1)
    return float(np.mean(-0.5 * (distance + np.linalg.slogdet(2 * np.pi * cov)[1])))


def fitted(data: Transitions, train: Transitions, name: str, config: BehaviorConfig, progress: LiveProgress) -> Policy:
    """The behavior model of a preset, trained on some of the data."""
    preset = preset_named(name)
    scaling = scaling_of(train, normalize=preset.normalize_obs)
    trained_by = json.dumps([as_json(config), preset.normalize_obs, train.fingerprint()])
    mark = hashlib.sha256(trained_by.encode()).hexdigest()[:8]
    folder = Path("runs/likelihood") / f"{slug(data.task.dataset)}-{name}-{config.steps}-{mark}"
    folder.mkdir(parents=True, exist_ok=True)
    progress.start(f"{name} behavior", config.steps)
    with FolderSession(folder, progress.update, progress.say) as session:
        networks = train_behavior(behavior_data(train, scaling), config, stage_key(0, "behavior")[None], session)
    return Policy(member(networks, 0), policy_config(data, scaling, preset, {"stage": "behavior"}))


def main(options: Options) -> None:
    """Train and compare the named models.

    Raises:
        InputError: one cannot be trained, or none is named.
    """
    asked = {model: described(model) for model in options.models}  # before long work
    if not asked:
        raise InputError("models: there are none; name one or more, such as fast paper:5000")
    data = load(options.dataset)
    _, rows, held_out = split_episodes(data, 0.1, seed=0)
    train = dataclasses.replace(
        data,
        **{
            f: np.asarray(getattr(data, f))[rows]
            for f in ("obs", "action", "reward", "next_obs", "terminal", "timeout")
        },
    )
    chosen = np.sort(np.random.default_rng(0).choice(len(held_out), min(STATES, len(held_out)), replace=False))
    obs, action = np.asarray(held_out.obs)[chosen], np.asarray(held_out.action)[chosen]
    half_range = (np.array(data.task.action_high) - np.array(data.task.action_low)) / 2
    floor = gaussian(np.asarray(train.action, np.float64), action, half_range)
    found: dict[str, dict[str, Any]] = {}
    path = RESULTS / f"likelihood-{slug(options.dataset.removeprefix('tiltrl/'))}.json"
    with LiveProgress(Console()) as progress:
        for model, (name, config) in asked.items():
            policy = fitted(data, train, name, config, progress)
            log_prob = policy.log_prob(obs, action, batch=250)
            flops = behavior_step(config, data.task.obs_dim, data.task.act_dim).flops
            found[model] = {
                "mean": float(log_prob.mean()),
                "gain": float(log_prob.mean()) - floor,
                "median": float(np.median(log_prob)),
                "standard_error": float(log_prob.std() / np.sqrt(len(log_prob))),
                "steps": config.steps,
                "flops": flops * config.steps,
                "planned_flops": flops * preset_named(name).behavior.steps,
            }
            best = found[model]["gain"]
            for one in found.values():
                one["share"] = one["gain"] / best
            about = {"dataset": options.dataset, "states": len(obs), "jax": jax.__version__, "one_gaussian": floor}
            write_json(path, about | {"models": found})
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
