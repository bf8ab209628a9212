"""What every baseline is given, what it leaves, and the networks that several of them act by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from tiltrl.diffusion.energy import Energy, linear
from tiltrl.stages.critics.iql import Batch
from tiltrl.stages.critics.networks import Critic, CriticShape
from tiltrl.stages.critics.softmax import BehaviorActions
from tiltrl.training.loop import Draw, Session, Update, fit
from tiltrl.training.optimizer import Learner, init_learner
from tiltrl.training.stream import Stream, example


@dataclass(frozen=True)
class Given:
    """What a baseline may learn from; networks have a leading axis of members."""

    data: Batch | Stream[Batch]  # every training transition, normalized, rewards transformed, `discount` 0 at the end
    states: Float[np.ndarray, "states obs"]  # normalized: those at which the behavior may be asked for actions
    actions: BehaviorActions  # asks it: takes minutes, and is kept for a run that is interrupted
    behavior: Energy | None  # None: the method has no use for one
    critic: Critic | None  # None: the method has none, or makes its own


class Actor(Protocol):
    """A network that takes standard normal noise to an action in the unit box, as a diffusion policy's solver does."""

    @property
    def noise_dim(self) -> int:
        """Numbers of noise an action."""
        ...

    def __call__(
        self, noise: Float[Array, "*batch noise"], obs: Float[Array, "*#batch obs"]
    ) -> Float[Array, "*batch act"]:
        """The action; what many noises share, such as the state of K candidates, comes with an axis of one."""
        ...


class Shape(Protocol):
    """All that rebuilding an actor needs: a frozen dataclass of numbers that checks their bounds."""

    @property
    def kind(self) -> str:
        """The name by which a policy's folder tells it from other shapes."""
        ...

    def make(self, obs_dim: int, act_dim: int, *, key: PRNGKeyArray) -> Any:
        """An actor of random weights."""
        ...


class Outcome(NamedTuple):
    """What a baseline leaves; leaves have a leading axis of members."""

    actor: Any
    critic: Critic | None  # its own, where it makes one; else actions are chosen by the critic that was given


class Config(Protocol):
    """How a baseline is trained: a frozen dataclass."""

    @property
    def steps(self) -> int:
        """Of training."""
        ...

    @property
    def candidates(self) -> int:
        """Actions sampled for each one taken, by the method's own way of acting."""
        ...

    @property
    def actor(self) -> Shape:
        """Shape of the actor."""
        ...

    @property
    def own_critic(self) -> CriticShape | None:
        """Shape of the critic that the method makes; None: it makes none."""
        ...


Train = Callable[..., Outcome]
"""`(given, config, keys, session) -> outcome`, one member a key."""


class Perceptron(eqx.Module):
    """ReLU perceptron to several numbers, on one example or a batch."""

    layers: tuple[eqx.nn.Linear, ...]

    def __init__(self, inputs: int, outputs: int, width: int, depth: int, *, key: PRNGKeyArray):
        sizes = [inputs, *[width] * depth, outputs]
        keys = jax.random.split(key, depth + 1)
        self.layers = tuple(eqx.nn.Linear(i, o, key=k) for i, o, k in zip(sizes[:-1], sizes[1:], keys, strict=True))

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        """As many numbers for each input."""
        for layer in self.layers[:-1]:
            x = jax.nn.relu(linear(layer, x))
        return linear(self.layers[-1], x)


def fit_actor(
    step: tuple[optax.GradientTransformation, Update[Learner], Draw],
    member_data: Any,
    given: Given,
    config: Config,
    keys: PRNGKeyArray,
    session: Session | None,
) -> Outcome:
    """Train one actor a key where there is nothing else to train.

    Args:
        step: optimizer, update and its batch.
        member_data: what each member is trained by; it stays frozen.
        given: the data.
        config: number of steps, and the actor's shape.
        keys: one key a member.
        session: where to resume from and report to.
    """
    like = example(given.data)
    optimizer, update, draw = step

    def init(key: PRNGKeyArray) -> Learner:
        return init_learner(config.actor.make(like.obs.shape[1], like.action.shape[1], key=key), optimizer)

    init_keys, train_keys = jnp.unstack(jax.vmap(jax.random.split)(keys), axis=1)
    learner = fit(
        update,
        jax.jit(jax.vmap(init))(init_keys),
        member_data=member_data,
        shared_data=given.data,
        keys=train_keys,
        steps=config.steps,
        draw=draw,
        session=session,
    )
    return Outcome(learner.params, None)
