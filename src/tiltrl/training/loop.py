"""The one training loop: every stage is an `update`, compiled once as a loop over as many steps as are asked for.

Seeds are a `vmap`: a state carries a leading `members` axis, and `--seeds 5` is the same program as `--seeds 1`. Each
step's randomness is a function of the member's key and the step's number alone, and the number of steps taken in one go
changes no bit, so that a run which was stopped anywhere and continued is the run that was not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing
from functools import lru_cache, partial
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from tiltrl.errors import InputError
from tiltrl.training.parallel import everywhere, of_first, on_one, replicate, split
from tiltrl.training.stream import Stream, example, pools

State = TypeVar("State")
Rows = TypeVar("Rows")
Metrics = dict[str, Float[Array, ""]]
Update = Callable[[State, Any, Any, PRNGKeyArray], tuple[State, Metrics]]
"""One step of one member: `(state, member_data, shared_data, key) -> (state, metrics)`."""
Draw = Callable[[Any, Any, PRNGKeyArray], Any]
"""The rows that a step learns from: `(member_data, shared_data, key) -> batch`, as its update draws them."""

CHUNK = 250
"""Steps whose metrics are averaged to one; a stream's pool moves on after as many."""
PATIENCE = 1.0
"""Seconds, about, that the loop computes without listening."""


def random_rows(data: Rows, count: int, key: PRNGKeyArray) -> Rows:
    """So many rows of a pytree of arrays, each drawn from all; several devices share them."""
    return _at(data, split(_drawn(data, count, key)))


def few_rows(data: Rows, count: int, key: PRNGKeyArray) -> Rows:
    """The same of so few rows that every device has them all."""
    return _at(data, _drawn(data, count, key))


def _drawn(data: Any, count: int, key: PRNGKeyArray) -> Int[Array, " rows"]:
    return jax.random.randint(key, (count,), 0, jax.tree.leaves(data)[0].shape[0])


def _at(data: Rows, index: Int[Array, " rows"]) -> Rows:
    return jax.tree.map(lambda array: array[index], data)


def mapped(function: Callable[..., Any], in_axes: tuple[int | None, ...]) -> Callable[..., Any]:
    """`jax.vmap`, but an axis of length one is taken off and put back, instead of carried through the program.

    Matrix products with a batch dimension of one make a small step on a CPU a fifth slower (docs/performance.md).
    """

    def call(*args: Any) -> Any:
        size = next(
            leaf.shape[0] for arg, axis in zip(args, in_axes, strict=True) if axis == 0 for leaf in jax.tree.leaves(arg)
        )
        if size > 1:
            return jax.vmap(function, in_axes)(*args)
        only = (
            arg if axis is None else jax.tree.map(lambda leaf: leaf[0], arg)
            for arg, axis in zip(args, in_axes, strict=True)
        )
        return jax.tree.map(lambda leaf: leaf[None], function(*only))

    return call


class TrainState(NamedTuple):
    """All that a run at some step consists of."""

    state: Any
    recent: dict[str, Float[Array, "chunk members"]]  # metrics of the steps of the chunk so far


class Diverged(Exception):
    """A metric or a part of the state is no longer finite."""

    def __init__(self, step: int, what: str, values: list[float], before: TrainState, batch: Any):
        super().__init__(f"{what} = {values} at step {step}: training diverged")
        self.step = step  # counted from 1
        self.what = what
        self.values = values  # one a member, or the first that is not finite
        self.before = before  # the last good state, of the step before
        self.batch = batch  # what each member learned from in this one; None where the stage does not tell


class Session(Protocol):
    """What surrounds a training run: where it resumes from, where its metrics go, whether it was asked to stop."""

    def restore(self, train: TrainState) -> tuple[TrainState, int]:
        """The last saved state and its step, or the given one and 0."""
        ...

    def record(self, step: int, steps: int, metrics: dict[str, Any] | None, train: TrainState) -> None:
        """Called after every burst of steps; may save, log, draw progress, or raise to stop.

        `metrics` are the means of the chunk that ended with this step; None within a chunk.
        """
        ...

    def diverged(self, failure: Diverged) -> tuple[TrainState, int]:
        """Where to go on from after training diverged; raises where it should not go on."""
        ...


class Quiet:
    """A session that keeps nothing, for training in memory."""

    def restore(self, train: TrainState) -> tuple[TrainState, int]:
        """Start at the beginning."""
        return train, 0

    def record(self, step: int, steps: int, metrics: dict[str, Any] | None, train: TrainState) -> None:
        """Keep nothing."""

    def diverged(self, failure: Diverged) -> tuple[TrainState, int]:
        """Give up.

        Raises:
            InputError: always.
        """
        raise InputError(f"{failure}; lower the learning rate or look for outliers in the data") from failure


@lru_cache(maxsize=16)
def _compiled(update: Update[State]) -> Callable[..., TrainState]:
    """Steps `start` to `stop` of every member."""

    def burst(
        train: TrainState, start: Array, stop: Array, keys: PRNGKeyArray, member_data: Any, shared_data: Any
    ) -> TrainState:
        def one_step(step: Array, train: TrainState) -> TrainState:
            state, metrics = mapped(update, (0, 0, None, 0))(
                train.state, member_data, shared_data, _step_keys(keys, step)
            )
            recent = {name: rows.at[step % rows.shape[0]].set(metrics[name]) for name, rows in train.recent.items()}
            return TrainState(state, recent)

        return jax.lax.fori_loop(start, stop, one_step, train)

    # The state before stays: should a step of the burst diverge, they are taken again one by one.
    return jax.jit(burst, out_shardings=everywhere())


def _step_keys(keys: PRNGKeyArray, step: Array | int) -> PRNGKeyArray:
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, step)


def fit(
    update: Update[State],
    state: State,
    *,
    member_data: Any,
    shared_data: Any,
    keys: PRNGKeyArray,
    steps: int,
    draw: Draw | None = None,
    chunk: int = CHUNK,
    session: Session | None = None,
) -> State:
    """Run `steps` updates of every member, on all devices, and return the final state, on the first.

    Args:
        update: one step of one member. The same function, on arrays of the same shapes, is compiled once a process.
        state: pytree of arrays with a leading `members` axis.
        member_data: pytree with a leading `members` axis (what differs by seed), or None.
        shared_data: what every member sees: a pytree, kept on the device whole, or a stream, of which an update gets
            the pool of its chunk.
        keys: one key a member.
        steps: total number of steps, counted from the very first start.
        draw: the batch that `update` draws with the same key, to be looked at should a step diverge.
        chunk: steps whose metrics are averaged, and after which a stream's pool moves on.
        session: where to resume from and report to.

    Raises:
        InputError: training diverged, and the session does not go on.
    """
    session = Quiet() if session is None else session
    shapes = jax.eval_shape(mapped(update, (0, 0, None, 0)), state, member_data, example(shared_data), keys)[1]
    recent = {name: jnp.zeros((chunk, *metric.shape), metric.dtype) for name, metric in shapes.items()}
    keys, member_data = replicate((keys, member_data))
    if not isinstance(shared_data, Stream):
        shared_data = replicate(shared_data)
    run = partial(_run, _compiled(update), draw, keys, member_data)
    train, done = _placed(session.restore(TrainState(state, recent)))
    while done < steps:
        try:
            with closing(_bursts(run, train, done, steps, chunk, shared_data)) as bursts:
                for train, done in bursts:
                    ended = done % chunk == 0 or done == steps
                    session.record(done, steps, _means(train, done) if ended else None, train)
        except Diverged as failure:
            train, done = _placed(session.diverged(failure))
    return on_one(train.state)


def _placed(start: tuple[TrainState, int]) -> tuple[TrainState, int]:
    """Where all processes go on from, on every device."""
    train, done = of_first((start[0], np.asarray(start[1])))
    return replicate(train), int(done)


def _bursts(
    run: Callable[[TrainState, int, int, Any], TrainState],
    train: TrainState,
    done: int,
    steps: int,
    chunk: int,
    shared_data: Any,
) -> Generator[tuple[TrainState, int], None, None]:
    """The state after each burst of steps, and how many are done by then; a burst ends with its chunk at the latest."""
    pace = 1  # at first one step, which compiles
    # Chunks begin at multiples of their length wherever training was continued, since a pool belongs to a chunk.
    with pools(shared_data, done // chunk) as each:
        while done < steps:
            pool, end = next(each), min(done - done % chunk + chunk, steps)
            while done < end:
                stop, began = min(done + pace, end), time.perf_counter()
                train = run(train, done, stop, pool)
                fitting = (stop - done) * PATIENCE / max(time.perf_counter() - began, 1e-9)
                pace = max(1, min(10 * max(pace, stop - done), int(fitting)))
                pace = int(of_first((np.asarray(pace),))[0])
                done = stop
                yield train, done


def _run(
    compiled: Callable[..., TrainState],
    draw: Draw | None,
    keys: PRNGKeyArray,
    member_data: Any,
    train: TrainState,
    start: int,
    stop: int,
    pool: Any,
) -> TrainState:
    """The state after some steps.

    Raises:
        Diverged: at the first of them after which something is not finite.
    """
    after = compiled(train, start, stop, keys, member_data, pool)
    if _odd(after, stop) is None:
        return after
    # Again one by one, to the same bits, to know the step and its batch and to have the state before it.
    for step in range(start, stop):
        after = compiled(train, step, step + 1, keys, member_data, pool)
        if (odd := _odd(after, step + 1)) is not None:
            batch = (
                None
                if draw is None
                else jax.jit(jax.vmap(draw, in_axes=(0, None, 0)), out_shardings=everywhere())(
                    member_data, pool, _step_keys(keys, step)
                )
            )
            raise Diverged(step + 1, *odd, train, batch)
        train = after
    raise AssertionError("the same steps gave other bits")


def metrics_so_far(train: TrainState, done: int) -> dict[str, Float[np.ndarray, "steps members"]]:
    """The metrics of the steps that are taken of the chunk that step number `done` is in."""
    return {name: np.asarray(rows)[: (done - 1) % len(rows) + 1] for name, rows in train.recent.items()}


def _means(train: TrainState, done: int) -> dict[str, Float[np.ndarray, " members"]]:
    return {
        name: np.asarray(np.mean(rows, axis=0, dtype=np.float64)) for name, rows in metrics_so_far(train, done).items()
    }


@jax.jit
def _finite(leaves: list[Array]) -> Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))


def _odd(train: TrainState, done: int) -> tuple[str, list[float]] | None:
    """What is not finite after step number `done`, and its values: a metric by its name, else a part of the state."""
    for name, rows in metrics_so_far(train, done).items():
        if not np.isfinite(rows).all():
            return name, np.ravel(rows[-1]).tolist()
    if _finite(jax.tree.leaves(train.state)):
        return None
    for path, leaf in jax.tree_util.tree_leaves_with_path(train.state):
        values = np.ravel(np.asarray(leaf))
        if not np.isfinite(values).all():
            return jax.tree_util.keystr(path, simple=True, separator="."), values[~np.isfinite(values)][:1].tolist()
    raise AssertionError("some leaf is not finite")
