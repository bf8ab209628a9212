"""Gymnasium's environments by id: made, described as JSON, and the order in which Dict observations are joined."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Iterable
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec

from tiltrl.errors import InputError

# Packages whose import registers their environments, and the extra that installs them.
PROVIDERS = {"gymnasium_robotics": "robotics", "ogbench": "ogbench"}

_FIRST = ("observation", "achieved_goal", "desired_goal")  # as Gymnasium's goal environments are usually joined


def in_order(keys: Iterable[str]) -> list[str]:
    """Keys of a Dict observation in the order they are joined: the goal environments' three, then the alphabet's."""
    return sorted(keys, key=lambda key: (_FIRST.index(key) if key in _FIRST else len(_FIRST), key))


def leaves(space: Any, path: str = "") -> dict[str, int] | None:
    """Size of each leaf of an observation space, in the order they are joined; None where one is no vector.

    A Box of shape (n,) is one leaf, of path ""; the leaves of a Dict have paths such as "observation" and
    "achieved_goal/kettle".
    """
    if isinstance(space, gymnasium.spaces.Dict):
        found: dict[str, int] = {}
        for key in in_order(space.spaces):
            below = leaves(space.spaces[key], f"{path}/{key}" if path else key)
            if below is None:
                return None
            found |= below
        return found or None
    if isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1:
        return {path: space.shape[0]}
    return None


def known_spec(env_id: str, where: str) -> EnvSpec:
    """The environment registered under an id, looked for in the packages that we know to provide some.

    Raises:
        InputError: none of that id is registered here.
    """
    for package in PROVIDERS:
        if env_id not in gymnasium.registry and importlib.util.find_spec(package) is not None:
            importlib.import_module(package)
    if env_id not in gymnasium.registry:
        extras = " or ".join(f"'tiltrl[{extra}]'" for extra in PROVIDERS.values())
        raise InputError(
            f"{where}: environment {env_id!r} is unknown to Gymnasium {gymnasium.__version__}; give a registered id, "
            f"such as Hopper-v5, or `pip install` the package that provides it ({extras})"
        )
    return gymnasium.registry[env_id]


def register(spec: EnvSpec, where: str) -> None:
    """Make Gymnasium know the environment, importing the package it comes from where that is a known one.

    Raises:
        InputError: the package is not installed, or not known.
    """
    if spec.id in gymnasium.registry:
        return
    package = str(spec.entry_point).partition(":")[0].partition(".")[0]
    if package in PROVIDERS:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise InputError(f"{where}: is not installed: `pip install 'tiltrl[{PROVIDERS[package]}]'`") from error
    if spec.id not in gymnasium.registry:
        raise InputError(
            f"{where}: is unknown to Gymnasium {gymnasium.__version__}; `pip install` the package that provides it "
            f"(recorded as {spec.entry_point}) and import it first"
        )


def make(spec: EnvSpec, where: str) -> gymnasium.Env:
    """Make Gymnasium's registered environment of that id, with the arguments and horizon of `spec`.

    Its entry point is code to be run and is left alone: a data set must not choose what runs.

    Raises:
        InputError: the environment is unknown, not installed, or cannot be made with these arguments.
    """
    arguments = {key: value for key, value in (spec.kwargs or {}).items() if key != "render_mode"}  # open no window
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an outdated version is what the data was recorded in, and so the right one
        register(spec, where)
        try:
            return gymnasium.make(spec.id, spec.max_episode_steps, disable_env_checker=True, **arguments)
        except Exception as error:  # other people's code with the data's arguments: whatever it raises is about those
            raise InputError(f"{where}: cannot be made: {' '.join(str(error).split())}") from error
