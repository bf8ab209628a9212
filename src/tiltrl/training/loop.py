"""The one training loop: every stage is an `update`, compiled once as a `lax.scan` over many steps.

Seeds are a `vmap`: a state carries a leading `members` axis, and `--seeds 5` is the same program as `--seeds 1`. Each
step's randomness is a function of the member's key and the step's number alone, so that a run which was stopped and
continued is the run that was not.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from tiltrl.training.stream import pools

State = TypeVar("State")
Params = TypeVar("Params")
Metrics = dict[str, Float[Array, ""]]
Update = Callable[[State, Any, Any, PRNGKeyArray], tuple[State, Metrics]]
"""One step of one member: `(state, member_data, shared_data, key) -> (state, metrics)`."""


class Session(Protocol):
    """What surrounds a training run: where it resumes from, where its metrics go, whether it was asked to stop."""

    def restore(self, state: State) -> tuple[State, int]:
        """The last saved state and its step, or the given state and 0."""
        ...

    def record(self, step: int, steps: int, metrics: dict[str, Any], state: Any) -> None:
        """Called after every chunk of steps; may save, log, draw progress, or raise to stop."""
        ...


class Quiet:
    """A session that keeps nothing, for training in memory."""

    def restore(self, state: State) -> tuple[State, int]:
        """Start at the beginning."""
        return state, 0

    def record(self, step: int, steps: int, metrics: dict[str, Any], state: Any) -> None:
        """Keep nothing."""


class Learner(NamedTuple):
    """Parameters with their optimizer state and running average (the average is what a stage hands on)."""

    params: Any
    average: Any
    opt_state: optax.OptState
    step: Float[Array, ""]


def init_learner(params: Any, optimizer: optax.GradientTransformation) -> Learner:
    """A learner at step 0."""
    # The average is a copy, not the same buffers: the loop donates its state, and a buffer can be donated only once.
    return Learner(params, jax.tree.map(jnp.copy, params), optimizer.init(params), jnp.zeros(()))


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
    adam = optax.adam(rate, b2=second_moment)
    return adam if clip is None else optax.chain(optax.clip_by_global_norm(clip), adam)


@lru_cache(maxsize=16)
def _compiled(update: Update[State]) -> Callable[..., tuple[State, Metrics]]:
    """A chunk of steps of every member, and the mean of their metrics."""

    def one_chunk(
        state: State, start: Array, keys: PRNGKeyArray, member_data: Any, shared_data: Any, length: int
    ) -> tuple[State, Metrics]:
        def one_step(state: State, step: Array) -> tuple[State, Metrics]:
            step_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, step)
            return jax.vmap(update, in_axes=(0, 0, None, 0))(state, member_data, shared_data, step_keys)

        state, metrics = jax.lax.scan(one_step, state, start + jnp.arange(length))
        return state, jax.tree.map(lambda m: jnp.mean(m, axis=0), metrics)

    return jax.jit(one_chunk, static_argnames="length", donate_argnums=0)


def fit(
    update: Update[State],
    state: State,
    *,
    member_data: Any,
    shared_data: Any,
    keys: PRNGKeyArray,
    steps: int,
    chunk: int = 250,
    session: Session | None = None,
) -> State:
    """Run `steps` updates of every member and return the final state.

    Args:
        update: one step of one member. The same function, on arrays of the same shapes, is compiled once a process.
        state: pytree of arrays with a leading `members` axis. Its buffers are donated: do not use it afterwards.
        member_data: pytree with a leading `members` axis (what differs by seed), or None.
        shared_data: what every member sees: a pytree, kept on the device whole, or a stream, of which an update gets
            the pool of its chunk.
        keys: one key a member.
        steps: total number of steps, counted from the very first start.
        chunk: steps per compiled call; the session hears of progress after each, and a stream's pool moves on.
        session: where to resume from and report to.
    """
    session = Quiet() if session is None else session
    state, done = session.restore(state)

    compiled = _compiled(update)
    # Chunks begin at multiples of their length wherever training was continued, since a pool belongs to a chunk.
    with pools(shared_data, done // chunk) as each:
        while done < steps:
            length = min(chunk - done % chunk, steps - done)
            state, metrics = compiled(state, jnp.asarray(done), keys, member_data, next(each), length=length)
            done += length
            session.record(done, steps, jax.device_get(metrics), state)
    return state
