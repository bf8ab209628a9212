"""`tiltrl critic ...`: train a critic, and find out how far it can be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Union

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tiltrl.cli_parse import later
from tiltrl.errors import InputError
from tiltrl.evaluation.ranking import Estimate
from tiltrl.options import RunConfig
from tiltrl.pipeline import Run
from tiltrl.progress import LiveProgress
from tiltrl.trust import CriticCheck, check_critic_of, measured
from tiltrl.trust_rollouts import RolloutConfig

console = Console(markup=False, emoji=False)  # what is in brackets or colons is the user's text


def train(config: Annotated[RunConfig, tyro.conf.arg(name="")]) -> None:
    """Fit the critic, and check on held-out episodes whether it can be trusted.

    Example: tiltrl critic train demo --critic iql
    """
    with LiveProgress(console) as progress:
        run = Run(config, progress)
        _ = run.critic
    console.print(f"critic in {run.critic_stage.folder}", soft_wrap=True)


@dataclass(frozen=True)
class CheckOptions:
    """Which critic to check, and how hard."""

    run: tyro.conf.Positional[Path]
    """A folder of `tiltrl run` or `tiltrl critic train`; where that holds several critics, one's folder in it."""
    rollouts: int = 0
    """States of held-out episodes to try actions from, in the environment: 64 take some minutes, and fewer than 16
    give no verdict. 0: look at the logged episodes only."""
    horizon: int = 250
    """Steps of a rollout whose rewards are summed."""
    steps_ahead: int = 20
    """Steps for which the critic's advice is followed, to see what that brings."""


def check(options: Annotated[CheckOptions, tyro.conf.arg(name="")]) -> None:
    """Good, weak or harmful: a critic beside held-out episodes and, with --rollouts, beside returns of tried actions.

    Example: tiltrl critic check runs/demo-fast --rollouts 64

    docs/trust.md tells what the numbers mean and what to do. An interrupted check goes on from what is saved.
    """
    if options.rollouts != 0 and not 2 <= options.rollouts <= 100_000:
        raise InputError(f"rollouts = {options.rollouts}; a number of states, 2 to 100000 (64 is usual), or 0 for none")
    config = RolloutConfig(max(options.rollouts, 2), horizon=options.horizon, steps_ahead=options.steps_ahead)
    from tiltrl.evaluation.trust_picture import draw_checks  # here, because it is slow to import

    with LiveProgress(console) as progress:
        checks = check_critic_of(options.run, config if options.rollouts else None, progress)
    picture = options.run / "critic-check.png"
    titles = [f"seed {one.seed}: {one.verdict}" for one in checks]
    draw_checks(
        [(title, one.held_out, one.rollouts) for title, one in zip(titles, checks, strict=True)],
        picture,
        f"{options.run}: can the critic be trusted?",
    )
    for one in checks:
        _print(one)
    numbers = options.run / "critic-check.json"
    console.print(f"picture  {picture}\nnumbers  {numbers}", highlight=False, soft_wrap=True)


COMMANDS = {"train": train, "check": check}
_Command = Union[  # noqa: UP007 (of a tuple made here)
    tuple(Annotated[Any, tyro.conf.subcommand(name=name, constructor=later(call))] for name, call in COMMANDS.items())
]


def critic(command: Annotated[_Command, tyro.conf.arg(name="")]) -> None:  # pyright: ignore[reportInvalidTypeForm]
    """Critics: fit one (train), and find out how far it can be trusted (check).

    Example: tiltrl critic train demo
    """
    command()


def _print(one: CriticCheck) -> None:
    console.print(
        Text(f"\nseed {one.seed}: {one.verdict}", "bold").append(Text(f"  {one.reason}", "default")), soft_wrap=True
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("", min_width=48)
    for heading in ("found", "95 % interval", "would be right"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, found, right in measured(one):
        table.add_row(name, *_numbers(found), right)
    rollouts = one.rollouts
    console.print(table)
    if rollouts is not None:
        console.print(
            f"{rollouts.states} states x ({rollouts.candidates} actions x {rollouts.repeats} repeats, and "
            f"{rollouts.followed} rollouts along Q) x {rollouts.horizon} steps; nothing is added for what follows, "
            f"which would count {rollouts.weight_left:.0%} at first; {rollouts.reproduced:.0%} of the tried states "
            "reproduced their recorded step",
            style="dim",
        )
    console.print()


def _numbers(found: Estimate | float) -> tuple[str, str]:
    if not isinstance(found, Estimate):
        return f"{found:.0%}", ""
    return f"{found.value:.3g}", f"{found.low:.3g} to {found.high:.3g}" if found.resampled else "unknown"
