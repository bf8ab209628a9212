"""Whether an exported file says what the policy says, at logged observations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
import onnxruntime
from jaxtyping import Float

from tiltrl.errors import InputError
from tiltrl.export.functions import Exported, candidates
from tiltrl.policy import Policy

TOLERANCE = 1e-4
"""Of actions, as a share of half their range; of other outputs, relative to their size where that is above 1."""
_ROWS = 500


@dataclass(frozen=True)
class Parity:
    """How near a file comes."""

    error: float
    ties: int


def compare(
    policy: Policy,
    exported: Exported,
    model: bytes,
    obs: Float[np.ndarray, "rows obs"],
    action: Float[np.ndarray, "rows act"],
    on_progress: Callable[[int, int], None] | None = None,
) -> Parity:
    """Run file and function on the same inputs, of fixed noise.

    Where two candidates are worth the same to the critic but for rounding, either may be taken: such a tie is counted,
    and the action compared with the candidate that it is.

    Raises:
        InputError: they differ by more than `TOLERANCE`.
    """
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    expected, random = jax.jit(exported.function), np.random.default_rng(0)
    half_range = np.subtract(policy.config.scaling.action_high, policy.config.scaling.action_low) / 2.0
    worst, ties = 0.0, 0
    for start in range(0, len(obs), _ROWS):
        # The last rows wrap around, so that every call has one shape and compiles once.
        index = np.arange(start, start + min(_ROWS, len(obs))) % len(obs)
        given = _inputs(exported, obs[index], action[index], random)
        answers = map(np.asarray, session.run(list(exported.outputs), given))
        found = dict(zip(exported.outputs, answers, strict=True))
        wanted = dict(zip(exported.outputs, map(np.asarray, expected(**given)), strict=True))
        same = np.ones(len(index), bool)
        for name, value in wanted.items():
            difference = np.abs(found[name] - value) / (half_range if name == "action" else np.maximum(1, abs(value)))
            errors = difference.reshape(len(index), -1).max(axis=1)
            if name == "action" and policy.config.candidates > 1 and errors.max() > TOLERANCE:
                errors, same = _to_equals(policy, given, found[name] / half_range, half_range, errors)
            worst = max(worst, float(np.max(errors[same] if name != "action" else errors, initial=0.0)))
        ties += int(np.sum(~same))
        if on_progress is not None:
            on_progress(min(start + _ROWS, len(obs)), len(obs))
    if not worst <= TOLERANCE:
        raise InputError(
            f"the exported {exported.kind} differs from the policy by {worst:.2g} at one of {len(obs)} observations, "
            f"more than {TOLERANCE:g}; no file was written (please report it with the policy)"
        )
    return Parity(worst, ties)


def _inputs(
    exported: Exported, obs: np.ndarray, action: np.ndarray, random: np.random.Generator
) -> dict[str, np.ndarray]:
    rows = len(obs)
    makers = {
        "obs": lambda: obs,
        "action": lambda: action,
        "t": lambda: random.uniform(0.001, 1.0, rows),
        "noise": lambda: random.standard_normal((rows, *map(int, exported.inputs["noise"][1:]))),  # type: ignore[arg-type]
    }
    return {name: makers[name]().astype(np.float32) for name in exported.inputs}


def _to_equals(
    policy: Policy, given: dict[str, np.ndarray], found: np.ndarray, half_range: np.ndarray, errors: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Errors to the nearest of the candidates that are worth as much as the best, and where that is the one taken."""
    assert policy.critic is not None, "a policy of several candidates has one"
    actions, worth = jax.jit(partial(candidates, policy))(given["obs"], given["noise"])
    actions, values = np.asarray(actions), np.asarray(worth)
    best = values.max(axis=1, keepdims=True)
    equal = values >= best - 1e-4 * np.maximum(1.0, np.abs(best))
    distance = np.abs(found[:, None] - actions / half_range).max(axis=2)
    nearest = np.where(equal, distance, np.inf).min(axis=1)
    return np.minimum(errors, nearest), errors <= TOLERANCE
