"""A saved policy as a source: what it does in its own environment, with its own randomness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Float

from tiltrl.errors import InputError
from tiltrl.evaluation.rollout import make_env
from tiltrl.policy import Policy, load_policy


class Saved:
    """A policy as it acts, whose sequence of random numbers each episode starts anew."""

    def __init__(self, policy: Policy):
        self._policy = policy
        self.digest = policy.digest  # the same folder may hold another policy tomorrow

    def reset(self, env: gymnasium.Env, seed: int, rng: np.random.Generator) -> Any:
        """Reset the environment and the policy."""
        self._policy.reset(seed)
        return env.reset(seed=seed)[0]

    def act(self, env: gymnasium.Env, obs: Any, rng: np.random.Generator) -> Float[np.ndarray, " act"]:
        """As the policy is saved to act."""
        return self._policy.sample(self._policy.config.task.flat_obs(obs))


def open_policy(folder: Path, env_id: str | None) -> tuple[gymnasium.Env, Saved]:
    """Load a policy and make its environment.

    Args:
        folder: written by `Policy.save`.
        env_id: the environment that is expected; None: any.

    Raises:
        InputError: as `load_policy` and `make_env`, or the policy's environment is another.
    """
    policy = load_policy(folder)
    env = make_env(policy.config.task)
    assert env.spec is not None, "make_env makes it from one"
    if env_id not in (None, env.spec.id):
        env.close()
        raise InputError(f"--env {env_id}: the policy in {folder} acts in {env.spec.id}; leave --env out")
    return env, Saved(policy)
