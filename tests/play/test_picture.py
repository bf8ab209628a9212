"""What stands in a frame."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tiltrl.play.picture import frame, strip

BLUE, GREEN, RED = (31, 119, 180), (44, 160, 44), (214, 39, 40)
GROUND = np.full((30, 40, 3), (10, 20, 30), np.uint8)


def scene(rewards: list[float], rarities: list[float] | None = None, label: str = "x", ended: str = "") -> Any:
    returns = np.cumsum(rewards).tolist()
    return SimpleNamespace(
        label=label, rewards=rewards, returns=returns, rarities=rarities or [], ended=ended, picture=lambda: GROUND
    )


def places(image: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """Rows and columns of a color's pixels."""
    return np.argwhere((image == color).all(axis=2))


def test_each_scene_has_its_picture_and_its_curves() -> None:
    one = frame([scene([1.0, 2.0])], 40, 120)
    two = frame([scene([1.0, 2.0]), scene([1.0])], 40, 120)
    assert one.dtype == np.uint8 and one.shape[1] == 120 and two.shape[1] == 248 and one.shape[0] == two.shape[0]
    assert all(size % 2 == 0 for size in (*one.shape[:2], *two.shape[:2]))
    assert len(places(one, (10, 20, 30))) == 120 * 90, "the picture as wide as asked, in its proportions"
    for color in (BLUE, GREEN):
        assert len(places(one, color)) and places(two, color)[:, 1].max() > 128
    assert not len(places(one, RED))


def test_rarity_has_a_row_where_it_is_known() -> None:
    without, judged = frame([scene([1.0])], 40, 120), frame([scene([1.0], [1.0])], 40, 120)
    assert judged.shape[0] == without.shape[0] + 62
    high, low = places(judged, RED)[:, 0].mean(), places(frame([scene([1.0], [0.0])], 40, 120), RED)[:, 0].mean()
    assert high < low


def test_axes_are_shared_so_that_heights_can_be_compared() -> None:
    image = frame([scene([5.0, 10.0]), scene([5.0, 5.0])], 40, 120)
    found = places(image, GREEN)
    left, right = found[found[:, 1] < 120], found[found[:, 1] > 128]
    assert left[:, 0].min() < right[:, 0].min() - 5


def test_curves_grow_to_the_right_and_have_room() -> None:
    ends = [places(frame([scene([1.0] * steps)], 1000, 400), BLUE)[:, 1].max() for steps in (2, 30, 64, 65, 1000)]
    assert ends[0] < ends[1] < ends[2] and ends[3] < ends[2] and ends[4] > 380


@pytest.mark.parametrize("rewards", [[0.0], [0.0] * 40, [-1e9, 1e9], [1e-30] * 3])
def test_any_rewards_can_be_drawn(rewards: list[float]) -> None:
    frame([scene(rewards)], 40, 64)


def test_a_long_name_keeps_its_end() -> None:
    short, long = (
        frame([scene([1.0], label=label)], 40, 120) for label in ("seed7", "a/very/long/path" * 20 + "seed7")
    )
    assert short.shape == long.shape
    assert not (long[:28, 112:] != 255).all()


def test_a_strip_is_as_wide_as_asked_and_keeps_frames_apart() -> None:
    image = strip([np.zeros((50, 100, 3), np.uint8), np.full((50, 100, 3), 100, np.uint8)], 448)
    assert image.size == (448, 100), "twice as large as the frames with their gap of 24"
    colors = [np.asarray(image)[50, column].tolist() for column in (20, 224, 400)]
    assert colors == [[0] * 3, [255] * 3, [100] * 3]
