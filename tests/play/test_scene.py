"""How environments are arranged for a picture."""

from __future__ import annotations

from contextlib import closing
from typing import Any, cast

import gymnasium

from tiltrl.play import scene


def test_the_camera_follows_what_runs_away() -> None:
    with closing(gymnasium.make("Hopper-v5", render_mode="rgb_array")) as env:
        inner = cast(Any, env.unwrapped)
        assert inner.mujoco_renderer.camera_id == -1, "Gymnasium's stands still"
        scene._arranged(inner)
        assert inner.mujoco_renderer.camera_id == inner.model.camera("track").id
        assert inner.model.vis.quality.shadowsize == 0


def test_an_environment_without_mujoco_is_left_alone() -> None:
    scene._arranged(object())
