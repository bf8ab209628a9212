"""Diffusion-DICE: in-sample guidance, then selection (Mao et al. 2024, arXiv 2407.20109).

*Diffusion-DICE: In-Sample Diffusion Guidance for Offline Reinforcement Learning* has the optimal policy
`pi(a|s) = mu(a|s) w(s, a)` of a reward less alpha times an f-divergence of visits from the data's. Its ratio of visits
is `w = (f*)'((Q - V) / alpha)`, of a V that minimizes a convex loss over logged actions, and a Q that regresses
`r + discount V(next)`. The guidance `log E_mu[w | a_t, s]` minimizes `E[w exp(-g) + g]` over the same logged actions,
noised: neither values nor guidance ever ask about another action. Several guided samples are drawn and the one of the
highest Q is taken. The losses and numbers here are those of the authors' release.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from tiltrl.diffusion.energy import EnergyConfig
from tiltrl.diffusion.schedule import TimeLaw, diffuse, random_times
from tiltrl.stages.annotate import SamplerConfig
from tiltrl.stages.baselines.common import Given, Outcome
from tiltrl.stages.baselines.guidance import Guidance, GuidanceConfig, Guided, GuidedShape
from tiltrl.stages.critics.iql import Batch
from tiltrl.stages.critics.networks import MLP, Critic, CriticShape, apply_ensemble, init_critic, join
from tiltrl.training.loop import Draw, Metrics, Session, Update, fit, random_rows
from tiltrl.training.optimizer import Learner, cosine_adam, gradient_step, init_learner, optimizer_step, polyak
from tiltrl.training.stream import example

MOST_WEIGHT = 100.0
"""Larger ratios are cut off, as in the release."""


@dataclass(frozen=True)
class DICEConfig:
    """How critic and guidance are trained, and followed. The defaults are those of the release for locomotion."""

    steps: int = 1_000_000
    batch: int = 512
    learning_rate: float = 3e-4
    cosine: bool = False
    average: float = 0.0  # decay of the running average of the guidance's weights; 0: none
    times: TimeLaw = "uniform"  # of a batch
    noises: int = 16  # of each logged action, all at one time
    width: int = 256
    depth: int = 2
    layer_norm: bool = True  # in the release of V alone, which runs away from a plain network's outliers most easily
    ensemble: int = 10  # Q networks; V hears the least of the first two, and all of them select
    alpha: float = 0.5  # weight of the divergence, for returns of the transformed rewards
    discount: float = 0.99
    polyak: float = 0.005  # how far the target networks move each step
    pessimism: float = 0.0  # deviations of the Q networks taken off their mean when they select
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    scale: float = 4.0  # of the guidance when acting; 2 for medium-expert
    candidates: int = 4  # as many as EDA's; the release leaves their number to its command line
    behavior: EnergyConfig = field(default_factory=EnergyConfig)  # shape of the behavior model that is given
    sampler: SamplerConfig = field(default_factory=SamplerConfig)  # its

    @property
    def actor(self) -> GuidedShape:
        """Shape of the actor."""
        return GuidedShape(self.behavior, self.guidance, self.scale, self.sampler)

    @property
    def own_critic(self) -> CriticShape:
        """Shape of the critic's networks."""
        return CriticShape(self.width, self.depth, self.layer_norm, self.ensemble, 1, dueling=False)


FAST_DICE = DICEConfig(
    steps=10_000,
    batch=256,
    learning_rate=1e-3,
    cosine=True,
    average=0.99,
    times="stratified",
    noises=1,
    width=128,
    ensemble=2,
    polyak=0.02,
    pessimism=1.0,
    guidance=GuidanceConfig(width=128, depth=3, time_scale=5.0),
)
"""At the fast preset's scale. Targets move faster, so that values have reached back from the ends in fewer steps; an
action is chosen by the least of two networks."""


def conjugate(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """`f*(x)` of the release's f, which is `(w - 1)^2` above a ratio of 1 and `w log w - w + 1` below."""
    return jnp.where(x >= 0.0, 0.25 * x**2 + x, jnp.expm1(jnp.minimum(x, 0.0)))


def ratio(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Its derivative, the optimal ratio of visits: never negative, and only linear in large advantages."""
    return jnp.where(x >= 0.0, 0.5 * x + 1.0, jnp.exp(jnp.minimum(x, 0.0)))


def dice_losses(
    q: MLP, v: MLP, target: MLP, batch: Batch, alpha: float
) -> tuple[Float[Array, ""], tuple[Float[Array, " batch"], dict[str, Float[Array, ""]]]]:
    """Sum of the V loss and the Q loss; each has gradients in its own networks only.

    Args:
        q: trained.
        v: trained.
        target: its first two networks are what V hears; constants.
        batch: logged transitions.
        alpha: weight of the divergence.

    Returns:
        The loss; and the ratio of visits of every transition, with metrics.
    """
    x = join(batch.obs, batch.action)
    heard = jnp.min(apply_ensemble(target, x)[:, :2], axis=1)
    v_here = apply_ensemble(v, batch.obs)[:, 0]
    advantage = (jax.lax.stop_gradient(heard) - v_here) / alpha
    v_loss = jnp.mean(conjugate(advantage) + v_here / alpha)
    q_goal = batch.reward + batch.discount * jax.lax.stop_gradient(apply_ensemble(v, batch.next_obs)[:, 0])
    q_loss = jnp.mean((apply_ensemble(q, x) - q_goal[:, None]) ** 2)
    weight = jax.lax.stop_gradient(jnp.minimum(ratio(advantage), MOST_WEIGHT))
    info = {"v_loss": v_loss, "q_loss": q_loss, "v": jnp.mean(v_here), "ratio": jnp.mean(weight)}
    return v_loss + q_loss, (weight, info)


def guidance_loss(guidance: Float[Array, "batch noises"], weight: Float[Array, " batch"]) -> Float[Array, ""]:
    """`E[w exp(-g) + g]`, whose minimum is `g = log E[w | a_t, s]`, times a constant that keeps it from overflowing.

    Args:
        guidance: `g(a_t, s, t)` of the noised logged actions.
        weight: the ratio of visits of the actions without noise.
    """
    # As in the release: no gradient exceeds the largest weight, whatever g the network begins with.
    most = jax.lax.stop_gradient(jnp.maximum(jnp.max(-guidance), -1.0))
    return jnp.mean(weight[:, None] * jnp.exp(-guidance - most) + jnp.exp(-most) * guidance)


class DICEState(NamedTuple):
    """Networks, target networks and optimizer states."""

    q: MLP
    v: MLP
    target: MLP
    critic_opt: optax.OptState
    guidance: Learner


@lru_cache(maxsize=8)
def _step(config: DICEConfig) -> tuple[optax.GradientTransformation, Update[DICEState], Draw]:
    """Optimizer, step and its batch: the same functions for an equal configuration, so that it compiles once."""
    optimizer = cosine_adam(config.learning_rate, config.steps, cosine=config.cosine)

    def draw(_: None, data: Batch, key: PRNGKeyArray) -> Batch:
        return random_rows(data, config.batch, jax.random.split(key, 3)[0])

    def update(state: DICEState, _: None, data: Batch, key: PRNGKeyArray) -> tuple[DICEState, Metrics]:
        batch = draw(None, data, key)
        _, time_key, noise_key = jax.random.split(key, 3)

        def critic_loss(networks: tuple[MLP, MLP]) -> tuple[Array, tuple[Array, dict[str, Array]]]:
            return dice_losses(*networks, state.target, batch, config.alpha)

        gradient, (weight, info) = jax.grad(critic_loss, has_aux=True)((state.q, state.v))
        (q, v), critic_opt = optimizer_step(optimizer, gradient, state.critic_opt, (state.q, state.v))

        rows, act = batch.action.shape
        t = random_times(time_key, rows, config.times)[:, None]
        noise = jax.random.normal(noise_key, (rows, config.noises, act))
        noisy = diffuse(batch.action[:, None], noise, t)

        def loss(guidance: Guidance) -> Array:
            return guidance_loss(guidance(noisy, batch.obs[:, None], t), weight)

        value, gradient = jax.value_and_grad(loss)(state.guidance.params)
        guidance = gradient_step(state.guidance, gradient, optimizer, config.average)
        target = polyak(q, state.target, config.polyak)
        return DICEState(q, v, target, critic_opt, guidance), info | {"guidance_loss": value}

    return optimizer, update, draw


def train_dice(given: Given, config: DICEConfig, keys: PRNGKeyArray, session: Session | None = None) -> Outcome:
    """Fit one critic and one guidance a key, for the behavior that is given.

    Args:
        given: data and behavior.
        config: steps, batch and the like.
        keys: one key a member.
        session: where to resume from and report to.
    """
    assert given.behavior is not None, "the behavior is what is guided"
    like = example(given.data)
    obs_dim, act_dim = like.obs.shape[1], like.action.shape[1]
    optimizer, update, draw = _step(config)

    def init(key: PRNGKeyArray) -> DICEState:
        critic_key, guidance_key = jax.random.split(key)
        critic = init_critic(obs_dim, act_dim, config.own_critic, key=critic_key)
        opt_state = optimizer.init(cast(Any, (critic.q, critic.v)))
        guidance = init_learner(Guidance(obs_dim, act_dim, config.guidance, key=guidance_key), optimizer)
        return DICEState(critic.q, critic.v, critic.q, opt_state, guidance)

    init_keys, train_keys = jnp.unstack(jax.vmap(jax.random.split)(keys), axis=1)
    state = fit(
        update,
        jax.jit(jax.vmap(init))(init_keys),
        member_data=None,
        shared_data=given.data,
        keys=train_keys,
        steps=config.steps,
        draw=draw,
        session=session,
    )
    actor = Guided(given.behavior, state.guidance.average, config.scale, config.sampler)
    return Outcome(actor, Critic(q=state.target, v=state.v, dueling=False))
