"""A critic that is any function of the user's, with all that the check on held-out episodes asks of one."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Float

from tiltrl.diffusion.energy import Energy
from tiltrl.errors import InputError
from tiltrl.stages.annotate import SamplerConfig, Score, annotate, sample_candidates
from tiltrl.stages.critics.check import TrustCheck
from tiltrl.types import Scaling


@dataclass(frozen=True)
class FunctionScore:
    """A function `(obs, action) -> q` on rows in the environment's units; its V is a mean over the behavior's actions.

    It is checked as one network. The check takes its values to be in the units of the transformed reward; in others
    its verdict is more doubtful than it need be.
    """

    function: Score
    name: str  # for messages
    behavior: Energy
    sampler: SamplerConfig
    scaling: Scaling
    check: TrustCheck | None = None

    @property
    def trust(self) -> float:
        """How far its values are believed, 0 to 1; unchecked, wholly."""
        return 1.0 if self.check is None else self.check.trust

    def __call__(
        self, obs: Float[np.ndarray, "batch obs"], action: Float[np.ndarray, "batch act"]
    ) -> Float[np.ndarray, " batch"]:
        """Q of each pair.

        Raises:
            InputError: the function fails, or does not return one finite number a row.
        """
        return values_of(self.function, self.name, obs, action)

    def ensemble(
        self, obs: Float[np.ndarray, "batch obs"], action: Float[np.ndarray, "batch act"]
    ) -> Float[np.ndarray, "one batch"]:
        """Q as an ensemble of one, which cannot disagree."""
        return self(obs, action)[None]

    def value(self, obs: Float[np.ndarray, "batch obs"]) -> Float[np.ndarray, " batch"]:
        """V of each state: the mean of Q over four actions of the behavior."""
        unit = sample_candidates(self.behavior, self.scaling.normalize_obs(obs), 4, self.sampler, jax.random.key(1))
        return annotate(self, obs, self.scaling.to_env(unit)).mean(axis=1)


def values_of(
    function: Score, name: str, obs: Float[np.ndarray, "batch obs"], action: Float[np.ndarray, "batch act"]
) -> Float[np.ndarray, " batch"]:
    """What a user's function returns, if it can be used.

    Args:
        function: `(obs, action) -> q`.
        name: for messages.
        obs: in the environment's units.
        action: likewise.

    Raises:
        InputError: the function fails, or does not return one finite number a row.
    """
    try:
        q = np.asarray(function(obs, action), np.float32)
    except Exception as error:  # whatever it is, it is the user's function that has to be mended
        raise InputError(
            f"critic {name}: failed on obs of shape {obs.shape} and action of shape {action.shape}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if q.shape != (len(obs),):
        raise InputError(f"critic {name}: returned shape {q.shape}; one number a row is needed, ({len(obs)},)")
    if not np.isfinite(q).all():
        bad = q[~np.isfinite(q)][0]
        raise InputError(f"critic {name}: returned {bad}; every action needs a finite value")
    return q
