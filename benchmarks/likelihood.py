"""How likely a preset's behavior model finds held-out actions, against training work.

    MINARI_DATASETS_PATH=<folder of the data sets> python benchmarks/likelihood.py DATASET fast paper:5000

Each model is a preset, with `:STEPS` for a shorter schedule than its own. A tenth of the episodes is held out; their
actions' exact log-densities (`Policy.log_prob`) are averaged over 2,000 of the steps. Nats have no zero to take shares
of, so a model's share is of the gain over one Gaussian fitted to all actions. Training can be stopped and continued
(runs/likelihood); the table and its numbers go to benchmarks/results/likelihood-<data set>.json.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import jax
import numpy as np
from rich.console import Console

from tiltrl.api import member, policy_config
from tiltrl.bench.counts import behavior_step
from tiltrl.data import load
from tiltrl.data.transforms import split_episodes
from tiltrl.diffusion.schedule import T_MIN, alpha_sigma
from tiltrl.files import slug, write_json
from tiltrl.policy import Policy
from tiltrl.presets import preset_named
from tiltrl.progress import LiveProgress
from tiltrl.stages.behavior import train_behavior
from tiltrl.stages.keys import stage_key
from tiltrl.stages.prepare import behavior_data, scaling_of
from tiltrl.training.session import FolderSession
from tiltrl.types import Transitions

RESULTS = Path(__file__).parent / "results"
STATES = 2_000


def gaussian(train: np.ndarray, held_out: np.ndarray) -> float:
    """Mean log-density of held-out actions under one Gaussian, blurred as a diffusion model's density is."""
    _, sigma = alpha_sigma(np.float32(T_MIN))
    cov = np.cov(train.T) + float(sigma) ** 2 * np.eye(train.shape[1])
    centered = held_out - train.mean(axis=0)
    distance = np.sum(centered @ np.linalg.inv(cov) * centered, axis=1)
    return float(np.mean(-0.5 * (distance + np.linalg.slogdet(2 * np.pi * cov)[1])))


def fitted(data: Transitions, train: Transitions, name: str, steps: int | None, progress: LiveProgress) -> Policy:
    """The behavior model of a preset, trained on some of the data."""
    preset = preset_named(name)
    config = preset.behavior if steps is None else dataclasses.replace(preset.behavior, steps=steps)
    scaling = scaling_of(train, normalize=preset.normalize_obs)
    folder = Path("runs/likelihood") / f"{slug(data.task.dataset)}-{name}-{config.steps}"
    folder.mkdir(parents=True, exist_ok=True)
    progress.start(f"{name} behavior", config.steps)
    with FolderSession(folder, progress.update, progress.say) as session:
        networks = train_behavior(behavior_data(train, scaling), config, stage_key(0, "behavior")[None], session)
    return Policy(member(networks, 0), policy_config(data, scaling, preset, {"stage": "behavior"}))


def main(dataset: str, models: list[str]) -> None:
    """Train and compare the named models."""
    data = load(dataset)
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
    found = {"one Gaussian": {"mean": gaussian(np.asarray(train.action, np.float64), action)}}
    with LiveProgress(Console()) as progress:
        for model in models:
            name, _, steps = model.partition(":")
            policy = fitted(data, train, name, int(steps) if steps else None, progress)
            log_prob = policy.log_prob(obs, action, batch=250)
            config = preset_named(name).behavior
            taken = int(steps) if steps else config.steps
            flops = behavior_step(config, data.task.obs_dim, data.task.act_dim).flops
            found[model] = {
                "mean": float(log_prob.mean()),
                "median": float(np.median(log_prob)),
                "standard_error": float(log_prob.std() / np.sqrt(len(log_prob))),
                "steps": taken,
                "flops": flops * taken,
                "planned_flops": flops * config.steps,
            }
    path = RESULTS / f"likelihood-{slug(dataset.removeprefix('tiltrl/'))}.json"
    write_json(path, {"dataset": dataset, "states": len(obs), "jax": jax.__version__, "models": found})
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
