"""The advantage critic: pessimistic evaluation of the behavior, then what one action changes.

Between actions of one state Q differs by a percent or so of its level, far below what a network that must also fit the
level resolves. So the two are learned apart. An ensemble of V networks, each on a random half of the episodes, fits
n-step returns of the logged actions: a plain evaluation of the behavior, which reaches its level in a few thousand
steps. Advantage networks then regress the one-step surprise `r + discount V(s') - V(s)`, where V is the ensemble's
mean less a multiple of its standard deviation. Where the halves disagree there is little data, so an action that leads
to such states loses: that is what keeps a tilted policy near states the data knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from tiltrl.stages.critics.networks import Critic, CriticShape, apply_ensemble, init_critic, join
from tiltrl.training.loop import Draw, Metrics, Session, Update, fit, random_rows
from tiltrl.training.optimizer import cosine_adam, optimizer_step, polyak
from tiltrl.training.stream import Stream, example


@dataclass(frozen=True)
class AdvantageConfig:
    """How the critic is trained. Defaults by measurement: `docs/algorithm.md`."""

    steps: int = 6_000
    batch: int = 256
    learning_rate: float = 1e-3
    cosine: bool = True
    width: int = 256
    depth: int = 2
    layer_norm: bool = False
    v_ensemble: int = 5
    q_ensemble: int = 2
    bag: float = 0.5  # share of the episodes that each V network sees
    n_step: int = 50  # rewards summed before V takes over
    pessimism: float = 5.0  # standard deviations of the V ensemble taken off its mean
    discount: float = 0.99
    polyak: float = 0.005  # how far the target networks move each step
    score_pessimism: float = 1.0  # deviations of the advantage networks taken off their mean; of two: their minimum

    @property
    def shape(self) -> CriticShape:
        """Shape of the networks."""
        return CriticShape(self.width, self.depth, self.layer_norm, self.q_ensemble, self.v_ensemble, dueling=True)


class Steps(NamedTuple):
    """Logged steps as this critic sees them, normalized."""

    obs: Float[Array, "steps obs"]
    action: Float[Array, "steps act"]
    reward: Float[Array, " steps"]
    next_obs: Float[Array, "steps obs"]
    discount: Float[Array, " steps"]  # 0 where the task ended
    n_reward: Float[Array, " steps"]  # discounted sum of up to n rewards
    n_discount: Float[Array, " steps"]  # discount^(steps summed), 0 where the task ended within them
    landed_obs: Float[Array, "steps obs"]  # what was seen after them
    episode: Int[Array, " steps"]


def n_step(
    reward: Float[np.ndarray, " steps"],
    terminal: np.ndarray,
    timeout: np.ndarray,
    n: int,
    discount: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Discounted sums of up to n rewards within each episode, the discount of what follows, and the last step summed.

    A sum stops early at the end of its episode; what follows a terminal step is discounted to nothing, what follows a
    timeout is not.
    """
    steps = np.arange(len(reward))
    ends = np.flatnonzero(terminal | timeout)
    landing = np.minimum(steps + n - 1, np.repeat(ends, np.diff(ends, prepend=-1)))
    ahead = landing - steps
    total = np.zeros(len(reward))
    for k in range(min(n, len(reward))):
        total[: len(total) - k] += np.where(ahead[: len(ahead) - k] >= k, discount**k * reward[k:], 0.0)
    rest = np.where(terminal[landing], 0.0, discount ** (ahead + 1.0))
    return total.astype(np.float32), rest.astype(np.float32), landing


class AdvantageState(NamedTuple):
    """Networks, their Polyak averages (which make the targets), the episodes each V sees, and optimizer state."""

    critic: Critic
    target: Critic
    bag: Float[Array, "episodes v_ensemble"]
    opt_state: optax.OptState


def advantage_losses(
    critic: Critic,
    target: Critic,
    batch: Steps,
    seen: Float[Array, "batch ensemble"],
    config: AdvantageConfig,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Sum of the V loss and the advantage loss of a batch; targets are constants.

    Args:
        critic: trained.
        target: makes the targets.
        batch: steps of the batch.
        seen: 1 where a V network may learn from a step, else 0.
        config: pessimism of the advantage's target, and the share of steps that `seen` lets through.
    """
    here, there, landed = (apply_ensemble(target.v, obs) for obs in (batch.obs, batch.next_obs, batch.landed_obs))
    v_error = batch.n_reward[:, None] + batch.n_discount[:, None] * landed - apply_ensemble(critic.v, batch.obs)
    v_loss = jnp.sum(jnp.mean(seen * v_error**2, axis=0)) / config.bag

    def low(v: Float[Array, "batch v"]) -> Float[Array, " batch"]:
        return jnp.mean(v, axis=1) - config.pessimism * jnp.std(v, axis=1)

    surprise = batch.reward + batch.discount * low(there) - low(here)
    advantage = apply_ensemble(critic.q, join(batch.obs, batch.action))
    a_loss = jnp.sum(jnp.mean((surprise[:, None] - advantage) ** 2, axis=0))
    info = {
        "v_loss": v_loss / here.shape[1],
        "advantage_loss": a_loss / advantage.shape[1],
        "surprise": jnp.std(surprise),
        "v": jnp.mean(here),
        "v_disagreement": jnp.mean(jnp.std(here, axis=1)),
    }
    return v_loss + a_loss, info


@lru_cache(maxsize=8)
def _step(config: AdvantageConfig) -> tuple[optax.GradientTransformation, Update[AdvantageState], Draw]:
    """Optimizer, step and its batch: the same functions for an equal configuration, so that it compiles once."""
    optimizer = cosine_adam(config.learning_rate, config.steps, cosine=config.cosine)

    def draw(_: None, data: Steps, key: PRNGKeyArray) -> Steps:
        return random_rows(data, config.batch, key)

    def update(state: AdvantageState, _: None, data: Steps, key: PRNGKeyArray) -> tuple[AdvantageState, Metrics]:
        batch = draw(None, data, key)
        gradient, info = jax.grad(advantage_losses, has_aux=True)(
            state.critic, state.target, batch, state.bag[batch.episode], config
        )
        critic, opt_state = optimizer_step(optimizer, gradient, state.opt_state, state.critic)
        target = polyak(critic, state.target, config.polyak)
        return AdvantageState(critic, target, state.bag, opt_state), info

    return optimizer, update, draw


def train_advantage(
    data: Steps | Stream[Steps],
    episodes: int,
    config: AdvantageConfig,
    keys: PRNGKeyArray,
    session: Session | None = None,
) -> Critic:
    """Fit one critic a key; its leaves gain a leading `members` axis.

    Args:
        data: every training step.
        episodes: their number; `data.episode` counts from 0.
        config: networks, steps and the like.
        keys: one key a member.
        session: where to resume from and report to.
    """
    optimizer, update, draw = _step(config)
    like = example(data)

    def init(key: PRNGKeyArray) -> AdvantageState:
        init_key, bag_key = jax.random.split(key)
        critic = init_critic(like.obs.shape[1], like.action.shape[1], config.shape, key=init_key)
        bag = jax.random.bernoulli(bag_key, config.bag, (episodes, config.v_ensemble)).astype(jnp.float32)
        # With few episodes a network might be given none; then it sees them all, at the weight of a share.
        bag = jnp.where(jnp.sum(bag, axis=0) > 0, bag, config.bag)
        return AdvantageState(critic, critic, bag, optimizer.init(cast(Any, critic)))

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
    return state.target
