"""The scripted arm puts the cube in its place, and the same way each time."""

import numpy as np
import pytest

from tiltrl.collect.base import describe, record
from tiltrl.collect.cube import open_cube
from tiltrl.errors import InputError

pytest.importorskip("ogbench")


@pytest.fixture(scope="module")
def arm():
    env, hand = open_cube("cube-single-singletask-v0")
    yield env, hand, describe(env, "cube")[0]
    env.close()


def test_the_cube_gets_there_noise_or_not(arm):
    for seed, noise in enumerate((0.0, 0.3)):
        episode = record(*arm, noise, seed)
        assert episode.terminal[-1] and not episode.timeout[-1]
        assert len(episode) < 120
        np.testing.assert_array_equal(episode.reward, [-1.0] * (len(episode) - 1) + [0.0])


def test_an_episode_is_a_function_of_its_seed_in_any_process_and_order(arm):
    """OGBench steps with unseeded actions in its reset; none of it may be left in the state."""
    env, _, task = arm
    one, other, again = (record(*arm, 0.3, seed) for seed in (1, 2, 1))
    assert one.fingerprint() == again.fingerprint() != other.fingerprint()
    fresh, hand = open_cube(env.spec.id)
    assert record(fresh, hand, task, 0.3, 1).fingerprint() == one.fingerprint()
    fresh.close()


def test_global_random_numbers_are_left_as_they_were(arm):
    np.random.seed(5)
    expected = np.random.random()
    np.random.seed(5)
    env, hand, _ = arm
    hand.reset(env, 0, np.random.default_rng(0))
    assert np.random.random() == expected


@pytest.mark.parametrize("env_id", ["cube-single-v0", "visual-cube-single-singletask-v0", "scene-singletask-v0"])
def test_only_cubes_with_one_task(env_id):
    with pytest.raises(InputError, match=f"--env {env_id}: cube needs one of OGBench's"):
        open_cube(env_id)
