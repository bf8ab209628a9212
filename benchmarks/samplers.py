"""Network calls against sample error for each solver and time grid, with exact scores instead of a network.

    python benchmarks/samplers.py

Writes `benchmarks/results/samplers.json` and `samplers.png`, in a minute or two. Left: distance of each sample from
where the exact flow takes its noise, on a Gaussian (closed form). Right: sliced Wasserstein distance between 50,000
samples and fresh data, on the bandit's eight Gaussians, whose diffused score is known at every time.
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from matplotlib.figure import Figure

from tiltrl.bandit.datasets import EIGHT_DEVIATION, bandit_set, eight_centers
from tiltrl.bandit.measure import sliced_wasserstein
from tiltrl.diffusion.samplers import GRIDS, SOLVERS, Denoiser, Grid, Solver, sample
from tiltrl.diffusion.schedule import T_MIN, alpha_sigma
from tiltrl.files import write_json

CALLS = (2, 3, 5, 8, 10, 15, 20, 25, 35, 50, 100)
SAMPLES = 50_000
RESULTS = Path(__file__).parent / "results"
KINDS: tuple[tuple[Solver, Grid], ...] = tuple((solver, grid) for solver in SOLVERS for grid in GRIDS)


def mixture(centers: Float[Array, "modes act"], deviation: float) -> Denoiser:
    """The exact data prediction for equally likely round Gaussians."""

    def denoise(action: Float[Array, "batch act"], t: Float[Array, ""]) -> Float[Array, "batch act"]:
        alpha, sigma = alpha_sigma(t)
        variance = (alpha * deviation) ** 2 + sigma**2
        away = action[:, None] - alpha * centers
        weight = jax.nn.softmax(-0.5 * jnp.sum(away**2, axis=2) / variance, axis=1)
        mean = weight @ centers
        return mean + alpha * deviation**2 / variance * (action - alpha * mean)

    return denoise


def flow_error(solver: Solver, grid: Grid, calls: int) -> float:
    """Root mean square distance from the closed-form flow, for N((0.3, 0.3), 0.2^2)."""
    noise = jax.random.normal(jax.random.key(0), (2000, 2))
    (a1, s1), (a0, s0) = alpha_sigma(jnp.array(1.0)), alpha_sigma(jnp.array(T_MIN))
    quantile = (noise - a1 * 0.3) / jnp.sqrt((a1 * 0.2) ** 2 + s1**2)
    exact = a0 * 0.3 + jnp.sqrt((a0 * 0.2) ** 2 + s0**2) * quantile
    found = sample(mixture(jnp.full((1, 2), 0.3), 0.2), noise, calls=calls, solver=solver, grid=grid)
    # The sampler clips to the unit box, which lies beyond 3.5 deviations: the exact flow is clipped alike.
    return float(jnp.sqrt(jnp.mean(jnp.sum((found - jnp.clip(exact, -1.0, 1.0)) ** 2, axis=1))))


def main() -> None:
    """Measure, write, draw."""
    known, rng = bandit_set("8gaussians"), np.random.default_rng(0)
    truths = [known.sample(SAMPLES, rng) for _ in range(4)]
    floor = float(np.mean([sliced_wasserstein(truths[0], other) for other in truths[1:]]))
    noise = jax.random.normal(jax.random.key(1), (SAMPLES, 2))
    exact = mixture(jnp.asarray(eight_centers()), EIGHT_DEVIATION)

    def distance(solver: Solver, grid: Grid, calls: int) -> float:
        found = np.asarray(sample(exact, noise, calls=calls, solver=solver, grid=grid))
        return float(np.mean([sliced_wasserstein(found, truth) for truth in truths]))

    rows = [
        {
            "solver": solver,
            "grid": grid,
            "calls": calls,
            "gaussian_error": flow_error(solver, grid, calls),
            "eight_distance": distance(solver, grid, calls),
        }
        for solver, grid in KINDS
        for calls in CALLS
    ]
    write_json(RESULTS / "samplers.json", {"perfect_sample": floor, "rows": rows})

    figure = Figure(figsize=(8.5, 3.4), dpi=120, facecolor="white", layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, key in ((left, "gaussian_error"), (right, "eight_distance")):
        for solver, grid in KINDS:
            chosen = [row for row in rows if (row["solver"], row["grid"]) == (solver, grid)]
            line = {"log_snr": "-", "uniform": "--", "quadratic": ":"}[grid]
            color = {"2m": "tab:blue", "2mf": "tab:green", "2s": "tab:orange"}[solver]
            axes.loglog(CALLS, [row[key] for row in chosen], line, marker=".", color=color, label=f"{solver}, {grid}")
        axes.set_xlabel("network calls")
        axes.set_xticks([2, 5, 10, 15, 25, 50, 100], ["2", "5", "10", "15", "25", "50", "100"])
    left.set_title("one Gaussian: distance from the exact flow", fontsize=9)
    right.set_title("eight Gaussians: sliced Wasserstein distance to data", fontsize=9)
    right.axhline(floor, color="gray", linewidth=1, linestyle=":", label="another sample of the data")
    right.legend(fontsize=7)
    figure.savefig(RESULTS / "samplers.png")


if __name__ == "__main__":
    main()
