"""What `tiltrl experiment` can be asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from tiltrl.presets import PresetName

ExperimentName = Literal["scores", "critics", "label-fraction", "training-curve", "k", "beta", "bandit"]


@dataclass(frozen=True)
class ExperimentOptions:
    """What an experiment is asked to do. Each field is an option of the command line, and its docstring the help."""

    name: tyro.conf.Positional[ExperimentName]
    """`scores`: methods side by side (the paper's Table 1). `critics`: EDA on each critic (Fig. 4). `label-fraction`:
    score against the share of states with values (Fig. 5a). `training-curve`: against steps of alignment (Fig. 5b, 11).
    `k`: against candidates a state, by values and by preferences (Fig. 6). `beta`: against the temperature, with and
    without rejection sampling (Fig. 9, 10). `bandit`: in two dimensions, where the truth is known (Fig. 3, 7, 8)."""
    data: tuple[str, ...] = ()
    """Data sets as `tiltrl run` takes them, and lists of them: `d4rl`, the paper's 16 tasks, with its temperatures
    under --preset paper and its published scores beside yours; `tiltrl`, the seven that benchmarks/ reports. Default:
    demo, or of `bandit` all six sets."""
    methods: tuple[str, ...] = ()
    """Of `scores`: `eda`, `eda-CRITIC` (EDA on that critic of `tiltrl run --critic`) and rivals of `tiltrl baseline`.
    Default: EDA, EDA on the critic that most rivals have (`eda-iql`), and all rivals."""
    values: tuple[str, ...] = ()
    """What is swept: critics, shares, steps, K or temperatures. Default: the paper's."""
    seeds: int = 1
    """How many seeds, from 0 on. With two or more, intervals are over seeds; with one, over its episodes."""
    preset: PresetName = "fast"
    """As of `tiltrl run`: `fast` trains in minutes on a laptop; `paper` takes hours on a GPU, for each cell."""
    budget: float = 1.0
    """Share of the preset's training steps to take: 0.01 is a quick look whether everything works."""
    episodes: int = 20
    """Episodes that each policy of each seed is evaluated on."""
    workers: int | None = None
    """Commands that run at the same time, each on its share of the cores. Default: one with a GPU, else one a core."""
    seeds_together: bool | None = None
    """Train all seeds in one command, which a GPU does in little more time than one. Default: only with a GPU."""
    ray: str | None = None
    """Run on a Ray cluster instead: its address, `auto`, or `local` for one on this machine. --out, and the
    folder that this command is typed in, must be seen by all its machines by the same path, so that another one can go
    on with what a lost one has begun."""
    cpus: float = 1.0
    """Cores that a command reserves on Ray."""
    gpus: float = 0.0
    """GPUs that a command reserves on Ray; 0.5 puts two on one."""
    out: Path | None = None
    """The experiment's folder. The same command on the same folder goes on with what is missing or failed; with more
    data sets, methods, values or seeds it is extended, and the table has all of it. Another preset, budget or number
    of episodes is another experiment and refused. Default: runs/experiments/NAME."""

    @property
    def folder(self) -> Path:
        """Where everything goes."""
        return self.out or Path("runs/experiments") / self.name
