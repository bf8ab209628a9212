"""Simulators that are put into a recorded state, and the proof that they were: what was recorded follows from there.

A MuJoCo environment's state is `qpos` and `qvel`; Gymnasium's locomotion environments show both, less the position
along the ground, on which nothing depends and which is set to 0. Whether that is all, no reading of code can tell for
any environment there is. So each state that is used has to reproduce its recorded step: the same next observation and
the same reward for the recorded action.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Bool, Float

from tiltrl.environments import leaves
from tiltrl.errors import InputError
from tiltrl.evaluation.rollout import make_env
from tiltrl.types import Task

LEAST_REPRODUCED = 0.9
"""Share of the tried states that must reproduce their steps."""
CUT_OFF = 10.0
"""Hopper and Walker2d show no velocity beyond this, so that one of just this size may be any."""
TOLERANCE = 1e-3
"""Between what follows and what was recorded, in units of `1 + |recorded|`: float32 observations, through contacts."""
_MOST_HIDDEN = 2
"""Coordinates along the ground that an observation may leave out: x, or x and y."""

SetState = Callable[[Float[np.ndarray, " obs"]], Float[np.ndarray, " obs"]]
"""Puts the simulator into the state of an observation; returns what it then sees, NaN where that is no state."""


class Simulator:
    """One environment without its time limit, which can be put into any observed state."""

    def __init__(self, task: Task):
        """Make the environment.

        Raises:
            InputError: it cannot be made, or its observation is not known to hold its state.
        """
        self._task = task
        self._env = make_env(task)
        self._body: Any = self._env.unwrapped
        self._low, self._high = np.array(task.action_low, np.float32), np.array(task.action_high, np.float32)
        try:
            self._env.reset(seed=0)
            self._set = _setter(self._env, task)
        except BaseException:
            self.close()
            raise

    def set_state(self, obs: Float[np.ndarray, " obs"]) -> Float[np.ndarray, " obs"]:
        """Forget everything, then take the state of an observation.

        Returns:
            What the environment sees there; NaN in parts that are no state but follow from a step, such as forces.
        """
        self._env.reset(seed=0)
        return self._set(obs.astype(np.float64))

    def step(self, action: Float[np.ndarray, " act"]) -> tuple[Float[np.ndarray, " obs"], float, bool]:
        """Take an action: what is seen next, the raw reward, and whether the task has ended."""
        clipped = np.clip(action, self._low, self._high).astype(np.float32)
        seen, reward, terminal, _, _ = self._body.step(clipped)
        return self._task.flat_obs(seen), float(reward), bool(terminal)

    def close(self) -> None:
        """Close the environment."""
        self._env.close()


def whole_states(obs: Float[np.ndarray, "states obs"]) -> Bool[np.ndarray, " states"]:
    """Which observations have no velocity cut off, so that they may hold the state."""
    return (np.abs(obs) != CUT_OFF).all(axis=1)


def reproduced(
    simulator: Simulator,
    obs: Float[np.ndarray, "states obs"],
    action: Float[np.ndarray, "states act"],
    reward: Float[np.ndarray, " states"],
    next_obs: Float[np.ndarray, "states obs"],
) -> Bool[np.ndarray, " states"]:
    """Whether each state, once set, is seen as recorded, and its recorded action leads to what was recorded.

    Args:
        simulator: is put into one state after the other.
        obs: recorded.
        action: taken there.
        reward: raw, as the environment gave it.
        next_obs: what followed.
    """
    found = np.zeros(len(obs), dtype=bool)
    for i in range(len(obs)):
        seen = simulator.set_state(obs[i])
        there = np.isnan(seen) | _near(seen, obs[i])
        after, paid, _ = simulator.step(action[i])
        found[i] = there.all() and _near(after, next_obs[i]).all() and bool(_near(paid, reward[i]))
    return found


def require_reproduced(found: Bool[np.ndarray, " states"], where: str) -> None:
    """Refuse an environment in which recorded steps do not happen again.

    Args:
        found: as from `reproduced`.
        where: names the data and the environment.

    Raises:
        InputError: too few of the states reproduce their step.
    """
    if not len(found) or found.mean() < LEAST_REPRODUCED:
        raise InputError(
            f"{where}: put into {len(found)} recorded states, it reproduces the recorded next observation and reward "
            f"of {int(found.sum())} (at least {LEAST_REPRODUCED:.0%} are needed), so its observations do not hold the "
            "whole state, or the data is of another version of it; check the critic without --rollouts"
        )


def _near(a: np.ndarray | float, b: np.ndarray | float) -> np.ndarray:
    return np.asarray(np.abs(np.subtract(a, b)) <= TOLERANCE * (1.0 + np.abs(b)))


def _setter(env: gymnasium.Env, task: Task) -> SetState:
    body: Any = env.unwrapped
    where = f"{task.dataset}: environment {env.spec.id if env.spec else body}"
    if hasattr(body, "point_env"):
        return _point_maze(body, task)
    if not (hasattr(body, "set_state") and hasattr(body, "model") and hasattr(body, "_get_obs")):
        raise InputError(f"{where}: cannot be put into a recorded state; only Gymnasium's MuJoCo environments can")
    positions, velocities = int(body.model.nq), int(body.model.nv)
    # Versions before 5 do not say what their observations are made of; then all of it must be positions and velocities.
    parts = getattr(body, "observation_structure", None)
    if parts is not None:
        hidden, shown = int(parts.get("skipped_qpos", 0)), (int(parts.get("qpos", 0)), int(parts.get("qvel", 0)))
    else:
        hidden = positions + velocities - task.obs_dim
        shown = (positions - hidden, velocities)
    if not 0 <= hidden <= _MOST_HIDDEN or shown != (positions - hidden, velocities) or task.obs_keys:
        raise InputError(
            f"{where}: its observation of {task.obs_dim} numbers does not hold the simulator's state of {positions} "
            f"positions and {velocities} velocities, so no rollout can begin at a recorded state; check the critic "
            "without --rollouts"
        )
    state = sum(shown)

    def set_state(obs: Float[np.ndarray, " obs"]) -> Float[np.ndarray, " obs"]:
        body.set_state(np.concatenate([np.zeros(hidden), obs[: shown[0]]]), obs[shown[0] : state])
        seen = np.full(len(obs), np.nan)
        seen[:state] = body._get_obs()[:state]
        return seen

    return set_state


def _point_maze(body: Any, task: Task) -> SetState:
    """Gymnasium-Robotics' ball in a maze: positions and velocities, and where it is to go."""
    sizes = leaves(body.observation_space) or {}
    offsets = np.cumsum([0, *(sizes[key] for key in task.obs_keys)])
    place = {key: slice(a, b) for key, a, b in zip(task.obs_keys, offsets[:-1], offsets[1:], strict=True)}
    if not {"observation", "desired_goal"} <= place.keys():
        raise InputError(f"{task.dataset}: the maze's observation lacks the ball or its goal ({', '.join(place)})")

    def set_state(obs: Float[np.ndarray, " obs"]) -> Float[np.ndarray, " obs"]:
        ball = obs[place["observation"]]
        body.goal = obs[place["desired_goal"]].copy()
        body.update_target_site_pos()
        body.point_env.set_state(ball[:2], ball[2:])
        return task.flat_obs(body._get_obs(body.point_env._get_obs()[0]))

    return set_state
