"""What actions are worth, by trying them: discounted returns of rollouts that begin in recorded states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from tiltrl.evaluation.reset import Simulator

Act = Callable[[Float[np.ndarray, "rollouts obs"], int], Float[np.ndarray, "rollouts act"]]
"""`(observations, step) -> actions`, in the environment's units."""


@dataclass(frozen=True)
class RewardUnits:
    """From raw rewards to the critic's: every transform there is multiplies and adds."""

    scale: float
    shift: float

    def __call__(self, raw: float) -> float:
        """The transformed reward."""
        return self.scale * raw + self.shift


def reward_units(raw: Float[np.ndarray, " steps"], transformed: Float[np.ndarray, " steps"]) -> RewardUnits:
    """The transform that was applied to the data, from its smallest and largest reward."""
    low, high = int(np.argmin(raw)), int(np.argmax(raw))
    if raw[low] == raw[high]:
        return RewardUnits(1.0, float(transformed[low]) - float(raw[low]))
    scale = (float(transformed[high]) - float(transformed[low])) / (float(raw[high]) - float(raw[low]))
    return RewardUnits(scale, float(transformed[low]) - scale * float(raw[low]))


def returns_from(
    simulators: Sequence[Simulator],
    obs: Float[np.ndarray, "rollouts obs"],
    act: Act,
    *,
    horizon: int,
    discount: float,
    units: RewardUnits,
    on_step: Callable[[int], None] | None = None,
) -> Float[np.ndarray, " rollouts"]:
    """Discounted sums of transformed rewards over `horizon` steps, or to the task's end; nothing is added for the rest.

    Args:
        simulators: one a rollout, at least; they step in lockstep, so that one call of `act` serves all.
        obs: recorded states to begin in.
        act: is asked for all rollouts at every step, so that it compiles once; what it says of ended ones is ignored.
        horizon: steps.
        discount: the critic's.
        units: of the rewards that the critic was trained on.
        on_step: called with the number of steps taken.
    """
    seen = np.stack([simulators[i].set_state(obs[i]) for i in range(len(obs))])
    seen = np.where(np.isnan(seen), obs, seen).astype(np.float32)
    total, running = np.zeros(len(obs)), np.ones(len(obs), dtype=bool)
    for step in range(horizon):
        # A copy, because JAX may read the array it is given in place, and later than it returns.
        action = act(seen.copy(), step)
        for i in np.flatnonzero(running):
            seen[i], reward, terminal = simulators[int(i)].step(action[i])
            total[i] += discount**step * units(reward)
            running[i] = not terminal
        if on_step is not None:
            on_step(step + 1)
        if not running.any():
            break
    return total
