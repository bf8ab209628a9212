"""Frames of a clip: each scene's picture under its name, and curves of what has happened so far below it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from tiltrl.play.scene import Scene

_HEAD, _ROW, _MARGIN, _GAP = 30, 62, 8, 8  # pixels
_PAPER, _INK, _FAINT = "#ffffff", "#222222", "#d8d8d8"
_REWARD, _RETURN, _RARITY = "#1f77b4", "#2ca02c", "#d62728"
_UNUSUAL = 0.95  # one in twenty of the behavior's own actions lies above


def frame(scenes: Sequence[Scene], horizon: int, width: int) -> UInt8[np.ndarray, "height all 3"]:
    """All scenes side by side, with axes that they share. Height and width are even, as video needs.

    Args:
        scenes: at least one; all with the same rows of curves.
        horizon: steps of a whole episode.
        width: pixels of each scene; even.
    """
    pictures = [Image.fromarray(scene.picture()) for scene in scenes]
    height = 2 * max(round(width * picture.height / picture.width / 2) for picture in pictures)
    judged = bool(scenes[0].rarities)
    image = Image.new(
        "RGB", ((width + _GAP) * len(scenes) - _GAP, _HEAD + height + _ROW * (3 if judged else 2)), _PAPER
    )
    draw = ImageDraw.Draw(image)
    room = _room(max(len(scene.rewards) for scene in scenes), horizon)
    rewards, returns = _range([s.rewards for s in scenes]), _range([s.returns for s in scenes])
    for i, (scene, picture) in enumerate(zip(scenes, pictures, strict=True)):
        left = i * (width + _GAP)
        draw.text((left + _MARGIN, 6), _cut(scene.label, width * 2 // 3), _INK, _font())
        right = left + width - _MARGIN
        draw.text((right, 6), scene.ended or f"step {len(scene.rewards)}", _INK, _font(), anchor="ra")
        image.paste(picture.resize((width, height), Image.Resampling.BILINEAR), (left, _HEAD))
        box = (left + _MARGIN, _HEAD + height, right, _HEAD + height + _ROW)
        _curve(draw, box, f"reward {_last(scene.rewards)}", scene.rewards, rewards, room, _REWARD)
        box = _below(box)
        _curve(draw, box, f"return so far {_last(scene.returns)}", scene.returns, returns, room, _RETURN)
        if judged:
            box = _below(box)
            share = f"action rarer than {scene.rarities[-1]:.0%} of the behavior's here"
            _curve(draw, box, share, scene.rarities, (0.0, 1.0), room, _RARITY, mark=_UNUSUAL)
    return np.asarray(image)


def strip(frames: Sequence[UInt8[np.ndarray, "height width 3"]], width: int) -> Image.Image:
    """Frames in a row with gaps between, made as wide together as asked."""
    gap = np.full((frames[0].shape[0], 3 * _GAP, 3), 255, np.uint8)
    parts = [part for image in frames for part in (image, gap)][:-1]
    row = Image.fromarray(np.concatenate(parts, axis=1))
    return row.resize((width, round(row.height * width / row.width)), Image.Resampling.LANCZOS)


def _curve(
    draw: ImageDraw.ImageDraw,
    box: tuple[int, int, int, int],
    text: str,
    values: Sequence[float],
    bounds: tuple[float, float],
    room: int,
    color: str,
    mark: float | None = None,
) -> None:
    """A line through the values, from the box's left, with its name above it, and a faint line at `mark`."""
    left, top, right, bottom = box
    top, bottom = top + 24, bottom - 6
    draw.text((left, top - 20), text, _INK, _font())
    draw.line((left, bottom, right, bottom), _FAINT)
    low, high = bounds

    def place(step: int, value: float) -> tuple[float, float]:
        return left + (right - left) * step / (room - 1), bottom - (bottom - top) * (value - low) / (high - low)

    if mark is not None:
        draw.line((place(0, mark), place((room - 1), mark)), _FAINT)
    points = [place(step, value) for step, value in enumerate(values)]
    if points:
        draw.line(points, color, width=2)
        x, y = points[-1]
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), color)


def _below(box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    left, top, right, bottom = box
    return left, top + _ROW, right, bottom + _ROW


def _room(steps: int, horizon: int) -> int:
    """Steps that the curves have room for: in all frames few different numbers, so that they seldom shrink."""
    room = 64
    while room < steps:
        room *= 2
    return max(2, min(room, horizon))


def _range(curves: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Bounds that hold 0 and every value."""
    values = [0.0, *(value for curve in curves for value in curve)]
    low, high = min(values), max(values)
    return (low, high) if high > low else (low, low + 1.0)


def _last(values: Sequence[float]) -> str:
    return f"{values[-1]:.4g}" if values else ""


def _cut(text: str, width: int) -> str:
    """As much of the text's end as has room; a name's end tells policies apart."""
    while _font().getlength(text) > width:
        text = f"…{text[2:]}"
    return text


@lru_cache(maxsize=1)
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=14)
