"""Six data sets in two dimensions, each with a Q-function: the paper's Figures 3, 7 and 8.

Points are actions of a bandit with a single state. They lie in the unit box, which is where TiltRL's networks live.
`q` is defined on the whole plane and lies in [0, 3]: at beta = 1 the best action is e^3, 20 times, more likely than the
worst, relative to the behavior.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from tiltrl.errors import InputError

Points = Float[np.ndarray, "n 2"]
Values = Float[np.ndarray, " n"]
Q_MAX = 3.0

RING_RADII = (0.2, 0.4, 0.6, 0.8)
EIGHT_RADIUS, EIGHT_DEVIATION = 0.7, 0.09
MOON_SCALE, MOON_CENTER = 0.5, np.array([0.5, 0.25])
ROLL_SCALE = 1.0 / 17.0
SPIRAL_TURNS, SPIRAL_NOISE = 1.5, 0.025


@dataclass(frozen=True)
class BanditSet:
    """A distribution in the plane and a value of each point."""

    name: str
    sample: Callable[[int, np.random.Generator], Points]
    q: Callable[[Points], Values]
    q_is: str  # what Q follows, for the figure


def square(half: float, size: int) -> Points:
    """A grid over [-half, half]^2, `size` points a side, row by row from the lower left."""
    axis = np.linspace(-half, half, size)
    return np.stack(np.meshgrid(axis, axis), axis=2).reshape(-1, 2)


def eight_centers() -> Float[np.ndarray, "8 2"]:
    """Centers of the eight Gaussians, counter-clockwise from the right."""
    angle = 2.0 * np.pi * np.arange(8) / 8
    return EIGHT_RADIUS * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _eight_sample(n: int, rng: np.random.Generator) -> Points:
    return eight_centers()[rng.integers(8, size=n)] + EIGHT_DEVIATION * rng.normal(size=(n, 2))


def _eight_q(points: Points) -> Values:
    # The index of the nearest center: constant within a Gaussian, a jump between two, where there is no data.
    distance = np.linalg.norm(points[:, None] - eight_centers(), axis=2)
    return Q_MAX * distance.argmin(axis=1) / 7.0


def _moons_sample(n: int, rng: np.random.Generator) -> Points:
    from sklearn.datasets import make_moons  # here, because it takes a second and only two of the sets need it

    points, _ = make_moons(n, noise=0.1, random_state=int(rng.integers(2**31)))
    return MOON_SCALE * (points - MOON_CENTER)


def _moons_q(points: Points) -> Values:
    # Which of the two half circles is nearer; scikit-learn's lie around (0, 0) and, upside down, (1, 0.5).
    x, y = (points / MOON_SCALE + MOON_CENTER).T
    upper = _half_circle_distance(x, y)
    lower = _half_circle_distance(1.0 - x, 0.5 - y)
    return Q_MAX * (lower < upper)


def _half_circle_distance(x: Values, y: Values) -> Values:
    """Distance to the upper half of the unit circle."""
    to_arc = np.abs(np.hypot(x, y) - 1.0)
    to_ends = np.minimum(np.hypot(x - 1.0, y), np.hypot(x + 1.0, y))
    return np.where(y >= 0, to_arc, to_ends)


def _roll_sample(n: int, rng: np.random.Generator) -> Points:
    from sklearn.datasets import make_swiss_roll

    points, _ = make_swiss_roll(n, noise=0.6, random_state=int(rng.integers(2**31)))
    return ROLL_SCALE * points[:, [0, 2]]


def _roll_q(points: Points) -> Values:
    # The roll runs from radius 1.5 pi to 4.5 pi, before scaling.
    radius = np.linalg.norm(points, axis=1) / ROLL_SCALE
    return Q_MAX * np.clip((radius / np.pi - 1.5) / 3.0, 0.0, 1.0)


def _rings_sample(n: int, rng: np.random.Generator) -> Points:
    angle = rng.uniform(0.0, 2.0 * np.pi, size=n)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return rng.choice(RING_RADII, size=n)[:, None] * circle + 0.02 * rng.normal(size=(n, 2))


def _rings_q(points: Points) -> Values:
    distance = np.abs(np.linalg.norm(points, axis=1)[:, None] - np.array(RING_RADII))
    return Q_MAX * distance.argmin(axis=1) / (len(RING_RADII) - 1)


def _board_sample(n: int, rng: np.random.Generator) -> Points:
    # Eight of sixteen squares of side 0.45, those whose row and column add up to an even number.
    column = rng.integers(4, size=n)
    row = 2 * rng.integers(2, size=n) + column % 2
    corner = np.stack([column, row], axis=1)
    return 0.45 * (corner + rng.uniform(size=(n, 2)) - 2.0)


def _board_q(points: Points) -> Values:
    # High in the squares of the lower left and upper right quarters.
    return Q_MAX * (points[:, 0] * points[:, 1] > 0)


def _spirals_sample(n: int, rng: np.random.Generator) -> Points:
    # Square roots of uniform numbers spread the points evenly along the arms.
    turn = 2.0 * np.pi * SPIRAL_TURNS * np.sqrt(rng.uniform(size=n))
    radius = 0.85 * turn / (2.0 * np.pi * SPIRAL_TURNS)
    arm = np.stack([-radius * np.cos(turn), radius * np.sin(turn)], axis=1) * rng.choice([-1.0, 1.0], size=(n, 1))
    return arm + SPIRAL_NOISE * rng.normal(size=(n, 2))


def _spirals_q(points: Points) -> Values:
    # Falls along the arms, from their common beginning outwards.
    return Q_MAX * np.clip(1.0 - np.linalg.norm(points, axis=1) / 0.85, 0.0, 1.0)


SETS = {
    known.name: known
    for known in (
        BanditSet("swissroll", _roll_sample, _roll_q, "radius"),
        BanditSet("8gaussians", _eight_sample, _eight_q, "place on the circle"),
        BanditSet("moons", _moons_sample, _moons_q, "side"),
        BanditSet("rings", _rings_sample, _rings_q, "ring"),
        BanditSet("checkerboard", _board_sample, _board_q, "square"),
        BanditSet("2spirals", _spirals_sample, _spirals_q, "place on the arm"),
    )
}


def bandit_set(name: str) -> BanditSet:
    """The data set of that name.

    Raises:
        InputError: there is none.
    """
    if name not in SETS:
        raise InputError(f"dataset {name!r} is unknown; choose one of {', '.join(SETS)}")
    return SETS[name]
