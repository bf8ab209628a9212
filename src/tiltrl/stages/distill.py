"""Distillation: a diffusion policy's sampler as a network of one pass.

A solver is deterministic: it takes noise to one action. A student can therefore learn that map from triples of state,
noise and action by plain regression (Luhman & Luhman 2021, *Knowledge Distillation in Iterative Generative Models*,
arXiv 2101.02388), and is as random as its teacher: its noise is the same, and so is the law of its actions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from tiltrl.config_io import check_ranges
from tiltrl.diffusion.energy import Energy
from tiltrl.diffusion.one_step import OneStep, OneStepConfig
from tiltrl.stages.annotate import SamplerConfig, actions_from
from tiltrl.training.loop import Draw, Metrics, Session, Update, fit, random_rows
from tiltrl.training.optimizer import Learner, cosine_adam, gradient_step, init_learner
from tiltrl.training.rows import KeptRows, compute_rows
from tiltrl.training.stream import Stream, example, on_device

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class DistillConfig:
    """How a student is made, in a minute or two on two cores for a teacher of the fast preset."""

    network: OneStepConfig = field(default_factory=OneStepConfig)
    pairs: int = 262_144  # noises that the teacher is asked about, each at a state of its own where there are as many
    steps: int = 6_000
    batch: int = 512  # states; of each, one noise
    learning_rate: float = 4e-3  # decayed to zero by a cosine
    average: float = 0.999  # decay of the weights' running average

    def __post_init__(self) -> None:
        """Refuse what trains nothing.

        Raises:
            InputError: a number lies outside its bounds.
        """
        check_ranges(
            self,
            pairs=(1, 1 << 32),
            steps=(1, 1 << 31),
            batch=(1, 1 << 20),
            learning_rate=(0, 1),
            average=(0, 1),
        )

    def scaled(self, budget: float) -> DistillConfig:
        """The same with that share of the pairs and steps, at least one."""
        return replace(self, pairs=max(1, round(self.pairs * budget)), steps=max(1, round(self.steps * budget)))


def choose_states(total: int, config: DistillConfig, seed: int) -> tuple[Int[np.ndarray, " states"], int]:
    """Indices of the states that the teacher is asked about, ascending, and how many noises at each."""
    states = min(total, config.pairs)
    index = np.sort(np.random.default_rng(seed).choice(total, states, replace=False))
    return index, -(-config.pairs // states)


@partial(jax.jit, static_argnames=("k", "sampler"))
def _ask(
    energy: Energy, obs: Array, key: PRNGKeyArray, k: int, sampler: SamplerConfig
) -> Float[Array, "batch k 2 act"]:
    noise = jax.random.normal(key, (obs.shape[0], k, energy.act_dim))
    return jnp.stack([noise, actions_from(energy, obs, noise, sampler)], axis=2)


def noise_and_actions(
    energy: Energy,
    obs: Float[np.ndarray, "states obs"],
    k: int,
    sampler: SamplerConfig,
    key: PRNGKeyArray,
    *,
    kept: KeptRows | None = None,
    on_progress: OnProgress | None = None,
) -> Float[np.ndarray, "states k 2 act"]:
    """K noises for each normalized state, each with the unit action that the teacher's solver takes it to."""

    def compute(index: Int[np.ndarray, " batch"], start: int) -> Float[np.ndarray, "batch k 2 act"]:
        return np.asarray(_ask(energy, obs[index], jax.random.fold_in(key, start), k, sampler))

    batch = max(1, 8192 // k)
    return compute_rows(compute, len(obs), (k, 2, energy.act_dim), batch=batch, kept=kept, on_progress=on_progress)


Triples = tuple[Float[Array, "states obs"], Float[Array, "states k 2 act"]]
"""States, and of each its noises with their actions."""


@lru_cache(maxsize=8)
def _step(config: DistillConfig) -> tuple[optax.GradientTransformation, Update[Learner], Draw]:
    """Optimizer, step and its batch: the same functions for an equal configuration, so that it compiles once."""
    optimizer = cosine_adam(config.learning_rate, config.steps, cosine=True)

    def draw(_: None, data: Triples, key: PRNGKeyArray) -> tuple[Array, Array]:
        rows_key, noise_key = jax.random.split(key)
        obs, pairs = random_rows(data, config.batch, rows_key)
        which = jax.random.randint(noise_key, (config.batch,), 0, pairs.shape[1])
        return obs, pairs[jnp.arange(config.batch), which]

    def loss(student: OneStep, obs: Array, pairs: Array) -> Float[Array, ""]:
        return jnp.mean(jnp.sum((student.unclipped(pairs[:, 0], obs) - pairs[:, 1]) ** 2, axis=1))

    def update(learner: Learner, _: None, data: Triples, key: PRNGKeyArray) -> tuple[Learner, Metrics]:
        value, gradient = jax.value_and_grad(loss)(learner.params, *draw(None, data, key))
        return gradient_step(learner, gradient, optimizer, config.average), {"squared_error": value}

    return optimizer, update, draw


def train_student(
    data: Triples | Stream[Triples], config: DistillConfig, key: PRNGKeyArray, session: Session | None = None
) -> OneStep:
    """Fit the map from noise to action; its leaves have a leading axis of one member."""
    obs, pairs = example(data)
    optimizer, update, draw = _step(config)

    def init(key: PRNGKeyArray) -> Learner:
        return init_learner(OneStep(obs.shape[1], pairs.shape[3], config.network, key=key), optimizer)

    init_key, train_key = jax.random.split(key)
    learner = fit(
        update,
        jax.jit(jax.vmap(init))(init_key[None]),
        member_data=None,
        shared_data=data,
        keys=train_key[None],
        steps=config.steps,
        draw=draw,
        session=session,
    )
    return learner.average


def triples(
    obs: Float[np.ndarray, "states obs"], pairs: Float[np.ndarray, "states k 2 act"]
) -> Triples | Stream[Triples]:
    """What a student learns from, on the device in whole or by parts."""

    def prepare(start: int, stop: int) -> Triples:
        some: Any = obs[start:stop]
        answers: Any = pairs[start:stop]
        return some, answers

    return on_device(prepare, len(obs))


@dataclass(frozen=True)
class Agreement:
    """How near a student is to its teacher, in shares of the teacher's spread.

    The spread is the mean distance of two of its actions at one state.
    """

    error: float  # mean distance of student and teacher at the same noise
    distance: float  # energy distance of their distributions at a state, of independent samples; of equal ones 0
    spread: float  # the student's own spread; of equal distributions 1


@jax.jit
def _mean_distance(some: Float[Array, "states k act"], others: Float[Array, "states k act"]) -> Float[Array, ""]:
    return jnp.mean(jnp.linalg.norm(some[:, :, None] - others[:, None], axis=-1))


def spread(actions: Float[np.ndarray, "states k act"]) -> float:
    """Mean distance of two different actions of a state."""
    k = actions.shape[1]
    return float(_mean_distance(actions, actions)) * k / (k - 1)


def energy_distance(some: Float[np.ndarray, "states k act"], others: Float[np.ndarray, "states k act"]) -> float:
    """Twice the mean distance between two samples less that within each (Székely & Rizzo), averaged over states.

    Zero of equal distributions, and positive of others; its estimate is unbiased, so that it may fall below zero.
    """
    return 2.0 * float(_mean_distance(some, others)) - spread(some) - spread(others)


def agreement(
    student: OneStep,
    energy: Energy,
    obs: Float[np.ndarray, "states obs"],
    sampler: SamplerConfig,
    key: PRNGKeyArray,
    k: int = 32,
) -> Agreement:
    """What a student has learned, by K new noises at each of some normalized states."""
    first, second = (noise_and_actions(energy, obs, k, sampler, each) for each in jax.random.split(key))
    found = np.asarray(eqx.filter_jit(student)(jnp.asarray(first[:, :, 0]), jnp.asarray(obs[:, None])))
    unit = spread(first[:, :, 1]) or 1.0  # of a teacher that always does the same
    error = float(np.mean(np.linalg.norm(found - first[:, :, 1], axis=-1)))
    return Agreement(error / unit, energy_distance(found, second[:, :, 1]) / unit, spread(found) / unit)
