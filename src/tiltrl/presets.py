"""The presets, in one table: every number of a run that is not on the command line."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from tiltrl.diffusion.energy import EnergyConfig
from tiltrl.errors import InputError
from tiltrl.stages.align import AlignConfig
from tiltrl.stages.annotate import AnnotateConfig, SamplerConfig
from tiltrl.stages.behavior import BehaviorConfig
from tiltrl.stages.critics.advantage import AdvantageConfig
from tiltrl.stages.critics.iql import IQLConfig

PresetName = Literal["fast", "paper"]
Config = TypeVar("Config", bound=Any)


@dataclass(frozen=True)
class Preset:
    """All settings of a run."""

    behavior: BehaviorConfig
    critic: IQLConfig | AdvantageConfig
    sampler: SamplerConfig
    annotate: AnnotateConfig
    align: AlignConfig
    betas: tuple[float, ...]  # temperatures if the command line gives none; the first is the default policy's
    normalize_obs: bool
    candidates: int = 4  # actions sampled for each one taken where rejection sampling is on
    held_out: float = 0.1  # share of episodes kept from the critic, for its trust check

    def scaled(self, budget: float) -> Preset:
        """The same with every number of training steps multiplied by `budget`.

        Raises:
            InputError: the budget is not in (0, 1].
        """
        check_budget(budget)
        return replace(
            self,
            behavior=shortened(self.behavior, budget),
            critic=shortened(self.critic, budget),
            align=shortened(self.align, budget),
        )


PAPER = Preset(
    behavior=BehaviorConfig(),
    critic=IQLConfig(),
    sampler=SamplerConfig(),
    annotate=AnnotateConfig(),
    align=AlignConfig(),
    betas=(0.3,),
    normalize_obs=False,
)

FAST = Preset(
    behavior=BehaviorConfig(
        network=EnergyConfig(
            action_width=48,
            time_width=32,
            obs_width=48,
            blocks=2,
            expansion=2,
            dropout=0.0,
            time_scale=5.0,
            action_scale=0.5,
        ),
        steps=12_000,
        batch=256,
        learning_rate=3e-3,
        cosine=True,
        average=0.995,
        times="stratified",
    ),
    critic=AdvantageConfig(),
    # To the scores of the paper's 15 calls (docs/performance.md).
    sampler=SamplerConfig(calls=5, solver="2mf", grid="quadratic"),
    annotate=AnnotateConfig(states=16_384, normalize=True),
    align=AlignConfig(steps=3_000, batch=64, learning_rate=5e-4, cosine=True, average=0.99),
    betas=(1.0,),
    normalize_obs=True,
)

PRESETS: dict[PresetName, Preset] = {"fast": FAST, "paper": PAPER}


def preset_named(name: str) -> Preset:
    """The preset of that name.

    Raises:
        InputError: there is none.
    """
    if name not in PRESETS:
        raise InputError(f"preset {name!r} is unknown; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]


def check_budget(budget: float) -> None:
    """Refuse what is no share of the training steps.

    Raises:
        InputError: the budget is not in (0, 1].
    """
    if not 0 < budget <= 1:
        raise InputError(f"budget = {budget}; it is a share of the training steps, above 0 and at most 1")


def shortened(config: Config, budget: float) -> Config:
    """A stage's configuration, any with a field `steps`, with that share of its steps; at least one."""
    return replace(config, steps=max(1, round(config.steps * budget)))


def check_betas(betas: tuple[float, ...]) -> None:
    """Refuse temperatures that are not positive numbers, and the same one twice.

    Raises:
        InputError: naming the first that cannot be used.
    """
    for beta in betas:
        if not 1e-6 <= beta <= 1e6:
            raise InputError(f"beta = {beta}; a temperature lies in 1e-6 to 1e6 (smaller: further from the behavior)")
    names = [f"{beta:g}" for beta in betas]
    if len(set(names)) < len(names):
        raise InputError(f"beta = {' '.join(names)}; each temperature can be given once")
