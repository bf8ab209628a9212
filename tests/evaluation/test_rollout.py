"""Episodes in lockstep are the episodes one would have run alone."""

import json
import sys
import warnings
from dataclasses import replace

import gymnasium
import numpy as np
import pytest

from tiltrl.errors import InputError
from tiltrl.evaluation.rollout import check_environment, make_env, rollout
from tiltrl.types import Task

HOPPER = Task("hopper", gymnasium.spec("Hopper-v5").to_json(), (-1.0,) * 3, (1.0,) * 3, obs_dim=11)


def hopper(**changes):
    return replace(HOPPER, env_spec=json.dumps(json.loads(HOPPER.env_spec) | changes))


class Counter(gymnasium.Env):
    """Counts its steps and rewards the action; ends after a length that the seed decides (seed s: s + 2 steps)."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,))
    action_space = gymnasium.spaces.Box(-2.0, 2.0, (1,))
    open = 0

    def __init__(self, broken=False):
        type(self).open += 1
        self.broken = broken

    def reset(self, *, seed=None, options=None):
        self.steps, self.seed = 0, seed
        return np.array([0.0, seed]), {}

    def step(self, action):
        if self.broken:
            raise RuntimeError("the simulator broke")
        assert self.action_space.contains(action)
        assert self.steps < self.seed + 2, "stepped after its end"
        self.steps += 1
        return np.array([self.steps, self.seed]), float(action[0]), self.steps == self.seed + 2, False, {}

    def close(self):
        type(self).open -= 1


@pytest.fixture
def counter():
    Counter.open = 0
    gymnasium.register("Counter-v0", Counter, max_episode_steps=4)
    gymnasium.register("Endless-v0", Counter)
    yield Task("counter", spec("Counter-v0"), (-2.0,), (2.0,), obs_dim=2)
    del gymnasium.registry["Counter-v0"], gymnasium.registry["Endless-v0"]
    assert Counter.open == 0  # whatever happened, every environment was closed


def spec(env_id, **changes):
    return json.dumps({"id": env_id, "entry_point": "somewhere:Else", "additional_wrappers": []} | changes)


def test_equals_single_environments_with_the_same_seeds_and_actions():
    task = hopper(max_episode_steps=30)
    actions = np.random.default_rng(0).uniform(-1, 1, (30, 4, 3)).astype(np.float32)
    returns, lengths = np.zeros(4), np.zeros(4, dtype=int)
    for i in range(4):
        env = gymnasium.make("Hopper-v5", max_episode_steps=30)
        env.reset(seed=7 + i)
        done = False
        while not done:
            _, reward, terminal, timeout, _ = env.step(actions[lengths[i], i])
            returns[i] += reward
            lengths[i] += 1
            done = terminal or timeout
        env.close()
    episodes = rollout(lambda obs, step: actions[step], task, episodes=4, seed=7)
    np.testing.assert_array_equal(episodes.returns, returns)
    np.testing.assert_array_equal(episodes.lengths, lengths)
    np.testing.assert_array_equal(episodes.seeds, [7, 8, 9, 10])
    assert len(set(lengths)) > 1, "the episodes should end at different steps for this test to mean something"


def test_batch_stays_whole_finished_episodes_keep_their_last_observation_and_progress_is_told(counter):
    seen, progress = [], []

    def act(obs, step):
        seen.append(obs)
        assert obs.dtype == np.float32
        return np.full((3, 1), 1.0 + step)  # steps 2 and 3 overstep the bound of 2

    episodes = rollout(act, counter, episodes=3, seed=0, on_step=lambda *told: progress.append(told))
    np.testing.assert_array_equal(episodes.lengths, [2, 3, 4])
    np.testing.assert_array_equal(episodes.returns, [1 + 2, 1 + 2 + 2, 1 + 2 + 2 + 2])
    np.testing.assert_array_equal(np.stack(seen)[:, :, 0], [[0, 0, 0], [1, 1, 1], [2, 2, 2], [2, 3, 3]])
    assert progress == [(1, 4, 3), (2, 4, 2), (3, 4, 1), (4, 4, 0)]


class Goals(Counter):
    """Counter with a Dict observation, nested, whose keys come in the alphabet's order."""

    observation_space = gymnasium.spaces.Dict(
        {
            "achieved_goal": gymnasium.spaces.Dict({"steps": gymnasium.spaces.Box(-9, 9, (1,))}),
            "extra": gymnasium.spaces.Box(-9, 9, (1,)),
            "observation": gymnasium.spaces.Box(-9, 9, (2,)),
        }
    )

    def reset(self, **arguments):
        obs, info = super().reset(**arguments)
        return self.told(obs), info

    def step(self, action):
        obs, *rest = super().step(action)
        return self.told(obs), *rest

    def told(self, obs):
        return {"achieved_goal": {"steps": obs[:1] * 10}, "extra": np.array([7.0]), "observation": obs}


@pytest.fixture
def goals(counter):
    gymnasium.register("Goals-v0", Goals, max_episode_steps=4)
    keys = ("observation", "achieved_goal/steps", "extra")
    yield replace(counter, env_spec=spec("Goals-v0"), obs_dim=4, obs_keys=keys)
    del gymnasium.registry["Goals-v0"]


def test_dict_observations_are_joined_as_in_the_data(goals):
    seen = []
    rollout(lambda obs, step: seen.append(obs) or np.zeros((1, 1)), goals, episodes=1, seed=0)
    np.testing.assert_array_equal(np.concatenate(seen), [[0, 0, 0, 7], [1, 0, 10, 7]])
    assert seen[0].dtype == np.float32


def test_dict_observations_that_do_not_fit_the_data(goals):
    for changes in ({"obs_keys": ()}, {"obs_keys": ("observation", "wind"), "obs_dim": 4}, {"obs_dim": 5}):
        with pytest.raises(InputError, match=r"Goals-v0: its observations are Dict.*but those of the data have \d dim"):
            check_environment(replace(goals, **changes))


def test_the_horizon_of_the_data_ends_episodes(counter):
    short = replace(counter, env_spec=spec("Counter-v0", max_episode_steps=3))
    episodes = rollout(lambda obs, step: np.zeros((1, 1)), short, episodes=1, seed=5)
    assert episodes.lengths == [3]


def test_environments_are_closed_when_the_simulator_or_the_policy_breaks(counter):
    broken = replace(counter, env_spec=spec("Counter-v0", kwargs={"broken": True}))
    with pytest.raises(RuntimeError, match="simulator broke"):
        rollout(lambda obs, step: np.zeros((2, 1)), broken, episodes=2, seed=0)
    with pytest.raises(InputError, match=r"policy: actions have shape \(1, 1\), not \(2, 1\)"):
        rollout(lambda obs, step: np.zeros((1, 1)), counter, episodes=2, seed=0)
    with pytest.raises(InputError, match="policy: an action is NaN or infinite at step 0"):
        rollout(lambda obs, step: np.full((2, 1), np.nan), counter, episodes=2, seed=0)


def test_an_action_after_the_end_may_be_anything(counter):
    def act(obs, step):
        return np.array([[np.nan if step >= 2 else 0.0], [0.0]])

    np.testing.assert_array_equal(rollout(act, counter, episodes=2, seed=0).lengths, [2, 3])


def test_an_outdated_version_gives_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_env(replace(HOPPER, env_spec=gymnasium.spec("Hopper-v4").to_json())).close()


def test_a_data_set_cannot_choose_what_runs():
    task = hopper(entry_point="os:system")
    make_env(task).close()
    wrapper = {"name": "Evil", "entry_point": "os:system", "kwargs": {}}
    with pytest.raises(InputError, match="recorded through the wrappers Evil"):
        make_env(hopper(additional_wrappers=[wrapper]))


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (replace(HOPPER, env_spec=None), "hopper: the data names no environment"),
        (replace(HOPPER, env_spec="{"), "hopper: env_spec: not readable as JSON"),
        (replace(HOPPER, env_spec="{}"), "hopper: env_spec: is no object with an id, as Gymnasium's EnvSpec is"),
        (hopper(id="Hopper-v99"), r"Hopper-v99: is unknown to Gymnasium .* `pip install` the package"),
        (hopper(max_episode_steps=-1), "hopper: env_spec: field max_episode_steps: Input should be greater than"),
        (hopper(kwargs={"xml_file": "/tmp/robot.xml"}), "argument 'xml_file' is '/tmp/robot.xml', which may name a"),
        (hopper(id="Hopper-v3"), "Hopper-v3: cannot be made: .*(gymnasium-robotics|mujoco_py)"),
        (hopper(kwargs={"gravity": 1}), "Hopper-v5: cannot be made: .*unexpected keyword argument 'gravity'"),
        (replace(HOPPER, obs_dim=12), r"observations are Box.*\(11,\).*, but those of the data have 12 dim"),
        (replace(HOPPER, action_low=(-1.0,) * 2), r"actions are Box.*\(3,\).*, but those of the data have 2 dim"),
        (replace(HOPPER, action_high=(2.0,) * 3), r"to \[1.0, 1.0, 1.0\], but those of the data in .* to \[2.0, 2.0"),
    ],
)
def test_what_cannot_be_evaluated_is_named_in_one_line(task, message):
    with pytest.raises(InputError, match=message) as caught:
        check_environment(task)
    assert "\n" not in str(caught.value)


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", None)  # import fails, installed or not
    with pytest.raises(InputError, match=r"PointMaze_UMaze-v99: is not installed: `pip install 'tiltrl\[robotics\]'`"):
        check_environment(hopper(id="PointMaze_UMaze-v99", entry_point="gymnasium_robotics.envs.maze:PointMazeEnv"))


def test_an_environment_without_horizon_is_refused(counter):
    with pytest.raises(InputError, match="Endless-v0: has no max_episode_steps"):
        check_environment(replace(counter, env_spec=spec("Endless-v0")))


@pytest.mark.parametrize(("episodes", "seed"), [(0, 0), (1, -1)])
def test_no_episodes_and_negative_seeds_are_refused(episodes, seed):
    with pytest.raises(InputError, match=f"episodes = {episodes}, seed = {seed}"):
        rollout(lambda obs, step: obs, HOPPER, episodes=episodes, seed=seed)
