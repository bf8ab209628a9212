"""The one training loop: every stage is an `update`, compiled once as a loop over as many steps as are asked for.

Seeds are a `vmap`: a state carries a leading `members` axis, and `--seeds 5` is the same program as `--seeds 1`. Each
step's randomness is a function of the member's key and the step's number alone, and the number of steps taken in one go
changes no bit, so that a run which was stopped anywhere and continued is the run that was not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from tiltrl.errors import InputError
from tiltrl.training.stream import example, pools

State = TypeVar("State")
Metrics = dict[str, Float[Array, ""]]
Update = Callable[[State, Any, Any, PRNGKeyArray], tuple[State, Metrics]]
"""One step of one member: `(state, member_data, shared_data, key) -> (state, metrics)`."""
Draw = Callable[[Any, Any, PRNGKeyArray], Any]
"""The rows that a step learns from: `(member_data, shared_data, key) -> batch`, as its update draws them."""

CHUNK = 250
"""Steps whose metrics are averaged to one; a stream's pool moves on after as many."""
PATIENCE = 0.5
"""Seconds, about, that the loop computes without listening."""


class Progress(NamedTuple):
    """All that a run at some step consists of."""

    state: Any
    recent: dict[str, Float[Array, "chunk members"]]  # metrics of the steps of the chunk so far


class Diverged(Exception):
    """A metric or a part of the state is no longer finite."""

    def __init__(self, step: int, what: str, values: list[float], healthy: dict[str, np.ndarray], progress: Progress):
        super().__init__(f"{what} = {values} at step {step}: training diverged")
        self.step = step  # counted from 1
        self.what = what
        self.values = values  # one a member, or the first that is not finite
        self.healthy = healthy  # metrics of the chunk's steps before, an axis of steps and one of members
        self.progress = progress  # after it
        self.batch: Any = None  # what each member learned from in it; None where the stage does not tell


class Session(Protocol):
    """What surrounds a training run: where it resumes from, where its metrics go, whether it was asked to stop."""

    def restore(self, progress: Progress) -> tuple[Progress, int]:
        """The last saved progress and its step, or the given one and 0."""
        ...

    def record(self, step: int, steps: int, metrics: dict[str, Any] | None, progress: Progress) -> None:
        """Called after every burst of steps; may save, log, draw progress, or raise to stop.

        `metrics` are the means of the chunk that ended with this step; None within a chunk.
        """
        ...

    def diverged(self, failure: Diverged) -> tuple[Progress, int]:
        """Where to go on from after training diverged; raises where it should not go on."""
        ...


class Quiet:
    """A session that keeps nothing, for training in memory."""

    def restore(self, progress: Progress) -> tuple[Progress, int]:
        """Start at the beginning."""
        return progress, 0

    def record(self, step: int, steps: int, metrics: dict[str, Any] | None, progress: Progress) -> None:
        """Keep nothing."""

    def diverged(self, failure: Diverged) -> tuple[Progress, int]:
        """Give up.

        Raises:
            InputError: always.
        """
        raise InputError(f"{failure}; lower the learning rate or look for outliers in the data") from failure


@lru_cache(maxsize=16)
def _compiled(update: Update[State]) -> Callable[..., tuple[Progress, Bool[Array, ""]]]:
    """Steps `start` to `stop` of every member, and whether all numbers are finite after them."""

    def burst(
        progress: Progress, start: Array, stop: Array, keys: PRNGKeyArray, member_data: Any, shared_data: Any
    ) -> tuple[Progress, Bool[Array, ""]]:
        def one_step(step: Array, progress: Progress) -> Progress:
            step_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, step)
            state, metrics = jax.vmap(update, in_axes=(0, 0, None, 0))(
                progress.state, member_data, shared_data, step_keys
            )
            recent = {name: rows.at[step % rows.shape[0]].set(metrics[name]) for name, rows in progress.recent.items()}
            return Progress(state, recent)

        progress = jax.lax.fori_loop(start, stop, one_step, progress)
        finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(progress.state)]
        return progress, jnp.all(jnp.stack(finite))

    return jax.jit(burst, donate_argnums=0)


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
    """Run `steps` updates of every member and return the final state.

    Args:
        update: one step of one member. The same function, on arrays of the same shapes, is compiled once a process.
        state: pytree of arrays with a leading `members` axis. Its buffers are donated: do not use it afterwards.
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
    compiled = _compiled(update)
    members = jax.vmap(update, in_axes=(0, 0, None, 0))
    shapes = jax.eval_shape(members, state, member_data, example(shared_data), keys)[1]
    recent = {name: jnp.zeros((chunk, *metric.shape), metric.dtype) for name, metric in shapes.items()}
    progress, done = session.restore(Progress(state, recent))
    pace = 1
    while done < steps:
        try:
            # Chunks begin at multiples of their length wherever training was continued: a pool belongs to a chunk.
            with pools(shared_data, done // chunk) as each:
                while done < steps:
                    pool, end = next(each), min(done - done % chunk + chunk, steps)
                    while done < end:
                        stop, began = min(done + pace, end), time.perf_counter()
                        progress, finite = compiled(progress, done, stop, keys, member_data, pool)
                        rows = _rows(jax.device_get(progress.recent), stop, chunk)
                        pace = _pace(stop - done, time.perf_counter() - began)
                        if (failure := _failure(rows, bool(finite), stop, progress)) is not None:
                            if draw is not None:
                                step_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, failure.step - 1)
                                failure.batch = jax.vmap(draw, in_axes=(0, None, 0))(member_data, pool, step_keys)
                            raise failure
                        done = stop
                        means = {name: np.mean(row, axis=0, dtype=np.float64) for name, row in rows.items()}
                        session.record(done, steps, means if done == end else None, progress)
        except Diverged as failure:
            progress, done = session.diverged(failure)
    return progress.state


def _pace(steps: int, seconds: float) -> int:
    """How many steps would have taken as long as one should have to wait; at first, of those that compile, one."""
    return max(1, min(10 * steps, int(steps * PATIENCE / max(seconds, 1e-9))))


def _rows(recent: dict[str, np.ndarray], done: int, chunk: int) -> dict[str, np.ndarray]:
    """The metrics of the chunk's steps that are taken."""
    return {name: rows[: (done - 1) % chunk + 1] for name, rows in recent.items()}


def _failure(rows: dict[str, np.ndarray], finite: bool, stop: int, progress: Progress) -> Diverged | None:
    """The first step of the chunk of which a metric is not finite, or the last where only the state is not."""
    steps = len(next(iter(rows.values())))
    first = {name: _first_bad(row) for name, row in rows.items()}
    name = min(first, key=lambda name: first[name])
    at = first[name]
    if at == steps and finite:
        return None
    if at < steps:
        what, values = name, np.ravel(rows[name][at]).tolist()
    else:
        what, values = _first_bad_leaf(progress.state)
        at = steps - 1
    healthy = {name: row[:at] for name, row in rows.items()}
    return Diverged(stop - steps + at + 1, what, values, healthy, progress)


def _first_bad(rows: np.ndarray) -> int:
    """Index of the first row that is not finite; their number where all are."""
    bad = ~np.isfinite(rows).reshape(len(rows), -1).all(axis=1)
    return int(np.argmax(bad)) if bad.any() else len(rows)


def _first_bad_leaf(state: Any) -> tuple[str, list[float]]:
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        values = np.ravel(np.asarray(leaf))
        if not np.isfinite(values).all():
            return jax.tree_util.keystr(path, simple=True, separator="."), values[~np.isfinite(values)][:1].tolist()
    raise AssertionError("called where some leaf is not finite")
