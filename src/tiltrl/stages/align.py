"""Stage 4: tilt the behavior model towards the candidates' values, `pi ∝ mu exp(Q / beta)` (EDA, Section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from tiltrl import losses
from tiltrl.diffusion.energy import Energy
from tiltrl.diffusion.schedule import T_MIN, TimeLaw, diffuse, random_times
from tiltrl.stages.tilt import watch
from tiltrl.training.loop import Draw, Metrics, Session, Update, few_rows, fit, mapped, random_rows
from tiltrl.training.optimizer import Learner, cosine_adam, gradient_step, init_learner

WATCHED = 2
"""Held-out states that are looked at in each step: 500 to each average of the metrics."""
HELD_OUT = 20
"""Every so many-th state is held out."""


@dataclass(frozen=True)
class AlignConfig:
    """How the policy is fine-tuned. The defaults are the paper's (EDA, Appendix D)."""

    steps: int = 200_000
    batch: int = 256  # states; each brings its K candidates
    learning_rate: float = 5e-5
    cosine: bool = False
    warmup: float = 0.0  # share of the steps over which the learning rate rises from zero; the paper has none
    clip: float | None = None  # norm of the gradient above which it is shortened; None: nowhere, as in the paper
    second_moment: float = 0.999  # decay of Adam's average of squared gradients
    average: float = 0.0  # decay of the weights' running average; 0: none
    times: TimeLaw = "uniform"  # of a batch; the paper's are uniform
    objective: losses.Objective = "value"  # agree with the values (Eq. 14), or only with which is best (Eq. 15, 16)


def alignment_loss(
    policy: Energy,
    behavior: Energy,
    noisy: Float[Array, "batch k act"],
    obs: Float[Array, "batch obs"],
    t: Float[Array, " batch"],
    q: Float[Array, "batch k"],
    beta: Float[Array, ""] | float,
    objective: losses.Objective = "value",
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Mean loss of a batch of states, also as a metric."""
    where = noisy, obs[:, None], t[:, None]  # all candidates of a state at its one time
    log_ratio = policy(*where) - jax.lax.stop_gradient(behavior(*where))
    loss = jnp.mean(jax.vmap(losses.OBJECTIVES[objective], in_axes=(0, 0, None))(q, log_ratio, beta))
    return loss, {"alignment_loss": loss}


States = tuple[Float[Array, "states obs"], Float[Array, "states k act"], Float[Array, "states k"]]
"""Normalized observations, candidates in the unit box, their values."""


class MemberData(NamedTuple):
    """What one member learns from; the held-out candidates are those it is watched on."""

    behavior: Energy
    train: States
    held_out: States


class Goal(NamedTuple):
    """How far each policy is to go: by its temperature, or to a divergence at whatever temperature that takes."""

    beta: Float[Array, " betas"]
    kl: Float[Array, " betas"] | None  # nats; None: the temperatures are given


class Aligner(NamedTuple):
    """A policy in training."""

    learner: Learner
    log_beta: Float[Array, ""]  # moves only where a divergence is asked for


class Aligned(NamedTuple):
    """What alignment ends with; leaves have leading axes `members, betas`."""

    policy: Energy
    beta: Float[Array, "members betas"]  # the temperatures given, or found


@lru_cache(maxsize=8)
def _step(config: AlignConfig) -> tuple[optax.GradientTransformation, Update[Aligner], Draw]:
    """Optimizer, step and its batch: the same functions for an equal configuration, so that it compiles once."""
    optimizer = cosine_adam(
        config.learning_rate,
        config.steps,
        cosine=config.cosine,
        warmup=config.warmup,
        clip=config.clip,
        second_moment=config.second_moment,
    )

    def draw(given: MemberData, _: Goal, key: PRNGKeyArray) -> tuple[Array, Array, Array]:
        return random_rows(given.train, config.batch, jax.random.split(key, 4)[0])

    def update(aligners: Aligner, given: MemberData, goal: Goal, key: PRNGKeyArray) -> tuple[Aligner, Metrics]:
        obs, action, q = draw(given, goal, key)
        _, time_key, noise_key, other_key = jax.random.split(key, 4)
        rows_key, watch_time_key, watch_noise_key = jax.random.split(other_key, 3)
        # One t a state, so that the unknown constants C(s, t) cancel; a noise of its own for every candidate.
        t = random_times(time_key, config.batch, config.times)
        noisy = diffuse(
            action, jax.random.normal(noise_key, action.shape), jnp.broadcast_to(t[:, None], action.shape[:2])
        )
        seen_obs, seen_action, seen_q = few_rows(given.held_out, WATCHED, rows_key)
        seen_t = random_times(watch_time_key, WATCHED, "log_snr")
        seen_noise = jax.random.normal(watch_noise_key, seen_action.shape)
        seen = diffuse(seen_action, seen_noise, jnp.broadcast_to(seen_t[:, None], seen_action.shape[:2]))

        def one(aligner: Aligner, kl: Array | None) -> tuple[Aligner, Metrics]:
            learner, beta = aligner.learner, jnp.exp(aligner.log_beta)
            gradient, info = jax.grad(alignment_loss, has_aux=True)(
                learner.params, given.behavior, noisy, obs, t, q, beta, config.objective
            )
            found = watch(learner.params, given.behavior, seen_action, seen, seen_obs, seen_t, seen_q, beta)
            log_beta = aligner.log_beta if kl is None else _towards(aligner, found["kl"], kl, config.steps)
            learner = gradient_step(learner, gradient, optimizer, config.average)
            return Aligner(learner, log_beta), info | found | {"beta": beta}

        return mapped(one, (0, None if goal.kl is None else 0))(aligners, goal.kl)

    return optimizer, update, draw


def _towards(aligner: Aligner, found: Array, wanted: Array, steps: int) -> Array:
    """The next log temperature: raised where the divergence is too large, by dual ascent.

    Once the policy has had a tenth of the steps to move at all, an error decays within another tenth: slower than
    the policy follows, fast enough to settle. What is seen of two states is noise mostly, which averages out as long as
    nothing is cut off it; the bound is for runs of a few steps.
    """
    pace = jnp.where(aligner.learner.step > 0.1 * steps, 5.0 / steps, 0.0)
    return aligner.log_beta + jnp.clip(pace * (found / wanted - 1.0), -0.5, 0.5)


def is_held_out(states: int) -> Bool[np.ndarray, " states"]:
    """Which states alignment does not learn from."""
    return np.arange(states) % HELD_OUT == HELD_OUT - 1


@jax.jit
def agreement(
    policy: Energy,
    behavior: Energy,
    obs: Float[Array, "states obs"],
    candidates: Float[Array, "states k act"],
    q: Float[Array, "states k"],
) -> Float[Array, ""]:
    """Share of states at which the policy raised the density of the most valued candidate above all others'.

    Args:
        policy: pi.
        behavior: mu.
        obs: normalized observations.
        candidates: actions in the unit box, which are looked at undiffused.
        q: their values.
    """
    where = candidates, obs[:, None], jnp.asarray(T_MIN)
    return jnp.mean(jnp.argmax(policy(*where) - behavior(*where), axis=1) == jnp.argmax(q, axis=1))


def first_beta(q: Float[Array, "states k"], kl: Float[Array, " betas"]) -> Float[Array, " betas"]:
    """The temperature of a divergence were the values of a state's actions Gaussian: `KL = var / (2 beta^2)`.

    Of preferences, whose q is 0 or 1 whatever people felt, this is but somewhere to start; the ascent finds the rest.
    """
    return jnp.sqrt(jnp.mean(jnp.var(q, axis=1)) / (2.0 * kl))


@jax.jit
def _some(states: States, rows: Int[Array, " some"]) -> States:
    """Those states of every member."""
    obs, candidates, q = states
    return obs[:, rows], candidates[:, rows], q[:, rows]


def train_policy(
    behavior: Energy,
    obs: Float[Array, "members states obs"],
    candidates: Float[Array, "members states k act"],
    q: Float[Array, "members states k"],
    betas: Float[Array, " betas"],
    config: AlignConfig,
    keys: PRNGKeyArray,
    session: Session | None = None,
    kl: Float[Array, " betas"] | None = None,
) -> Aligned:
    """Align a copy of each member's frozen behavior at every temperature, or to every divergence.

    One state in twenty is held out, and metrics are of those (`stages.tilt.watch`).

    Args:
        behavior: mu, with a leading `members` axis; it stays frozen.
        obs: normalized observations of the candidates' states.
        candidates: actions in the unit box, sampled from mu.
        q: their values in units of beta: only differences within a state matter.
        betas: temperatures; all are trained in one program, on the same batches and noise.
        config: steps, batch and learning rate.
        keys: one key a member.
        session: where to resume from and report to.
        kl: nats of `KL(pi || mu)` to reach instead; the temperatures are then found, and `betas` not looked at.
    """
    optimizer, update, draw = _step(config)
    tilts = betas if kl is None else kl

    def init(behavior: Energy, q: Array) -> Aligner:
        beta = betas if kl is None else first_beta(q, kl)
        learner = jax.vmap(lambda _: init_learner(behavior, optimizer))(tilts)
        return Aligner(learner, jnp.log(beta))

    held_out = is_held_out(obs.shape[1])
    if not held_out.any():  # of too few states none can be spared
        train_rows = held_rows = np.arange(len(held_out))
    else:
        train_rows, held_rows = np.flatnonzero(~held_out), np.flatnonzero(held_out)

    states = obs, candidates, q
    aligner = fit(
        update,
        jax.jit(jax.vmap(init))(behavior, q),
        member_data=MemberData(behavior, _some(states, train_rows), _some(states, held_rows)),
        shared_data=Goal(betas, kl),
        keys=keys,
        steps=config.steps,
        draw=draw,
        session=session,
    )
    return Aligned(aligner.learner.average, jnp.exp(aligner.log_beta))
