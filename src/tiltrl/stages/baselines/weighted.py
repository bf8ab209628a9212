"""IQL's policy, by advantage-weighted regression (Kostrikov et al. 2021, arXiv 2110.06169).

The critic of *Offline Reinforcement Learning with Implicit Q-Learning* is `stages.critics.iql` and knows of no policy.
One is then taken out of it by cloning the logged actions, each weighted by `exp(beta (Q - V))` (Eq. 7): those that the
critic finds better than usual count for more, and no other action is ever asked about. It is the projection of
`mu exp(beta A)`, EDA's target, onto one Gaussian a state.

beta multiplies advantages, so it means what it does in the paper where rewards have the paper's units: locomotion's
times 1000 over the range of returns, antmaze's minus 1 (`data.transforms`). The share of weights that are cut off and
the share of a batch that they leave in effect are logged: near 1 and near 0, the units are others.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from tiltrl.stages.baselines.common import Given, Outcome, fit_actor
from tiltrl.stages.baselines.gaussian import BCConfig, Gaussian, likelihood_loss
from tiltrl.stages.critics.iql import Batch
from tiltrl.stages.critics.networks import Critic
from tiltrl.training.loop import Draw, Metrics, Session, Update, random_rows
from tiltrl.training.optimizer import Learner, cosine_adam, gradient_step

MOST_WEIGHT = 100.0
"""Of an action, so that no few of them decide all (IQL's release)."""


@dataclass(frozen=True)
class WeightedConfig(BCConfig):
    """How the policy is trained: as cloning is, but for the weights (IQL's Appendix B for locomotion, its release)."""

    inverse_temperature: float = 3.0  # IQL's beta; 10 for antmaze, 0.5 for kitchen


FAST_WEIGHTED = WeightedConfig(steps=20_000, learning_rate=1e-3)
"""For two or three minutes on one core."""


def advantage_weights(advantage: Float[Array, " batch"], inverse_temperature: float) -> Float[Array, " batch"]:
    """`min(exp(beta A), 100)`, without overflow."""
    return jnp.exp(jnp.minimum(inverse_temperature * advantage, jnp.log(MOST_WEIGHT)))


def weighted_loss(
    actor: Gaussian, critic: Critic, batch: Batch, inverse_temperature: float
) -> tuple[Float[Array, ""], Metrics]:
    """Mean negative log-likelihood of the logged actions, each by its weight (IQL, Eq. 7).

    Of two Q networks it is the lesser that counts, as in the paper; of more, their mean less their deviation.
    """
    advantage = critic(batch.obs, batch.action) - critic.value(batch.obs)
    weight = jax.lax.stop_gradient(advantage_weights(advantage, inverse_temperature))
    loss = likelihood_loss(actor, batch.obs, batch.action, weight)
    effective = jnp.mean(weight) ** 2 / jnp.mean(weight**2)
    cut = jnp.mean(inverse_temperature * advantage > jnp.log(MOST_WEIGHT))
    return loss, {"weighted_loss": loss, "weight": jnp.mean(weight), "effective_share": effective, "cut_share": cut}


@lru_cache(maxsize=8)
def _step(config: WeightedConfig) -> tuple[optax.GradientTransformation, Update[Learner], Draw]:
    """Optimizer, step and its batch: the same functions for an equal configuration, so that it compiles once."""
    optimizer = cosine_adam(config.learning_rate, config.steps, cosine=config.cosine)

    def draw(_: Critic, data: Batch, key: PRNGKeyArray) -> Batch:
        return random_rows(data, config.batch, key)

    def update(learner: Learner, critic: Critic, data: Batch, key: PRNGKeyArray) -> tuple[Learner, Metrics]:
        gradient, info = jax.grad(weighted_loss, has_aux=True)(
            learner.params, critic, draw(critic, data, key), config.inverse_temperature
        )
        return gradient_step(learner, gradient, optimizer, 0.0), info

    return optimizer, update, draw


def train_weighted(given: Given, config: WeightedConfig, keys: PRNGKeyArray, session: Session | None = None) -> Outcome:
    """Fit one policy a key by its member's critic; its leaves gain a leading `members` axis."""
    assert given.critic is not None, "the weights are the critic's"
    return fit_actor(_step(config), given.critic, given, config, keys, session)
