"""A policy at work, in an environment or on noise: what came of it, and how long it took."""

from __future__ import annotations

import importlib
import importlib.util
import io
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from tiltrl.errors import InputError
from tiltrl.runtime.card import Card
from tiltrl.runtime.observations import vectors
from tiltrl.runtime.policy import Policy

_PROVIDERS = ("gymnasium_robotics", "ogbench")  # importing them registers their environments


@dataclass
class Record:
    """What was seen so far; it grows while a policy is driven, so that an interrupt loses nothing."""

    seconds: list[float] = field(default_factory=list)  # of each decision
    shares: list[float] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)  # of whole episodes


class World(Protocol):
    """Where observations come from and actions go."""

    def observe(self) -> Any:
        """What the policy sees now."""
        ...

    def apply(self, action: np.ndarray) -> bool:
        """Let the action act; whether all is done."""
        ...


class Noise:
    """Observations made of standard normal noise, for ever; they mean nothing, but take as long to act on."""

    def __init__(self, card: Card, seed: int):
        self._random, self._size = np.random.default_rng(seed), card.obs_dim

    def observe(self) -> np.ndarray:
        """Another observation."""
        return self._random.standard_normal(self._size, np.float32)

    def apply(self, action: np.ndarray) -> bool:
        """Nothing comes of it."""
        return False


class Episodes:
    """Whole episodes in an environment, one after the other; episode i is reset with `seed + i`."""

    def __init__(self, env: Any, record: Record, *, episodes: int, seed: int):
        self._env, self._record, self._episodes, self._seed = env, record, episodes, seed
        self._obs, self._return = env.reset(seed=seed)[0], 0.0

    def observe(self) -> Any:
        """As the environment gives it."""
        return self._obs

    def apply(self, action: np.ndarray) -> bool:
        """One step; at an episode's end also the reset to the next."""
        self._obs, reward, terminal, timeout, _ = self._env.step(action)
        self._return += float(reward)
        if not (terminal or timeout):
            return False
        self._record.returns.append(self._return)
        if len(self._record.returns) == self._episodes:
            return True
        self._obs, self._return = self._env.reset(seed=self._seed + len(self._record.returns))[0], 0.0
        return False


def drive(policy: Policy, world: World, record: Record, ticks: Iterable[int], seconds: float | None) -> Iterator[None]:
    """Act at each tick until the world is done or the time is over; yields after each.

    Args:
        policy: decides.
        world: where it acts.
        record: takes what is seen.
        ticks: when to act; see `tiltrl.runtime.clock.Beat`.
        seconds: after so many it stops. None: when the world is done.
    """
    end = None if seconds is None else time.perf_counter() + seconds
    for _ in ticks:
        began = time.perf_counter()
        step = policy.step(world.observe())
        record.seconds.append(time.perf_counter() - began)
        if step.share is not None:
            record.shares.append(step.share)
        done = world.apply(step.action)
        yield
        if done or (end is not None and time.perf_counter() >= end):
            return


def make_env(env_id: str, card: Card) -> Any:
    """Gymnasium's environment of an id, without a window, reset once to see whether the policy fits.

    Raises:
        InputError: Gymnasium is not installed; the environment is unknown, cannot be made or reset here, or its
            observations or actions are others than the policy's.
    """
    try:
        import gymnasium
    except ImportError as error:
        raise InputError("gymnasium is not installed, which --env needs: `pip install gymnasium`") from error
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):  # both advertise newer versions of environments
        warnings.simplefilter("ignore")
        env = _tried(lambda: _make(gymnasium, env_id), f"environment {env_id} cannot be made")
        seen = _tried(lambda: env.reset(seed=0)[0], f"environment {env_id} cannot be reset")
        mismatch = _mismatch(env, seen, card)
    if mismatch:
        env.close()
        raise InputError(f"environment {env_id}: {mismatch}")
    return env


def _make(gymnasium: Any, env_id: str) -> Any:
    for package in _PROVIDERS:
        if env_id not in gymnasium.registry and importlib.util.find_spec(package) is not None:
            importlib.import_module(package)
    return gymnasium.make(env_id, disable_env_checker=True)


def _tried(attempt: Callable[[], Any], what: str) -> Any:
    try:
        return attempt()
    except Exception as error:  # other people's code: an unknown id, a missing package, no display, no GPU
        raise InputError(f"{what}: {' '.join(str(error).split()) or type(error).__name__}") from error


def _mismatch(env: Any, seen: Any, card: Card) -> str | None:
    """What makes the environment unfit for the policy, naming both sides; None where it fits."""
    try:
        fits = vectors(seen, card.obs_keys, card.obs_dim).ndim == 1
    except InputError:
        fits = False
    if not fits:
        parts = f" ({', '.join(card.obs_keys)})" if card.obs_keys else ""
        return f"its observations are {env.observation_space}, but the policy takes {card.obs_dim} numbers{parts}"
    acts = env.action_space
    low, high = getattr(acts, "low", np.array(())), getattr(acts, "high", np.array(()))
    if low.shape != (card.act_dim,) or not (np.allclose(low, card.action_low) and np.allclose(high, card.action_high)):
        return (
            f"its actions are {acts}, but the policy's are {card.act_dim} numbers from {list(card.action_low)} to "
            f"{list(card.action_high)}"
        )
    return None
