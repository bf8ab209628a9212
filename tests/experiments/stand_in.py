"""Experiments whose commands are `fake_command.py`, which takes no time."""

import sys
from collections.abc import Callable
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console

from tiltrl.experiments.cell import Job
from tiltrl.experiments.experiment import Finished, run_experiment
from tiltrl.experiments.options import ExperimentOptions

FAKE = Path(__file__).with_name("fake_command.py")


def fake(switches: Path, job: Job) -> list[str]:
    """What starts the stand-in of a job's command."""
    cell = job.cell
    numbers = map(str, (cell.seed, cell.seeds, cell.episodes))
    return [sys.executable, str(FAKE), str(switches), str(job.result), cell.method, *numbers]


def program(switches: Path) -> Callable[[Job], list[str]]:
    switches.mkdir(exist_ok=True)
    return partial(fake, switches)


def options(out: Path, **changes: Any) -> ExperimentOptions:
    usual = {"data": ("demo",), "methods": ("eda", "iql"), "workers": 2, "episodes": 3, "seeds_together": False}
    return ExperimentOptions(**{"name": "scores", "out": out} | usual | changes)


def run(asked: ExperimentOptions, switches: Path) -> tuple[Finished, str]:
    """What came of it, and what was printed meanwhile."""
    said = StringIO()
    found = run_experiment(asked, Console(file=said, width=200), program=program(switches))
    return found, said.getvalue()


def calls(switches: Path) -> list[str]:
    file = switches / "calls"
    return sorted(file.read_text().splitlines()) if file.exists() else []
