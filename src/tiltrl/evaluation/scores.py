"""From returns to scores, and how well a score is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from tiltrl.errors import InputError
from tiltrl.evaluation.rollout import read_spec
from tiltrl.types import Task


@dataclass(frozen=True)
class Interval:
    """A mean and the bounds it is known to lie in, in the units of the scores."""

    mean: float
    low: float
    high: float


def normalized_score(returns: ArrayLike, task: Task) -> Float[np.ndarray, "..."]:
    """`100 (return - ref_min) / (ref_max - ref_min)` (D4RL's convention), or the raw returns without a reference.

    Args:
        returns: undiscounted raw returns, of any shape.
        task: holds the reference returns.

    Raises:
        InputError: the reference returns are equal.
    """
    raw = np.asarray(returns, dtype=np.float64)
    if task.ref_min is None or task.ref_max is None:
        return raw
    if task.ref_min == task.ref_max:
        raise InputError(f"{task.dataset}: ref_min and ref_max are both {task.ref_min}; they must differ")
    return 100.0 * (raw - task.ref_min) / (task.ref_max - task.ref_min)


def score_label(task: Task) -> str:
    """What the numbers of `normalized_score` are, for table heads and axes.

    It is never called a D4RL score: those are of D4RL's own data and its MuJoCo 2.1 environments, which Gymnasium does
    not provide.
    """
    place = task.dataset if task.env_spec is None else read_spec(task).id
    if task.ref_min is None or task.ref_max is None:
        return f"raw return, {place}"
    return f"normalized score, {place} (0 = {task.ref_min:.6g}, 100 = {task.ref_max:.6g}; not a D4RL score)"


def interval(values: ArrayLike, level: float = 0.95, resamples: int = 9999) -> Interval:
    """Bootstrap interval (percentile) of the mean over episodes: how far other episodes might have moved it.

    With several seeds, episodes are resampled within each seed (stratified), so that the interval is about these
    trained policies and not about training again. One episode a seed cannot be resampled within its seed; then the
    seeds are resampled. A single value gives low = high = mean: no spread was seen, not that there is none. The random
    numbers are fixed: equal values, equal interval.

    Args:
        values: (seeds, episodes), or (episodes,) for one seed.
        level: probability of covering the mean.
        resamples: bootstrap samples drawn.

    Raises:
        InputError: no values, or one that is not finite.
    """
    table = np.atleast_2d(np.asarray(values, dtype=np.float64))
    if table.size == 0 or not np.isfinite(table).all():
        raise InputError(f"scores: {table.shape} (seeds, episodes); at least one value is needed, and only finite ones")
    mean = float(table.mean())
    strata = table.T if table.shape[1] == 1 else table
    if not np.ptp(strata, axis=1).any():  # nothing to resample
        return Interval(mean, mean, mean)
    from scipy import stats  # here, because it takes half a second, which a command that fails should not cost

    bounds = stats.bootstrap(
        tuple(strata),
        lambda *samples, axis: np.mean([sample.mean(axis=axis) for sample in samples], axis=0),
        n_resamples=resamples,
        batch=max(1, 10_000_000 // table.size),  # at most 80 MB of resampled values at a time
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Interval(mean, float(bounds.low), float(bounds.high))
