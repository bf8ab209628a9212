"""Whether an exported file says what the policy says, at logged observations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import jax
import numpy as np
import onnxruntime
from jaxtyping import Float

from tiltrl.acting import actions_at, preferences
from tiltrl.errors import InputError
from tiltrl.export.functions import Exported
from tiltrl.policy import Policy

TOLERANCE = 1e-4
"""Of actions, as a share of half their range; of other outputs, relative to their size where that is above 1."""
_ROWS = 500

Arrays = dict[str, np.ndarray]
Errors = tuple[Float[np.ndarray, " rows"], int]


@dataclass(frozen=True)
class Parity:
    """How near a file comes."""

    error: float
    ties: int  # rows where it takes another candidate that the critic likes as much


def compare(
    policy: Policy,
    behavior: Policy | None,
    exported: Exported,
    model: bytes,
    obs: Float[np.ndarray, "rows obs"],
    action: Float[np.ndarray, "rows act"],
    on_progress: Callable[[int, int], None] | None = None,
) -> Parity:
    """Run the file, and ask the policy the same, in the environment's units and with the same noise.

    Raises:
        InputError: they differ by more than `TOLERANCE`, or one is not finite.
    """
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    errors_of = {"policy": _acting, "energy": _energy, "critic": _critic}[exported.kind](policy, behavior)
    worst, ties, random = 0.0, 0, np.random.default_rng(0)
    for index in _batches(len(obs)):
        given = _inputs(exported, obs[index], action[index], random)
        found = dict(zip(exported.outputs, map(np.asarray, session.run(list(exported.outputs), given)), strict=True))
        errors, some = errors_of(given, found)
        worst, ties = float(np.maximum(worst, errors.max())), ties + some  # of a NaN it stays one
        if on_progress is not None:
            on_progress(int(index[-1]) + 1, len(obs))
    if not worst <= TOLERANCE:
        raise InputError(
            f"the exported {exported.kind} differs from the policy by {worst:.2g} at one of {len(obs)} observations, "
            f"more than {TOLERANCE:g}; no file was written (please report it with the policy)"
        )
    return Parity(worst, ties)


def _batches(rows: int) -> Iterator[np.ndarray]:
    """Indices of all rows in turn. The last batch takes some again, so that all have one shape and compile once."""
    size = min(_ROWS, rows)
    for stop in range(size, rows + size, size):
        yield np.arange(min(stop, rows) - size, min(stop, rows))


def _inputs(exported: Exported, obs: np.ndarray, action: np.ndarray, random: np.random.Generator) -> Arrays:
    given = {"obs": obs, "action": action, "t": random.uniform(0.001, 1.0, len(obs))}
    if "noise" in exported.inputs:
        given["noise"] = random.standard_normal((len(obs), *(n for n in exported.inputs["noise"] if n is not None)))
    return {name: given[name].astype(np.float32) for name in exported.inputs}


def _acting(policy: Policy, behavior: Policy | None) -> Callable[[Arrays, Arrays], Errors]:
    """Distance of each action to the mean, or to the nearest of those that are worth as much as the best.

    Worth as much but for rounding.
    """
    scaling, config = policy.config.scaling, policy.config
    half_range = np.subtract(scaling.action_high, scaling.action_low) / 2.0
    draw = jax.jit(lambda obs, noise: actions_at(policy.network, obs, noise, config.sampler))
    value = jax.jit(preferences) if config.chooses else None

    def errors(given: Arrays, found: Arrays) -> Errors:
        normalized = scaling.normalize_obs(given["obs"])
        unit = np.asarray(draw(normalized, given["noise"]))
        if value is None:
            unit = unit.mean(axis=1, keepdims=True)
        distance = np.abs((found["action"][:, None] - scaling.to_env(unit)) / half_range).max(axis=2)
        worth = np.zeros(unit.shape[:2])
        if value is not None:
            worth = np.asarray(value(policy.critic, normalized, unit, config.pessimism))
        best = worth.max(axis=1, keepdims=True)
        equal = worth >= best - 1e-4 * np.maximum(1.0, np.abs(best))
        nearest = np.where(equal, distance, np.inf).min(axis=1)
        ties = int(np.sum(nearest < distance[np.arange(len(unit)), worth.argmax(axis=1)]))
        if behavior is None:
            return nearest, ties
        usual = behavior.denoising_error(given["obs"], found["action"])
        return np.maximum(nearest, _relative(found["denoising_error"], usual)), ties

    return errors


def _energy(policy: Policy, _: Policy | None) -> Callable[[Arrays, Arrays], Errors]:
    network, scaling = jax.jit(policy.diffusion.__call__), policy.config.scaling

    def errors(given: Arrays, found: Arrays) -> Errors:
        wanted = network(scaling.to_unit(given["action"]), scaling.normalize_obs(given["obs"]), given["t"])
        return _relative(found["energy"], np.asarray(wanted)), 0

    return errors


def _critic(policy: Policy, _: Policy | None) -> Callable[[Arrays, Arrays], Errors]:
    assert policy.critic is not None, "what exports a critic has one"
    critic, config = jax.jit(policy.critic.__call__), policy.config

    def errors(given: Arrays, found: Arrays) -> Errors:
        normalized, unit = config.scaling.normalize_obs(given["obs"]), config.scaling.to_unit(given["action"])
        return _relative(found["value"], np.asarray(critic(normalized, unit, config.pessimism))), 0

    return errors


def _relative(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    return np.abs(found - wanted) / np.maximum(1.0, np.abs(wanted))
