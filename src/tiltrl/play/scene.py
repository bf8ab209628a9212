"""One policy in one environment, step by step, and the environment's picture of it."""

from __future__ import annotations

import json
import os
import sys
from contextlib import closing
from fractions import Fraction
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import UInt8

from tiltrl.environments import known_spec
from tiltrl.errors import InputError
from tiltrl.evaluation.rollout import make_env, read_spec
from tiltrl.play.rarity import Rarity
from tiltrl.policy import Policy
from tiltrl.types import Task


class Scene:
    """A policy at play. Ended episodes stand still, so that scenes of unequal length can be shown side by side."""

    def __init__(self, label: str, policy: Policy, env: gymnasium.Env, rarity: Rarity | None):
        """Put the policy in an environment that renders arrays; `rarity` judges its actions."""
        self.label = label
        self._policy, self._env, self._rarity = policy, env, rarity
        self._task = policy.config.task
        self._bounds = np.array([self._task.action_low, self._task.action_high], np.float32)

    def reset(self, seed: int) -> None:
        """Begin an episode from the environment's first state of that seed."""
        self._policy.reset(seed)
        if self._rarity is not None:
            self._rarity.reset(seed)
        self._obs = self._task.flat_obs(self._env.reset(seed=seed)[0])
        self.rewards: list[float] = []
        self.returns: list[float] = []  # so far, undiscounted
        self.rarities: list[float] = []  # empty where nobody judges
        self.ended = ""
        self._still: np.ndarray | None = None  # of an episode that has ended

    def step(self) -> None:
        """Act once, unless the episode has ended."""
        if self.ended:
            return
        action = np.clip(self._policy.sample(self._obs), *self._bounds)  # rounding may overstep the bounds
        if self._rarity is not None:
            self.rarities.append(self._rarity(self._obs, action))
        seen, reward, terminal, timeout, _ = self._env.step(action)
        self._obs = self._task.flat_obs(seen)
        self.rewards.append(float(reward))
        self.returns.append(float(reward) + (self.returns[-1] if self.returns else 0.0))
        if terminal or timeout:
            self.ended = f"{'ended' if terminal else 'time is up'} at step {len(self.rewards)}"

    def picture(self) -> UInt8[np.ndarray, "height width 3"]:
        """What the environment looks like now.

        Raises:
            InputError: it cannot be rendered on this machine, or renders no pictures.
        """
        if self._still is not None:
            return self._still
        try:
            image = self._env.render()
        except Exception as error:  # a graphics driver's, whatever its class
            raise InputError(
                f"{self._task.dataset}: the environment cannot be rendered here: {' '.join(str(error).split())[:300]}; "
                "set MUJOCO_GL=egl where there is a GPU or Mesa's EGL, or MUJOCO_GL=osmesa for rendering in software"
            ) from error
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape[2:] != (3,):
            raise InputError(f"{self._task.dataset}: the environment renders no picture but {type(image).__name__}")
        if self.ended:
            self._still = image
        return image


def described(env_id: str) -> str:
    """The specification of a registered environment, as tasks hold it.

    Raises:
        InputError: no environment of that id is registered here.
    """
    return json.dumps({"id": env_id, "max_episode_steps": known_spec(env_id, "--env").max_episode_steps})


def stage_for(task: Task) -> gymnasium.Env:
    """The task's environment, rendering arrays.

    Raises:
        InputError: the data names no environment, or it cannot be made, does not match, or renders no arrays.
    """
    _without_a_display()
    with closing(make_env(task)) as env:
        modes = env.metadata.get("render_modes") or []
    if "rgb_array" not in modes:
        raise InputError(
            f"{task.dataset}: environment {read_spec(task).id} cannot be drawn without a display: it renders "
            f"{', '.join(map(str, modes)) or 'nothing'}, and a clip needs rgb_array; name another with --env"
        )
    env = make_env(task, render_mode="rgb_array")
    _arranged(env.unwrapped)
    return env


def _arranged(env: Any) -> None:
    """Of MuJoCo's environments: without shadows, and by the camera that follows, where there is one."""
    model, renderer = getattr(env, "model", None), getattr(env, "mujoco_renderer", None)
    if model is None or renderer is None:
        return
    model.vis.quality.shadowsize = 0  # shadows are five sixths of the time where pictures are drawn in software
    cameras = {model.camera(i).name: i for i in range(model.ncam)}
    renderer.camera_id = cameras.get("track", renderer.camera_id)


def pace(env: gymnasium.Env) -> tuple[int, Fraction]:
    """Steps of a whole episode, and steps a second of the environment's own time."""
    assert env.spec is not None and env.spec.max_episode_steps is not None, "make_env refuses one without"
    return env.spec.max_episode_steps, Fraction(env.metadata.get("render_fps") or 30).limit_denominator(1000)


def _without_a_display() -> None:
    """Have MuJoCo render off screen where nothing else was asked for and there is no screen."""
    if sys.platform == "linux" and not {"MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
        os.environ["MUJOCO_GL"] = "egl"
