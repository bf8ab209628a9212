"""A policy's folder: written so that a kill leaves the old policy or the new one, read so that anybody's may be opened.

`policy.json` describes the policy and holds the SHA-256 of each file of arrays, so it alone says which policy is there.
What replaces an array file is first written beside it, as `policy.new.safetensors`; then `policy.json` is replaced in
one step; then the new files take the old ones' names. A reader takes whichever of the two has the right SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from tiltrl.acting import Network
from tiltrl.config_io import check_ranges, from_json, parse_json
from tiltrl.data.recorded import check_task
from tiltrl.diffusion.energy import Energy, EnergyConfig
from tiltrl.diffusion.one_step import OneStep, OneStepConfig
from tiltrl.environments import described_spec
from tiltrl.errors import InputError
from tiltrl.files import read_file, reason, sweep_aside, write_atomically
from tiltrl.serialization import bytes_of, pack, unpack
from tiltrl.stages.annotate import SamplerConfig
from tiltrl.stages.baselines.shapes import ActorShape
from tiltrl.stages.critics.networks import Critic, CriticShape, init_critic
from tiltrl.types import Scaling, Task, as_json

FORMAT = 5
"""Version of the folder's layout; a reader refuses one it does not know."""
_BEFORE_CHECKSUMS = 1  # an older layout, without SHA-256; still read
_KNOWN = (_BEFORE_CHECKSUMS, 2, 3, 4, FORMAT)  # 2 has no distilled policies, 3 no baselines, 4 no means

_DESCRIPTION, _NETWORK, _CRITIC = "policy.json", "policy.safetensors", "critic.safetensors"
_MOST_TEXT = 8_000_000  # bytes of policy.json
_MOST_ARRAYS = 1 << 31  # bytes of both files of arrays
_MOST_HEADER = 1 << 20  # bytes of a file beside its arrays: their names and shapes
FILES = {_DESCRIPTION: _MOST_TEXT, _NETWORK: _MOST_ARRAYS + _MOST_HEADER, _CRITIC: _MOST_ARRAYS + _MOST_HEADER}
"""A policy's files, the last only where it has a critic, and how many bytes each may have."""
_MOST_OBS, _MOST_ACT = 65_536, 4096
MOST_CANDIDATES = 4096
_MOST_NOISE = 1 << 20  # numbers drawn for one decision
_SHA256 = re.compile("[0-9a-f]{64}")

Choice = Literal["best", "mean"]
Tree = TypeVar("Tree")


@dataclass(frozen=True)
class PolicyConfig:
    """All that describes a policy beside its arrays: what `policy.json` holds."""

    task: Task
    scaling: Scaling
    energy: EnergyConfig | None  # None: it acts by one of the two networks below
    sampler: SamplerConfig  # of a distilled policy, its teacher's; of a baseline, its behavior model's
    critic: CriticShape | None = None  # None: no rejection sampling
    candidates: int = 1  # actions sampled for each one taken
    choice: Choice = "best"  # taken of several: the one that the critic prefers, or their mean
    pessimism: float = 1.0  # standard deviations of the critic's ensemble taken off its mean when it picks
    one_step: OneStepConfig | None = None  # the network of a distilled policy
    actor: ActorShape | None = None  # the network of a baseline
    format: int = FORMAT
    provenance: dict[str, Any] = field(default_factory=dict)  # data fingerprint, stage, beta, seed, versions

    def __post_init__(self) -> None:
        """Refuse what cannot be sampled by.

        Raises:
            InputError: a number lies outside its bounds, or there is not exactly one network.
        """
        check_ranges(self, candidates=(1, MOST_CANDIDATES), pessimism=(-1e6, 1e6))
        if self.choice not in get_args(Choice):
            raise InputError(f"choice = {self.choice!r:.40}; one of {', '.join(get_args(Choice))} is needed")
        if sum(network is not None for network in (self.energy, self.one_step, self.actor)) != 1:
            raise InputError(
                "energy, one_step, actor: exactly one of the three describes the policy's network; the others are null"
            )

    @property
    def chooses(self) -> bool:
        """Whether a critic picks among several actions."""
        return self.candidates > 1 and self.choice == "best"

    @property
    def acting(self) -> str:
        """How several actions become one, in words; empty where a single one is sampled."""
        return "" if self.candidates == 1 else f"{self.choice} of {self.candidates}"


# --- Writing ----------------------------------------------------------------------------------------------------------


def write_policy(folder: Path, config: PolicyConfig, network: Network, critic: Critic | None) -> None:
    """Write a policy, or replace another; a kill at any moment leaves one of the two. What is there already stays.

    Raises:
        InputError: the folder cannot be written, or its policy.json is a link to somewhere else, or the description
            holds what could not be read again.
    """
    if critic is None:  # with a critic's shape alone nothing could be loaded
        config = replace(config, critic=None)
    arrays = {_NETWORK: pack(network)} | ({} if config.critic is None else {_CRITIC: pack(critic)})
    checksums = {name: hashlib.sha256(content).hexdigest() for name, content in arrays.items()}
    where = folder / _DESCRIPTION
    try:
        text = json.dumps(_plain(config) | {"sha256": checksums}, indent=2, allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: cannot be written: {reason(error)}") from error
    _described(text, where)  # what is saved can be loaded
    inside(folder, _DESCRIPTION)  # what is written to a link would go to the file behind it
    try:
        _settle(folder, _checksums_there(folder))  # what a save that was killed has left
        for name in (_NETWORK, _CRITIC):
            sweep_aside(folder / _new(name))
        for name, content in arrays.items():
            if _content_of(folder / name) != content:
                write_atomically(folder / _new(name), content)
        if _content_of(where) != text:
            write_atomically(where, text)
        _settle(folder, checksums)
        for name in {_NETWORK, _CRITIC} - arrays.keys():
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {reason(error)}") from error


def _plain(config: PolicyConfig) -> dict[str, Any]:
    """The configuration as JSON's values; of a data set's name, which may be a path, what can be printed."""
    plain = as_json(config)
    plain["task"]["dataset"] = "".join(c if c.isprintable() else "?" for c in config.task.dataset)
    return plain


def _new(name: str) -> str:
    return name.replace(".", ".new.", 1)


def _settle(folder: Path, checksums: Mapping[str, str]) -> None:
    """Give the new files of arrays that belong to the description their names, and remove others."""
    for name in (_NETWORK, _CRITIC):
        new = folder / _new(name)
        if os.path.lexists(new):
            found = _content_of(new)
            if found is not None and hashlib.sha256(found).hexdigest() == checksums.get(name):
                os.replace(new, folder / name)
            else:
                new.unlink()


def _content_of(path: Path) -> bytes | None:
    """What a file holds; None where there is none that could be a policy's."""
    try:
        return read_file(path, _MOST_ARRAYS + _MOST_HEADER)
    except InputError:
        return None


def _checksums_there(folder: Path) -> Mapping[str, str]:
    """Those in the description that is there; none where there is none that can be read."""
    try:
        return _described(_text(folder), folder / _DESCRIPTION)[1] or {}
    except InputError:
        return {}


# --- Reading ----------------------------------------------------------------------------------------------------------


def read_policy(folder: Path) -> tuple[PolicyConfig, Network, Critic | None]:
    """Read what `write_policy` wrote, or anybody says to have written. Nothing in it is executed.

    Sizes are bounded before anything of that size is made, and no file outside the folder is read.

    Raises:
        InputError: the folder is not a policy's, is damaged, or is of a format this version does not know.
    """
    for _ in range(10):
        text = _text(folder)
        try:
            found = _read(folder, text)
        except InputError as error:
            found = error
        if _text(folder) == text:  # else it was replaced meanwhile, and the arrays may be of either policy
            if isinstance(found, InputError):
                raise found
            return found
    raise InputError(f"{folder}: is replaced by another policy all the time; load it when that has ended")


def _text(folder: Path) -> bytes:
    if not os.path.lexists(folder / _DESCRIPTION):
        raise InputError(_why_no_policy(folder))
    return read_file(inside(folder, _DESCRIPTION), _MOST_TEXT)


def _why_no_policy(folder: Path) -> str:
    if not os.path.lexists(folder):
        return f"{folder}: there is no such folder; give one written by Policy.save"
    if not folder.is_dir():
        return f"{folder}: is no folder; give the folder that policy.json lies in"
    for pattern in ("policies/*/policy.json", "*/policy.json"):
        if found := sorted(folder.glob(pattern)):
            return f"{folder}: holds policies but is none itself; give one of them, such as {found[0].parent}"
    if (folder / "run.json").is_file():
        return f"{folder}: is a run's folder without policies; finish the run, and give one of its policies"
    return f"{folder}: is no policy's folder, as it has no policy.json; give one written by Policy.save"


def inside(folder: Path, name: str) -> Path:
    """The path of a file of a folder that somebody else may have made.

    Raises:
        InputError: it is a link that leads out of the folder.
    """
    path = folder / name
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise InputError(f"{path}: is a link that leads out of the folder; put the file itself there")
    return path


def _read(folder: Path, text: bytes) -> tuple[PolicyConfig, Network, Critic | None]:
    path = folder / _DESCRIPTION
    config, checksums = _described(text, path)
    sizes = config.task.obs_dim, config.task.act_dim
    network = _network(config, sizes)
    if (numbers := config.candidates * network.noise_dim) > _MOST_NOISE:
        raise InputError(
            f"{path}: field candidates: {config.candidates} actions of {network.noise_dim} numbers of noise each are "
            f"{numbers} numbers a decision; at most {_MOST_NOISE} are drawn"
        )
    critic = None if config.critic is None else _shapes(init_critic, *sizes, config.critic)
    if (size := bytes_of((network, critic))) > _MOST_ARRAYS:
        raise InputError(f"{path}: describes networks of {size} bytes; at most {_MOST_ARRAYS} are loaded")
    network = _arrays(folder, _NETWORK, network, checksums)
    return config, network, None if critic is None else _arrays(folder, _CRITIC, critic, checksums)


def _network(config: PolicyConfig, sizes: tuple[int, int]) -> Network:
    """Of shapes in place of arrays."""
    if config.energy is not None:
        return _shapes(Energy, *sizes, config.energy)
    if config.one_step is not None:
        return _shapes(OneStep, *sizes, config.one_step)
    assert config.actor is not None, "one of the three describes it"
    return _shapes(_actor, *sizes, config.actor)


def _actor(obs_dim: int, act_dim: int, shape: ActorShape, *, key: PRNGKeyArray) -> Network:
    """A baseline's network; its shape is an argument as the others', because bound methods are never the same twice."""
    return shape.make(obs_dim, act_dim, key=key)


@lru_cache(maxsize=64)
def _shapes(make: Callable[..., Tree], *arguments: Any) -> Tree:
    """A network of shapes in place of arrays; kept, as each takes tens of milliseconds to trace."""
    return eqx.filter_eval_shape(make, *arguments, key=jax.random.key(0))


def _arrays(folder: Path, name: str, like: Tree, checksums: Mapping[str, str] | None) -> Tree:
    """The arrays of one file, under its name or, where a save was cut off, under its new file's."""
    size = bytes_of(like)
    failures: list[InputError] = []
    # Once more at the end, because a save that goes on meanwhile renames the new file.
    for place in (name,) if checksums is None else (name, _new(name), name):
        path = folder / place
        try:
            content = read_file(inside(folder, place), size + _MOST_HEADER)
            if len(content) < size:
                raise InputError(f"{path}: has {len(content)} bytes where {_DESCRIPTION} describes arrays of {size}")
        except InputError as error:
            failures.append(error)
            continue
        if checksums is None or hashlib.sha256(content).hexdigest() == checksums[name]:
            return _finite(unpack(content, like, str(path)), path)
        failures.append(
            InputError(f"{path}: is damaged or another policy's: its SHA-256 is not the one in {_DESCRIPTION}")
        )
    raise failures[0]


def _finite(tree: Tree, path: Path) -> Tree:
    for place, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not np.isfinite(leaf).all():
            name = jax.tree_util.keystr(place, simple=True, separator=".")
            raise InputError(f"{path}: array {name!r} holds NaN or infinite values; such a network cannot act")
    return tree


# --- What may be described --------------------------------------------------------------------------------------------


def _described(text: bytes, path: Path) -> tuple[PolicyConfig, Mapping[str, str] | None]:
    """The configuration and the SHA-256 of each file of arrays; None for those in a folder of the older layout."""
    where = str(path)
    value = parse_json(text, where)
    if not isinstance(value, dict):
        raise InputError(f"{where}: not a policy's description: it holds no JSON object")
    version = value.get("format")
    if isinstance(version, bool) or version not in _KNOWN:
        known = ", ".join(map(str, _KNOWN))
        raise InputError(f"{where}: format {version!r:.40} is not known here; this version reads formats {known}")
    checksums = None if version == _BEFORE_CHECKSUMS else value.pop("sha256", None)
    config = from_json(PolicyConfig, value | {"format": FORMAT}, where)
    _check(config, where)
    if version != _BEFORE_CHECKSUMS:
        _check_checksums(checksums, {_NETWORK} | ({_CRITIC} if config.critic else set()), where)
    return config, checksums


def _check(config: PolicyConfig, where: str) -> None:
    """Refuse what no policy has; the parts have checked themselves when they were made."""
    task, scaling = config.task, config.scaling
    try:
        check_ranges(task, obs_dim=(1, _MOST_OBS), act_dim=(1, _MOST_ACT))
    except InputError as error:
        raise InputError(f"{where}: field task: {error}") from error
    sizes = (len(scaling.obs_mean), len(scaling.obs_std), len(scaling.action_low), len(scaling.action_high))
    if sizes != (task.obs_dim, task.obs_dim, task.act_dim, task.act_dim) or len(task.action_high) != task.act_dim:
        raise InputError(
            f"{where}: field scaling: has sizes {sizes} for {task.obs_dim} observations, {task.act_dim} actions"
        )
    for name, text in (("dataset", task.dataset), *(("obs_keys", key) for key in task.obs_keys)):
        if not text.isprintable() or len(text) > 10_000:
            raise InputError(f"{where}: field task.{name}: is {text!r:.100}; a name that can be printed is needed")
    if task.env_spec is not None:
        described_spec(task.env_spec, f"{where}: field task.env_spec")
    check_task(task, f"{where}: field task")
    most = float(np.finfo(np.float32).max)
    mean, std, low, high = (
        np.array(values, np.float64)
        for values in (scaling.obs_mean, scaling.obs_std, scaling.action_low, scaling.action_high)
    )
    for name, fits, need in (
        ("obs_mean", np.abs(mean) <= most, "finite numbers are needed"),
        ("obs_std", (std > 0) & (std <= most), "finite numbers above 0 are needed"),
        ("action_low", (-most <= low) & (low < high), "finite numbers below action_high are needed"),
        ("action_high", high <= most, "finite numbers are needed"),
    ):
        if not fits.all():
            at = int(np.argmin(fits))
            raise InputError(f"{where}: field scaling.{name}.{at}: is {getattr(scaling, name)[at]}; {need}")
    if config.chooses and config.critic is None:
        raise InputError(f"{where}: field candidates: is {config.candidates}, and there is no critic to choose; use 1")


def _check_checksums(value: Any, needed: set[str], where: str) -> None:
    right = isinstance(value, dict) and value.keys() == needed
    if not right or not all(isinstance(item, str) and _SHA256.fullmatch(item) for item in value.values()):
        raise InputError(f"{where}: field sha256: must hold 64 hexadecimal digits for each of {', '.join(needed)}")
