"""Named lists of data sets, and what was published of D4RL's: temperatures and scores."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tiltrl.bandit.datasets import SETS
from tiltrl.data.registry import reference
from tiltrl.errors import InputError

_HOPPER, _CHEETAH = "tiltrl/hopper/", "tiltrl/halfcheetah/"
TILTRL = (
    f"{_HOPPER}mixed-v0",
    f"{_CHEETAH}mixed-v0",
    f"{_HOPPER}noisy-v0",
    f"{_HOPPER}medium-v0",
    f"{_HOPPER}medium-v0+{_HOPPER}expert-v0",
    f"{_CHEETAH}medium-v0",
    f"{_CHEETAH}medium-v0+{_CHEETAH}expert-v0",
)
"""The seven of benchmarks/, which are Minari data sets."""


@dataclass(frozen=True)
class Published:
    """One row of Table 1 of Chen et al. 2024 (arXiv 2407.09024): D4RL-normalized scores, by method."""

    beta: float  # of EDA (its Table 2)
    eda: float
    spread: float | None  # of EDA over five seeds, where we have it
    iql: float
    diffusion_ql: float
    idql: float | None
    qgpo: float

    @property
    def scores(self) -> dict[str, float]:
        """By the names that methods have here."""
        found = {
            "eda": self.eda,
            "iql": self.iql,
            "diffusion-ql": self.diffusion_ql,
            "idql": self.idql,
            "qgpo": self.qgpo,
        }
        return {name: score for name, score in found.items() if score is not None}


D4RL = {
    "d4rl:halfcheetah-medium-expert-v2": Published(2.0, 93.2, 1.2, 86.7, 96.8, 95.9, 93.5),
    "d4rl:halfcheetah-medium-v2": Published(0.1, 57.0, 0.5, 47.4, 51.1, 51.0, 54.1),
    "d4rl:halfcheetah-medium-replay-v2": Published(0.2, 51.6, 0.9, 44.2, 47.8, 45.9, 47.6),
    "d4rl:hopper-medium-expert-v2": Published(2.0, 104.9, 7.4, 91.5, 111.1, 108.6, 108.0),
    "d4rl:hopper-medium-v2": Published(0.2, 98.4, 3.9, 66.3, 90.5, 65.4, 98.0),
    "d4rl:hopper-medium-replay-v2": Published(0.2, 92.7, 10.0, 94.7, 100.7, 92.1, 96.9),
    "d4rl:walker2d-medium-expert-v2": Published(0.3, 111.1, 0.7, 109.6, 110.1, 112.7, 110.7),
    "d4rl:walker2d-medium-v2": Published(0.5, 87.4, 1.1, 78.3, 87.0, 82.5, 86.0),
    "d4rl:walker2d-medium-replay-v2": Published(0.1, 89.2, 5.5, 73.9, 95.5, 85.1, 84.4),
    "d4rl:antmaze-umaze-v2": Published(0.5, 93.0, None, 87.5, 93.4, 94.0, 96.4),
    "d4rl:antmaze-umaze-diverse-v2": Published(5.0, 81.0, None, 62.2, 66.2, 80.2, 74.4),
    "d4rl:antmaze-medium-play-v2": Published(1.0, 79.0, None, 71.2, 76.6, 84.5, 83.6),
    "d4rl:antmaze-medium-diverse-v2": Published(1.0, 84.0, None, 70.0, 78.6, 84.8, 83.8),
    "d4rl:kitchen-complete-v0": Published(2.0, 81.5, None, 62.5, 84.0, None, 62.8),
    "d4rl:kitchen-partial-v0": Published(3.0, 69.3, None, 46.3, 60.5, None, 66.0),
    "d4rl:kitchen-mixed-v0": Published(3.0, 65.3, None, 51.0, 62.6, None, 45.5),
}
"""The paper's sixteen tasks."""

LISTS = {"d4rl": tuple(D4RL), "tiltrl": TILTRL, "bandits": tuple(SETS)}

SWEEP = (0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 2.0)
"""Temperatures of Figures 9 and 10 for locomotion."""
LATE_SWEEP = (0.3, 0.5, 0.8, 1.0, 2.0, 3.0, 5.0)
"""Those for AntMaze and kitchen."""


def expanded(data: tuple[str, ...]) -> tuple[str, ...]:
    """Data sets, of which a list's name stands for all in it; each once.

    Raises:
        InputError: nothing is named, or a name is neither a list's nor what a data set can be called.
    """
    lists = f"one of the lists {', '.join(LISTS)}"
    if not data:
        raise InputError(f"data: none is named; name data sets, or {lists}")
    for word in data:
        parts = [part.partition("[")[0] for part in word.split("+")]
        if word not in LISTS and not all(map(_may_be_data, parts)):
            raise InputError(f"data = {word:.200}: is no data set's name, and no list's; name data sets, or {lists}")
    return tuple(dict.fromkeys(name for word in data for name in LISTS.get(word, (word,))))


def betas_of(data: str) -> tuple[float, ...]:
    """The temperatures that the paper sweeps on tasks of this kind."""
    late = reference(data.removeprefix("d4rl:")).reward_transform in ("antmaze", "kitchen")
    return LATE_SWEEP if late else SWEEP


def _may_be_data(name: str) -> bool:
    """Whether it can be anything but a mistyped list: kinds, ids and files have a sign in them."""
    return name == "demo" or name in SETS or bool(re.search(r"[/:.]|-v\d+$", name)) or Path(name).exists()
