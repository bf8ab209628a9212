"""The picture of a data set: drawn whatever the data, legible however many dimensions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from synthetic import transitions

from tiltrl.data.figure import SHOWN, draw
from tiltrl.errors import InputError
from tiltrl.types import Transitions


def of_dims(obs: int, act: int) -> Transitions:
    """Ten random episodes; observations of growing scale."""
    rng = np.random.default_rng(0)
    data = transitions([5] * 10, rng.normal(size=50), obs_dim=obs, action_low=(-1.0,) * act, action_high=(2.0,) * act)
    seen = (rng.normal(size=(51, obs)) * np.logspace(-2, 3, obs)).astype(np.float32)
    action = rng.uniform(-1, 2, (50, act)).astype(np.float32)
    return replace(data, obs=seen[:-1], next_obs=seen[1:], action=action)


def height(data: Transitions, path: Path) -> int:
    draw(data, path)
    picture = matplotlib.image.imread(path)
    assert picture[..., :3].std() > 0.05  # not an empty page
    return picture.shape[0]


def test_pictures_grow_with_the_dimensions_up_to_what_is_shown(tmp_path: Path) -> None:
    few, many, more = (height(of_dims(dims, 2), tmp_path / f"{dims}.png") for dims in (3, SHOWN, 111))
    assert few < many == more


@pytest.mark.parametrize(
    "data",
    [
        transitions([1]),
        transitions([2, 2], reward=np.zeros(4), ref_min=0.0, ref_max=1.0),
        transitions([2, 2], reward=[1e6, 0, 1e6, 0.0625]),
        transitions([2, 2], reward=[0.1, 0.2, 0.1, np.nextafter(np.float32(0.2), np.float32(1))]),
        transitions([3, 9], terminal=False, env_spec=None),
        replace(of_dims(1, 1), obs=np.zeros((50, 1), np.float32)),
        transitions([2], dataset="$a + b$ [x] " * 20),
    ],
    ids=[
        "one step",
        "equal returns",
        "rounding",
        "less rounding",
        "no environment",
        "all zero",
        "an odd and long name",
    ],
)
def test_odd_data_is_drawn(tmp_path: Path, data: Transitions) -> None:
    assert height(data, tmp_path / "deep" / "set.png") > 300


def test_unusable_data_or_paths(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no steps"):
        draw(transitions([1]).take(np.arange(0)), tmp_path / "set.png")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file/set.png: cannot be written"):
        draw(transitions([1]), tmp_path / "file" / "set.png")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
