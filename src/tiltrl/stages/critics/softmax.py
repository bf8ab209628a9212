"""In-support softmax Q-learning (Lu et al. 2023, arXiv 2304.12824): QGPO's critic.

Q regresses `r + discount sum_i softmax_i(alpha Q(s', a_i)) Q(s', a_i)` over a few actions a_i that the behavior model
takes at s'. They are drawn once, before training: Q is asked about actions that nobody logged, and about none that the
behavior would not take. `alpha` leads from the behavior's value (0) to that of the best of its actions (infinity).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from tiltrl.stages.critics.iql import Batch
from tiltrl.stages.critics.networks import MLP, Critic, CriticShape, apply_ensemble, init_critic, join
from tiltrl.training.loop import Draw, Metrics, Session, Update, fit, random_rows
from tiltrl.training.optimizer import cosine_adam, optimizer_step, polyak
from tiltrl.training.stream import Stream, example

BehaviorActions = Callable[[Float[np.ndarray, "states obs"], int], Float[np.ndarray, "members states k act"]]
"""So many actions of each member's behavior at the normalized states, in the unit box."""


@dataclass(frozen=True)
class SoftmaxConfig:
    """How the critic is trained. The defaults are QGPO's (Appendix of the paper, and its release)."""

    steps: int = 500_000
    batch: int = 256
    learning_rate: float = 3e-4
    cosine: bool = False
    width: int = 256
    depth: int = 3
    layer_norm: bool = False
    ensemble: int = 2  # Q networks; the target is the least of them
    k: int = 16  # the behavior's actions at each next state
    alpha: float = 3.0  # inverse temperature of the softmax over them, for returns of the transformed rewards
    rows: int | None = None  # transitions to learn from, drawn from the data; None: all. Sampling costs k actions each
    discount: float = 0.99
    polyak: float = 0.005  # how far the target networks move each step
    score_pessimism: float = 1.0  # deviations of the Q networks taken off their mean; of two: their minimum

    @property
    def shape(self) -> CriticShape:
        """Shape of the networks."""
        return CriticShape(self.width, self.depth, self.layer_norm, self.ensemble, 1, dueling=False)


class Numbered(NamedTuple):
    """Transitions, and which rows of the behavior's actions are theirs."""

    step: Batch
    row: Int[Array, " rows"]


class SoftmaxState(NamedTuple):
    """Networks, target networks and optimizer state."""

    q: MLP
    v: MLP
    target: MLP
    opt_state: optax.OptState


def supported_rows(rows: Int[np.ndarray, " rows"], config: SoftmaxConfig) -> Int[np.ndarray, " some"]:
    """The steps that are learned from: of too many a random part, ascending, the same for every seed.

    Never more than training draws, so that a short one needs few of the behavior's actions.
    """
    most = min(config.rows or len(rows), config.steps * config.batch)
    return rows if most >= len(rows) else np.sort(np.random.default_rng(0).choice(rows, most, replace=False))


def softmax_value(q: Float[Array, "*batch k"], alpha: float) -> Float[Array, "*batch"]:
    """The mean of the values, each weighted by its softmax: of behavior samples, an estimate for `mu exp(alpha Q)`."""
    return jnp.sum(jax.nn.softmax(alpha * q, axis=-1) * q, axis=-1)


def softmax_losses(
    q: MLP, v: MLP, target: MLP, batch: Batch, actions: Float[Array, "batch k act"], alpha: float
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Sum of the Q loss and a V loss; V only learns what Q's target says of the next states, and is not used for it.

    Args:
        q: trained.
        v: trained.
        target: makes the targets; constants.
        batch: logged transitions.
        actions: of the behavior, at the next states.
        alpha: inverse temperature.
    """
    next_obs = jnp.broadcast_to(batch.next_obs[:, None], (*actions.shape[:2], batch.next_obs.shape[-1]))
    least = jnp.min(apply_ensemble(target, join(next_obs, actions)), axis=-1)
    value = jax.lax.stop_gradient(softmax_value(least, alpha))
    q_goal = batch.reward + batch.discount * value
    q_loss = jnp.mean((apply_ensemble(q, join(batch.obs, batch.action)) - q_goal[:, None]) ** 2)
    v_loss = jnp.mean((apply_ensemble(v, batch.next_obs)[:, 0] - value) ** 2)
    info = {"v_loss": v_loss, "q_loss": q_loss, "v": jnp.mean(value), "spread": jnp.mean(jnp.std(least, axis=-1))}
    return v_loss + q_loss, info


@lru_cache(maxsize=8)
def _step(config: SoftmaxConfig) -> tuple[optax.GradientTransformation, Update[SoftmaxState], Draw]:
    """Optimizer, step and its batch: the same functions for an equal configuration, so that it compiles once."""
    optimizer = cosine_adam(config.learning_rate, config.steps, cosine=config.cosine)

    def draw(actions: Array, data: Numbered, key: PRNGKeyArray) -> tuple[Batch, Array]:
        step, row = random_rows(data, config.batch, key)
        return step, actions[row]

    def update(state: SoftmaxState, actions: Array, data: Numbered, key: PRNGKeyArray) -> tuple[SoftmaxState, Metrics]:
        batch, some = draw(actions, data, key)

        def loss(networks: tuple[MLP, MLP]) -> tuple[Array, dict[str, Array]]:
            return softmax_losses(*networks, state.target, batch, some, config.alpha)

        gradient, info = jax.grad(loss, has_aux=True)((state.q, state.v))
        (q, v), opt_state = optimizer_step(optimizer, gradient, state.opt_state, (state.q, state.v))
        return SoftmaxState(q, v, polyak(q, state.target, config.polyak), opt_state), info

    return optimizer, update, draw


def train_softmax(
    data: Numbered | Stream[Numbered],
    actions: Float[np.ndarray, "members rows k act"],
    config: SoftmaxConfig,
    keys: PRNGKeyArray,
    session: Session | None = None,
) -> Critic:
    """Fit one critic a key; its leaves gain a leading `members` axis.

    Args:
        data: the transitions, numbered as the actions are.
        actions: of each member's behavior, at each transition's next state; normalized.
        config: networks, steps and the like.
        keys: one key a member.
        session: where to resume from and report to.
    """
    like = example(data).step
    obs_dim, act_dim = like.obs.shape[1], like.action.shape[1]
    optimizer, update, draw = _step(config)

    def init(key: PRNGKeyArray) -> SoftmaxState:
        critic = init_critic(obs_dim, act_dim, config.shape, key=key)
        return SoftmaxState(critic.q, critic.v, critic.q, optimizer.init(cast(Any, (critic.q, critic.v))))

    init_keys, train_keys = jnp.unstack(jax.vmap(jax.random.split)(keys), axis=1)
    state = fit(
        update,
        jax.jit(jax.vmap(init))(init_keys),
        member_data=jnp.asarray(actions),
        shared_data=data,
        keys=train_keys,
        steps=config.steps,
        draw=draw,
        session=session,
    )
    return Critic(q=state.target, v=state.v, dueling=False)
