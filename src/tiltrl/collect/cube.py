"""OGBench's scripted robot arm, which picks cubes up and places them where a single-task environment wants them.

The hand is OGBench's own Markovian oracle, a closed loop that recovers from noise. It was made for collecting data
towards random targets and reads its target from there; here it is told the task's, so that rewards, observations and
the end of an episode are those that a policy will be evaluated on. OGBench pays minus the number of cubes that are not
in place at each step and ends when all are, so being quick pays.
"""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium
import mujoco as untyped_mujoco
import numpy as np
from jaxtyping import Float

from tiltrl.collect.base import open_env, require
from tiltrl.errors import InputError

mujoco: Any = untyped_mujoco  # its functions are compiled and have no stubs
_IN_PLACE = 0.04  # meters; OGBench's own measure


class Hand:
    """Moves one cube after the other to its place."""

    def __init__(self, oracle: Any):
        self._oracle = oracle

    def reset(self, env: gymnasium.Env, seed: int, rng: np.random.Generator) -> Any:
        """Reset the environment to a state that the seed alone decides, and the oracle.

        OGBench steps the simulator with unseeded actions within its reset and keeps the solver's memory and contact
        forces of that, so we set the same positions in a clean simulator once more.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it builds its action space anew, which remarks on its precision
            env.reset(seed=seed)
        unwrapped: Any = env.unwrapped
        model, data = unwrapped.model, unwrapped.data
        kept = data.qpos.copy(), data.mocap_pos.copy(), data.mocap_quat.copy()
        mujoco.mj_resetData(model, data)
        data.qpos[:], data.mocap_pos[:], data.mocap_quat[:] = kept
        unwrapped.pre_step()
        mujoco.mj_forward(model, data)
        unwrapped.post_step()
        before = np.random.get_state()
        np.random.seed(rng.integers(2**32))  # the oracle draws from NumPy's global numbers
        self._oracle.reset(None, None)
        np.random.set_state(before)
        return unwrapped.compute_observation()

    def act(self, env: gymnasium.Env, obs: Any, rng: np.random.Generator) -> Float[np.ndarray, "5"]:
        """What the oracle does about the first cube that is out of place."""
        unwrapped: Any = env.unwrapped
        data, info = unwrapped.data, unwrapped.compute_ob_info()
        targets = data.mocap_pos
        cubes = np.array([info[f"privileged/block_{i}_pos"] for i in range(len(targets))])
        out = np.flatnonzero(np.linalg.norm(cubes - targets, axis=1) > _IN_PLACE)
        cube = int(out[0]) if len(out) else 0
        w, x, y, z = data.mocap_quat[cube]
        told = {
            "privileged/target_block": cube,
            "privileged/target_block_pos": targets[cube].copy(),
            "privileged/target_block_yaw": np.array([np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))]),
        }
        return self._oracle.select_action(obs, info | told)


def open_cube(env_id: str) -> tuple[gymnasium.Env, Hand]:
    """Make one of OGBench's cube environments with a single task, and the hand for it.

    Raises:
        InputError: it is none, or the package is not installed.
    """
    if not (env_id.startswith("cube-") and "-singletask" in env_id):
        raise InputError(f"--env {env_id}: cube needs one of OGBench's, such as cube-single-singletask-v0")
    require("ogbench", "cube")
    from ogbench.manipspace.oracles.markov.cube_markov import CubeMarkovOracle  # an extra, so not at the top

    env = open_env(env_id)
    return env, Hand(CubeMarkovOracle(env=env))
