"""Diffusion-QL (Wang et al. 2022, arXiv 2208.06193): a diffusion policy of five steps that climbs Q.

*Diffusion Policies as an Expressive Policy Class for Offline Reinforcement Learning* makes imitation and climbing Q one
loss (Eq. 3), whose gradient goes back through the whole chain of denoising, and has Q learn from the policy's own
actions (Eq. 4). All of that is `stages.critics.online`; here the policy that it trains acts.

The release draws an action with probability softmax(Q) of 50 samples. Here the best of them is taken, as by every other
method: the same for values that are far apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from tiltrl.config_io import check_ranges
from tiltrl.stages.baselines.common import Given, Outcome
from tiltrl.stages.critics.networks import CriticShape
from tiltrl.stages.critics.online import Actor, OnlineConfig, act, critic_of, train_both
from tiltrl.training.loop import Session


class Denoising(eqx.Module):
    """An action a chain of denoising, whose steps' noises come side by side."""

    denoiser: Actor

    @property
    def act_dim(self) -> int:
        """Number of action dimensions."""
        return self.denoiser.layers[-1].weight.shape[-2]

    @property
    def noise_dim(self) -> int:
        """Numbers of noise an action: what the chain begins with, then what each step but the last adds."""
        return self.denoiser.steps * self.act_dim

    def __call__(
        self, noise: Float[Array, "*batch noise"], obs: Float[Array, "*#batch obs"]
    ) -> Float[Array, "*batch act"]:
        """The action in the unit box."""
        lead = noise.shape[:-1]
        rows = jnp.broadcast_to(obs, (*lead, obs.shape[-1])).reshape(-1, obs.shape[-1])
        chains = noise.reshape(-1, self.denoiser.steps, self.act_dim)
        return act(self.denoiser, rows, jnp.moveaxis(chains, 1, 0)).reshape(*lead, self.act_dim)


@dataclass(frozen=True)
class DenoisingShape:
    """Shape of a policy that acts by a few steps of denoising."""

    width: int = 256
    depth: int = 3  # hidden layers
    steps: int = 5  # of denoising
    kind: Literal["denoising"] = "denoising"

    def __post_init__(self) -> None:
        """Refuse what is no network, or none that fits into a computer: shapes may come from a file of anybody's.

        Raises:
            InputError: a number lies outside its bounds.
        """
        check_ranges(self, width=(1, 8192), depth=(1, 32), steps=(1, 100))

    def make(self, obs_dim: int, act_dim: int, *, key: PRNGKeyArray) -> Denoising:
        """An actor of random weights."""
        config = OnlineConfig(width=self.width, depth=self.depth, denoising_steps=self.steps)
        return Denoising(Actor(obs_dim, act_dim, config, key=key))


@dataclass(frozen=True)
class DiffusionQLConfig(OnlineConfig):
    """How critic and policy are trained: Diffusion-QL's defaults for locomotion, as the critic's."""

    candidates: int = 50  # as the release evaluates

    @property
    def actor(self) -> DenoisingShape:
        """Shape of the actor."""
        return DenoisingShape(self.width, self.depth, self.denoising_steps)

    @property
    def own_critic(self) -> CriticShape:
        """Shape of the critic that it makes."""
        return self.shape

    @property
    def pessimism(self) -> float:
        """Deviations of the Q networks taken off their mean at choosing an action."""
        return self.score_pessimism


FAST_DIFFUSION_QL = DiffusionQLConfig(steps=10_000, learning_rate=1e-3, width=128, depth=2, layer_norm=True)
"""For three to five minutes on one core: networks and steps are those of `--critic online`."""


def train_diffusion_ql(
    given: Given, config: DiffusionQLConfig, keys: PRNGKeyArray, session: Session | None = None
) -> Outcome:
    """Fit one critic and one policy a key; all leaves gain a leading `members` axis.

    As in the release the policy's last weights act, not their running average, and the critic's averages choose.
    """
    state = train_both(given.data, config, keys, session)
    return Outcome(Denoising(state.actor), critic_of(state))
