"""`tiltrl bandit`: pretrain and tilt two-dimensional bandits, measure them against the truth, draw them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import numpy as np

from tiltrl.bandit import figure, measure
from tiltrl.bandit.datasets import BanditSet, Points, bandit_set
from tiltrl.bandit.model import BanditConfig, draw, draw_candidates, energies, fit_mu, scores, tilt
from tiltrl.bandit.options import BanditOptions
from tiltrl.diffusion.energy import Energy
from tiltrl.diffusion.schedule import T_MIN
from tiltrl.files import write_json
from tiltrl.policy import versions
from tiltrl.progress import Reporter
from tiltrl.runs import RunFolder
from tiltrl.trained import trained
from tiltrl.training.loop import Session

REPEATS = 4
"""Samples of a model whose distances to the truth are averaged."""
ANALYTIC_TIMES = (T_MIN, 0.05, 0.1, 0.3, 0.6, 1.0)
"""Diffusion times at which the eight Gaussians are compared with their exact density."""


class Bandit:
    """Trained models of one data set, in a run's folder."""

    def __init__(self, known: BanditSet, config: BanditConfig, seed: int, folder: RunFolder, reporter: Reporter):
        self.known, self.config, self.seed, self.folder, self.reporter = known, config, seed, folder, reporter
        self.like = eqx.filter_eval_shape(Energy, 1, 2, config.behavior.network, key=jax.random.key(0))
        self._stage = folder.stage(f"{known.name}-mu", config=config.behavior, points=config.points, seed=seed)

    @property
    def points(self) -> Points:
        """The logged actions."""
        return self.known.sample(self.config.points, np.random.default_rng(self.seed)).astype(np.float32)

    def mu(self) -> Energy:
        """The behavior model."""
        return trained(
            self._stage,
            self.like,
            self.config.behavior.steps,
            lambda session: fit_mu(self.points, self.config, self.seed, session),
            self.reporter,
        )

    def pi(self, mu: Energy, betas: Sequence[float]) -> list[Energy]:
        """One aligned policy a temperature."""
        config = self.config
        stage = self.folder.stage(
            f"{self.known.name}-pi",
            config=config.align,
            sampler=config.sampler,
            candidates=(config.candidates, config.k, config.regroupings, config.batch),
            betas=tuple(betas),
            mu=self._stage.key,
        )

        def train(session: Session) -> list[Energy]:
            found = draw_candidates(mu, config, self.seed)
            return tilt(mu, found, self.known, betas, config, self.seed, session)

        return trained(stage, [self.like] * len(betas), config.align.steps, train, self.reporter)

    def measure(self, mu: Energy, pi: Energy, beta: float, n: int) -> dict[str, Any]:
        """Every number that the truth allows."""
        known, sampler, rng = self.known, self.config.sampler, np.random.default_rng(self.seed + 1)
        key = jax.random.fold_in(jax.random.key(self.seed), 1)
        of_mu, of_pi = (
            np.stack([draw(energy, n, sampler, jax.random.fold_in(key, REPEATS * i + j)) for j in range(REPEATS)])
            for i, energy in enumerate((mu, pi))
        )
        points = known.sample(4000, rng).astype(np.float32)
        correlation, slope = measure.linear_agreement(implied(mu, pi, beta, points, T_MIN), known.q(points))
        found: dict[str, Any] = {
            "beta": beta,
            "distance_pi": measure.distance_to_tilt(known, beta, of_pi, rng),
            "distance_mu": measure.distance_to_tilt(known, beta, of_mu, rng),
            "distance_floor": measure.floor_of_tilt(known, beta, n, rng),
            # What distances cannot see: whether thin structure is resolved or smeared.
            "off_data_pi": measure.share_off_data(of_pi.reshape(-1, 2), known.sample(100_000, rng)),
            "q_correlation": correlation,
            "q_slope": slope,
        }
        if known.name == "8gaussians":
            found["analytic"] = [self.analytic(mu, pi, beta, points, t, rng) for t in ANALYTIC_TIMES]
        return found

    def analytic(
        self, mu: Energy, pi: Energy, beta: float, points: Points, t: float, rng: np.random.Generator
    ) -> dict[str, float]:
        """The eight Gaussians at one diffusion time: energy, score and implied values beside the exact ones."""
        noisy = measure.diffuse(points, t, rng).astype(np.float32)
        away = scores(mu, noisy, t) - measure.eight_score(noisy, t)
        some = noisy[:400]  # quadrature is slow
        tempered = replace(self.known, q=lambda a: self.known.q(a) / beta)
        value = beta * measure.eight_value(tempered, some, t)
        correlation, slope = measure.linear_agreement(implied(mu, pi, beta, some, t), value)
        return {
            "t": t,
            "energy_error": measure.offset_error(energies(mu, noisy, t), measure.eight_log_density(noisy, t)),
            "score_error": float(np.sqrt(np.mean(np.sum(away**2, axis=1)))),
            "value_correlation": correlation,
            "value_slope": slope,
            "value_spread": float(value.std()),
        }

    def maps(self, mu: Energy, pi: Energy, beta: float, times: Sequence[float], n: int) -> figure.Maps:
        """What the figure shows."""
        rng, points = np.random.default_rng(self.seed + 2), figure.grid()
        shape = (len(times), figure.PIXELS, figure.PIXELS)
        data = self.known.sample(n, rng)
        samples = draw(pi, n, self.config.sampler, jax.random.fold_in(jax.random.key(self.seed), 3))
        used = tuple(max(t, T_MIN) for t in times)
        f_mu, f_pi = (np.stack([energies(e, points, t) for t in used]).reshape(shape) for e in (mu, pi))
        q = self.known.q
        return figure.Maps(
            self.known.name, beta, self.known.q_is, data, q(data), samples, q(samples), used, f_mu, f_pi,
            beta * (f_pi - f_mu),
        )  # fmt: skip


def implied(mu: Energy, pi: Energy, beta: float, points: Points, t: float) -> np.ndarray:
    """`beta (f_pi - f_mu)`, the value that the policy implies, up to a constant."""
    return beta * (energies(pi, points, t) - energies(mu, points, t))


def open_folder(options: BanditOptions) -> RunFolder:
    """The folder of this and every other bandit run of the same seed.

    Raises:
        InputError: it holds something else, or cannot be written.
    """
    return RunFolder(options.out, {"experiment": "bandit", "seed": options.seed})


def run_bandits(options: BanditOptions, reporter: Reporter) -> dict[str, dict[str, Any]]:
    """Train, measure and draw every data set; writes pictures and `results.json`, returns the numbers by set.

    Raises:
        InputError: an option cannot be used, or the folder holds something else.
    """
    config = options.check()
    folder = open_folder(options)
    results: dict[str, dict[str, Any]] = {}
    sheets = []
    for name in options.dataset:
        bandit = Bandit(bandit_set(name), config, options.seed, folder, reporter)
        mu = bandit.mu()
        (pi,) = bandit.pi(mu, (options.beta,))
        reporter.say(f"{name}: measuring and drawing")
        results[name] = bandit.measure(mu, pi, options.beta, options.samples)
        sheets.append(bandit.maps(mu, pi, options.beta, options.times, options.samples))
        figure.draw(sheets[-1], options.out / f"{name}.png")
    figure.contact_sheet(sheets, options.out / "bandits.png")
    write_json(
        options.out / "results.json", {"options": options, "config": config, "versions": versions(), "sets": results}
    )
    return results
