"""Critics that a run is given instead of training one: a Python function, or the critic of a saved policy.

A function is imported, and so executed, only because its place was typed on the command line. No file of a data set, a
run or a policy names one.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import numpy as np

from tiltrl.diffusion.energy import Energy
from tiltrl.errors import InputError
from tiltrl.files import read_file
from tiltrl.policy_folder import PolicyConfig, read_policy
from tiltrl.presets import CRITICS
from tiltrl.serialization import fingerprint
from tiltrl.stages.annotate import SamplerConfig
from tiltrl.stages.critics.function import FunctionScore, values_of
from tiltrl.stages.critics.networks import Critic
from tiltrl.stages.critics.score import CriticScore
from tiltrl.types import Scaling, Transitions, read

AnyScore = CriticScore | FunctionScore
_ROWS = 64  # logged rows whose values are part of a function's digest
_MOST_SOURCE = 10_000_000  # bytes of a Python file


@dataclass(frozen=True)
class GivenFunction:
    """A function `(obs, action) -> q` by its place."""

    place: str  # as typed
    digest: str  # of its file, not of what that imports or reads; beside data, of its values there as well
    function: Callable[..., Any]

    def beside(self, data: Transitions, *, force: bool) -> Self:
        """The function with a digest that tells apart what it says of the data's first rows, as its weights may change.

        Raises:
            InputError: it fails there, or its values cannot be used.
        """
        rows = slice(0, _ROWS)
        values = values_of(self.function, self.place, read(data.obs, rows), read(data.action, rows))
        told = self.digest.encode() + np.ascontiguousarray(values, "<f4").tobytes()
        return replace(self, digest=hashlib.sha256(told).hexdigest()[:16])

    def saved_with(self, scaling: Scaling) -> bool:
        """Never with a policy: a function is no array."""
        return False

    def score(self, behavior: Energy, sampler: SamplerConfig, scaling: Scaling) -> FunctionScore:
        """The function as a critic beside one behavior."""
        return FunctionScore(self.function, self.place, behavior, sampler, scaling)


@dataclass(frozen=True)
class GivenNetwork:
    """The critic of a policy's folder."""

    place: str  # as typed
    digest: str
    critic: Critic
    config: PolicyConfig

    def beside(self, data: Transitions, *, force: bool) -> Self:
        """The same critic; one of another task is refused, and one of other data unless that is meant.

        Raises:
            InputError: as said.
        """
        theirs, ours = self.config.task, data.task
        if (theirs.obs_dim, theirs.act_dim) != (ours.obs_dim, ours.act_dim):
            raise InputError(
                f"critic = {self.place}: takes {theirs.obs_dim} observations and {theirs.act_dim} actions; the data "
                f"has {ours.obs_dim} and {ours.act_dim}"
            )
        found, wanted = self.config.provenance.get("data"), data.fingerprint()
        if found != wanted and not force:
            raise InputError(
                f"critic = {self.place}: was trained on other data ({theirs.dataset}, fingerprint {found}; this is "
                f"{ours.dataset}, {wanted}); its values may mean nothing here; --force takes it all the same"
            )
        return self

    def saved_with(self, scaling: Scaling) -> bool:
        """Whether it can be a policy's own critic: the two see the same units."""
        return self.config.scaling == scaling

    def score(self, behavior: Energy, sampler: SamplerConfig, scaling: Scaling) -> CriticScore:
        """The critic as it was saved, whatever the behavior."""
        assert self.config.critic is not None, "a critic that was read has a shape"
        return CriticScore(self.critic, self.config.critic, self.config.scaling, self.config.pessimism)


GivenCritic = GivenFunction | GivenNetwork


def given_critic(place: str | None) -> GivenCritic | None:
    """The critic at a place that was typed; None where a critic is to be trained.

    Raises:
        InputError: it is neither a name, nor a function, nor a policy's folder with a critic.
    """
    if place is None or place in CRITICS["fast"]:
        return None
    if is_function(place):
        return _function(place)
    if not Path(place).exists():
        raise InputError(
            f"critic = {place}: is unknown; train one of {', '.join(CRITICS['fast'])}, or give a function "
            "(file.py:function or package.module:function) or a policy's folder"
        )
    config, _, critic = read_policy(Path(place))
    if critic is None:
        raise InputError(f"critic = {place}: this policy has no critic; give one that was trained with one")
    described = f"{config.critic} {config.scaling} {config.pessimism} {fingerprint(critic)}"
    return GivenNetwork(place, hashlib.sha256(described.encode()).hexdigest()[:16], critic, config)


def check_used(given: GivenCritic | None, scaling: Scaling, *, force: bool, best_of: int | None) -> None:
    """Refuse options that would change nothing.

    Raises:
        InputError: `force` without a policy's critic, or `best_of` without a critic that is saved with the policy.
    """
    if force and not isinstance(given, GivenNetwork):
        raise InputError(
            "force = True: there is no policy's critic to take; give its folder as --critic, or leave it out"
        )
    if best_of is None or given is None or given.saved_with(scaling):
        return
    why = "is a function" if isinstance(given, GivenFunction) else "sees other units of states and actions"
    raise InputError(
        f"best_of = {best_of}: the critic {given.place} {why}, so it is not saved with the policy, which cannot choose "
        "by it; leave out --best-of"
    )


def is_function(place: str) -> bool:
    """Whether the place is that of a function, and to load it means to execute code."""
    where, _, name = place.rpartition(":")
    return bool(where) and name.isidentifier() and not Path(place).exists()


def _function(place: str) -> GivenFunction:
    where, _, name = place.rpartition(":")
    module = _from_file(Path(where), place) if where.endswith(".py") else _imported(where, place)
    function = getattr(module, name, None)
    if not callable(function):
        there = sorted(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
        raise InputError(f"critic = {place}: there is no function {name}; callable there: {', '.join(there) or 'none'}")
    source = b"" if module.__file__ is None else read_file(Path(module.__file__), _MOST_SOURCE)
    return GivenFunction(place, hashlib.sha256(source + f" {name}".encode()).hexdigest()[:16], function)


def _from_file(path: Path, place: str) -> ModuleType:
    if not path.is_file():
        raise InputError(f"critic = {place}: there is no file {path}")
    found = importlib.util.spec_from_file_location(f"tiltrl_critic_{path.stem}", path)
    assert found is not None and found.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module  # where dataclasses look annotations up that are strings
    try:
        found.loader.exec_module(module)
    except Exception as error:  # whatever it is, it is the user's file that has to be mended
        sys.modules.pop(found.name, None)
        raise InputError(f"critic = {place}: cannot be imported: {type(error).__name__}: {error}") from error
    return module


def _imported(name: str, place: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise InputError(f"critic = {place}: cannot be imported: {type(error).__name__}: {error}") from error
