"""What `tiltrl bandit` can be asked to do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tiltrl.bandit.datasets import SETS, bandit_set
from tiltrl.bandit.model import BanditConfig
from tiltrl.errors import InputError
from tiltrl.losses import OBJECTIVES
from tiltrl.presets import check_betas, check_budget, shortened


@dataclass(frozen=True)
class BanditOptions:
    """What `tiltrl bandit` is asked to do. Each field is an option of the command line, and its docstring the help."""

    dataset: tuple[str, ...] = tuple(SETS)
    """Which data sets: swissroll, 8gaussians, moons, rings, checkerboard, 2spirals. Default: all."""
    objective: Literal["value", "preference"] = "value"
    """`value`: agree with the values (Eq. 14). `preference`: only with which candidate is best (Eq. 15); distances and
    slope are then for orientation, since it knows no sizes of values."""
    k: int = 64
    """Candidates compared at once. The paper's theory wants many; with `preference`, 2 is DPO."""
    beta: float = 1.0
    """Temperature: the smaller, the further from the behavior. Q lies in [0, 3]."""
    calls: int = 25
    """Network calls a sample."""
    times: tuple[float, ...] = (0.001, 0.1, 0.3, 0.6)
    """Diffusion times to draw; 0 is drawn at 0.001, the smallest that was trained on."""
    samples: int = 2000
    """Points drawn from each model to compare with the truth."""
    seed: int = 0
    """Of everything."""
    compare: bool = False
    """Instead of tilting: the diffusion model beside a Gaussian, a VAE and an energy-based model (Fig. 7), which are
    fitted anew each time. No objective, k, beta or times matter here."""
    budget: float = 1.0
    """Share of the training steps and candidates to take: 0.01 is a quick look whether everything works."""
    out: Path = Path("runs/bandit")
    """Folder of the pictures, numbers and networks. The same command on the same folder continues or reuses; pictures
    and numbers are those of the last command."""

    def check(self) -> BanditConfig:
        """The configuration that follows.

        Raises:
            InputError: a value cannot be used.
        """
        for name in self.dataset:
            bandit_set(name)
        if not self.dataset or len(set(self.dataset)) < len(self.dataset):
            raise InputError(f"dataset = {' '.join(self.dataset)!r}; name each of {', '.join(SETS)} at most once")
        if self.objective not in OBJECTIVES:
            raise InputError(f"objective {self.objective!r} is unknown; choose one of {', '.join(OBJECTIVES)}")
        check_betas((self.beta,))
        if not self.times or not all(0.0 <= t <= 1.0 for t in self.times):
            raise InputError(f"times = {' '.join(map(str, self.times))}; diffusion times lie in [0, 1]")
        if not 0 <= self.seed < 2**31:
            raise InputError(f"seed = {self.seed}; it must lie in 0 to {2**31 - 1}")
        if not 100 <= self.samples <= 100_000:
            raise InputError(f"samples = {self.samples}; it must lie in 100 to 100000")
        check_budget(self.budget)
        config = BanditConfig(k=self.k)
        return replace(
            config,
            candidates=max(config.batch, round(config.candidates * self.budget)),
            behavior=shortened(config.behavior, self.budget),
            align=replace(shortened(config.align, self.budget), objective=self.objective),
            sampler=replace(config.sampler, calls=self.calls),
        )
