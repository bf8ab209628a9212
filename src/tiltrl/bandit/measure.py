"""What in two dimensions can be known exactly, and how far the models are from it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from scipy.spatial import KDTree
from scipy.special import log_softmax, logsumexp, softmax

from tiltrl.bandit.datasets import EIGHT_DEVIATION, BanditSet, Points, Values, eight_centers, square
from tiltrl.diffusion.schedule import alpha_sigma

PROJECTIONS = 128


def sliced_wasserstein(a: Points, b: Points) -> float:
    """Mean 1-Wasserstein distance of the projections of two equally large samples on evenly spread directions."""
    angle = np.pi * np.arange(PROJECTIONS) / PROJECTIONS
    directions = np.stack([np.cos(angle), np.sin(angle)])
    return float(np.abs(np.sort(a @ directions, axis=0) - np.sort(b @ directions, axis=0)).mean())


def share_off_data(samples: Points, data: Points) -> float:
    """Share of samples that lie further from the nearest data point than 999 of 1000 points of data do."""
    tree, rest = KDTree(data[::2]), data[1::2]
    limit = np.quantile(tree.query(rest)[0], 0.999)
    return float(np.mean(tree.query(samples)[0] > limit))


def true_tilt(known: BanditSet, beta: float, n: int, rng: np.random.Generator, pool: int = 100_000) -> Points:
    """A sample of `mu exp(Q / beta)`: fresh data, resampled by self-normalized importance weights."""
    points = known.sample(pool, rng)
    q = known.q(points) / beta
    weights = np.exp(q - q.max())
    return points[rng.choice(pool, size=n, p=weights / weights.sum())]


def mean_distance(samples: Float[np.ndarray, "repeats n 2"], truth: Callable[[int], Points]) -> float:
    """Mean sliced Wasserstein distance between samples and equally large ones of the truth, a fresh one for each.

    Several samples, because the distance of one alone is a matter of luck.
    """
    return float(np.mean([sliced_wasserstein(some, truth(len(some))) for some in samples]))


def distance_to_tilt(
    known: BanditSet, beta: float, samples: Float[np.ndarray, "repeats n 2"], rng: np.random.Generator
) -> float:
    """That distance to the true tilt."""
    return mean_distance(samples, lambda n: true_tilt(known, beta, n, rng))


def floor_of_tilt(known: BanditSet, beta: float, n: int, rng: np.random.Generator, repeats: int = 8) -> float:
    """The same between two samples of the truth: what a perfect model of the tilt would reach."""
    return distance_to_tilt(known, beta, np.stack([true_tilt(known, beta, n, rng) for _ in range(repeats)]), rng)


def linear_agreement(implied: Values, true: Values) -> tuple[float, float]:
    """Pearson correlation, and the slope of the regression of the implied values on the true ones."""
    if true.std() == 0 or implied.std() == 0:
        return 0.0, 0.0  # a constant agrees with nothing
    correlation = float(np.corrcoef(implied, true)[0, 1])
    return correlation, correlation * float(implied.std() / true.std())


def offset_error(f: Values, log_density: Values) -> float:
    """Mean absolute difference after the best constant shift, in nats: energies are known up to a constant."""
    difference = f - log_density
    return float(np.abs(difference - np.median(difference)).mean())


def diffuse(points: Points, t: float, rng: np.random.Generator) -> Points:
    """A sample of mu_t for a sample of mu."""
    alpha, sigma = _alpha_sigma(t)
    return alpha * points + sigma * rng.normal(size=points.shape)


def eight_log_density(points: Points, t: float) -> Values:
    """Exact normalized log-density of the diffused eight Gaussians."""
    log_parts, variance = _eight_parts(points, t)
    return logsumexp(log_parts, axis=1) - np.log(8.0 * 2.0 * np.pi * variance)


def eight_score(points: Points, t: float) -> Points:
    """Exact gradient of that."""
    log_parts, variance = _eight_parts(points, t)
    alpha, _ = _alpha_sigma(t)
    return (softmax(log_parts, axis=1) @ (alpha * eight_centers()) - points) / variance


def eight_value(known: BanditSet, points: Points, t: float, size: int = 161) -> Values:
    """`log E[exp Q(a) | a_t]` (EDA, Lemma C.2) for the eight Gaussians, by quadrature over the plane."""
    grid = square(1.2, size)
    log_prior, q = eight_log_density(grid, 0.0), known.q(grid)
    alpha, sigma = _alpha_sigma(t)
    out = np.empty(len(points))
    for i, point in enumerate(points):  # a point at a time: the grid of one is what fits a processor's cache
        log_weight = log_prior - 0.5 * ((point - alpha * grid) ** 2).sum(axis=1) / sigma**2
        out[i] = logsumexp(log_softmax(log_weight) + q)
    return out


def _eight_parts(points: Points, t: float) -> tuple[Float[np.ndarray, "n 8"], float]:
    alpha, sigma = _alpha_sigma(t)
    variance = (alpha * EIGHT_DEVIATION) ** 2 + sigma**2
    away = points[:, None] - alpha * eight_centers()
    return -0.5 * (away**2).sum(axis=2) / variance, variance


def _alpha_sigma(t: float) -> tuple[float, float]:
    alpha, sigma = alpha_sigma(np.float32(t))  # pyright: ignore[reportArgumentType]
    return float(alpha), float(sigma)
