"""`tiltrl bandit`: what it refuses, what it leaves behind, and that the eight Gaussians are learned."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tiltrl.bandit.datasets import SETS
from tiltrl.bandit.experiment import ANALYTIC_TIMES, Bandit, BanditOptions, run_bandits
from tiltrl.errors import InputError
from tiltrl.runs import RunFolder


class Silent:
    """A reporter that only counts."""

    def __init__(self) -> None:
        self.started: list[str] = []

    def start(self, stage: str, total: int) -> None:
        self.started.append(stage)

    def update(self, done: int, total: int, metrics: dict[str, Any]) -> None:
        assert 0 <= done <= total

    def say(self, message: str) -> None:
        pass


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": ("moons", "square")}, "dataset 'square' is unknown; choose one of swissroll"),
        ({"dataset": ()}, "dataset = ''; name each of swissroll"),
        ({"dataset": ("moons", "moons")}, "at most once"),
        ({"objective": "best"}, "objective 'best' is unknown; choose one of value, preference"),
        ({"k": 1}, "k = 1; at least 2 candidates"),
        ({"k": 5000}, "k = 5000; .* at most 512"),
        ({"beta": 0.0}, "beta = 0.0"),
        ({"beta": -1.0}, "beta = -1.0"),
        ({"calls": 1}, "calls = 1; .* at least 2 network calls"),
        ({"times": (0.1, 1.5)}, r"times = 0.1 1.5; diffusion times lie in \[0, 1\]"),
        ({"times": (float("nan"),)}, "times = nan"),
        ({"seed": -1}, "seed = -1; it must lie in 0 to"),
        ({"samples": 1}, "samples = 1; it must lie in 100 to 100000"),
        ({"budget": 0.0}, "budget = 0.0"),
    ],
)
def test_options_that_cannot_be_used(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        run_bandits(replace(BanditOptions(out=tmp_path / "run"), **change), Silent())
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "objective", "k"),
    [("8gaussians", "value", 64), ("moons", "preference", 2)],
)
def test_a_run_leaves_pictures_and_numbers_and_is_not_repeated(
    name: str, objective: Any, k: int, tmp_path: Path
) -> None:
    options = BanditOptions(dataset=(name,), objective=objective, k=k, samples=200, budget=0.001, out=tmp_path / "run")
    first, again = Silent(), Silent()
    found = run_bandits(options, first)
    assert run_bandits(options, again) == found
    assert first.started == [f"{name}-mu", f"{name}-pi"] and not again.started
    for picture in (name, "bandits"):
        assert (options.out / f"{picture}.png").read_bytes().startswith(b"\x89PNG")
    written = json.loads((options.out / "results.json").read_text())
    assert written["sets"] == found and written["options"]["objective"] == objective
    if name == "8gaussians":
        assert [row["t"] for row in found[name]["analytic"]] == list(ANALYTIC_TIMES)


@pytest.mark.slow
def test_the_energy_of_the_eight_gaussians_is_their_log_density(tmp_path: Path) -> None:
    # A quarter of the steps; the benchmark holds the whole training to its thresholds.
    config = BanditOptions(budget=0.25).check()
    bandit = Bandit(SETS["8gaussians"], config, 0, RunFolder(tmp_path / "run", {}), Silent())
    mu = bandit.mu()
    points = SETS["8gaussians"].sample(2000, np.random.default_rng(1))
    for t in ANALYTIC_TIMES[2:]:
        assert bandit.analytic(mu, mu, 1.0, points, t, np.random.default_rng(2))["energy_error"] < 0.15
