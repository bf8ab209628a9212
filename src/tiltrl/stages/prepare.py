"""Logged transitions as the networks see them: normalized, on the device, rewards transformed."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from tiltrl.data.transforms import observation_statistics
from tiltrl.stages.critics.advantage import AdvantageConfig, Steps, n_step
from tiltrl.stages.critics.iql import Batch
from tiltrl.types import Scaling, Transitions


def scaling_of(transitions: Transitions, *, normalize: bool) -> Scaling:
    """Scaling by the data's own statistics; without `normalize`, observations pass as they are (the paper's way)."""
    mean, std = observation_statistics(transitions.obs)
    if not normalize:
        mean, std = np.zeros_like(mean), np.ones_like(std)
    task = transitions.task
    return Scaling(tuple(mean.tolist()), tuple(std.tolist()), task.action_low, task.action_high)


def one_step_data(transitions: Transitions, reward: np.ndarray, scaling: Scaling, discount: float) -> Batch:
    """Every transition, as IQL takes them; `reward` is transformed already."""
    return Batch(
        obs=jnp.asarray(scaling.normalize_obs(transitions.obs)),
        action=jnp.asarray(scaling.to_unit(transitions.action)),
        reward=jnp.asarray(reward),
        next_obs=jnp.asarray(scaling.normalize_obs(transitions.next_obs)),
        discount=jnp.asarray(np.where(transitions.terminal, 0.0, discount).astype(np.float32)),
    )


def advantage_data(transitions: Transitions, reward: np.ndarray, scaling: Scaling, config: AdvantageConfig) -> Steps:
    """Every transition with its n-step return, as the advantage critic takes them."""
    ended = transitions.terminal | transitions.timeout
    n_reward, n_discount, landing = n_step(
        reward, transitions.terminal, transitions.timeout, config.n_step, config.discount
    )
    return Steps(
        *one_step_data(transitions, reward, scaling, config.discount),
        n_reward=jnp.asarray(n_reward),
        n_discount=jnp.asarray(n_discount),
        landing=jnp.asarray(landing),
        episode=jnp.asarray(np.cumsum(np.concatenate([[0], ended[:-1]])).astype(np.int32)),
    )
