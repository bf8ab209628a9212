"""Stage 1: a diffusion model of the logged behavior, from states and actions alone (EDA, Section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from tiltrl import losses
from tiltrl.diffusion.energy import Energy, EnergyConfig, noise_prediction
from tiltrl.diffusion.schedule import TimeLaw, diffuse, random_times
from tiltrl.training.loop import Draw, Metrics, Session, Update, fit, random_rows
from tiltrl.training.optimizer import Learner, cosine_adam, gradient_step, init_learner
from tiltrl.training.stream import Stream, example


@dataclass(frozen=True)
class BehaviorConfig:
    """How the behavior model is trained. The defaults are the paper's (EDA, Appendix D)."""

    network: EnergyConfig = field(default_factory=EnergyConfig)
    steps: int = 1_000_000
    batch: int = 2048
    learning_rate: float = 3e-4
    cosine: bool = False  # decay the learning rate to zero; the paper keeps it constant
    warmup: float = 0.0  # share of the steps over which the learning rate rises from zero; the paper has none
    clip: float | None = None  # norm of the gradient above which it is shortened; None: nowhere, as in the paper
    second_moment: float = 0.999  # decay of Adam's average of squared gradients
    average: float = 0.0  # decay of the weights' running average; 0: none, as in the paper
    times: TimeLaw = "uniform"  # of a batch; the paper's are uniform


Pairs = tuple[Float[Array, "steps obs"], Float[Array, "steps act"]]
"""Observations and actions, normalized."""


def denoising_loss(
    energy: Energy,
    obs: Float[Array, "batch obs"],
    action: Float[Array, "batch act"],
    key: PRNGKeyArray,
    *,
    times: TimeLaw,
    dropout: bool,
) -> Float[Array, ""]:
    """Mean denoising loss (Eq. 10) of a batch at random times; inputs normalized."""
    time_key, noise_key, dropout_key = jax.random.split(key, 3)
    t = random_times(time_key, action.shape[0], times)
    noise = jax.random.normal(noise_key, action.shape)
    predicted = noise_prediction(energy, diffuse(action, noise, t), obs, t, key=dropout_key if dropout else None)
    return jnp.mean(jax.vmap(losses.denoising)(predicted, noise))


@lru_cache(maxsize=8)
def _step(config: BehaviorConfig) -> tuple[optax.GradientTransformation, Update[Learner], Draw]:
    """Optimizer, step and its batch: the same functions for an equal configuration, so that it compiles once."""
    optimizer = cosine_adam(
        config.learning_rate,
        config.steps,
        cosine=config.cosine,
        warmup=config.warmup,
        clip=config.clip,
        second_moment=config.second_moment,
    )

    def draw(_: None, data: Pairs, key: PRNGKeyArray) -> Pairs:
        return random_rows(data, config.batch, jax.random.split(key)[0])

    def update(learner: Learner, _: None, data: Pairs, key: PRNGKeyArray) -> tuple[Learner, Metrics]:
        obs, action = draw(None, data, key)
        loss_key = jax.random.split(key)[1]
        loss, gradient = jax.value_and_grad(denoising_loss)(
            learner.params, obs, action, loss_key, times=config.times, dropout=config.network.dropout > 0
        )
        return gradient_step(learner, gradient, optimizer, config.average), {"denoising_loss": loss}

    return optimizer, update, draw


def train_behavior(
    data: Pairs | Stream[Pairs],
    config: BehaviorConfig,
    keys: PRNGKeyArray,
    session: Session | None = None,
) -> Energy:
    """Fit one model a key on normalized pairs; its leaves gain a leading `members` axis."""
    obs, action = example(data)
    optimizer, update, draw = _step(config)

    def init(key: PRNGKeyArray) -> Learner:
        return init_learner(Energy(obs.shape[1], action.shape[1], config.network, key=key), optimizer)

    init_keys, train_keys = jnp.unstack(jax.vmap(jax.random.split)(keys), axis=1)
    learner = fit(
        update,
        jax.jit(jax.vmap(init))(init_keys),
        member_data=None,
        shared_data=data,
        keys=train_keys,
        steps=config.steps,
        draw=draw,
        session=session,
    )
    return learner.average
