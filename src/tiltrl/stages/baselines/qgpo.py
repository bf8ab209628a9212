"""QGPO: guidance learned by contrast (Lu et al. 2023, arXiv 2304.12824).

*Contrastive Energy Prediction for Exact Energy-Guided Diffusion Sampling in Offline Reinforcement Learning* leaves the
behavior model as it is and learns the guidance that leads its solver to `mu(a|s) exp(beta Q(s, a))`. Of K actions that
the behavior takes at a state, all noised to the same time, the guidance network has to tell how likely each would be
drawn by the softmax of `beta Q` (Section 3, contrastive energy prediction; Section 4 for offline RL). That is EDA's
value loss (Eq. 14) with a network of its own in the place of `f_pi - f_mu`. Actions are never judged where the behavior
would not act.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from tiltrl import losses
from tiltrl.diffusion.energy import EnergyConfig
from tiltrl.diffusion.schedule import TimeLaw, diffuse, random_times
from tiltrl.stages.annotate import AnnotateConfig, SamplerConfig, annotate, scaled_values
from tiltrl.stages.baselines.common import Given, Outcome
from tiltrl.stages.baselines.guidance import Guidance, GuidanceConfig, Guided, GuidedShape
from tiltrl.stages.critics.networks import Critic
from tiltrl.training.loop import Draw, Metrics, Session, Update, fit, random_rows
from tiltrl.training.optimizer import Learner, cosine_adam, gradient_step, init_learner


@dataclass(frozen=True)
class QGPOConfig:
    """How the guidance is trained and followed. The defaults are those of QGPO's release for locomotion."""

    steps: int = 1_000_000
    batch: int = 256  # states; each brings its K actions
    learning_rate: float = 3e-4
    cosine: bool = False
    average: float = 0.0  # decay of the weights' running average; 0: none
    times: TimeLaw = "uniform"  # of a batch
    annotate: AnnotateConfig = field(default_factory=AnnotateConfig)  # K is 16, and Q is multiplied by beta = 3
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    scale: float = 3.0  # of the guidance when acting; chosen for each task out of 1, 2, 3, 5, 8 and 10 in the release
    candidates: int = 1
    behavior: EnergyConfig = field(default_factory=EnergyConfig)  # shape of the behavior model that is given
    sampler: SamplerConfig = field(default_factory=SamplerConfig)  # its

    @property
    def actor(self) -> GuidedShape:
        """Shape of the actor."""
        return GuidedShape(self.behavior, self.guidance, self.scale, self.sampler)

    @property
    def own_critic(self) -> None:
        """It is given one."""
        return None


FAST_QGPO = QGPOConfig(
    steps=6_000,
    batch=64,
    learning_rate=1e-3,
    cosine=True,
    average=0.99,
    times="stratified",
    annotate=AnnotateConfig(normalize=True),
    guidance=GuidanceConfig(width=128, depth=3, time_scale=5.0),
    scale=1.0,
)
"""At the fast preset's scale: values are in units of their spread among a state's actions, and are followed as they
are, which is as far from the behavior as EDA goes with a beta of 1 and a critic of full trust."""


def contrastive_loss(
    guidance: Float[Array, "batch k"], values: Float[Array, "batch k"]
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Mean cross-entropy between the softmax of the values and that of the guidance, also as a metric.

    Args:
        guidance: `f(a_t^k, s, t)` of the K noised actions of each state, all at one time.
        values: `beta Q` of the same actions without noise; only differences within a state matter.
    """
    loss = jnp.mean(jax.vmap(losses.value_alignment, in_axes=(0, 0, None))(values, guidance, 1.0))
    return loss, {"contrastive_loss": loss}


class Judged(NamedTuple):
    """The behavior's actions at the states, each with `beta Q`."""

    action: Float[Array, "states k act"]
    value: Float[Array, "states k"]


@lru_cache(maxsize=8)
def _step(config: QGPOConfig) -> tuple[optax.GradientTransformation, Update[Learner], Draw]:
    """Optimizer, step and its batch: the same functions for an equal configuration, so that it compiles once."""
    optimizer = cosine_adam(config.learning_rate, config.steps, cosine=config.cosine)

    def draw(judged: Judged, states: Array, key: PRNGKeyArray) -> tuple[Array, Judged]:
        return random_rows((states, judged), config.batch, jax.random.split(key, 3)[0])

    def update(learner: Learner, judged: Judged, states: Array, key: PRNGKeyArray) -> tuple[Learner, Metrics]:
        obs, (action, value) = draw(judged, states, key)
        _, time_key, noise_key = jax.random.split(key, 3)
        # One t a state, so that the unknown constant of (s, t) cancels; a noise of its own for every action.
        t = random_times(time_key, config.batch, config.times)[:, None]
        noisy = diffuse(action, jax.random.normal(noise_key, action.shape), t)

        def loss(guidance: Guidance) -> tuple[Array, dict[str, Array]]:
            return contrastive_loss(guidance(noisy, obs[:, None], t), value)

        gradient, info = jax.grad(loss, has_aux=True)(learner.params)
        return gradient_step(learner, gradient, optimizer, config.average), info

    return optimizer, update, draw


@jax.jit
def _preference(critic: Critic, obs: Float[Array, "rows obs"], action: Float[Array, "rows act"]) -> Array:
    return critic.preference(obs, action)


def judged_actions(given: Given, config: AnnotateConfig) -> Judged:
    """K actions of each member's behavior at every state, valued by its critic; leaves have a `members` axis.

    Raises:
        InputError: K is less than 2, or a value is not finite.
    """
    actions = given.actions(given.states, config.k)
    values = []
    for i, some in enumerate(actions):
        critic = jax.tree.map(lambda leaf, i=i: jnp.asarray(leaf[i]), given.critic)
        q = annotate(partial(_preference, critic), given.states, some)
        values.append(scaled_values(q, config, trust=1.0))
    return Judged(jnp.asarray(actions), jnp.asarray(np.stack(values)))


def train_qgpo(given: Given, config: QGPOConfig, keys: PRNGKeyArray, session: Session | None = None) -> Outcome:
    """Learn one guidance a key, for the behavior and by the critic that are given.

    Args:
        given: behavior, critic, states; the logged actions are not looked at.
        config: steps, batch and the like.
        keys: one key a member.
        session: where to resume from and report to.

    Raises:
        InputError: as `judged_actions`.
    """
    assert given.behavior is not None, "the behavior is what is guided"
    judged = judged_actions(given, config.annotate)
    obs_dim, act_dim = given.states.shape[1], judged.action.shape[-1]
    optimizer, update, draw = _step(config)

    def init(key: PRNGKeyArray) -> Learner:
        return init_learner(Guidance(obs_dim, act_dim, config.guidance, key=key), optimizer)

    init_keys, train_keys = jnp.unstack(jax.vmap(jax.random.split)(keys), axis=1)
    learner = fit(
        update,
        jax.jit(jax.vmap(init))(init_keys),
        member_data=judged,
        shared_data=jnp.asarray(given.states),
        keys=train_keys,
        steps=config.steps,
        draw=draw,
        session=session,
    )
    return Outcome(Guided(given.behavior, learner.average, config.scale, config.sampler), None)
