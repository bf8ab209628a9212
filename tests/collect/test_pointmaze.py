"""The way through a maze, by hand; and a ball that arrives."""

import numpy as np
import pytest

from tiltrl.collect.base import describe, record
from tiltrl.collect.pointmaze import Walker, distances, next_cell, open_maze, pd_action
from tiltrl.errors import InputError

# Two ways around a block, one shorter; and a cell behind walls.
MAP = [
    [1, 1, 1, 1, 1, 1],
    [1, 0, "g", 0, 1, 1],
    [1, 0, 1, 0, 1, 0],
    [1, "r", 1, 0, 1, 1],
    [1, 1, 1, 1, 1, 1],
]


def test_distances_go_around_walls():
    assert distances(MAP, (3, 3)) == {
        (3, 3): 0,
        (2, 3): 1,
        (1, 3): 2,
        (1, 2): 3,
        (1, 1): 4,
        (2, 1): 5,
        (3, 1): 6,
    }


def test_a_map_without_a_wall_around_it_ends_at_its_edge():
    assert distances([[0, 0], [1, 0]], (0, 0)) == {(0, 0): 0, (0, 1): 1, (1, 1): 2}


def test_each_next_cell_is_one_step_closer_and_the_goal_is_its_own():
    way = distances(MAP, (3, 3))
    cell, walked = (3, 1), [(3, 1)]
    while cell != (3, 3):
        cell = next_cell(way, cell)
        walked.append(cell)
    assert walked == [(3, 1), (2, 1), (1, 1), (1, 2), (1, 3), (2, 3), (3, 3)]
    assert next_cell(way, (3, 3)) == (3, 3)


def test_where_no_way_leads_to_the_goal_the_ball_stays():
    assert next_cell(distances(MAP, (3, 3)), (2, 5)) == (2, 5)


def test_the_force_points_to_the_target_and_against_the_speed():
    force = pd_action(np.array([1.0, 0.0]), np.array([0.5, -2.0]), np.array([1.2, 0.0]))
    np.testing.assert_allclose(force, [10 * 0.2 - 0.5, 2.0])


@pytest.fixture(scope="module")
def maze():
    pytest.importorskip("gymnasium_robotics")
    env = open_maze("PointMaze_UMaze-v3")
    yield env
    env.close()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_that_never_wanders_arrives_and_stays(maze, seed):
    task, _ = describe(maze, "maze")
    episode = record(maze, Walker(wander=0.0), task, 0.5, seed)
    arrived = int(np.argmax(episode.reward > 0))
    assert 0 < arrived < 120
    assert episode.reward[arrived:].mean() > 0.95
    assert len(episode) == 300
    assert episode.timeout[-1] and not episode.terminal.any()


def test_one_that_only_wanders_comes_by_now_and_then_at_most(maze):
    task, _ = describe(maze, "maze")
    returns = [record(maze, Walker(wander=w), task, 0.5, seed).returns[0] for w in (0.0, 1.0) for seed in range(4)]
    assert np.mean(returns[4:]) < 0.5 * np.mean(returns[:4])


def test_the_goal_stays_where_it_is_and_is_told(maze):
    task, sizes = describe(maze, "maze")
    assert task.obs_keys == ("observation", "achieved_goal", "desired_goal") and sizes == (4, 2, 2)
    episode = record(maze, Walker(wander=0.5), task, 0.5, 0)
    assert (episode.obs[:, 6:] == episode.obs[0, 6:]).all()
    np.testing.assert_array_equal(episode.obs[:, :2], episode.obs[:, 4:6])
    near = np.linalg.norm(episode.next_obs[:, 4:6] - episode.next_obs[:, 6:], axis=1) <= 0.45
    np.testing.assert_array_equal(episode.reward, near.astype(np.float32))


def test_only_mazes_have_waypoints():
    with pytest.raises(InputError, match="Hopper-v5: waypoints need a PointMaze"):
        open_maze("Hopper-v5")
