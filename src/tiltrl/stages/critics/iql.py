"""Implicit Q-learning (Kostrikov et al. 2021, arXiv 2110.06169): the paper's critic.

V regresses an upper expectile of Q over the logged actions, Q regresses `r + discount V(next)`: no action outside the
data is ever asked about.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from tiltrl import losses
from tiltrl.stages.critics.networks import MLP, Critic, CriticShape, apply_ensemble, init_critic, join
from tiltrl.training.loop import Draw, Metrics, Session, Update, fit, random_rows
from tiltrl.training.optimizer import cosine_adam, optimizer_step, polyak
from tiltrl.training.stream import Stream, example


@dataclass(frozen=True)
class IQLConfig:
    """How the critic is trained. The defaults are the paper's (EDA, Appendix D; IQL's own for locomotion)."""

    steps: int = 1_500_000
    batch: int = 256
    learning_rate: float = 3e-4
    cosine: bool = False
    width: int = 256
    depth: int = 2
    layer_norm: bool = False
    ensemble: int = 2  # Q networks
    independent: bool = False  # each Q network has a V network and targets of its own; else all hear the least of them
    expectile: float = 0.7  # 0.9 for antmaze
    discount: float = 0.99
    polyak: float = 0.005  # how far the target networks move each step
    score_pessimism: float = 1.0  # deviations of the Q networks taken off their mean; of two: their minimum

    @property
    def shape(self) -> CriticShape:
        """Shape of the networks."""
        return CriticShape(
            self.width,
            self.depth,
            self.layer_norm,
            self.ensemble,
            self.ensemble if self.independent else 1,
            dueling=False,
        )


class IQLState(NamedTuple):
    """Networks, target networks and optimizer state."""

    q: MLP
    v: MLP
    target: MLP
    opt_state: optax.OptState


class Batch(NamedTuple):
    """Transitions as IQL sees them: normalized, rewards transformed, `discount` zero where the task ended."""

    obs: Float[Array, "batch obs"]
    action: Float[Array, "batch act"]
    reward: Float[Array, " batch"]
    next_obs: Float[Array, "batch obs"]
    discount: Float[Array, " batch"]


def iql_losses(
    q: MLP, v: MLP, target: MLP, batch: Batch, expectile: float, *, independent: bool = False
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Sum of the V loss and the Q loss; each has gradients in its own networks only (IQL, Eq. 5 and 6).

    `independent` networks hear of no other: V number i follows Q number i, and Q number i V number i, so that how far
    they differ says how little the data decides (MSG, Ghasemipour et al. 2022, arXiv 2205.13703).
    """
    x = join(batch.obs, batch.action)
    q_target = apply_ensemble(target, x)
    heard = q_target if independent else jnp.min(q_target, axis=1, keepdims=True)
    v_here = apply_ensemble(v, batch.obs)
    v_loss = jnp.mean(losses.expectile(jax.lax.stop_gradient(heard) - v_here, expectile))
    v_next = apply_ensemble(v, batch.next_obs)
    q_goal = jax.lax.stop_gradient(batch.reward[:, None] + batch.discount[:, None] * v_next)
    # Mean, not sum, over the networks: the release's scale, which Adam does not see.
    q_loss = jnp.mean((apply_ensemble(q, x) - q_goal) ** 2)
    return v_loss + q_loss, {"v_loss": v_loss, "q_loss": q_loss, "v": jnp.mean(v_here)}


def iql_step(
    state: IQLState, batch: Batch, config: IQLConfig, optimizer: optax.GradientTransformation
) -> tuple[IQLState, dict[str, Float[Array, ""]]]:
    """One Adam step of Q and V on one batch, then one Polyak step of the target."""

    def loss(networks: tuple[MLP, MLP]) -> tuple[Array, dict[str, Array]]:
        return iql_losses(*networks, state.target, batch, config.expectile, independent=config.independent)

    gradient, info = jax.grad(loss, has_aux=True)((state.q, state.v))
    (q, v), opt_state = optimizer_step(optimizer, gradient, state.opt_state, (state.q, state.v))
    return IQLState(q, v, polyak(q, state.target, config.polyak), opt_state), info


@lru_cache(maxsize=8)
def _step(config: IQLConfig) -> tuple[optax.GradientTransformation, Update[IQLState], Draw]:
    """Optimizer, step and its batch: the same functions for an equal configuration, so that it compiles once."""
    optimizer = cosine_adam(config.learning_rate, config.steps, cosine=config.cosine)

    def draw(_: None, data: Batch, key: PRNGKeyArray) -> Batch:
        return random_rows(data, config.batch, key)

    def update(state: IQLState, _: None, data: Batch, key: PRNGKeyArray) -> tuple[IQLState, Metrics]:
        return iql_step(state, draw(None, data, key), config, optimizer)

    return optimizer, update, draw


def train_iql(
    data: Batch | Stream[Batch], config: IQLConfig, keys: PRNGKeyArray, session: Session | None = None
) -> Critic:
    """Fit one critic a key; its leaves gain a leading `members` axis. `data` holds every training transition."""
    like = example(data)
    obs_dim, act_dim = like.obs.shape[1], like.action.shape[1]
    optimizer, update, draw = _step(config)

    def init(key: PRNGKeyArray) -> IQLState:
        critic = init_critic(obs_dim, act_dim, config.shape, key=key)
        return IQLState(critic.q, critic.v, critic.q, optimizer.init(cast(Any, (critic.q, critic.v))))

    init_keys, train_keys = jnp.unstack(jax.vmap(jax.random.split)(keys), axis=1)
    state = fit(
        update,
        jax.jit(jax.vmap(init))(init_keys),
        member_data=None,
        shared_data=data,
        keys=train_keys,
        steps=config.steps,
        draw=draw,
        session=session,
    )
    return Critic(q=state.target, v=state.v, dueling=False)
