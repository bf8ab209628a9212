"""The presets, in one table: every number of a run that is not on the command line."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, cast

from tiltrl.diffusion.energy import EnergyConfig
from tiltrl.errors import InputError
from tiltrl.losses import Objective
from tiltrl.stages.align import AlignConfig
from tiltrl.stages.annotate import AnnotateConfig, SamplerConfig
from tiltrl.stages.behavior import BehaviorConfig
from tiltrl.stages.critics.advantage import AdvantageConfig
from tiltrl.stages.critics.iql import IQLConfig
from tiltrl.stages.critics.online import OnlineConfig
from tiltrl.stages.critics.softmax import SoftmaxConfig
from tiltrl.stages.critics.train import CriticConfig

PresetName = Literal["fast", "paper"]
CriticName = Literal["advantage", "iql", "softmax", "online", "ensemble"]
Config = TypeVar("Config", bound=Any)
MOST_CANDIDATES = 1024
MOST_STEPS = 1 << 31


@dataclass(frozen=True)
class Preset:
    """All settings of a run."""

    behavior: BehaviorConfig
    critic: CriticConfig
    sampler: SamplerConfig
    annotate: AnnotateConfig
    align: AlignConfig
    betas: tuple[float, ...]  # temperatures if the command line gives none; the first is the default policy's
    normalize_obs: bool
    candidates: int = 4  # actions sampled for each one taken where rejection sampling is on
    averaged: int = 1  # actions whose mean an aligned policy takes; 1: a single sampled one, as the paper's do
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
    averaged=8,  # noise that the logs hold is no part of what is wanted (docs/algorithm.md)
)

PRESETS: dict[PresetName, Preset] = {"fast": FAST, "paper": PAPER}

ENSEMBLE = IQLConfig(ensemble=10, independent=True, layer_norm=True, score_pessimism=1.0)
"""Ten critics that hear nothing of each other, valued by a lower bound."""

CRITICS: dict[PresetName, dict[CriticName, CriticConfig]] = {
    "fast": {
        "advantage": FAST.critic,
        "iql": IQLConfig(steps=30_000, learning_rate=1e-3, cosine=True),
        "softmax": SoftmaxConfig(
            steps=10_000, learning_rate=1e-3, cosine=True, depth=2, layer_norm=True, k=8, rows=200_000
        ),
        "online": OnlineConfig(steps=10_000, learning_rate=1e-3, width=128, depth=2, layer_norm=True),
        "ensemble": replace(ENSEMBLE, steps=10_000, learning_rate=1e-3, cosine=True, width=128),
    },
    "paper": {
        "advantage": AdvantageConfig(),
        "iql": PAPER.critic,
        "softmax": SoftmaxConfig(),
        "online": OnlineConfig(),
        "ensemble": ENSEMBLE,
    },
}
"""Every critic at each preset's scale, by its name on the command line."""


def preset_named(name: str) -> Preset:
    """The preset of that name.

    Raises:
        InputError: there is none.
    """
    if name not in PRESETS:
        raise InputError(f"preset {name!r} is unknown; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]


def chosen(
    preset: PresetName,
    budget: float,
    critic: str | None,
    objective: Objective,
    k: int | None,
    best_of: int | None,
    align_steps: int | None = None,
) -> Preset:
    """A preset at a share of its steps, with what else was asked for; None: as the preset has it.

    A critic that is not among `CRITICS` is not trained: the preset's own then lends its discount to the check.

    Raises:
        InputError: there is no such preset, the budget is not in (0, 1], k or best_of is less than 2, or there are no
            steps.
    """
    named = preset_named(preset)
    if align_steps is not None and not 1 <= align_steps <= MOST_STEPS:
        raise InputError(f"align_steps = {align_steps}; it must lie in 1 to {MOST_STEPS}")
    for name, count in (("k", k), ("best_of", best_of)):
        if count is not None and not 2 <= count <= MOST_CANDIDATES:
            raise InputError(f"{name} = {count}; of 2 to {MOST_CANDIDATES} actions one can be the best")
    annotate = named.annotate if k is None else replace(named.annotate, k=k)
    critic_config = cast(dict[str, CriticConfig], CRITICS[preset]).get(critic or "", named.critic)
    align = replace(named.align, objective=objective)
    candidates = named.candidates if best_of is None else best_of
    asked = replace(named, critic=critic_config, annotate=annotate, align=align, candidates=candidates).scaled(budget)
    return asked if align_steps is None else replace(asked, align=replace(asked.align, steps=align_steps))


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


@dataclass(frozen=True)
class Tilt:
    """How far a policy goes from the behavior: at a temperature, or to a divergence at whatever temperature."""

    beta: float = 1.0  # not looked at where `kl` is given
    kl: float | None = None  # nats of KL(pi || mu) a state

    def __str__(self) -> str:
        return f"beta {self.beta:g}" if self.kl is None else f"KL {self.kl:g}"

    @property
    def slug(self) -> str:
        """As part of a file's name."""
        return str(self).lower().replace(" ", "")


def tilts(betas: tuple[float, ...], kls: tuple[float, ...]) -> tuple[Tilt, ...]:
    """Either the temperatures or the divergences.

    Raises:
        InputError: both are given, or one cannot be used.
    """
    if betas and kls:
        raise InputError("beta and kl were both given; a divergence is reached at the beta it takes: give one")
    check_betas(betas)
    for kl in kls:
        if not 1e-3 <= kl <= 100:
            raise InputError(f"kl = {kl}; nats of KL(pi || mu) lie in 0.001 to 100 (0.5 is what beta 1 is meant to be)")
    if len({f"{kl:g}" for kl in kls}) < len(kls):
        raise InputError(f"kl = {' '.join(f'{kl:g}' for kl in kls)}; each divergence can be given once")
    return tuple(Tilt(beta) for beta in betas) + tuple(Tilt(kl=kl) for kl in kls)


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
