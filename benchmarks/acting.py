"""How few solver calls keep a policy's actions, how fast they are, and what is left of its score.

    tiltrl run tiltrl/hopper/mixed-v0 --seeds 3 --out runs/hopper       # and others alike
    tiltrl distill runs/hopper/policies/beta1-seed0 --out runs/hopper-distilled0     # of each
    python benchmarks/acting.py runs/hopper/policies/beta1-seed? runs/hopper-distilled?/policies/*

Writes `benchmarks/results/acting.json` and `acting.md`. Of the first diffusion policy of each task: the distance of
few-call samplers to 100 calls at logged states. Of all: whole episodes by the samplers of `CONTESTED`, and those of
distilled ones beside their teachers'; milliseconds to act in one state on one core. And candidates a second of both
presets' networks.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import tiltrl
from tiltrl.bench.counts import energy_layers, parameters
from tiltrl.bench.machine import machine_facts, pin
from tiltrl.diffusion.energy import Energy
from tiltrl.diffusion.samplers import GRIDS, SOLVERS
from tiltrl.evaluation.scores import interval, normalized_score
from tiltrl.files import write_atomically, write_json
from tiltrl.policy import Policy, load_policy
from tiltrl.presets import FAST, PAPER
from tiltrl.stages.annotate import SamplerConfig, actions_from, sample_candidates
from tiltrl.stages.distill import energy_distance, spread

PAPERS, FEW = PAPER.sampler, FAST.sampler
EXACT = SamplerConfig(100, "2m", "log_snr")
CONTESTED = (PAPERS, FEW, SamplerConfig(8, "2m", "log_snr"))  # the last is the nearest to exact of these
CALLS = (3, 4, 5, 6, 8, 15)
STATES, NOISES = 128, 64
RESULTS = Path(__file__).parent / "results"


def name_of(sampler: SamplerConfig) -> str:
    """Such as "5 2m quadratic"."""
    return f"{sampler.calls} {sampler.solver} {sampler.grid}"


def distances(policy: Policy, obs: np.ndarray) -> list[dict[str, Any]]:
    """Of each solver, grid and number of calls: how far from 100 calls, as shares of the spread of these at a state.

    `same_noise` and `to_papers` compare actions one by one, with 100 calls and with the paper's 15; `distribution` is
    the energy distance of independent samples, known to `deviation`; `spread` is 1 where actions are as varied.
    """
    rows = jnp.asarray(policy.config.scaling.normalize_obs(obs))
    noises = [jax.random.normal(jax.random.key(i), (len(obs), NOISES, policy.diffusion.act_dim)) for i in range(2)]
    draw = jax.jit(lambda noise, sampler: actions_from(policy.diffusion, rows, noise, sampler), static_argnums=1)
    exact, other = (np.asarray(draw(noise, EXACT)) for noise in noises)
    unit, papers = spread(exact), np.asarray(draw(noises[0], PAPERS))
    halves = [energy_distance(exact[i::2], other[i::2]) / unit for i in range(2)]

    def row(sampler: SamplerConfig) -> dict[str, Any]:
        found = np.asarray(draw(noises[0], sampler))
        return {
            **asdict(sampler),
            "same_noise": float(np.mean(np.linalg.norm(found - exact, axis=-1))) / unit,
            "to_papers": float(np.mean(np.linalg.norm(found - papers, axis=-1))) / unit,
            "distribution": energy_distance(found, other) / unit,
            "deviation": float(np.std(halves)),
            "spread": spread(found) / unit,
        }

    return [row(SamplerConfig(calls, solver, grid)) for calls in CALLS for solver in SOLVERS for grid in GRIDS]


def latency(folder: str, sampler: SamplerConfig | None, k: int) -> dict[str, Any]:
    """Milliseconds to act in one state, in a process of its own on one core; a sampler of None is the policy's own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_latency, (folder, sampler, k))


def _latency(folder: str, sampler: SamplerConfig | None, k: int, times: int = 3000) -> dict[str, Any]:
    pin(1)  # before JAX looks how many cores there are
    policy = load_policy(folder)
    policy = policy.best_of(k).replace(sampler=sampler or policy.config.sampler)
    obs = np.array(policy.config.scaling.obs_mean, np.float32)
    seconds = []
    for _ in range(times + 100):
        began = time.perf_counter()
        policy.sample(obs)
        seconds.append(time.perf_counter() - began)
    p50, p99 = np.percentile(1000.0 * np.array(seconds[100:]), (50, 99))
    return {"policy": Path(folder).name, "sampler": sampler and name_of(sampler), "k": k, "p50": p50, "p99": p99}


def candidates_a_second(rounds: int) -> list[dict[str, Any]]:
    """By each preset's network of hopper's sizes and both samplers, in turns; 16 candidates at each of 128 states."""
    found = []
    for name, network in (("paper", PAPER.behavior.network), ("fast", FAST.behavior.network)):
        energy = eqx.filter_jit(Energy)(11, 3, network, key=jax.random.key(0))
        obs = np.zeros((128, 11), np.float32)
        layers = energy_layers(network, 11, 3)
        numbers = parameters(layers.path + layers.condition)
        seconds: dict[str, list[float]] = {name_of(sampler): [] for sampler in (PAPERS, FEW)}
        for turn in range(rounds + 1):  # the first compiles
            for sampler in (PAPERS, FEW):
                began = time.perf_counter()
                sample_candidates(energy, obs, 16, sampler, jax.random.key(turn), batch=len(obs))
                seconds[name_of(sampler)].append(time.perf_counter() - began)
        for sampler, taken in seconds.items():
            rate = len(obs) * 16 / float(np.median(taken[1:]))
            found.append({"network": name, "parameters": numbers, "sampler": sampler, "rate": rate})
    return found


def scores(policy: Policy, episodes: int, seed: int) -> list[float]:
    """Normalized scores of whole episodes."""
    return normalized_score(tiltrl.evaluate(policy, episodes, seed).returns, policy.config.task).tolist()


def ratio(some: np.ndarray, others: np.ndarray) -> tuple[float, float, float]:
    """Ratio of the means of two tables (policies, episodes) and its 95 % interval, by bootstrap within each policy."""
    rng = np.random.default_rng(0)
    drawn = [np.mean([rng.choice(x, (10_000, x.size)).mean(axis=1) for x in table], axis=0) for table in (some, others)]
    return float(some.mean() / others.mean()), *map(float, np.percentile(drawn[0] / drawn[1], (2.5, 97.5)))


def measure(folders: list[str], episodes: int, seed: int) -> dict[str, Any]:
    """Everything, in the order of the report."""
    policies = {folder: load_policy(folder) for folder in folders}
    teachers = {folder: policy for folder, policy in policies.items() if policy.config.energy is not None}
    students = {folder: policy for folder, policy in policies.items() if folder not in teachers}
    found: dict[str, Any] = {"distances": [], "scores": [], "latency": [], "candidates": candidates_a_second(3)}
    first = {policy.config.task.dataset: folder for folder, policy in reversed(teachers.items())}
    for task, folder in sorted(first.items()):
        data = tiltrl.load(task)
        obs = data.obs[np.random.default_rng(0).choice(len(data), STATES, replace=False)]
        found["distances"].append({"policy": folder, "task": task, "rows": distances(teachers[folder], obs)})
        print(f"{folder}: distances")
    for folder, policy in policies.items():
        samplers = (policy.config.sampler,) if folder in students else CONTESTED
        for sampler in samplers if episodes else ():
            acting = "distilled" if folder in students else name_of(sampler)
            values = scores(policy.mean_of(1).replace(sampler=sampler), episodes, seed)
            entry = {"policy": folder, "task": policy.config.task.dataset, "acting": acting, "scores": values}
            found["scores"].append(entry)
            print(f"{folder}: {acting}: score {np.mean(values):.1f}")
    for folder in [*list(teachers)[:1], *list(students)[:1]]:
        for sampler in (None,) if folder in students else (PAPERS, FEW):
            for k in (1, 4):
                found["latency"].append(latency(folder, sampler, k))
    return found | {"episodes": episodes, "seed": seed, "machine": machine_facts()}


def report(found: dict[str, Any]) -> str:
    """The tables."""
    lines = ["# Acting", "", "`python benchmarks/acting.py`; raw numbers in [acting.json](acting.json).", ""]
    lines += ["## Few calls", "", "Means over tasks, as shares of the spread of actions at a state.", ""]
    lines += ["| calls | solver | grid | from 100 calls, same noise | from the paper's 15 | distribution | spread |"]
    lines += ["|---|---|---|---|---|---|---|"]
    every = [one["rows"] for one in found["distances"]]
    keys = "same_noise", "to_papers", "distribution", "spread"
    for rows in zip(*every, strict=True):
        mean = {key: np.mean([row[key] for row in rows]) for key in keys}
        numbers = (
            f"{mean['same_noise']:.1%} | {mean['to_papers']:.1%} | {mean['distribution']:.2%} | {mean['spread']:.1%}"
        )
        lines.append(f"| {rows[0]['calls']} | {rows[0]['solver']} | {rows[0]['grid']} | {numbers} |")
    lines += [
        "",
        "## Scores",
        "",
        "Normalized (not D4RL's), 95 % intervals by bootstrap over episodes within each policy.",
        "",
    ]
    lines += [
        "| data | acting | episodes | score | of the paper's sampler | of the few calls |",
        "|---|---|---|---|---|---|",
    ]
    pooled: dict[str, dict[str, np.ndarray]] = {}
    for one in found["scores"]:
        of_task = pooled.setdefault(one["task"], {})
        before = of_task.get(one["acting"], np.empty((0, len(one["scores"]))))
        of_task[one["acting"]] = np.vstack([before, one["scores"]])
    for task, by_acting in pooled.items():
        for acting, values in by_acting.items():
            shares = [
                "{:.1%} ({:.1%} to {:.1%})".format(*ratio(values, by_acting[name_of(base)]))
                if name_of(base) in by_acting and acting != name_of(base)
                else ""
                for base in (PAPERS, FEW)
            ]
            known = interval(values)
            score, size = f"{known.mean:.1f} ({known.low:.1f} to {known.high:.1f})", " x ".join(map(str, values.shape))
            lines.append(f"| {task} | {acting} | {size} | {score} | {' | '.join(shares)} |")
    lines += ["", "## One state on one core, milliseconds", "", "| policy | sampler | best of | p50 | p99 |"]
    lines += ["|---|---|---|---|---|"]
    for one in found["latency"]:
        sampler = one["sampler"] or "one step"
        lines.append(f"| {one['policy']} | {sampler} | {one['k']} | {one['p50']:.3f} | {one['p99']:.3f} |")
    lines += ["", "## Candidates a second, all cores", "", "| network | parameters | sampler | candidates a second |"]
    lines += ["|---|---|---|---|"]
    for one in found["candidates"]:
        lines.append(f"| {one['network']} | {one['parameters']:,} | {one['sampler']} | {one['rate']:,.0f} |")
    machine = found["machine"]
    return "\n".join([*lines, "", f"{machine['processor']}, {machine['cores']} cores; JAX on {machine['device']}.", ""])


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policies", nargs="+", help="folders of policies, diffusion ones and distilled ones")
    parser.add_argument("--episodes", type=int, default=60, help="of each policy and sampler; 0: none")
    parser.add_argument("--seed", type=int, default=1000, help="of the episodes")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    found = measure(options.policies, options.episodes, options.seed)
    write_json(options.out / "acting.json", found)
    write_atomically(options.out / "acting.md", report(found).encode())
    print(report(found))


if __name__ == "__main__":
    main()
