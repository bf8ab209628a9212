"""The grid of each experiment, from what is asked for; pure functions, which check all that can be checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from tiltrl.bandit.datasets import SETS
from tiltrl.errors import InputError
from tiltrl.experiments.cell import BANDIT, BANDIT_COMPARE, EDA, Cell
from tiltrl.experiments.options import ExperimentName, ExperimentOptions
from tiltrl.experiments.published import D4RL, betas_of, expanded
from tiltrl.methods import MethodName
from tiltrl.presets import CRITICS, CriticName, PresetName, check_betas, check_budget, preset_named

ON_CRITICS = {f"{EDA}-{critic}": critic for critic in get_args(CriticName)}
"""EDA on a critic that is not its preset's, as a method beside the rivals that have that critic."""
KNOWN = (EDA, *ON_CRITICS, *get_args(MethodName))
"""EDA and its rivals."""

Values = tuple[str, ...]
Vary = Callable[[Cell, Values], list[Cell]]


@dataclass(frozen=True)
class Experiment:
    """How an experiment varies a cell, and how its table is headed."""

    title: str
    vary: Vary
    swept: str = ""  # what the values are; "": nothing is swept
    numbers: bool = False  # whether they are


def _methods(cell: Cell, values: Values) -> list[Cell]:
    return [_method(cell, name) for name in values]


def usual(preset: PresetName) -> tuple[str, ...]:
    """The methods of `scores`: EDA, EDA on the critic that most rivals have where that is another, and the rivals."""
    own = preset_named(preset).critic == CRITICS[preset]["iql"]
    return (EDA, *(() if own else (f"{EDA}-iql",)), *get_args(MethodName))


def _method(cell: Cell, name: str) -> Cell:
    if name == EDA or name in ON_CRITICS:
        return replace(cell, critic=ON_CRITICS.get(name))
    return replace(cell, method=name, beta=())


def _critics(cell: Cell, values: Values) -> list[Cell]:
    return [replace(cell, critic=critic) for critic in values or ("iql", "softmax", "online", "ensemble", "advantage")]


def _label_fractions(cell: Cell, values: Values) -> list[Cell]:
    return [replace(cell, label_fraction=value) for value in _numbers(values) or (0.01, 0.02, 0.1, 0.2, 0.5, 1.0)]


def _training_curve(cell: Cell, values: Values) -> list[Cell]:
    steps = preset_named(cell.preset).align.steps * cell.budget
    usual = dict.fromkeys(max(1, round(steps * share)) for share in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0))
    return [replace(cell, align_steps=value) for value in _whole(values) or usual]


def _k(cell: Cell, values: Values) -> list[Cell]:
    ks = _whole(values) or (2, 4, 16, 64)
    return [replace(cell, k=k, objective=objective) for objective in ("value", "preference") for k in ks]


def _beta(cell: Cell, values: Values) -> list[Cell]:
    return [replace(cell, beta=_numbers(values) or betas_of(cell.data))]


def _bandit(cell: Cell, values: Values) -> list[Cell]:
    plain = replace(cell, method=BANDIT, preset="fast", episodes=0)
    tilted = [replace(plain, objective=objective) for objective in ("value", "preference")]
    return [*tilted, replace(plain, method=BANDIT_COMPARE)]


EXPERIMENTS: dict[ExperimentName, Experiment] = {
    "scores": Experiment("methods side by side (Table 1)", _methods),
    "critics": Experiment("EDA on each critic (Fig. 4)", _critics, "critic"),
    "label-fraction": Experiment("score against the share of valued states (Fig. 5a)", _label_fractions, "share", True),
    "training-curve": Experiment("score against steps of alignment (Fig. 5b, 11)", _training_curve, "steps", True),
    "k": Experiment("score against candidates a state (Fig. 6)", _k, "K", True),
    "beta": Experiment("score against the temperature (Fig. 9, 10)", _beta, "beta", True),
    "bandit": Experiment("two-dimensional bandits (Fig. 3, 7, 8)", _bandit),
}


def experiment_named(name: str) -> Experiment:
    """The experiment of that name.

    Raises:
        InputError: there is none.
    """
    if name not in EXPERIMENTS:
        raise InputError(f"experiment {name!r:.100} is unknown; choose one of {', '.join(EXPERIMENTS)}")
    return EXPERIMENTS[name]


def grid(options: ExperimentOptions, *, together: bool) -> list[Cell]:
    """All cells that are asked for, those of one run's folder one after the other.

    Args:
        options: of the command line.
        together: whether all seeds are trained in one cell.

    Raises:
        InputError: a name is unknown (what exists is listed), or a number cannot be used.
    """
    experiment = experiment_named(options.name)
    bandit = options.name == "bandit"
    data = expanded(options.data or (("bandits",) if bandit else ("demo",)))
    for name in data:
        if bandit != (name in SETS):
            known = f"of {', '.join(SETS)}" if bandit else "what `tiltrl run` takes; these are the bandit's"
            raise InputError(f"data = {name:.200}: {options.name} wants {known}")
    _check(options, experiment)
    values = options.values
    if options.name == "scores":
        values = options.methods or usual(options.preset)
    seeds = [(0, options.seeds)] if together and not bandit else [(seed, 1) for seed in range(options.seeds)]
    cells = [
        cell
        for name in data
        for seed, count in seeds
        for cell in experiment.vary(_plain(options, name, seed, count), values)
    ]
    return list(dict.fromkeys(cells))


def _plain(options: ExperimentOptions, data: str, seed: int, seeds: int) -> Cell:
    beta = (D4RL[data].beta,) if options.preset == "paper" and data in D4RL else ()
    return Cell(data, EDA, seed, seeds, options.preset, options.budget, options.episodes, beta)


def _check(options: ExperimentOptions, experiment: Experiment) -> None:
    """Refuse now what every cell would refuse later.

    Raises:
        InputError: naming what cannot be used.
    """
    preset_named(options.preset)
    check_budget(options.budget)
    for name, least, most in (("seeds", 1, 1000), ("episodes", 1, 100_000), ("workers", 1, 1000)):
        value = getattr(options, name)
        if value is not None and not least <= value <= most:
            raise InputError(f"{name} = {value}; it must lie in {least} to {most}")
    if not (0 < options.cpus <= 10_000 and 0 <= options.gpus <= 10_000):
        raise InputError(f"cpus = {options.cpus:g}, gpus = {options.gpus:g}; a command needs some of a core at least")
    if options.methods and options.name != "scores":
        raise InputError(f"methods = {' '.join(options.methods)}: {options.name} is about EDA; leave it out")
    for method in options.methods:
        if method not in KNOWN:
            raise InputError(f"method {method!r:.100} is unknown; choose of {', '.join(KNOWN)}")
    if options.values and not experiment.swept:
        raise InputError(f"values = {' '.join(options.values)}: {options.name} sweeps nothing; leave it out")
    if options.name == "critics":
        for critic in options.values:
            if critic not in get_args(CriticName):
                raise InputError(f"critic {critic!r:.100} is unknown; choose of {', '.join(get_args(CriticName))}")
    elif experiment.numbers:
        _check_numbers(options)


def _check_numbers(options: ExperimentOptions) -> None:
    numbers = _numbers(options.values)
    if options.name == "beta":
        return check_betas(numbers)
    least, most = {"label-fraction": (1e-6, 1), "training-curve": (1, 2**31), "k": (2, 1024)}[options.name]
    for number in numbers if options.name == "label-fraction" else _whole(options.values):
        if not least <= number <= most:
            raise InputError(f"values = {number:g}; of {options.name} they lie in {least:g} to {most:g}")
    return None


def _numbers(values: Sequence[str]) -> tuple[float, ...]:
    try:
        numbers = tuple(float(value) for value in values)
    except ValueError:
        numbers = (math.nan,)
    if not all(map(math.isfinite, numbers)):
        raise InputError(f"values = {' '.join(values):.200}; numbers are wanted")
    return numbers


def _whole(values: Sequence[str]) -> tuple[int, ...]:
    numbers = _numbers(values)
    if any(number != round(number) for number in numbers):
        raise InputError(f"values = {' '.join(values):.200}; whole numbers are wanted")
    return tuple(map(int, numbers))
