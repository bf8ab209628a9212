"""Does a loss made for noisy labels do better by people who are wrong at times? IPO beside the preference loss, in 2-D.

    python benchmarks/preferences.py         # both sets; or one: python benchmarks/preferences.py moons

Pairs of the behavior's actions are labeled by Bradley-Terry on the true Q at temperature 1, and some labels are then
flipped; the policy sees the labels alone, as `tiltrl align --preferences` does. With pairs the preference loss is DPO.
Writes `benchmarks/results/preferences/<set>.json` and the table `preferences.md`; behaviors are kept in
`runs/preferences-benchmark`. About ten minutes a set on one core.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from rich.console import Console

from tiltrl import losses
from tiltrl.bandit import measure
from tiltrl.bandit.datasets import BanditSet, bandit_set
from tiltrl.bandit.experiment import REPEATS, Bandit
from tiltrl.bandit.model import BanditConfig, draw
from tiltrl.diffusion.energy import Energy
from tiltrl.files import write_json
from tiltrl.policy import versions
from tiltrl.progress import LiveProgress
from tiltrl.runs import RunFolder
from tiltrl.stages.align import train_policy
from tiltrl.stages.annotate import sample_candidates
from tiltrl.stages.keys import stage_key

SETS = ("8gaussians", "moons")
CASES = (
    ("order of Q", None, 1_000),
    ("Bradley-Terry", 0.0, 1_000),
    ("Bradley-Terry, 20 % flipped", 0.2, 1_000),
)
"""Labels, the share of them that is flipped (None: no Bradley-Terry either), and pairs: as many as people may give."""
BETAS = {"preference": (0.5, 1.0, 2.0), "ipo": (0.125, 0.25, 0.5)}
"""Around where each loss would find the true tilt, were there no flips and its margins small: 1, and 1/4."""
TRUE_BETA = 1.0
STEPS, BATCH, SAMPLES = 1_200, 128, 2_000
RESULTS = Path(__file__).parent / "results"


def ipo(q: Float[Array, " k"], log_ratio: Float[Array, " k"], beta: Float[Array, ""] | float) -> Float[Array, ""]:
    """Identity preference optimization (Azar et al. 2023, Eq. 17), of the best candidate against each other one.

    There the margin `h = log_ratio[w] - log_ratio[l]` is drawn to `1 / (2 tau)`, so `(h - 1 / (2 beta))^2`; times
    beta^2 that is `(beta h - 1/2)^2`, whose size does not depend on beta. Where a share p of the labels prefers w the
    optimum of one pair is `beta h = p - 1/2`: bounded however clear the labels are.
    """
    best = jnp.argmax(q)
    others = 1.0 - jax.nn.one_hot(best, len(q))
    return jnp.sum(others * (beta * (log_ratio[best] - log_ratio) - 0.5) ** 2) / (len(q) - 1)


def labeled(
    actions: Float[np.ndarray, "pairs 2 2"], known: BanditSet, flipped: float | None, rng: np.random.Generator
) -> Float[np.ndarray, "pairs 2"]:
    """1 for the preferred action of each pair, 0 for the other one; None: whichever has the higher Q."""
    q = known.q(actions.reshape(-1, 2)).reshape(-1, 2)
    margin = q[:, 0] - q[:, 1]
    if flipped is None:
        first = np.where(margin == 0, rng.uniform(size=len(q)) < 0.5, margin > 0)
    else:
        first = rng.uniform(size=len(q)) < 1.0 / (1.0 + np.exp(-margin / TRUE_BETA))
        first ^= rng.uniform(size=len(q)) < flipped
    return np.stack([first, ~first], axis=1).astype(np.float32)


def aligned(
    mu: Energy, actions: np.ndarray, labels: np.ndarray, objective: str, config: BanditConfig, seed: int
) -> list[Energy]:
    """One policy a temperature, of the pairs alone."""
    align = replace(config.align, steps=STEPS, batch=BATCH, objective=cast(losses.Objective, objective))
    found = train_policy(
        jax.tree.map(lambda leaf: leaf[None], mu),
        jnp.zeros((1, len(actions), 1)),
        jnp.asarray(actions)[None],
        jnp.asarray(labels)[None],
        jnp.array(BETAS[objective]),
        align,
        stage_key(seed, "align")[None],
    )
    return [jax.tree.map(lambda leaf, j=j: leaf[0, j], found.policy) for j in range(len(BETAS[objective]))]


def run(name: str, folder: RunFolder, progress: LiveProgress) -> dict[str, Any]:
    """All numbers of one set."""
    known, config, seed = bandit_set(name), BanditConfig(), 0
    mu = Bandit(known, config, seed, folder, progress).mu()
    rng = np.random.default_rng(seed + 1)
    data = known.sample(100_000, rng)

    def measured(energy: Energy) -> dict[str, float]:
        keys = jax.random.split(jax.random.key(7), REPEATS)
        samples = np.stack([draw(energy, SAMPLES, config.sampler, key) for key in keys])
        distance = measure.distance_to_tilt(known, TRUE_BETA, samples, np.random.default_rng(5))
        return {"distance": distance, "off_data": measure.share_off_data(samples.reshape(-1, 2), data)}

    rows = []
    for labels, flipped, pairs in CASES:
        states, key = np.zeros((pairs, 1), np.float32), stage_key(seed, "candidates")
        actions = sample_candidates(mu, states, 2, config.sampler, key, batch=1000)
        choices = labeled(actions, known, flipped, np.random.default_rng(3))
        for objective, betas in BETAS.items():
            for beta, pi in zip(betas, aligned(mu, actions, choices, objective, config, seed), strict=True):
                facts = {"pairs": pairs, "labels": labels, "objective": objective, "beta": beta}
                rows.append(facts | measured(pi))
                progress.say(str(rows[-1]))
    floor = measure.floor_of_tilt(known, TRUE_BETA, SAMPLES, rng)
    return {"rows": rows, "mu": measured(mu), "floor": floor}


def table(results: dict[str, Any]) -> str:
    """All numbers as Markdown, a row for each labeling and a column for each loss and temperature."""
    columns = [(objective, beta) for objective, betas in BETAS.items() for beta in betas]
    lines = [
        "# Noisy labels: the preference loss (DPO) and IPO\n",
        f"Command: `python benchmarks/preferences.py`. One seed, {STEPS} steps of {BATCH} pairs, {REPEATS} samples of "
        f"{SAMPLES} points.\nThe truth is `mu exp(Q)`. Each cell: sliced Wasserstein-1 to it in units of half the box, "
        "and in brackets the share of samples off the data.\n**Bold**: the loss's temperature that comes nearest.\n",
    ]
    for name, found in results.items():
        of_mu, floor = found["mu"], found["floor"]
        lines += [
            f"\n## {name}\n",
            f"mu itself: {of_mu['distance']:.3f} ({of_mu['off_data']:.1%}); another sample of the truth: {floor:.3f}\n",
            f"| pairs | labels | {' | '.join(f'{objective}, beta {beta:g}' for objective, beta in columns)} |",
            f"|{'---|' * (len(columns) + 2)}",
        ]
        for labels, _, pairs in CASES:
            rows = [row for row in found["rows"] if (row["pairs"], row["labels"]) == (pairs, labels)]
            best = {o: min(row["distance"] for row in rows if row["objective"] == o) for o in BETAS}
            cells = []
            for row in rows:
                mark = "**" if row["distance"] == best[row["objective"]] else ""
                cells.append(f"{mark}{row['distance']:.3f}{mark} ({row['off_data']:.1%})")
            lines.append(f"| {pairs} | {labels} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(only: list[str]) -> None:
    """Measure both sets, or only those named; write the table of all that are done."""
    losses.OBJECTIVES[cast(losses.Objective, "ipo")] = ipo  # tried here only
    folder = RunFolder("runs/preferences-benchmark", {"experiment": "preferences"})
    with LiveProgress(Console()) as progress:
        for name in only or SETS:
            found = run(name, folder, progress)
            write_json(RESULTS / "preferences" / f"{name}.json", {"versions": versions(), **found})
    files = {name: RESULTS / "preferences" / f"{name}.json" for name in SETS}
    results = {name: json.loads(file.read_text()) for name, file in files.items() if file.is_file()}
    (RESULTS / "preferences.md").write_text(table(results))


if __name__ == "__main__":
    main(sys.argv[1:])
