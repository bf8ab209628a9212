"""`tiltrl preferences ...`: make questions for people, of actions that the behavior would take; check answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Union

import jax
import numpy as np
import tyro
from jaxtyping import Float, Int
from rich.console import Console

from tiltrl.api import member
from tiltrl.cli_parse import later
from tiltrl.data import load
from tiltrl.data.preferences import LETTERS, read_preferences
from tiltrl.data.questions import check_target, least_difference, redrawn, spread_rows, write_questions
from tiltrl.errors import InputError
from tiltrl.options import RunConfig
from tiltrl.pipeline import Run
from tiltrl.presets import PresetName
from tiltrl.progress import LiveProgress
from tiltrl.stages.annotate import sample_candidates
from tiltrl.stages.keys import stage_key
from tiltrl.types import read

console = Console(markup=False, emoji=False)  # what is in brackets or colons is the user's text

REDRAWS = 4
"""How often a question whose actions are too alike gets new ones before it is dropped."""


@dataclass(frozen=True)
class MakeOptions:
    """Which questions to make, and of which run's behavior."""

    dataset: tyro.conf.Positional[str]
    """Any name that `tiltrl run` takes."""
    out: Path
    """The table to write, a .csv or .parquet file."""
    pairs: int = 500
    """How many questions, at states spread over the data."""
    k: int = 2
    """Actions to choose among in each."""
    differ: float = 0.05
    """By how much any two of them differ at least, where they differ most, as a share of the action's range."""
    run: Path | None = None
    """The run's folder (--out of the other commands), whose behavior is reused or trained. Default: as theirs."""
    preset: PresetName = "fast"
    """Of the run, as the four options that follow."""
    budget: float = 1.0
    """Share of the preset's training steps."""
    seeds: int = 1
    """How many seeds the run has; the questions are of the first one's behavior."""
    seed: int = 0
    """The first seed, also of the questions."""
    overwrite: bool = False
    """Replace the table, and the answers in it."""

    def check(self) -> None:
        """Refuse what cannot be made, before anything is trained.

        Raises:
            InputError: a number is out of range, or the table is there.
        """
        if not 2 <= self.k <= len(LETTERS):
            raise InputError(f"k = {self.k}; a question has 2 to {len(LETTERS)} actions")
        if not 0 < self.differ <= 1:
            raise InputError(f"differ = {self.differ}; it is a share of the action's range, above 0 and at most 1")
        check_target(self.out, self.overwrite)


def make(options: Annotated[MakeOptions, tyro.conf.arg(name="")]) -> None:
    """Ask people: a table of states with a few of the behavior's actions each, and a column `choice` to fill.

    Example: tiltrl preferences make demo --out questions.csv

    Write a or b into each row's `choice` (or the action's number; `tie` or nothing for no answer), and then:
    tiltrl align demo --preferences questions.csv
    """
    options.check()
    config = RunConfig(
        options.dataset,
        preset=options.preset,
        budget=options.budget,
        seeds=options.seeds,
        seed=options.seed,
        out=options.run,
    )
    with LiveProgress(console) as progress:
        run = Run(config, progress, rewards=False)
        step = spread_rows(len(run.data), options.pairs, options.seed)
        obs = read(run.data.obs, step)
        unit, again, alike = _questions(run, obs, options)
        kept = ~alike
        if not kept.any():
            raise InputError(
                f"differ = {options.differ}: at all {len(obs)} states the behavior's actions are more alike; lower it"
            )
        action = run.scaling.to_env(unit[kept])
        write_questions(options.out, step[kept], obs[kept], action, overwrite=options.overwrite)
    console.print(
        f"{kept.sum()} questions of {options.k} actions in {options.out}; {again} were too alike and drawn again, "
        f"{alike.sum()} dropped\n\nFill its column choice with {', '.join(LETTERS[: options.k])} (tie or nothing: no "
        f"answer), then:  tiltrl align {options.dataset} --preferences {options.out}{_same_run(options)}",
        highlight=False,
        soft_wrap=True,
    )


def _same_run(options: MakeOptions) -> str:
    """Options with which other commands reuse this behavior."""
    usual = RunConfig(options.dataset)
    asked = {"out": options.run} | {name: getattr(options, name) for name in ("preset", "budget", "seeds", "seed")}
    return "".join(f" --{name} {value}" for name, value in asked.items() if value != getattr(usual, name))


def _questions(
    run: Run, obs: Float[np.ndarray, "states obs"], options: MakeOptions
) -> tuple[Float[np.ndarray, "states k act"], int, np.ndarray]:
    """Actions in the unit box, how many questions were drawn again, and which are still too alike."""
    energy, normalized = member(run.behavior, 0), run.scaling.normalize_obs(obs)
    key = stage_key(options.seed, "candidates")

    def drawn(rows: Int[np.ndarray, " rows"], times: int) -> Float[np.ndarray, "rows k act"]:
        fresh = jax.random.fold_in(key, times)
        return sample_candidates(energy, normalized[rows], options.k, run.preset.sampler, fresh)

    unit = drawn(np.arange(len(obs)), 0)
    first = alike = least_difference(unit) < options.differ
    for times in range(1, REDRAWS + 1):
        if not alike.any():
            break
        unit = redrawn(unit, drawn(np.flatnonzero(alike), times), alike)
        alike = least_difference(unit) < options.differ
    return unit, int(first.sum()), alike


@dataclass(frozen=True)
class CheckOptions:
    """Which answers to look at."""

    dataset: tyro.conf.Positional[str]
    """What the behavior learns from: any name that `tiltrl run` takes."""
    preferences: tyro.conf.Positional[Path]
    """A .csv, .parquet or .npz file of pairs or answered questions."""


def check(options: Annotated[CheckOptions, tyro.conf.arg(name="")]) -> None:
    """Whether a file of preferences can be used, and what is in it; nothing is trained.

    Example: tiltrl preferences check demo questions.csv
    """
    found = read_preferences(options.preferences, load(options.dataset).task)
    console.print(found.describe(), highlight=False, soft_wrap=True)


COMMANDS = {"make": make, "check": check}
_Command = Union[  # noqa: UP007 (of a tuple made here)
    tuple(Annotated[Any, tyro.conf.subcommand(name=name, constructor=later(call))] for name, call in COMMANDS.items())
]


def preferences(command: Annotated[_Command, tyro.conf.arg(name="")]) -> None:  # pyright: ignore[reportInvalidTypeForm]
    """What people prefer: make questions (make), look at the answers (check), align with --preferences.

    Example: tiltrl preferences make demo --out questions.csv
    """
    command()
