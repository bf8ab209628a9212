"""One cell of an experiment: what is trained on which data, by which command, in which folder."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from tiltrl.files import slug
from tiltrl.losses import Objective
from tiltrl.presets import PresetName
from tiltrl.types import as_json

EDA = "eda"
BANDIT, BANDIT_COMPARE = "bandit", "bandit-compare"


@dataclass(frozen=True)
class Cell:
    """One command. None and (): as the preset has it."""

    data: str  # a data set as `tiltrl run` takes it, or one of the bandit's
    method: str = EDA  # or a rival of `tiltrl baseline`, or a kind of `tiltrl bandit`
    seed: int = 0  # the first
    seeds: int = 1  # trained together
    preset: PresetName = "fast"
    budget: float = 1.0
    episodes: int = 20
    beta: tuple[float, ...] = ()
    critic: str | None = None
    objective: Objective | None = None
    k: int | None = None
    align_steps: int | None = None
    label_fraction: float = 1.0

    @property
    def key(self) -> str:
        """Names the cell's files: a hash of all its fields."""
        return hashlib.sha256(json.dumps(as_json(self), sort_keys=True).encode()).hexdigest()[:12]

    @property
    def folder(self) -> str:
        """Name of the run's folder, which the cells share that can share a behavior model."""
        shared = [self.data, self.preset, self.budget, self.seed, self.seeds]
        return f"{slug(self.data)}-seed{self.seed}-{hashlib.sha256(json.dumps(shared).encode()).hexdigest()[:6]}"

    @property
    def setting(self) -> str:
        """What is not as usual, for people."""
        named = {
            "beta": " ".join(map(exact, self.beta)),
            "critic": self.critic,
            "K": self.k,
            "steps": self.align_steps,
            "labels": None if self.label_fraction == 1.0 else exact(self.label_fraction),
        }
        found = [f"{name} {value}" for name, value in named.items() if value]
        return ", ".join([*([self.objective] if self.objective else []), *found])

    def __str__(self) -> str:
        seeds = f"seed {self.seed}" if self.seeds == 1 else f"seeds {self.seed} to {self.seed + self.seeds - 1}"
        return ", ".join(part for part in (f"{self.data}: {self.method}", self.setting, seeds) if part)


@dataclass(frozen=True)
class Job:
    """A cell's command, and where everything of it goes."""

    cell: Cell
    words: tuple[str, ...]  # of the command, after `tiltrl`
    folder: Path  # the run's
    result: Path  # what the command leaves
    log: Path  # what it says
    pictures: tuple[tuple[Path, Path], ...] = ()  # (what the command draws, where the experiment keeps it)

    @property
    def command(self) -> tuple[str, ...]:
        """As one types it."""
        return ("tiltrl", *self.words)


def log_of(cell: Cell, out: Path) -> Path:
    """Where the cell's command says what it does, in the experiment's folder."""
    return out / "cells" / f"{cell.key}.log"


def job_of(cell: Cell, out: Path) -> Job:
    """The command of a cell of the experiment in the folder `out`."""
    folder = out / "runs" / cell.folder
    if cell.method in (BANDIT, BANDIT_COMPARE):
        return _bandit_job(cell, folder, out)
    command, result = ("run",), "results.json"
    if cell.method != EDA:
        command, result = ("baseline", cell.method), f"baseline-{cell.method}.json"
    options = {
        "--preset": cell.preset,
        "--seeds": str(cell.seeds),
        "--seed": str(cell.seed),
        "--budget": exact(cell.budget),
        "--episodes": str(cell.episodes),
        "--critic": cell.critic,
        "--objective": cell.objective,
        "--k": cell.k and str(cell.k),
        "--align-steps": cell.align_steps and str(cell.align_steps),
        "--label-fraction": None if cell.label_fraction == 1.0 else exact(cell.label_fraction),
    }
    words = [*command, cell.data, *_typed(options), "--out", str(folder)]
    if cell.beta:
        words += ["--beta", *map(exact, cell.beta)]
    return Job(cell, tuple(words), folder, folder / result, log_of(cell, out))


def _bandit_job(cell: Cell, folder: Path, out: Path) -> Job:
    options = {"--objective": cell.objective, "--seed": str(cell.seed), "--budget": exact(cell.budget)}
    words = ["bandit", "--dataset", cell.data, *_typed(options), "--out", str(folder)]
    drawn, kept = f"{cell.data}.png", f"{cell.data}-{cell.objective}-seed{cell.seed}.png"
    result = "results.json"
    if cell.method == BANDIT_COMPARE:
        words.append("--compare")
        drawn, kept = f"{cell.data}-comparison.png", f"{cell.data}-compare-seed{cell.seed}.png"
        result = "comparison.json"
    pictures = ((folder / drawn, out / "pictures" / kept),)
    return Job(cell, tuple(words), folder, folder / result, log_of(cell, out), pictures)


def exact(value: float) -> str:
    """A number as one types it, which reads back as the same."""
    return repr(float(value)).removesuffix(".0")


def _typed(options: dict[str, str | None]) -> list[str]:
    return [word for name, value in options.items() if value is not None for word in (name, value)]
