"""SRPO: a deterministic policy held to the behavior by its score (Chen et al. 2023, arXiv 2310.07297).

*Score Regularized Policy Optimization through Diffusion Behavior* maximizes `beta Q(s, pi(s))` less the divergence of
the noised policy from the noised behavior, over all diffusion times (Eq. 10). The gradient of that divergence in the
action is `w(t) (eps(a_t | s, t) - eps)`, with `a_t` the policy's action noised by `eps`: the behavior's score alone is
asked for. No diffusion is sampled, in training or in acting.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from tiltrl.diffusion.energy import Energy, noise_prediction
from tiltrl.diffusion.schedule import alpha_sigma, diffuse
from tiltrl.stages.baselines.common import Given, Outcome, fit_actor
from tiltrl.stages.baselines.gaussian import Deterministic, DeterministicShape
from tiltrl.stages.critics.iql import Batch
from tiltrl.stages.critics.networks import Critic
from tiltrl.training.loop import Draw, Metrics, Session, Update, random_rows
from tiltrl.training.optimizer import Learner, cosine_adam, gradient_step

TIMES = (0.02, 0.98)
"""Diffusion times are drawn uniformly from these bounds: next to neither end has the behavior much to say."""


@dataclass(frozen=True)
class SRPOConfig:
    """How the policy is trained. The defaults are those of SRPO's release for locomotion."""

    steps: int = 1_000_000
    batch: int = 256
    learning_rate: float = 3e-4
    cosine: bool = True
    width: int = 256
    depth: int = 2
    beta: float = 0.1  # weight of Q's gradient; chosen for each task in the paper
    unit_gradient: bool = False  # divides Q's gradient by its size at each state; an option of the release
    candidates: int = 1

    @property
    def actor(self) -> DeterministicShape:
        """Shape of the actor."""
        return DeterministicShape(self.width, self.depth)

    @property
    def own_critic(self) -> None:
        """It is given one."""
        return None


FAST_SRPO = SRPOConfig(steps=12_000, batch=128, learning_rate=1e-3, beta=0.05, unit_gradient=True)
"""At the fast preset's scale: with Q's gradient of size one, the same beta means the same in every task."""


def score_regularizer(
    behavior: Energy,
    obs: Float[Array, "batch obs"],
    action: Float[Array, "batch act"],
    noise: Float[Array, "batch act"],
    t: Float[Array, " batch"],
) -> Float[Array, "batch act"]:
    """`w(t) (eps(a_t | s, t) - eps)` with `w = sigma_t^2`: where an action has to move from for the behavior's sake.

    Subtracting the noise changes no mean, as it is independent of the action, and much of the variance.
    """
    _, sigma = alpha_sigma(t)
    return sigma[:, None] ** 2 * (noise_prediction(behavior, diffuse(action, noise, t), obs, t) - noise)


def value_gradient(
    critic: Critic, obs: Float[Array, "batch obs"], action: Float[Array, "batch act"], *, unit: bool
) -> Float[Array, "batch act"]:
    """Action gradient of the mean of the Q networks; with `unit`, its root mean square at each state is one."""
    gradient = jax.grad(lambda a: jnp.sum(jnp.mean(critic.values(obs, a), axis=-1)))(action)
    # The small number is for states at which Q is flat, which have no direction.
    return gradient / (jnp.sqrt(jnp.mean(gradient**2, axis=-1, keepdims=True)) + 1e-8) if unit else gradient


class Frozen(NamedTuple):
    """What the policy is trained by."""

    behavior: Energy
    critic: Critic


@lru_cache(maxsize=8)
def _step(config: SRPOConfig) -> tuple[optax.GradientTransformation, Update[Learner], Draw]:
    """Optimizer, step and its batch: the same functions for an equal configuration, so that it compiles once."""
    optimizer = cosine_adam(config.learning_rate, config.steps, cosine=config.cosine)

    def draw(_: Frozen, data: Batch, key: PRNGKeyArray) -> Float[Array, "batch obs"]:
        return random_rows(data.obs, config.batch, jax.random.split(key, 3)[0])

    def update(learner: Learner, frozen: Frozen, data: Batch, key: PRNGKeyArray) -> tuple[Learner, Metrics]:
        obs = draw(frozen, data, key)
        _, time_key, noise_key = jax.random.split(key, 3)
        t = jax.random.uniform(time_key, (config.batch,), minval=TIMES[0], maxval=TIMES[1])

        def surrogate(actor: Deterministic) -> tuple[Array, dict[str, Array]]:
            action = actor.action(obs)
            here = jax.lax.stop_gradient(action)
            regularizer = score_regularizer(frozen.behavior, obs, here, jax.random.normal(noise_key, here.shape), t)
            climb = value_gradient(frozen.critic, obs, here, unit=config.unit_gradient)
            # Its gradient in the actor is that of the objective; its value means nothing.
            loss = jnp.mean(jnp.sum((regularizer - config.beta * climb) * action, axis=-1))
            info = {"policy_value": jnp.mean(frozen.critic.values(obs, here)), "regularizer": jnp.std(regularizer)}
            return loss, info

        gradient, info = jax.grad(surrogate, has_aux=True)(learner.params)
        return gradient_step(learner, gradient, optimizer, 0.0), info

    return optimizer, update, draw


def train_srpo(given: Given, config: SRPOConfig, keys: PRNGKeyArray, session: Session | None = None) -> Outcome:
    """Fit one policy a key, to the behavior and the critic that are given.

    Args:
        given: behavior, critic and the states of the data.
        config: steps, batch and the like.
        keys: one key a member.
        session: where to resume from and report to.
    """
    assert given.behavior is not None and given.critic is not None, "it is trained by nothing else"
    return fit_actor(_step(config), Frozen(given.behavior, given.critic), given, config, keys, session)
