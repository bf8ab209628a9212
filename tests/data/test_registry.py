"""The table of references: what fits an id, what does not, and that no id fits twice."""

from __future__ import annotations

from itertools import permutations

import pytest
from synthetic import transitions

from tiltrl.data.registry import REFERENCES, UNKNOWN, env_id, reference
from tiltrl.data.transforms import REWARD_TRANSFORMS


@pytest.mark.parametrize(
    ("name", "ref_min", "ref_max", "reward_transform"),
    [
        ("HalfCheetah-v5", -280.178953, 12135.0, "locomotion"),
        ("Hopper-v5", -20.272305, 3234.3, "locomotion"),
        ("hopper-medium-v2", -20.272305, 3234.3, "locomotion"),
        ("Walker2d-v5", 1.629008, 4592.3, "locomotion"),
        ("Ant-v5", -325.6, 3879.7, "locomotion"),
        ("AntMaze_UMaze-v4", 0.0, 1.0, "antmaze"),
        ("antmaze-large-play-v0", 0.0, 1.0, "antmaze"),
        ("FrankaKitchen-v1", 0.0, 4.0, "none"),
        ("AdroitHandDoor-v1", -56.512833, 2880.5693087298737, "none"),
        ("maze2d-umaze-v1", 23.85, 161.86, "none"),
        ("maze2d-umaze-dense-v1", 68.537689, 193.66285642381482, "none"),
    ],
)
def test_known_environments(name: str, ref_min: float, ref_max: float, reward_transform: str) -> None:
    row = reference(name)
    assert (row.ref_min, row.ref_max, row.reward_transform) == (ref_min, ref_max, reward_transform)


@pytest.mark.parametrize("name", ["", "Pendulum-v1", "MyHopper-v5", "Hopper", "Anthill-v0", None])
def test_unknown_environments_have_no_reference(name: str | None) -> None:
    assert reference(name) is UNKNOWN


def test_no_id_fits_two_rows_and_every_transform_exists() -> None:
    assert not [(a.prefix, b.prefix) for a, b in permutations(REFERENCES, 2) if a.prefix.startswith(b.prefix)]
    assert {row.reward_transform for row in (*REFERENCES, UNKNOWN)} <= REWARD_TRANSFORMS.keys()


def test_env_id() -> None:
    assert env_id(transitions([2]).task) == "Hopper-v5"
    assert env_id(transitions([2], env_spec=None).task) is None
