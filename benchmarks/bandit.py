"""The bandits' claims as numbers with thresholds: six data sets, three temperatures, aligned by value.

    python benchmarks/bandit.py              # all; or some: python benchmarks/bandit.py 8gaussians moons

Writes `benchmarks/results/bandit/<set>.json`, the table `bandit.md` and the picture `bandit-k.png`, of all sets done so
far with this configuration. Networks are kept in `runs/bandit-benchmark`, so it can be stopped and continued. About 40
minutes; two processes that share the sets, one a core, take half. `tiltrl bandit` has to be done in ten minutes; here
the behavior takes three times its steps, so that less of the error is haste.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from tiltrl.bandit import measure
from tiltrl.bandit.datasets import SETS, BanditSet, bandit_set, square
from tiltrl.bandit.experiment import ANALYTIC_TIMES, Bandit, BanditOptions, open_folder
from tiltrl.bandit.model import STATE, BanditConfig
from tiltrl.diffusion.energy import Energy
from tiltrl.diffusion.likelihood import exact_probes, log_prob
from tiltrl.diffusion.schedule import T_MIN
from tiltrl.files import write_json
from tiltrl.policy import versions
from tiltrl.progress import LiveProgress
from tiltrl.runs import RunFolder
from tiltrl.types import as_json

BETAS = (0.5, 1.0, 2.0)
KS = (2, 4, 16, 64)
OPTIONS = BanditOptions(out=Path("runs/bandit-benchmark"))
BEHAVIOR_STEPS = 48_000
RESULTS = Path(__file__).parent / "results"


def density(mu: Energy, known: BanditSet) -> dict[str, float]:
    """Total mass of `exp(log_prob)` on a grid over [-1.1, 1.1]^2, and its mean distance from the exact density."""
    size, half, batch = 88, 1.1, 968

    @jax.jit
    def densities(points: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.vmap(lambda action: log_prob(mu, action, STATE, exact_probes(2), rtol=1e-3, atol=1e-3))(points)

    def found(points: np.ndarray) -> np.ndarray:
        parts = [densities(jnp.asarray(points[i : i + batch], jnp.float32)) for i in range(0, len(points), batch)]
        assert not any(failed.any() for _, failed in parts), "the solver gave up"
        return np.concatenate([np.asarray(value) for value, _ in parts])

    rng = np.random.default_rng(3)
    points = measure.diffuse(known.sample(2 * batch, rng), T_MIN, rng)
    away = found(points) - measure.eight_log_density(points, T_MIN)
    return {
        "mass": float(np.exp(found(square(half, size)).astype(np.float64)).sum() * (2.0 * half / (size - 1)) ** 2),
        "nats": float(np.abs(away).mean()),
    }


def run(name: str, config: BanditConfig, folder: RunFolder, progress: LiveProgress) -> dict[str, Any]:
    """All numbers of one set."""
    known = bandit_set(name)
    bandit = Bandit(known, config, OPTIONS.seed, folder, progress)
    mu = bandit.mu()
    progress.say(f"{name}: measuring")
    policies = bandit.pi(mu, BETAS)
    found: dict[str, Any] = {
        "rows": [bandit.measure(mu, pi, beta, OPTIONS.samples) for beta, pi in zip(BETAS, policies, strict=True)]
    }
    if name == "8gaussians":
        found["log_prob"] = density(mu, known)
        found["k"] = {}
        for k in KS:
            fewer = Bandit(known, replace(config, k=k), OPTIONS.seed, folder, progress)
            pi = policies[BETAS.index(1.0)] if k == config.k else fewer.pi(mu, (1.0,))[0]
            points = known.sample(4000, np.random.default_rng(4)).astype(np.float32)
            found["k"][str(k)] = [
                bandit.analytic(mu, pi, 1.0, points, t, np.random.default_rng(5)) for t in ANALYTIC_TIMES
            ]
    return found


def passed(value: float, low: float, high: float) -> str:
    """The number, marked where it lies outside its limits."""
    return f"{value:.3f}" if low <= value <= high else f"**{value:.3f}**"


def table(results: dict[str, Any]) -> str:
    """All numbers as Markdown; bold is what misses its threshold."""
    lines = [
        "# Bandits with known truth\n",
        f"Command: `python benchmarks/bandit.py`. Seed {OPTIONS.seed}, {OPTIONS.samples} points a sample, distances "
        f"averaged over several samples; {BEHAVIOR_STEPS} steps of the behavior, else as `tiltrl bandit`. "
        "**Bold** misses its threshold.\n",
        "Distances are sliced Wasserstein-1, in units of half the box. *pi / perfect*: distance of pi's samples to the "
        "true tilt over that between two\nsamples of it (at most 1.5). *pi / mu*: over that of mu's samples (at most a "
        "third). *off data*: share of pi's samples further from the\nnearest data point than 999 of 1000 points of data"
        " are. *corr.*, *slope*: `beta (f_pi - f_mu)` against Q at t = 0.001\nover the data (at least 0.97; 0.9 to "
        "1.1).\n",
        "| data set | beta | pi | perfect | mu | pi / perfect | pi / mu | off data | corr. | slope |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in results.items():
        for row in found["rows"]:
            pi, floor, mu = (row[f"distance_{key}"] for key in ("pi", "floor", "mu"))
            lines.append(
                f"| {name} | {row['beta']:g} | {pi:.4f} | {floor:.4f} | {mu:.4f} | {passed(pi / floor, 0, 1.5)} | "
                f"{passed(pi / mu, 0, 1 / 3)} | {row['off_data_pi']:.1%} | {passed(row['q_correlation'], 0.97, 1)} | "
                f"{passed(row['q_slope'], 0.9, 1.1)} |"
            )
    if "8gaussians" in results:
        lines += eight(results["8gaussians"])
    return "\n".join(lines) + "\n"


def eight(found: dict[str, Any]) -> list[str]:
    """What only the eight Gaussians allow, whose diffused density is known."""
    lines = [
        "\n## The eight Gaussians, whose diffused density is known\n",
        "*energy*: mean `|f_mu - log mu_t - C|` over samples of mu_t, in nats (at most 0.15). *score*: root mean "
        "square error of the gradient.\n",
        "| t | energy | score |",
        "|---|---|---|",
    ]
    for row in found["rows"][BETAS.index(1.0)]["analytic"]:
        lines.append(f"| {row['t']:g} | {passed(row['energy_error'], 0, 0.15)} | {row['score_error']:.3f} |")
    mass, nats = found["log_prob"]["mass"], found["log_prob"]["nats"]
    lines += [
        f"\n`log_prob` integrates to {passed(mass, 0.98, 1.02)} (1 ± 0.02) and is {passed(nats, 0, 0.15)} nats from "
        "the exact density on average (at most 0.15).\n",
        "`beta (f_pi - f_mu)` against `log E[exp Q | a_t]` (Lemma C.2) by quadrature, beta = 1: correlation (at least "
        "0.97 with K = 64) and, in\nbrackets, slope. The last column is the standard deviation of the exact value, in "
        "nats.\n",
        f"| t | {' | '.join(f'K = {k}' for k in KS)} | spread |",
        f"|{'---|' * (len(KS) + 2)}",
    ]
    for i, t in enumerate(ANALYTIC_TIMES):
        rows = [found["k"][str(k)][i] for k in KS]
        cells = [
            f"{passed(row['value_correlation'], 0.97 if k == 64 else -1, 1)} ({row['value_slope']:.2f})"
            for k, row in zip(KS, rows, strict=True)
        ]
        lines.append(f"| {t:g} | {' | '.join(cells)} | {rows[0]['value_spread']:.3f} |")
    return lines


def draw(found: dict[str, Any], path: Path) -> None:
    """The bias of small K: correlation and slope over diffusion time."""
    figure = Figure(figsize=(8.5, 3.2), dpi=120, facecolor="white", layout="constrained")
    for axes, key, title in zip(figure.subplots(1, 2), ("correlation", "slope"), ("correlation", "slope"), strict=True):
        for k in KS:
            axes.plot(ANALYTIC_TIMES, [row[f"value_{key}"] for row in found["k"][str(k)]], marker=".", label=f"K = {k}")
        axes.set(xlabel="diffusion time t", title=f"{title} with log E[exp Q | a_t], eight Gaussians")
        axes.title.set_fontsize(9)
        axes.axhline(1.0, color="gray", linewidth=1, linestyle=":")
        axes.legend(fontsize=7)
    figure.savefig(path)


def main(only: list[str]) -> None:
    """Run all sets, or only those named; write the table of all that are done."""
    config = OPTIONS.check()
    config = replace(config, behavior=replace(config.behavior, steps=BEHAVIOR_STEPS))
    (RESULTS / "bandit").mkdir(parents=True, exist_ok=True)
    with LiveProgress(Console()) as progress:
        for name in only or SETS:
            found = run(name, config, open_folder(OPTIONS), progress)
            facts = {"options": OPTIONS, "config": config, "versions": versions()}
            write_json(RESULTS / "bandit" / f"{name}.json", {**facts, **found})
    files = {name: RESULTS / "bandit" / f"{name}.json" for name in SETS}
    results = {name: json.loads(file.read_text()) for name, file in files.items() if file.is_file()}
    results = {name: found for name, found in results.items() if found["config"] == as_json(config)}
    (RESULTS / "bandit.md").write_text(table(results))
    if "8gaussians" in results:
        draw(results["8gaussians"], RESULTS / "bandit-k.png")


if __name__ == "__main__":
    main(sys.argv[1:])
