"""Uniformly random actions, in any environment: the data that covers most and achieves least."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from jaxtyping import Float


class Uniform:
    """Every action within the bounds alike."""

    def reset(self, env: gymnasium.Env, seed: int, rng: np.random.Generator) -> Any:
        """Reset the environment, and look once what may be done in it."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as in `base.describe`
            self._space: Any = env.action_space
        return env.reset(seed=seed)[0]

    def act(self, env: gymnasium.Env, obs: Any, rng: np.random.Generator) -> Float[np.ndarray, " act"]:
        """A random action."""
        space: Box = self._space
        return rng.uniform(space.low, space.high)
