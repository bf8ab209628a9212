"""Simulators put into recorded states: what was recorded happens again, or the environment is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing

import gymnasium
import numpy as np
import pytest

from tiltrl.errors import InputError
from tiltrl.evaluation.montecarlo import RewardUnits, returns_from, reward_units
from tiltrl.evaluation.reset import Simulator, reproduced, require_reproduced, whole_states
from tiltrl.types import Task

Steps = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def record(env_id: str, steps: int = 30) -> tuple[Task, Steps]:
    """A task, and steps of random actions in it: observation, action, reward, next observation."""
    with closing(gymnasium.make(env_id)) as env:
        assert isinstance(env.action_space, gymnasium.spaces.Box) and env.spec is not None
        rng = np.random.default_rng(0)
        low, high = env.action_space.low, env.action_space.high
        keys = ("observation", "achieved_goal", "desired_goal") if "PointMaze" in env_id else ()
        size = 8 if keys else env.observation_space.shape[0]  # pyright: ignore[reportOptionalSubscript]
        spec = json.dumps({"id": env_id, "max_episode_steps": 1000})
        task = Task("log.npz", spec, tuple(low.tolist()), tuple(high.tolist()), size, obs_keys=keys)
        found: list[tuple[np.ndarray, ...]] = []
        seen, _ = env.reset(seed=0)
        for _ in range(steps):
            action = rng.uniform(low, high).astype(np.float32)
            after, reward, terminal, timeout, _ = env.step(action)
            found.append((task.flat_obs(seen), action, np.asarray(reward, np.float32), task.flat_obs(after)))
            seen = env.reset(seed=1)[0] if terminal or timeout else after
    obs, actions, rewards, following = (np.stack(part) for part in zip(*found, strict=True))
    return task, (obs, actions, rewards, following)


@pytest.fixture(scope="module")
def hopper() -> Iterator[tuple[Task, Steps]]:
    yield record("Hopper-v5")


@pytest.mark.parametrize("env_id", ["Hopper-v5", "HalfCheetah-v5", "Walker2d-v5", "InvertedPendulum-v5"])
def test_recorded_steps_happen_again(env_id: str) -> None:
    task, (obs, action, reward, following) = record(env_id)
    whole = whole_states(obs)
    assert whole.sum() >= 5
    with closing(Simulator(task)) as simulator:
        for i in np.flatnonzero(whole):
            np.testing.assert_allclose(simulator.set_state(obs[i]), obs[i], rtol=1e-6, atol=1e-6)
            seen, paid, _ = simulator.step(action[i])
            np.testing.assert_allclose(seen, following[i], rtol=1e-4, atol=1e-5)
            assert paid == pytest.approx(reward[i], rel=1e-4, abs=1e-5)
        found = reproduced(simulator, obs, action, reward, following)
        assert (found == whole).all()
    require_reproduced(found[whole], env_id)


def test_a_reward_that_depends_on_more_than_what_is_seen_is_noticed() -> None:
    """Ant's is paid for positions as they were a part of a step before."""
    task, (obs, *step) = record("Ant-v5")
    with closing(Simulator(task)) as simulator:
        assert np.isnan(simulator.set_state(obs[5])[27:]).all(), "forces are no state"
        with pytest.raises(InputError, match="Ant: put into 30 recorded states"):
            require_reproduced(reproduced(simulator, obs, *step), "Ant")


def test_a_maze_is_reset_with_its_goal() -> None:
    pytest.importorskip("gymnasium_robotics")
    gymnasium.register_envs(__import__("gymnasium_robotics"))
    task, steps = record("PointMaze_UMaze-v3")
    with closing(Simulator(task)) as simulator:
        assert reproduced(simulator, *steps).all()


@pytest.mark.parametrize("part", [0, 2, 3])
def test_what_does_not_happen_again_is_seen(part: int, hopper: tuple[Task, Steps]) -> None:
    task, steps = hopper
    moved = [*steps]
    moved[part] = steps[part] + 0.05
    with closing(Simulator(task)) as simulator:
        found = reproduced(simulator, *moved)
    assert not found.any()
    with pytest.raises(InputError, match=r"Hopper: put into 30 recorded states, it reproduces .* of 0 \(at least 90%"):
        require_reproduced(found, "Hopper")


def test_a_velocity_that_was_cut_off_is_no_state(hopper: tuple[Task, Steps]) -> None:
    task, steps = hopper
    obs = steps[0][:1].copy()
    obs[0, -1] = 12.0
    with closing(Simulator(task)) as simulator:
        obs[0] = simulator.set_state(obs[0])
        assert obs[0, -1] == 10.0 and whole_states(obs).tolist() == [False]


@pytest.mark.parametrize("env_id", ["Reacher-v5", "InvertedDoublePendulum-v5", "Pusher-v5"])
def test_an_observation_that_does_not_hold_the_state_is_refused(env_id: str) -> None:
    task, _ = record(env_id, steps=1)
    with pytest.raises(InputError, match=f"{env_id}: its observation .* does not hold the simulator's state"):
        Simulator(task)


def test_an_environment_without_mujoco_is_refused() -> None:
    task, _ = record("Pendulum-v1", steps=1)
    with pytest.raises(InputError, match="only Gymnasium's MuJoCo environments can"):
        Simulator(task)


def test_returns_are_discounted_and_end_with_the_task(hopper: tuple[Task, Steps]) -> None:
    task, (obs, *_) = hopper
    units, still = RewardUnits(2.0, 0.5), np.zeros((2, 3), np.float32)
    with closing(Simulator(task)) as one, closing(Simulator(task)) as other:
        expected = []
        for state in obs[:2]:
            one.set_state(state)
            paid, terminal, total, step = 0.0, False, 0.0, 0
            while not terminal and step < 200:
                _, paid, terminal = one.step(still[0])
                total += 0.9**step * (2.0 * paid + 0.5)
                step += 1
            assert terminal, "who does nothing falls"
            expected.append(total)
        options = {"discount": 0.9, "units": units}
        found = returns_from([one, other], obs[:2], lambda *_: still, horizon=200, **options)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        once = returns_from([one, other], obs[:2], lambda *_: still, horizon=1, **options)
        one.set_state(obs[0])
        assert once[0] == pytest.approx(2.0 * one.step(still[0])[1] + 0.5)


@pytest.mark.parametrize(("scale", "shift"), [(3.0, 0.0), (1.0, -1.0), (0.25, 0.0)])
def test_the_units_of_rewards_are_found_in_the_data(scale: float, shift: float) -> None:
    raw = np.array([0.0, 2.0, -1.5, 0.3])
    found = reward_units(raw, scale * raw + shift)
    assert (found.scale, found.shift) == pytest.approx((scale, shift))


def test_equal_rewards_have_a_shift_alone() -> None:
    assert reward_units(np.ones(3), np.zeros(3)) == RewardUnits(1.0, -1.0)
