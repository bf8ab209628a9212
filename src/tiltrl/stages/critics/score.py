"""A trained critic as anyone may call it: `(obs, action) -> q`, in the environment's units."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from tiltrl.stages.critics.check import TrustCheck
from tiltrl.stages.critics.networks import Critic, CriticShape
from tiltrl.types import Scaling


@jax.jit
def _ensemble(critic: Critic, obs: Array, action: Array) -> Array:
    return jnp.moveaxis(critic.values(obs, action), -1, 0)


@jax.jit
def _value(critic: Critic, obs: Array) -> Array:
    return critic.value(obs)


@partial(jax.jit, static_argnames="pessimism")
def _score(critic: Critic, obs: Array, action: Array, pessimism: float) -> Array:
    return critic(obs, action, pessimism)


@dataclass(frozen=True)
class CriticScore:
    """One critic with the scaling it was trained under, and what its trust check found."""

    critic: Critic
    shape: CriticShape  # all that rebuilding the networks needs
    scaling: Scaling
    pessimism: float
    check: TrustCheck | None = None

    @property
    def trust(self) -> float:
        """How far its values are believed, 0 to 1; unchecked, wholly."""
        return 1.0 if self.check is None else self.check.trust

    def __call__(
        self, obs: Float[np.ndarray, "batch obs"], action: Float[np.ndarray, "batch act"]
    ) -> Float[np.ndarray, " batch"]:
        """Q of each pair, its ensemble's mean less `pessimism` deviations; in units of the transformed reward."""
        return np.asarray(_score(self.critic, *self._inputs(obs, action), pessimism=self.pessimism))

    def ensemble(
        self, obs: Float[np.ndarray, "batch obs"], action: Float[np.ndarray, "batch act"]
    ) -> Float[np.ndarray, "ensemble batch"]:
        """Each network's Q."""
        return np.asarray(_ensemble(self.critic, *self._inputs(obs, action)))

    def value(self, obs: Float[np.ndarray, "batch obs"]) -> Float[np.ndarray, " batch"]:
        """V of each state."""
        return np.asarray(_value(self.critic, self.scaling.normalize_obs(obs)))

    def _inputs(self, obs: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.scaling.normalize_obs(obs), self.scaling.to_unit(action)
