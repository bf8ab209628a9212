"""How well scores are known, over seeds and data sets: Agarwal et al. 2021 (arXiv 2108.13264), by their rliable.

What is resampled are runs. A run is a seed's mean over its episodes where there are two seeds or more, and an episode
where there is one; then an interval is about that one trained policy, and says nothing of training it again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType

import numpy as np
from jaxtyping import Float

from tiltrl.errors import InputError
from tiltrl.evaluation.scores import Interval, interval

Runs = Float[np.ndarray, "runs data"]
RESAMPLES = 2000
"""As rliable has it for probabilities of improvement."""


@dataclass(frozen=True)
class Scores:
    """One policy's scores on one data set."""

    seeds: tuple[int, ...]
    values: Float[np.ndarray, "seeds episodes"]

    def of(self, seeds: Collection[int]) -> Scores:
        """The same of those seeds only, at least one of which is there."""
        kept = [i for i, seed in enumerate(self.seeds) if seed in seeds]
        return Scores(tuple(self.seeds[i] for i in kept), self.values[kept])

    @property
    def runs(self) -> Float[np.ndarray, " runs"]:
        """What is resampled."""
        return self.values[0] if len(self.seeds) == 1 else self.values.mean(axis=1)

    @property
    def known(self) -> Interval:
        """Mean and 95 % bootstrap interval over runs."""
        return interval(self.runs)


def check_library() -> None:
    """Refuse before long work what would fail after it.

    Raises:
        InputError: rliable is not installed.
    """
    _library()


def matrix(scores: Sequence[Scores]) -> Runs:
    """Runs of one policy on several data sets: of the seeds that all have, or of the episodes where that is one.

    Raises:
        InputError: they have no seed in common.
    """
    common = sorted(set.intersection(*(set(one.seeds) for one in scores)))
    if not common:
        raise InputError("scores: the data sets have no seed in common; run the same seeds on each")
    rows = [one.values[[one.seeds.index(seed) for seed in common]] for one in scores]
    if len(common) > 1:
        return np.stack([row.mean(axis=1) for row in rows], axis=1)
    fewest = min(row.shape[1] for row in rows)
    return np.stack([row[0, :fewest] for row in rows], axis=1)


def mean_and_iqm(runs: Runs) -> tuple[Interval, ...]:
    """Mean over data sets, and mean of the middle half of all runs, with 95 % stratified bootstrap intervals."""
    return _estimates(runs, lambda found: np.array([found.mean(), middle(found)]))


def improvement(ours: Runs, theirs: Runs) -> Interval:
    """Probability that a run of ours scores above one of theirs on the same data set, averaged over data sets."""
    return _estimates([ours, theirs], lambda x, y: np.array([above(x, y)]))[0]


def middle(runs: Runs) -> float:
    """The interquartile mean: rliable's `aggregate_iqm`, which takes ten times as long."""
    ordered, cut = np.sort(runs, axis=None), runs.size // 4
    return float(ordered[cut : runs.size - cut].mean())


def above(x: Runs, y: Runs) -> float:
    """The point estimate: rliable's `probability_of_improvement`, whose tests of ranks take a hundred times as long.

    Both are the Mann-Whitney statistic over the number of pairs, a tie being half.
    """
    pairs = x[:, None], y[None, :]
    return float(np.mean(np.greater(*pairs)) + np.mean(np.equal(*pairs)) / 2)


def _estimates(scores: Runs | list[Runs], func: Callable[..., np.ndarray]) -> tuple[Interval, ...]:
    library = _library()
    with _fixed_randomness():
        points, bounds = library.get_interval_estimates({"it": scores}, func, reps=RESAMPLES)
    low, high = bounds["it"]
    return tuple(Interval(*map(float, found)) for found in zip(points["it"], low, high, strict=True))


def _library() -> ModuleType:
    try:
        from rliable import library
    except ImportError as error:
        raise InputError("experiments need rliable: `pip install 'tiltrl[experiments]'`") from error
    return library


@contextmanager
def _fixed_randomness() -> Iterator[None]:
    """Equal scores, equal interval: rliable draws from NumPy's global generator, whatever seed it is given."""
    before = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(before)
