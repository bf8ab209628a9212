"""`tiltrl experiment ...`: the paper's experiments, as tables and figures."""

from __future__ import annotations

from typing import Annotated

import tyro
from rich.console import Console
from rich.markdown import Markdown

from tiltrl.errors import InputError
from tiltrl.experiments.options import ExperimentOptions

console = Console(markup=False, emoji=False)  # what is in brackets or colons is the user's text


def experiment(options: Annotated[ExperimentOptions, tyro.conf.arg(name="")]) -> None:
    """Repeat an experiment of the paper, or a comparison with its rivals, on any data: table, CSV and picture.

    Example: tiltrl experiment scores --data tiltrl/hopper/medium-v0 --methods eda idql qgpo --seeds 3

    The grid's cells are `tiltrl` commands that run side by side and share behaviors and critics. Interrupted, the same
    command goes on; a cell that fails is told in the table, and the others are not kept from running.
    """
    from tiltrl.experiments.experiment import run_experiment  # here, because no other command needs it

    finished = run_experiment(options, console)
    console.print(Markdown(finished.text) if console.is_terminal else finished.text, highlight=False, soft_wrap=True)
    places = {"table": finished.table, "numbers": finished.numbers, "picture": finished.picture}
    for what, path in places.items():
        if path is not None:
            console.print(f"{what:<8} {path}", highlight=False, soft_wrap=True)
    if finished.failed:
        raise InputError(
            f"{finished.failed} of {finished.cells} cells failed; {finished.table} has their errors and logs, and the "
            "same command tries them again"
        )
