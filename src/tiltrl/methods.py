"""EDA's rivals by name: what each is trained by and with, at each preset's scale."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from tiltrl.errors import InputError
from tiltrl.presets import PRESETS, CriticName, PresetName
from tiltrl.stages.baselines.cnf import FAST_CNF, CNFConfig, train_cnf
from tiltrl.stages.baselines.common import Train
from tiltrl.stages.baselines.diffusion_dice import FAST_DICE, DICEConfig, train_dice
from tiltrl.stages.baselines.diffusion_ql import FAST_DIFFUSION_QL, DiffusionQLConfig, train_diffusion_ql
from tiltrl.stages.baselines.gaussian import FAST_BC, BCConfig, train_bc
from tiltrl.stages.baselines.qgpo import FAST_QGPO, QGPOConfig, train_qgpo
from tiltrl.stages.baselines.sampled import IDQL_CONFIG, SampledConfig
from tiltrl.stages.baselines.srpo import FAST_SRPO, SRPOConfig, train_srpo
from tiltrl.stages.baselines.weighted import FAST_WEIGHTED, WeightedConfig, train_weighted

MethodName = Literal["bc", "bc-diffusion", "iql", "idql", "qgpo", "diffusion-ql", "srpo", "diffusion-dice", "cnf"]


@dataclass(frozen=True)
class Method:
    """One rival."""

    configs: dict[PresetName, Any]
    train: Train | None  # None: the behavior model acts as it is
    critic: CriticName | None = None  # trained before it; None: the method has none, or makes its own
    rewards: bool = True  # whether it looks at them
    behavior: bool = True  # whether it uses the behavior model
    logged_states: bool = False  # whether it learns from actions sampled at them, chosen as for EDA's annotation


def _guided(fast: Any, paper: Any) -> dict[PresetName, Any]:
    """The same, each for the behavior model and the solver of its preset."""
    configs: dict[PresetName, Any] = {"fast": fast, "paper": paper}
    return {
        name: replace(config, behavior=PRESETS[name].behavior.network, sampler=PRESETS[name].sampler)
        for name, config in configs.items()
    }


METHODS: dict[MethodName, Method] = {
    "bc": Method({"fast": FAST_BC, "paper": BCConfig()}, train_bc, rewards=False, behavior=False),
    "bc-diffusion": Method({"fast": SampledConfig(), "paper": SampledConfig()}, None, rewards=False),
    "iql": Method({"fast": FAST_WEIGHTED, "paper": WeightedConfig()}, train_weighted, critic="iql", behavior=False),
    "idql": Method({"fast": IDQL_CONFIG, "paper": IDQL_CONFIG}, None, critic="iql"),
    "qgpo": Method(_guided(FAST_QGPO, QGPOConfig()), train_qgpo, critic="softmax", logged_states=True),
    "diffusion-ql": Method(
        {"fast": FAST_DIFFUSION_QL, "paper": DiffusionQLConfig()}, train_diffusion_ql, behavior=False
    ),
    "srpo": Method({"fast": FAST_SRPO, "paper": SRPOConfig()}, train_srpo, critic="iql"),
    "diffusion-dice": Method(_guided(FAST_DICE, DICEConfig()), train_dice),
    "cnf": Method({"fast": FAST_CNF, "paper": CNFConfig()}, train_cnf, behavior=False),
}
"""Their hyper-parameters stand, with their sources, in the files of `stages/baselines`."""


def method_named(name: str) -> Method:
    """The rival of that name.

    Raises:
        InputError: there is none.
    """
    if name not in METHODS:
        raise InputError(f"method {name!r:.100} is unknown; choose one of {', '.join(get_args(MethodName))}")
    return METHODS[name]
