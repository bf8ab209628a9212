"""What a run can be asked to do: the options of the command line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import tyro

from tiltrl.presets import PresetName


@dataclass(frozen=True)
class RunConfig:
    """What a run is asked to do. Each field is an option of the command line, and its docstring the help."""

    dataset: tyro.conf.Positional[str]
    """Logged data: a Minari id or folder, `demo` for the bundled Hopper data, or `a+b` for two sets joined."""
    preset: PresetName = "fast"
    """`fast` trains in minutes on a laptop; `paper` is the paper's networks and schedules (hours on a GPU)."""
    beta: tuple[float, ...] = ()
    """Temperatures: the smaller, the further from the behavior. Several are trained at once. Default: the preset's."""
    seeds: int = 1
    """How many independent runs to train at once, with seeds `seed`, `seed` + 1, ..."""
    seed: int = 0
    """The first seed."""
    label_fraction: float = 1.0
    """Share of the data's states whose candidates get values (the paper reaches 95 % of the score with 0.01)."""
    episodes: int = 20
    """Episodes that each policy is evaluated on."""
    budget: float = 1.0
    """Share of the preset's training steps to take: 0.01 is a quick look whether everything works."""
    out: Path | None = None
    """The run's folder. The same command on the same folder continues it. Default: runs/DATASET-PRESET."""

    @property
    def folder(self) -> Path:
        """Where the run goes: `out`, or a folder named after the data set and preset."""
        return self.out or Path("runs") / f"{re.sub(r'[^A-Za-z0-9.-]+', '-', self.dataset).strip('-')}-{self.preset}"
