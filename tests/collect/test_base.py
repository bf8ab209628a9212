"""One episode: what is recorded, and which environments can be."""

import gymnasium
import numpy as np
import pytest

from tiltrl.collect.base import describe, open_env, record, require
from tiltrl.collect.random import Uniform
from tiltrl.errors import InputError

Box, Dict, Discrete = gymnasium.spaces.Box, gymnasium.spaces.Dict, gymnasium.spaces.Discrete
VECTOR = Box(-np.inf, np.inf, (2,), np.float32)
ACTION = Box(-1.0, 1.0, (1,), np.float32)


class Line(gymnasium.Env):
    """Adds actions up; the task ends beyond 0.5, which the seed decides to be reachable or not."""

    observation_space = VECTOR
    action_space = ACTION

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = np.array([0.0, float(self.np_random.random())], np.float32)
        return self.x.copy(), {}

    def step(self, action):
        assert action.dtype == np.float32 and self.action_space.contains(action)
        self.x[0] += action[0]
        return self.x.copy(), float(action[0]), bool(self.x[0] > 0.5), False, {}


class Constant:
    """Always the same action."""

    def __init__(self, value):
        self.value = value

    def reset(self, env, seed, rng):
        return env.reset(seed=seed)[0]

    def act(self, env, obs, rng):
        return np.array([self.value])


@pytest.fixture
def line():
    gymnasium.register("Line-v0", f"{__name__}:Line", max_episode_steps=4)
    gymnasium.register("Endless-v0", f"{__name__}:Line")
    gymnasium.register("Nameless-v0", Line, max_episode_steps=4)
    env = open_env("Line-v0")
    yield env
    env.close()
    for name in ("Line-v0", "Endless-v0", "Nameless-v0"):
        del gymnasium.registry[name]


def test_the_last_step_of_a_timed_out_episode_has_its_true_next_observation(line):
    episode = record(line, Constant(-0.25), describe(line, "line")[0], 0.0, 3)
    np.testing.assert_array_equal(episode.obs[:, 0], [0.0, -0.25, -0.5, -0.75])
    np.testing.assert_array_equal(episode.next_obs[:, 0], [-0.25, -0.5, -0.75, -1.0])
    assert episode.timeout.tolist() == [False, False, False, True] and not episode.terminal.any()


def test_a_task_that_ends_is_terminal_and_no_timeout(line):
    episode = record(line, Constant(0.3), describe(line, "line")[0], 0.0, 3)
    assert episode.terminal.tolist() == [False, True] and not episode.timeout.any()


def test_what_is_recorded_is_what_was_done(line):
    episode = record(line, Constant(-5.0), describe(line, "line")[0], 0.0, 3)
    assert (episode.action == -1.0).all()
    np.testing.assert_array_equal(episode.reward, episode.action[:, 0])


def test_an_episode_is_a_function_of_its_seed(line):
    task, _ = describe(line, "line")
    one, again, other = (record(line, Constant(-0.2), task, 0.5, seed) for seed in (1, 1, 2))
    assert one.fingerprint() == again.fingerprint() != other.fingerprint()


def test_noise_has_the_deviation_it_is_asked_for(line):
    task, _ = describe(line, "line")
    actions = [record(line, Constant(0.0), task, 0.1, seed).action for seed in range(300)]
    assert np.concatenate(actions).std() == pytest.approx(0.1, rel=0.1)


def test_the_noise_is_not_what_the_environment_draws(line):
    """Both begin with the same seed, and a plain generator of it would give both the same numbers."""
    task, _ = describe(line, "line")
    episodes = [record(line, Uniform(), task, 0.0, seed) for seed in range(200)]
    first = np.array([(episode.obs[0, 1], episode.action[0, 0]) for episode in episodes])
    assert abs(np.corrcoef(first.T)[0, 1]) < 0.25


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "Hopper-v5"])
def test_random_actions_fill_the_bounds(env_id):
    env = open_env(env_id)
    task, _ = describe(env, env_id)
    episodes = [record(env, Uniform(), task, 0.0, seed) for seed in range(10)]
    env.close()
    action = np.concatenate([episode.action for episode in episodes])
    scaled = action / np.array(task.action_high)
    assert np.abs(scaled).max() <= 1.0
    assert scaled.std() == pytest.approx(3**-0.5, rel=0.1)
    assert episodes[0].task.env_spec == gymnasium.make(env_id, disable_env_checker=True).spec.to_json()


def test_leaves_of_dictionaries_are_joined_in_the_order_that_readers_use(line):
    line.unwrapped.observation_space = Dict({"desired_goal": VECTOR, "a": Dict({"b": VECTOR}), "observation": VECTOR})
    task, sizes = describe(line, "line")
    assert task.obs_keys == ("observation", "desired_goal", "a/b") and sizes == (2, 2, 2) and task.obs_dim == 6


@pytest.mark.parametrize(
    ("field", "space", "message"),
    [
        ("action_space", Discrete(2), "its actions are Discrete"),
        ("action_space", Box(-1.0, 1.0, (2, 2), np.float32), "Box of shape"),
        ("action_space", Box(0, 3, (2,), np.int32), "only continuous"),
        ("action_space", Box(-np.inf, 1.0, (2,), np.float32), "finite bounds"),
        ("observation_space", Discrete(2), "observes Discrete"),
        ("observation_space", Box(0, 255, (8, 8, 3), np.uint8), "only vectors"),
        ("observation_space", Dict({"image": Box(0, 1, (8, 8), np.float32)}), "only vectors"),
    ],
)
def test_spaces_that_cannot_be_recorded(line, field, space, message):
    setattr(line.unwrapped, field, space)
    with pytest.raises(InputError, match=message) as error:
        describe(line, "line")
    assert "--env Line-v0" in str(error.value)


def test_an_environment_that_may_never_end(line):
    with pytest.raises(InputError, match="Endless-v0: has no max_episode_steps"):
        open_env("Endless-v0")


def test_an_environment_that_a_file_cannot_name(line):
    with pytest.raises(InputError, match="Nameless-v0: its description is not JSON"):
        describe(open_env("Nameless-v0"), "line")


def test_an_environment_that_nobody_knows():
    with pytest.raises(InputError, match="'Nowhere-v7' is unknown"):
        open_env("Nowhere-v7")


@pytest.mark.parametrize(("package", "extra"), [("gymnasium_robotics", "robotics"), ("ogbench", "ogbench")])
def test_a_missing_package_is_named_with_its_extra(monkeypatch, package, extra):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(InputError, match=rf"it: needs the package {package}: `pip install 'tiltrl\[{extra}\]'`"):
        require(package, "it")
