"""`tiltrl bandit --compare`: the bottleneck diffusion model beside other generative models (the paper's Figure 7)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from tiltrl.bandit import figure, measure
from tiltrl.bandit.datasets import Points, bandit_set
from tiltrl.bandit.experiment import REPEATS, Bandit, open_folder
from tiltrl.bandit.model import draw
from tiltrl.bandit.options import BanditOptions
from tiltrl.bandit.rivals import EBMConfig, VAEConfig, fit_ebm, fit_gaussian, fit_vae
from tiltrl.files import write_json
from tiltrl.policy import versions
from tiltrl.presets import shortened
from tiltrl.progress import Reporter

Sampler = Callable[[int, PRNGKeyArray], Points]


def run_comparison(options: BanditOptions, reporter: Reporter) -> dict[str, list[dict[str, Any]]]:
    """Fit every model to every data set; writes pictures and `comparison.json`, returns the numbers by set.

    Raises:
        InputError: an option cannot be used, or the folder holds something else.
    """
    config = options.check()
    folder = open_folder(options)
    results: dict[str, list[dict[str, Any]]] = {}
    for name in options.dataset:
        bandit = Bandit(bandit_set(name), config, options.seed, folder, reporter)
        mu = bandit.mu()
        points, key = bandit.points, jax.random.key(options.seed)
        reporter.say(f"{name}: fitting Gaussian, VAE and EBM")
        rivals = (
            fit_gaussian(points),
            fit_vae(points, shortened(VAEConfig(), options.budget), key),
            *fit_ebm(points, shortened(EBMConfig(), options.budget), key),
        )
        models: list[tuple[str, Sampler, int]] = [
            (f"BDM, {options.calls} calls", lambda n, key, mu=mu: draw(mu, n, config.sampler, key), options.calls),
            *((fitted.name, fitted.sample, fitted.calls) for fitted in rivals),
        ]
        rng = np.random.default_rng(options.seed + 1)
        truth = np.stack([bandit.known.sample(options.samples, rng) for _ in range(REPEATS)])
        panels, rows = [("data", truth[0])], [_row("data", truth, bandit, 0, 0.0)]
        for title, sample, calls in models:
            reporter.say(f"{name}: sampling {title}")
            sample(options.samples, key)  # compiles
            began = time.perf_counter()
            found = np.stack([sample(options.samples, jax.random.fold_in(key, 1 + i)) for i in range(REPEATS)])
            rows.append(_row(title, found, bandit, calls, (time.perf_counter() - began) / REPEATS))
            panels.append((title, found[0]))
        results[name] = rows
        figure.draw_samples(panels, options.out / f"{name}-comparison.png")
    write_json(options.out / "comparison.json", {"options": options, "versions": versions(), "sets": results})
    return results


def _row(
    title: str, samples: Float[np.ndarray, "repeats n 2"], bandit: Bandit, calls: int, seconds: float
) -> dict[str, Any]:
    """Two views of the samples' quality: all of its mass, and how near each of its points is to data.

    The sliced Wasserstein distance asks whether every part has its share; the other number what share of the samples
    lies where there is no data. A model may be good at either alone.
    """
    rng = np.random.default_rng(bandit.seed + 2)
    return {
        "model": title,
        "distance": measure.mean_distance(samples, lambda n: bandit.known.sample(n, rng)),
        "off_data": measure.share_off_data(samples.reshape(-1, 2), bandit.known.sample(100_000, rng)),
        "network_calls": calls,
        "seconds": seconds,
    }
