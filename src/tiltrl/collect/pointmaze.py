"""A ball that walks through a maze: breadth-first waypoints and a PD controller, as D4RL's maze2d data was made.

PointMaze pays 1 for each step near the goal and goes on after it is reached (its defaults: a continuing task whose goal
stays), so a return counts the steps spent there, and arriving sooner pays. A walker that heads straight for the goal is
close to the best there is, noise or not: nothing is left to learn from it. Ours makes detours. Like D4RL's, it walks to
random cells; unlike D4RL's, each walk may be the one to the goal, where it stays. So the data shows every path, and
what comes of it, and the rewards say which walks were not worth it.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Float

from tiltrl.collect.base import open_env, require
from tiltrl.errors import InputError

Cell = tuple[int, int]
"""Row and column of the maze's map."""

_WALL = 1
_ARRIVED = 0.2  # from the target, in cells
_P, _D = 10.0, -1.0  # D4RL's gains


def distances(maze_map: list[list[Any]], goal: Cell) -> dict[Cell, int]:
    """Steps from every cell to the goal around the walls, by breadth-first search; cells that cannot reach it miss."""
    found = {goal: 0}
    queue = deque([goal])
    while queue:
        cell = queue.popleft()
        for row, column in _neighbors(cell):
            inside = 0 <= row < len(maze_map) and 0 <= column < len(maze_map[row])
            if inside and maze_map[row][column] != _WALL and (row, column) not in found:
                found[row, column] = found[cell] + 1
                queue.append((row, column))
    return found


def next_cell(distance: dict[Cell, int], cell: Cell) -> Cell:
    """The neighbor one step closer to the goal; the cell itself where there is none."""
    return min((cell, *(near for near in _neighbors(cell) if near in distance)), key=lambda c: distance.get(c, np.inf))


def pd_action(
    position: Float[np.ndarray, "2"], velocity: Float[np.ndarray, "2"], target: Float[np.ndarray, "2"]
) -> Float[np.ndarray, "2"]:
    """A force towards the target, less for the speed the ball has already."""
    return _P * (target - position) + _D * velocity


def _neighbors(cell: Cell) -> tuple[Cell, ...]:
    row, column = cell
    return (row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)


class Walker:
    """Walks to random cells, then to the goal: after each walk, and at first, it wanders on with chance `wander`."""

    def __init__(self, wander: float):
        self._wander = wander

    def reset(self, env: gymnasium.Env, seed: int, rng: np.random.Generator) -> Any:
        """Reset the environment and choose where to go first."""
        obs = env.reset(seed=seed)[0]
        self._choose(env, obs, rng)
        return obs

    def act(self, env: gymnasium.Env, obs: Any, rng: np.random.Generator) -> Float[np.ndarray, "2"]:
        """Towards the next cell of the way, or the target itself where that is the next cell or this one."""
        maze: Any = env.get_wrapper_attr("maze")
        position, velocity = obs["observation"][:2], obs["observation"][2:]
        if not self._home and np.linalg.norm(position - self._target) <= _ARRIVED * maze.maze_size_scaling:
            self._choose(env, obs, rng)
        ahead = next_cell(self._distance, _cell(maze, position))
        close = self._distance.get(ahead, 0) == 0
        return pd_action(position, velocity, self._target if close else maze.cell_rowcol_to_xy(np.array(ahead)))

    def _choose(self, env: gymnasium.Env, obs: Any, rng: np.random.Generator) -> None:
        maze: Any = env.get_wrapper_attr("maze")
        self._home = bool(rng.random() >= self._wander)
        if self._home:
            self._target = np.array(obs["desired_goal"])
        else:
            reachable = sorted(distances(maze.maze_map, _cell(maze, obs["observation"][:2])))
            self._target = maze.cell_rowcol_to_xy(np.array(reachable[rng.integers(len(reachable))]))
        self._distance = distances(maze.maze_map, _cell(maze, self._target))


def _cell(maze: Any, position: Float[np.ndarray, "2"]) -> Cell:
    row, column = maze.cell_xy_to_rowcol(position)
    return int(row), int(column)


def open_maze(env_id: str) -> gymnasium.Env:
    """Make a PointMaze environment of Gymnasium-Robotics.

    Raises:
        InputError: it is none, or the package is not installed.
    """
    if not env_id.startswith("PointMaze_"):
        raise InputError(f"--env {env_id}: waypoints need a PointMaze, such as PointMaze_UMaze-v3")
    require("gymnasium_robotics", "PointMaze")
    return open_env(env_id)
