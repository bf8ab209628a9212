"""Gaussian behavior cloning, and the two plain actors that several baselines act by.

The oldest use of logged data: the policy that makes the logged actions most likely (Pomerleau 1991, *Efficient Training
of Artificial Neural Networks for Autonomous Navigation*). Here it is one Gaussian a state, with the network and
optimizer of IQL's policy (Kostrikov et al. 2021, arXiv 2110.06169, and its release), so that the two differ by the
weights of the actions alone. Of behavior that does several things in one state it takes the mean of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from tiltrl.config_io import check_ranges
from tiltrl.stages.baselines.common import Given, Outcome, Perceptron, fit_actor
from tiltrl.stages.critics.iql import Batch
from tiltrl.training.loop import Draw, Metrics, Session, Update, random_rows
from tiltrl.training.optimizer import Learner, cosine_adam, gradient_step

LOG_DEVIATION = (-5.0, 2.0)
"""The least and the greatest logarithm of a Gaussian's deviation (IQL's release)."""

# --- Actors -----------------------------------------------------------------------------------------------------------


class Deterministic(eqx.Module):
    """One action a state, `tanh` of a perceptron."""

    net: Perceptron

    @property
    def noise_dim(self) -> int:
        """None is used."""
        return 0

    def action(self, obs: Float[Array, "*batch obs"]) -> Float[Array, "*batch act"]:
        """The action, inside the unit box."""
        return jnp.tanh(self.net(obs))

    def __call__(self, noise: Float[Array, "*batch 0"], obs: Float[Array, "*#batch obs"]) -> Float[Array, "*batch act"]:
        """The same action for every noise, of which there is none: its shape alone is looked at."""
        action = self.action(obs)
        return jnp.broadcast_to(action, (*noise.shape[:-1], action.shape[-1]))


@dataclass(frozen=True)
class DeterministicShape:
    """Shape of a deterministic actor."""

    width: int = 256
    depth: int = 2  # hidden layers
    kind: Literal["deterministic"] = "deterministic"

    def __post_init__(self) -> None:
        """Refuse what is no network, or none that fits into a computer: shapes may come from a file of anybody's.

        Raises:
            InputError: a number lies outside its bounds.
        """
        check_ranges(self, width=(1, 8192), depth=(1, 32))

    def make(self, obs_dim: int, act_dim: int, *, key: PRNGKeyArray) -> Deterministic:
        """An actor of random weights."""
        return Deterministic(Perceptron(obs_dim, act_dim, self.width, self.depth, key=key))


class Gaussian(eqx.Module):
    """A Gaussian a state: its mean is `tanh` of a perceptron, its deviations are the same in all states.

    As in IQL's release the mean is squashed and not the sample, which is clipped: densities are those of the Gaussian.
    """

    net: Perceptron
    log_deviation: Float[Array, " act"]  # before it is clipped
    spread: float = eqx.field(static=True)  # factor on the noise at acting: 1 samples, 0 takes the mean

    @property
    def noise_dim(self) -> int:
        """Numbers of noise an action; none where the mean is taken."""
        return self.log_deviation.shape[-1] if self.spread else 0

    def mean(self, obs: Float[Array, "*batch obs"]) -> Float[Array, "*batch act"]:
        """Inside the unit box."""
        return jnp.tanh(self.net(obs))

    def deviation(self) -> Float[Array, " act"]:
        """Of every state's actions."""
        return jnp.exp(jnp.clip(self.log_deviation, *LOG_DEVIATION))

    def __call__(
        self, noise: Float[Array, "*batch noise"], obs: Float[Array, "*#batch obs"]
    ) -> Float[Array, "*batch act"]:
        """The action in the unit box."""
        mean = self.mean(obs)
        if not self.spread:
            return jnp.broadcast_to(mean, (*noise.shape[:-1], mean.shape[-1]))
        return jnp.clip(mean + self.spread * self.deviation() * noise, -1.0, 1.0)


@dataclass(frozen=True)
class GaussianShape:
    """Shape of a Gaussian actor."""

    width: int = 256
    depth: int = 2  # hidden layers
    spread: float = 0.0  # factor on the noise at acting: 1 samples, 0 takes the mean
    kind: Literal["gaussian"] = "gaussian"

    def __post_init__(self) -> None:
        """Refuse what is no network, or none that fits into a computer: shapes may come from a file of anybody's.

        Raises:
            InputError: a number lies outside its bounds.
        """
        check_ranges(self, width=(1, 8192), depth=(1, 32), spread=(0, 1))

    def make(self, obs_dim: int, act_dim: int, *, key: PRNGKeyArray) -> Gaussian:
        """An actor of random weights and deviations of 1."""
        net = Perceptron(obs_dim, act_dim, self.width, self.depth, key=key)
        return Gaussian(net, jnp.zeros(act_dim), self.spread)


def log_prob(
    actor: Gaussian, obs: Float[Array, "*batch obs"], action: Float[Array, "*batch act"]
) -> Float[Array, "*batch"]:
    """Log-density of actions, in nats and units of the unit box; of the Gaussian, before anything is clipped."""
    deviation = actor.deviation()
    standard = (action - actor.mean(obs)) / deviation
    return -jnp.sum(0.5 * standard**2 + jnp.log(deviation) + 0.5 * np.log(2.0 * np.pi), axis=-1)


# --- Behavior cloning -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BCConfig:
    """How the policy is trained. The defaults are those of IQL's policy for locomotion (its release)."""

    steps: int = 1_000_000
    batch: int = 256
    learning_rate: float = 3e-4
    cosine: bool = True
    width: int = 256
    depth: int = 2
    spread: float = 0.0  # at acting; the mean, as IQL's release evaluates
    candidates: int = 1

    @property
    def actor(self) -> GaussianShape:
        """Shape of the actor."""
        return GaussianShape(self.width, self.depth, self.spread)

    @property
    def own_critic(self) -> None:
        """It makes none."""
        return None


FAST_BC = BCConfig(steps=20_000, learning_rate=1e-3)
"""For a minute or two on one core."""


def likelihood_loss(
    actor: Gaussian,
    obs: Float[Array, "batch obs"],
    action: Float[Array, "batch act"],
    weight: Float[Array, " batch"] | float = 1.0,
) -> Float[Array, ""]:
    """Mean negative log-likelihood of the actions, each by its weight."""
    return -jnp.mean(weight * log_prob(actor, obs, action))


@lru_cache(maxsize=8)
def _step(config: BCConfig) -> tuple[optax.GradientTransformation, Update[Learner], Draw]:
    """Optimizer, step and its batch: the same functions for an equal configuration, so that it compiles once."""
    optimizer = cosine_adam(config.learning_rate, config.steps, cosine=config.cosine)

    def draw(_: None, data: Batch, key: PRNGKeyArray) -> Batch:
        return random_rows(data, config.batch, key)

    def update(learner: Learner, _: None, data: Batch, key: PRNGKeyArray) -> tuple[Learner, Metrics]:
        batch = draw(None, data, key)
        loss, gradient = jax.value_and_grad(likelihood_loss)(learner.params, batch.obs, batch.action)
        deviation = jnp.mean(learner.params.deviation())
        return gradient_step(learner, gradient, optimizer, 0.0), {"likelihood_loss": loss, "deviation": deviation}

    return optimizer, update, draw


def train_bc(given: Given, config: BCConfig, keys: PRNGKeyArray, session: Session | None = None) -> Outcome:
    """Fit one policy a key to the logged actions; its leaves gain a leading `members` axis."""
    return fit_actor(_step(config), None, given, config, keys, session)
