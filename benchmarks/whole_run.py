"""How long a whole run takes on this machine, stage by stage.

    python benchmarks/whole_run.py [--preset paper] [--budget 0.01] [--out FILE]

Each stage is the command a user would type, on the bundled demo data and one seed, in a folder of its own: the seconds
hold Python's start, compiling, saving, and in the last the evaluation.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro
from rich.console import Console

from tiltrl.bench.machine import machine_facts
from tiltrl.files import write_json
from tiltrl.presets import PresetName, check_budget

STAGES = ("behavior", "critic train", "annotate", "align", "run")
console = Console(markup=False, emoji=False)


@dataclass(frozen=True)
class Options:
    """What is timed."""

    preset: PresetName = "paper"
    """Whose networks and schedules."""
    budget: float = 1.0
    """Share of the training steps."""
    out: Path | None = None
    """Where the seconds go, as JSON."""


def main(options: Options) -> None:
    """Run, print, write.

    Raises:
        InputError: the budget cannot be used.
    """
    check_budget(options.budget)
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="tiltrl-whole-run-") as folder:
        for stage in STAGES:
            asked = ["--preset", options.preset, "--budget", str(options.budget), "--out", f"{folder}/run"]
            began = time.perf_counter()
            # What it says of its progress goes to the terminal.
            subprocess.run([sys.executable, "-m", "tiltrl", *stage.split(), "demo", *asked], check=True)
            seconds[stage] = time.perf_counter() - began
            console.print(f"{stage}: {seconds[stage]:.0f} s")
            if options.out is not None:  # after each, so that a failure of a later one loses nothing
                write_json(options.out, {"options": asdict(options), "seconds": seconds})
    total = sum(seconds.values())
    console.print(f"in all: {total / 60:.1f} minutes")
    if options.out is not None:
        # Asked at the end: JAX reserves a GPU's memory for the process that asks.
        facts = {"options": asdict(options), "seconds": seconds, "total_seconds": total, "machine": machine_facts()}
        write_json(options.out, facts)
        console.print(f"numbers  {options.out}", soft_wrap=True)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
