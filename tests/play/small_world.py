"""A world that is simulated and drawn in no time, and policies for it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import equinox as eqx
import gymnasium
import jax
import numpy as np

from tiltrl.diffusion.energy import Energy, EnergyConfig
from tiltrl.policy import Policy, PolicyConfig
from tiltrl.stages.annotate import SamplerConfig
from tiltrl.types import Scaling, Task

LOW, HIGH = (-1.0, -1.0), (1.0, 1.0)
NETWORK = EnergyConfig(action_width=8, time_width=4, obs_width=4, blocks=1, expansion=1, time_features=4)


class Walk(gymnasium.Env):
    """A point that goes where it is pushed. The reward is 1 a step; far from the start the episode ends."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 100}
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    far = 1e9

    def __init__(self, render_mode: str | None = None):
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._at = self.np_random.normal(size=3).astype(np.float32)
        return self._at.copy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert np.abs(action).max() <= 1.0
        self._at[:2] += action
        return self._at.copy(), 1.0, bool(np.abs(self._at).max() > self.far), False, {}

    def render(self) -> Any:
        assert self.render_mode == "rgb_array"
        return np.full((30, 40, 3), 200, np.uint8)


class Short(Walk):
    far = 1.5


class Windowed(Walk):
    metadata = {"render_modes": ["human"], "render_fps": 100}


class Broken(Walk):
    def render(self) -> Any:
        raise RuntimeError("no\nGL")


class Text(Walk):
    def render(self) -> Any:
        return "a picture"


def register() -> None:
    """Let Gymnasium know the worlds, by ids such as Walk-v0."""
    for world in (Walk, Short, Windowed, Broken, Text):
        if f"{world.__name__}-v0" not in gymnasium.registry:
            gymnasium.register(f"{world.__name__}-v0", world, max_episode_steps=40)


def policy(env_id: str | None = "Walk-v0", *, seed: int = 0, obs_dim: int = 3, scale: float = 0.5) -> Policy:
    """One whose network is silent, so that its actions are Gaussian around 0 wherever it is, and about `scale` wide."""
    register()
    spec = None if env_id is None else json.dumps({"id": env_id, "max_episode_steps": 40})
    network = replace(NETWORK, action_scale=scale)
    energy = eqx.filter_jit(Energy)(obs_dim, 2, network, key=jax.random.key(0))
    silent = eqx.tree_at(lambda e: e.out, energy, jax.tree.map(np.zeros_like, energy.out))
    scaling = Scaling((0.0,) * obs_dim, (1.0,) * obs_dim, LOW, HIGH)
    config = PolicyConfig(Task("set", spec, LOW, HIGH, obs_dim), scaling, network, SamplerConfig(calls=5))
    return Policy(silent, config, seed=seed)
