"""Gymnasium's environments by id: made, described as JSON, and the order in which Dict observations are joined."""

from __future__ import annotations

import importlib
import importlib.util
import io
import math
import re
import warnings
from collections.abc import Iterable
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from typing import Annotated, Any

import gymnasium
from gymnasium.envs.registration import EnvSpec, WrapperSpec
from pydantic import Field

from tiltrl.config_io import from_json, parse_json
from tiltrl.errors import InputError

# Packages whose import registers their environments, and the extra that installs them.
PROVIDERS = {"gymnasium_robotics": "robotics", "ogbench": "ogbench"}

_MOST_TEXT = 100_000  # characters of a specification
_ID = re.compile(r"(?:[\w-]{1,100}/)?[\w.-]{1,100}")  # no "module:", which Gymnasium would import
_NAME = re.compile(r"[\w()+-][\w ()+.-]{0,99}|", re.ASCII)  # no path, no "module:", nothing hidden
_MOST_ITEMS = 10_000
_INFINITE = {"Infinity": math.inf, "-Infinity": -math.inf}  # as Gymnasium writes the ends of a range

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


@dataclass(frozen=True)
class _Wrapper:
    name: Annotated[str, Field(pattern=r"^\w{1,100}$")]


@dataclass(frozen=True)
class _Described:
    """What is taken from a specification that may be anybody's."""

    id: str
    entry_point: str | None = None  # only ever compared with packages that we know
    kwargs: dict[str, Any] = field(default_factory=dict)
    max_episode_steps: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    additional_wrappers: tuple[_Wrapper, ...] = ()


def described_spec(text: str, where: str) -> EnvSpec:
    """Gymnasium's specification from its JSON, of which only id, arguments, horizon and wrappers' names are taken.

    Gymnasium's own reader is left alone, so that nothing else in the text means anything.

    Raises:
        InputError: the text is not the JSON of one, or too long for one; or the id or a wrapper's name is none.
    """
    if len(text) > _MOST_TEXT:
        raise InputError(f"{where}: has {len(text)} characters, more than the {_MOST_TEXT} of any environment")
    value = parse_json(text, where, _INFINITE)
    if not isinstance(value, dict) or "id" not in value:
        raise InputError(f"{where}: is no object with an id, as Gymnasium's EnvSpec is")
    taken = {name: value[name] for name in _Described.__dataclass_fields__ if name in value}
    wrappers = taken.get("additional_wrappers")
    if isinstance(wrappers, list):
        taken["additional_wrappers"] = [
            {"name": wrapper.get("name")} if isinstance(wrapper, dict) else wrapper for wrapper in wrappers
        ]
    found = from_json(_Described, {name: item for name, item in taken.items() if item is not None}, where)
    _check_id(found.id, where)
    spec = EnvSpec(found.id, found.entry_point, kwargs=found.kwargs, max_episode_steps=found.max_episode_steps)
    spec.additional_wrappers = tuple(WrapperSpec(wrapper.name, "", None) for wrapper in found.additional_wrappers)
    return spec


def known_spec(env_id: str, where: str) -> EnvSpec:
    """The environment registered under an id, looked for in the packages that we know to provide some.

    Raises:
        InputError: none of that id is registered here.
    """
    for package in PROVIDERS:
        if env_id not in gymnasium.registry and importlib.util.find_spec(package) is not None:
            with redirect_stderr(io.StringIO()):  # where it advertises newer versions of environments
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
        InputError: the package is not installed, or not known; or the id would have Gymnasium import a module.
    """
    _check_id(spec.id, where)
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
            f"(recorded as {str(spec.entry_point)!r:.200}) and import it first"
        )


def make(spec: EnvSpec, where: str, render_mode: str | None = None) -> gymnasium.Env:
    """Make Gymnasium's registered environment of that id, with the arguments and horizon of `spec`.

    Its entry point is code to be run and is left alone: a data set must not choose what runs. Nor which files are
    read: arguments that the environment is not registered with must be numbers, names, or lists of them. Nor whether a
    window opens: how it renders is `render_mode` alone.

    Raises:
        InputError: the environment is unknown, not installed, or cannot be made with these arguments.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an outdated version is what the data was recorded in, and so the right one
        register(spec, where)
        own = gymnasium.registry[spec.id].kwargs
        arguments = {
            key: value
            for key, value in (spec.kwargs or {}).items()
            if key != "render_mode" and not (key in own and own[key] == value)
        }
        for key, value in arguments.items():
            _check_argument(key, value, where)
        if render_mode is not None:  # not all know the argument
            arguments["render_mode"] = render_mode
        try:
            return gymnasium.make(spec.id, spec.max_episode_steps, disable_env_checker=True, **arguments)
        except Exception as error:  # other people's code with the data's arguments: whatever it raises is about those
            raise InputError(f"{where}: cannot be made: {' '.join(str(error).split())}") from error


def _check_id(env_id: str, where: str) -> None:
    if not _ID.fullmatch(env_id):
        raise InputError(
            f"{where}: id is {env_id!r:.100}; an id such as Hopper-v5 is needed, without the name of a module to import"
        )


def _check_argument(key: str, value: Any, where: str) -> None:
    """Refuse what could name a file or a module, or is no plain value."""
    todo = [value]
    for _ in range(_MOST_ITEMS):
        if not todo:
            return
        item = todo.pop()
        if isinstance(item, list | tuple):
            todo += item
        elif isinstance(item, str):
            if not _NAME.fullmatch(item) or ".." in item:
                raise InputError(
                    f"{where}: argument {key!r:.100} is {item!r:.100}, which may name a file or a module outside the "
                    "package; register an environment of your own with it, and give that one's id"
                )
        elif not (item is None or isinstance(item, bool | int | float)):
            raise InputError(
                f"{where}: argument {key!r:.100} is {value!r:.100}; only numbers, names and lists of them are taken"
            )
    raise InputError(f"{where}: argument {key!r:.100} has more than {_MOST_ITEMS} items, more than any environment's")
