"""Q-learning with the actions of a policy that learns along (Wang et al. 2022, arXiv 2208.06193), as Diffusion-QL does.

Q regresses `r + discount min_i Q_i(s', a')` with a' from the policy of the moment, a small diffusion model in a few
steps. That policy imitates the data and climbs Q through its whole chain of denoising, so the value is that of a policy
better than the behavior, at the price of asking about actions that nobody logged. As a critic of EDA it is handed on
alone; the policy that learned along acts as a baseline (`stages.baselines.diffusion_ql`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from tiltrl.diffusion.energy import linear
from tiltrl.stages.critics.iql import Batch
from tiltrl.stages.critics.networks import MLP, Critic, CriticShape, apply_ensemble, init_critic, join
from tiltrl.training.loop import Draw, Metrics, Session, Update, fit, random_rows
from tiltrl.training.optimizer import cosine_adam, optimizer_step, polyak
from tiltrl.training.stream import Stream, example


@dataclass(frozen=True)
class OnlineConfig:
    """How critic and policy are trained. The defaults are Diffusion-QL's for locomotion (Appendix, and its release)."""

    steps: int = 2_000_000
    batch: int = 256
    learning_rate: float = 3e-4
    cosine: bool = True
    clip: float = 5.0  # norm of each gradient at most; 1 to 9 by task in the paper
    width: int = 256
    depth: int = 3
    layer_norm: bool = False
    ensemble: int = 2  # Q networks; the target is the least of them
    denoising_steps: int = 5
    eta: float = 1.0  # weight of Q beside imitation in the policy's loss
    discount: float = 0.99
    polyak: float = 0.005  # how far the target networks move each step
    score_pessimism: float = 1.0  # deviations of the Q networks taken off their mean; of two: their minimum

    @property
    def shape(self) -> CriticShape:
        """Shape of the critic's networks."""
        return CriticShape(self.width, self.depth, self.layer_norm, self.ensemble, 1, dueling=False)


class Actor(eqx.Module):
    """Predicts the noise in an action, given the observation and the number of the denoising step."""

    layers: tuple[eqx.nn.Linear, ...]
    steps: int = eqx.field(static=True)

    def __init__(self, obs_dim: int, act_dim: int, config: OnlineConfig, *, key: PRNGKeyArray):
        self.steps = config.denoising_steps
        inputs = obs_dim + act_dim + self.steps
        sizes = [inputs, *[config.width] * config.depth, act_dim]
        keys = jax.random.split(key, len(sizes) - 1)
        self.layers = tuple(eqx.nn.Linear(i, o, key=k) for i, o, k in zip(sizes[:-1], sizes[1:], keys, strict=True))

    def __call__(
        self, noisy: Float[Array, "batch act"], obs: Float[Array, "batch obs"], step: Int[Array, " batch"]
    ) -> Float[Array, "batch act"]:
        """The noise; `step` counts from 0, where an action is nearly clean."""
        # Of five steps each has a bias of its own; the paper's sines of the step would be a longer way to the same.
        x = jnp.concatenate([noisy, obs, jax.nn.one_hot(step, self.steps)], axis=-1)
        for layer in self.layers[:-1]:
            x = jax.nn.mish(linear(layer, x))
        return linear(self.layers[-1], x)


def kept_signal(steps: int) -> Float[np.ndarray, " steps"]:
    """Share of an action's variance that each step leaves, `prod_{i <= t} alpha_i`: the paper's `vp` schedule.

    `alpha_t = exp(-b0 / T - (b1 - b0) (2t - 1) / (2 T^2))` with `b0 = 0.1`, `b1 = 10`, t from 1 to T.
    """
    t = np.arange(1, steps + 1)
    return np.cumprod(np.exp(-0.1 / steps - 0.5 * (10.0 - 0.1) * (2 * t - 1) / steps**2))


def act(
    actor: Actor, obs: Float[Array, "batch obs"], noise: Float[Array, "steps batch act"]
) -> Float[Array, "batch act"]:
    """Actions in the unit box by ancestral sampling (DDPM), differentiable in the actor.

    Args:
        actor: predicts noise.
        obs: normalized.
        noise: standard normal: first what the chain begins with, then what is added after each step but the last.
    """
    kept = np.concatenate([[1.0], kept_signal(actor.steps)])
    t = np.arange(actor.steps, 0, -1)
    alpha, left, lost = kept[t] / kept[t - 1], 1.0 - kept[t - 1], 1.0 - kept[t]
    # Mean and deviation of q(a_{t-1} | a_t, a_0); no deviation is left where t is 1.
    of_clean, of_noisy = np.sqrt(kept[t - 1]) * (1.0 - alpha) / lost, np.sqrt(alpha) * left / lost
    deviation = np.sqrt((1.0 - alpha) * left / lost)
    scales = np.stack([np.sqrt(kept[t]), np.sqrt(lost), of_clean, of_noisy, deviation], axis=1)

    def denoise(action: Array, step: tuple[Array, Array, Array]) -> tuple[Array, None]:
        number, (signal, spread, of_clean, of_noisy, deviation), fresh = step
        epsilon = actor(action, obs, jnp.full(len(obs), number))
        clean = jnp.clip((action - spread * epsilon) / signal, -1.0, 1.0)
        return of_clean * clean + of_noisy * action + deviation * fresh, None

    # A scan, so that one step is compiled and not five.
    steps = jnp.asarray(t - 1), jnp.asarray(scales, jnp.float32), jnp.roll(noise, -1, axis=0)
    action, _ = jax.lax.scan(denoise, noise[0], steps)
    return jnp.clip(action, -1.0, 1.0)


class Noise(NamedTuple):
    """All that is random in a step beside its batch."""

    next_chain: Float[Array, "steps batch act"]  # of the actions at next states
    chain: Float[Array, "steps batch act"]  # of the policy's own
    added: Float[Array, "batch act"]  # to the logged actions
    step: Int[Array, " batch"]  # how far they are noised
    judge: Int[Array, ""]  # the Q network that the policy climbs


def draw_noise(config: OnlineConfig, act_dim: int, key: PRNGKeyArray) -> Noise:
    """Of one step."""
    keys = jax.random.split(key, 5)
    chain = (config.denoising_steps, config.batch, act_dim)
    return Noise(
        jax.random.normal(keys[0], chain),
        jax.random.normal(keys[1], chain),
        jax.random.normal(keys[2], chain[1:]),
        jax.random.randint(keys[3], (config.batch,), 0, config.denoising_steps),
        jax.random.randint(keys[4], (), 0, config.ensemble),
    )


def critic_losses(
    q: MLP, v: MLP, target: MLP, batch: Batch, next_action: Float[Array, "batch act"]
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Sum of the Q loss and a V loss; V only learns what Q's target says of the next states, and is not used for it."""
    value = jnp.min(apply_ensemble(target, join(batch.next_obs, next_action)), axis=1)
    value = jax.lax.stop_gradient(value)
    q_goal = batch.reward + batch.discount * value
    q_loss = jnp.mean((apply_ensemble(q, join(batch.obs, batch.action)) - q_goal[:, None]) ** 2)
    v_loss = jnp.mean((apply_ensemble(v, batch.next_obs)[:, 0] - value) ** 2)
    return v_loss + q_loss, {"v_loss": v_loss, "q_loss": q_loss, "v": jnp.mean(value)}


def actor_loss(
    actor: Actor, q: MLP, batch: Batch, noise: Noise, eta: float
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Denoising of the logged actions, less eta times Q of the policy's own over its size (Diffusion-QL, Eq. 3).

    One Q network, chosen by chance, is climbed; another one's size divides it, so that eta has no units.
    """
    kept = jnp.asarray(kept_signal(actor.steps), jnp.float32)[noise.step][:, None]
    noisy = jnp.sqrt(kept) * batch.action + jnp.sqrt(1.0 - kept) * noise.added
    imitation = jnp.mean((actor(noisy, batch.obs, noise.step) - noise.added) ** 2)
    values = apply_ensemble(q, join(batch.obs, act(actor, batch.obs, noise.chain)))
    size = jnp.mean(jnp.abs(jnp.take(values, noise.judge - 1, axis=1, mode="wrap")))
    climb = -jnp.mean(jnp.take(values, noise.judge, axis=1)) / jax.lax.stop_gradient(size + 1e-6)
    return imitation + eta * climb, {"imitation": imitation, "policy_value": jnp.mean(values)}


class OnlineState(NamedTuple):
    """Networks, target networks and the states of both optimizers."""

    q: MLP
    v: MLP
    actor: Actor
    q_target: MLP
    actor_target: Actor
    critic_opt: optax.OptState
    actor_opt: optax.OptState


@lru_cache(maxsize=8)
def _step(config: OnlineConfig) -> tuple[optax.GradientTransformation, Update[OnlineState], Draw]:
    """Optimizer, step and its batch: the same functions for an equal configuration, so that it compiles once."""
    optimizer = cosine_adam(config.learning_rate, config.steps, cosine=config.cosine, clip=config.clip)

    def draw(_: None, data: Batch, key: PRNGKeyArray) -> Batch:
        return random_rows(data, config.batch, key)

    def update(state: OnlineState, _: None, data: Batch, key: PRNGKeyArray) -> tuple[OnlineState, Metrics]:
        batch = draw(None, data, key)
        noise = draw_noise(config, batch.action.shape[1], jax.random.fold_in(key, 1))
        next_action = act(state.actor_target, batch.next_obs, noise.next_chain)

        def critic_loss(networks: tuple[MLP, MLP]) -> tuple[Array, dict[str, Array]]:
            return critic_losses(*networks, state.q_target, batch, next_action)

        gradient, info = jax.grad(critic_loss, has_aux=True)((state.q, state.v))
        (q, v), critic_opt = optimizer_step(optimizer, gradient, state.critic_opt, (state.q, state.v))
        gradient, more = jax.grad(actor_loss, has_aux=True)(state.actor, q, batch, noise, config.eta)
        actor, actor_opt = optimizer_step(optimizer, gradient, state.actor_opt, state.actor)
        q_target = polyak(q, state.q_target, config.polyak)
        actor_target = polyak(actor, state.actor_target, config.polyak)
        return OnlineState(q, v, actor, q_target, actor_target, critic_opt, actor_opt), info | more

    return optimizer, update, draw


def train_online(
    data: Batch | Stream[Batch], config: OnlineConfig, keys: PRNGKeyArray, session: Session | None = None
) -> Critic:
    """Fit one critic a key; its leaves gain a leading `members` axis. `data` holds every training transition."""
    return critic_of(train_both(data, config, keys, session))


def critic_of(state: OnlineState) -> Critic:
    """The critic that training ends with: the target networks, by which Q values actions, and V."""
    return Critic(q=state.q_target, v=state.v, dueling=False)


def train_both(
    data: Batch | Stream[Batch], config: OnlineConfig, keys: PRNGKeyArray, session: Session | None = None
) -> OnlineState:
    """Fit one critic and one policy a key; all leaves gain a leading `members` axis."""
    like = example(data)
    obs_dim, act_dim = like.obs.shape[1], like.action.shape[1]
    optimizer, update, draw = _step(config)

    def init(key: PRNGKeyArray) -> OnlineState:
        critic_key, actor_key = jax.random.split(key)
        critic = init_critic(obs_dim, act_dim, config.shape, key=critic_key)
        actor = Actor(obs_dim, act_dim, config, key=actor_key)
        states = optimizer.init(cast(Any, (critic.q, critic.v))), optimizer.init(cast(Any, actor))
        return OnlineState(critic.q, critic.v, actor, critic.q, actor, *states)

    init_keys, train_keys = jnp.unstack(jax.vmap(jax.random.split)(keys), axis=1)
    return fit(
        update,
        jax.jit(jax.vmap(init))(init_keys),
        member_data=None,
        shared_data=data,
        keys=train_keys,
        steps=config.steps,
        draw=draw,
        session=session,
    )
