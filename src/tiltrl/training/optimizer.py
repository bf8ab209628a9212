"""What one gradient does: Adam with a schedule, a running average of the weights, and a rate that can be lowered."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

Params = TypeVar("Params")
Tree = TypeVar("Tree")


class Learner(NamedTuple):
    """Parameters with their optimizer state and running average (the average is what a stage hands on)."""

    params: Any
    average: Any
    opt_state: optax.OptState
    step: Float[Array, ""]


def init_learner(params: Any, optimizer: optax.GradientTransformation) -> Learner:
    """A learner at step 0."""
    return Learner(params, params, optimizer.init(params), jnp.zeros(()))


def optimizer_step(
    optimizer: optax.GradientTransformation, gradient: Any, opt_state: optax.OptState, params: Params
) -> tuple[Params, optax.OptState]:
    """New parameters and optimizer state."""
    updates, opt_state = optimizer.update(gradient, opt_state, cast(Any, params))
    return cast(Params, optax.apply_updates(cast(Any, params), updates)), opt_state


def polyak(new: Params, old: Params, step: float | Float[Array, ""]) -> Params:
    """`old` moved towards `new` by the share `step`."""
    return jax.tree.map(lambda a, b: step * a + (1.0 - step) * b, new, old)


def gradient_step(
    learner: Learner, gradient: Any, optimizer: optax.GradientTransformation, average_decay: float
) -> Learner:
    """One optimizer step, then the running average.

    The average forgets faster at first, by `(1 + step) / (10 + step)`, so that it does not remember the initial
    weights; a decay of 0 makes it the parameters themselves.
    """
    params, opt_state = optimizer_step(optimizer, gradient, learner.opt_state, learner.params)
    decay = jnp.minimum(average_decay, (1.0 + learner.step) / (10.0 + learner.step))
    average = polyak(params, learner.average, 1.0 - decay)
    return Learner(params, average, opt_state, learner.step + 1.0)


def cosine_adam(
    learning_rate: float,
    steps: int,
    *,
    cosine: bool,
    warmup: float = 0.0,
    clip: float | None = None,
    second_moment: float = 0.999,
) -> optax.GradientTransformation:
    """Adam, at a constant rate (the paper's) or decayed to zero by a cosine; either after a linear rise.

    Args:
        learning_rate: the highest rate.
        steps: after which the cosine ends.
        cosine: whether to decay.
        warmup: share of the steps over which the rate rises from zero. Adam's first steps are as long as its later ones
            however small the gradient, which a network that is already trained should be spared.
        clip: norm of the whole gradient above which it is shortened to it. None: gradients are taken as they are.
        second_moment: decay of Adam's average of squared gradients. A smaller one forgets a burst of large ones sooner.
    """
    rising = round(warmup * steps)
    rate = optax.cosine_decay_schedule(learning_rate, steps - rising) if cosine else learning_rate
    if rising:
        after = rate if callable(rate) else optax.constant_schedule(rate)
        rate = optax.join_schedules([optax.linear_schedule(0.0, learning_rate, rising), after], [rising])
    clipped = [] if clip is None else [optax.clip_by_global_norm(clip)]
    return optax.chain(*clipped, optax.adam(rate, b2=second_moment), _scaled())


class RateScale(NamedTuple):
    """Part of the optimizer's state: a factor on its steps, 1 until training diverged and was taken back."""

    scale: Float[Array, "..."]


def _scaled() -> optax.GradientTransformation:
    def update(updates: Any, state: optax.OptState, params: Any = None) -> tuple[Any, optax.OptState]:
        scale = cast(RateScale, state).scale
        return jax.tree.map(lambda u: scale * u, updates), state

    return optax.GradientTransformation(lambda params: RateScale(jnp.ones(())), update)


def slowed(state: Tree) -> Tree:
    """The same training state with half the learning rate, from here on."""
    return jax.tree.map(lambda leaf: RateScale(0.5 * leaf.scale) if _is_scale(leaf) else leaf, state, is_leaf=_is_scale)


def rate_scale(state: Any) -> float:
    """The factor on the learning rate in a training state; 1 where none was ever lowered."""
    found = [leaf for leaf in jax.tree.leaves(state, is_leaf=_is_scale) if _is_scale(leaf)]
    return float(np.min(found[0].scale)) if found else 1.0


def _is_scale(value: Any) -> bool:
    return isinstance(value, RateScale)
