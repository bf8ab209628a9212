"""Stage 4: tilt the behavior model towards the candidates' values, `pi ∝ mu exp(Q / beta)` (EDA, Section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from tiltrl import losses
from tiltrl.diffusion.energy import Energy
from tiltrl.diffusion.schedule import TimeLaw, diffuse, random_times
from tiltrl.training.loop import Draw, Metrics, Session, Update, fit, mapped, random_rows
from tiltrl.training.optimizer import Learner, cosine_adam, gradient_step, init_learner


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
    objective: losses.Objective = "value"  # agree with the values (Eq. 14), or only with which is best (Eq. 15)


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
    """Mean loss of a batch of states, and what the tilt does to their candidates."""
    where = noisy, obs[:, None], t[:, None]  # all candidates of a state at its one time
    log_ratio = policy(*where) - jax.lax.stop_gradient(behavior(*where))
    loss = jnp.mean(jax.vmap(losses.OBJECTIVES[objective], in_axes=(0, 0, None))(q, log_ratio, beta))
    weights = jax.nn.softmax(log_ratio)
    info = {
        "alignment_loss": loss,
        # The share of states whose most valued candidate is also the most tilted one.
        "accuracy": jnp.mean((jnp.argmax(q, axis=1) == jnp.argmax(log_ratio, axis=1)).astype(jnp.float32)),
        # KL(pi || mu) as the candidates see it: at most log K.
        "kl": jnp.mean(jnp.sum(weights * jax.nn.log_softmax(log_ratio), axis=1) + jnp.log(q.shape[1])),
        "drift": jnp.mean(log_ratio),
    }
    return loss, info


MemberData = tuple[Energy, Float[Array, "states obs"], Float[Array, "states k act"], Float[Array, "states k"]]
"""Of one member: mu, observations, candidates, their values."""


@lru_cache(maxsize=8)
def _step(config: AlignConfig) -> tuple[optax.GradientTransformation, Update[Learner], Draw]:
    """Optimizer, step and its batch: the same functions for an equal configuration, so that it compiles once."""
    optimizer = cosine_adam(
        config.learning_rate,
        config.steps,
        cosine=config.cosine,
        warmup=config.warmup,
        clip=config.clip,
        second_moment=config.second_moment,
    )

    def draw(given: MemberData, _: Array, key: PRNGKeyArray) -> tuple[Array, Array, Array]:
        return random_rows(given[1:], config.batch, jax.random.split(key, 3)[0])

    def update(learners: Learner, given: MemberData, betas: Array, key: PRNGKeyArray) -> tuple[Learner, Metrics]:
        behavior = given[0]
        obs, chosen, q = draw(given, betas, key)
        _, time_key, noise_key = jax.random.split(key, 3)
        # One t a state, so that the unknown constants C(s, t) cancel; a noise of its own for every candidate.
        t = random_times(time_key, config.batch, config.times)
        noisy = diffuse(
            chosen, jax.random.normal(noise_key, chosen.shape), jnp.broadcast_to(t[:, None], chosen.shape[:2])
        )

        def one(learner: Learner, beta: Array) -> tuple[Learner, Metrics]:
            gradient, info = jax.grad(alignment_loss, has_aux=True)(
                learner.params, behavior, noisy, obs, t, q, beta, config.objective
            )
            return gradient_step(learner, gradient, optimizer, config.average), info

        return mapped(one, (0, 0))(learners, betas)

    return optimizer, update, draw


def train_policy(
    behavior: Energy,
    obs: Float[Array, "members states obs"],
    candidates: Float[Array, "members states k act"],
    q: Float[Array, "members states k"],
    betas: Float[Array, " betas"],
    config: AlignConfig,
    keys: PRNGKeyArray,
    session: Session | None = None,
) -> Energy:
    """Align a copy of each member's frozen behavior at every temperature.

    Args:
        behavior: mu, with a leading `members` axis; it stays frozen.
        obs: normalized observations of the candidates' states.
        candidates: actions in the unit box, sampled from mu.
        q: their values in units of beta: only differences within a state matter.
        betas: temperatures; all are trained in one program, on the same batches and noise.
        config: steps, batch and learning rate.
        keys: one key a member.
        session: where to resume from and report to.

    Returns:
        pi, with leading axes `members, betas`.
    """
    optimizer, update, draw = _step(config)

    def init(behavior: Energy) -> Learner:
        return jax.vmap(lambda _: init_learner(behavior, optimizer))(betas)

    learner = fit(
        update,
        jax.jit(jax.vmap(init))(behavior),
        member_data=(behavior, obs, candidates, q),
        shared_data=betas,
        keys=keys,
        steps=config.steps,
        draw=draw,
        session=session,
    )
    return learner.average
