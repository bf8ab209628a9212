"""The table of references: what fits a name, what does not, and that no name fits twice."""

from __future__ import annotations

import re

import pytest
from synthetic import transitions

from tiltrl.data.registry import REFERENCES, UNKNOWN, Reference, env_id, reference, reference_of
from tiltrl.data.transforms import REWARD_TRANSFORMS

KNOWN = [
    ("HalfCheetah-v5", -280.178953, 12135.0, 1000, "locomotion"),
    ("Hopper-v5", -20.272305, 3234.3, 1000, "locomotion"),
    ("hopper-medium-v2", -20.272305, 3234.3, 1000, "locomotion"),
    ("walker2d-medium-replay-v2", 1.629008, 4592.3, 1000, "locomotion"),
    ("Ant-v5", -325.6, 3879.7, 1000, "locomotion"),
    ("AntMaze_UMaze-v4", 0.0, 1.0, 700, "antmaze"),
    ("AntMaze_Medium_Diverse_GR-v4", 0.0, 1.0, 1000, "antmaze"),
    ("antmaze-umaze-v2", 0.0, 1.0, 700, "antmaze"),
    ("antmaze-umaze-diverse-v2", 0.0, 1.0, 700, "antmaze"),
    ("antmaze-medium-play-v2", 0.0, 1.0, 1000, "antmaze"),
    ("antmaze-large-diverse-v0", 0.0, 1.0, 1000, "antmaze"),
    ("kitchen-complete-v0", 0.0, 4.0, 280, "kitchen"),
    ("FrankaKitchen-v1", 0.0, 4.0, 280, "kitchen"),
    ("pen-human-v1", 96.262799, 3076.8331017826877, 100, "none"),
    ("AdroitHandDoor-v1", -56.512833, 2880.5693087298737, 200, "none"),
    ("hammer-cloned-v1", -274.856578, 12794.134825156867, 200, "none"),
    ("relocate-expert-v1", -6.425911, 4233.877797728884, 200, "none"),
    ("maze2d-umaze-v1", 23.85, 161.86, 300, "none"),
    ("maze2d-umaze-dense-v1", 68.537689, 193.66285642381482, 300, "none"),
    ("maze2d-medium-v1", 13.13, 277.39, 600, "none"),
    ("maze2d-medium-dense-v1", 44.264742, 297.4552547777125, 600, "none"),
    ("maze2d-large-v1", 6.7, 273.99, 800, "none"),
    ("maze2d-large-dense-v1", 30.569041, 303.4857382709002, 800, "none"),
]


@pytest.mark.parametrize(("name", "low", "high", "horizon", "rewards"), KNOWN, ids=[row[0] for row in KNOWN])
def test_known_names(name: str, low: float, high: float, horizon: int, rewards: str) -> None:
    row = reference(name)
    assert (row.ref_min, row.ref_max, row.horizon, row.reward_transform) == (low, high, horizon, rewards)


@pytest.mark.parametrize(
    "name",
    [
        "",
        None,
        "Pendulum-v1",
        "MyHopper-v5",
        "Hopper",
        "Anthill-v0",
        "hopper-v5.npz",
        "antmaze-large-v0",  # OGBench's, whose rewards lie in -1 to 0
        "antmaze-large-navigate-singletask-v0",
        "antmaze-medium-stitch-v0",
        "AntMaze_UMazeDense-v4",
    ],
)
def test_unknown_names_have_no_reference(name: str | None) -> None:
    assert reference(name) is UNKNOWN


def test_no_name_fits_two_rows_and_every_transform_exists() -> None:
    for name, *_ in KNOWN:
        assert sum(re.fullmatch(row.pattern, name.lower()) is not None for row in REFERENCES) == 1, name
    assert {row.reward_transform for row in (*REFERENCES, UNKNOWN)} <= REWARD_TRANSFORMS.keys()


@pytest.mark.parametrize(
    ("dataset", "as_name"),
    [
        ("d4rl:antmaze-umaze-v2", "antmaze-umaze-v2"),
        ("d4rl:antmaze-umaze-v2[:0.1]+d4rl:antmaze-umaze-diverse-v2", "antmaze-umaze-v2"),
        ("somewhere/hopper_medium_expert-v2.hdf5?env=X-v0", "hopper-medium-expert-v2"),
        ("x/Ant_maze_u-maze_noisy_multistart_False_multigoal_False_sparse.hdf5", "antmaze-umaze-v2"),
        ("x/Ant_maze_big-maze_noisy_multistart_True_multigoal_True_sparse_fixed.hdf5", "antmaze-large-play-v2"),
        ("log.npz", ""),
    ],
)
def test_a_data_set_without_environment_is_known_by_its_name(dataset: str, as_name: str) -> None:
    row: Reference = reference_of(transitions([2], env_spec=None, dataset=dataset).task)
    assert row is reference(as_name)


def test_an_environment_comes_before_the_data_sets_name() -> None:
    assert reference_of(transitions([2], dataset="d4rl:antmaze-umaze-v2").task) is reference("Hopper-v5")


def test_env_id() -> None:
    assert env_id(transitions([2]).task) == "Hopper-v5"
    assert env_id(transitions([2], env_spec=None).task) is None
