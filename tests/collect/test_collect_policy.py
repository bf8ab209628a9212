"""A saved policy collects in its own environment, by its own randomness and the episode's seed."""

from dataclasses import replace
from pathlib import Path

import equinox as eqx
import gymnasium
import jax
import numpy as np
import pytest

from tiltrl.collect.base import record
from tiltrl.collect.policy import open_policy
from tiltrl.diffusion.energy import Energy, EnergyConfig
from tiltrl.errors import InputError
from tiltrl.policy import Policy, PolicyConfig, load_policy
from tiltrl.stages.annotate import SamplerConfig
from tiltrl.types import Scaling, Task

NETWORK = EnergyConfig(action_width=8, time_width=4, obs_width=4, blocks=1, expansion=1, time_features=4)
TASK = Task("pendulum", gymnasium.spec("Pendulum-v1").to_json(), (-2.0,), (2.0,), obs_dim=3)
CONFIG = PolicyConfig(
    task=TASK,
    scaling=Scaling((0.0,) * 3, (1.0,) * 3, TASK.action_low, TASK.action_high),
    energy=NETWORK,
    sampler=SamplerConfig(calls=3),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("policy") / "policy"
    Policy(eqx.filter_jit(Energy)(3, 1, NETWORK, key=jax.random.key(0)), CONFIG).save(folder)
    return folder


def test_an_episode_is_what_the_policy_does_with_that_seed(folder):
    env, source = open_policy(folder, None)
    episode = record(env, source, TASK, 0.0, seed=4)
    env.close()
    policy = load_policy(folder, seed=4)
    action = [policy.sample(obs) for obs in episode.obs[:5]]
    np.testing.assert_array_equal(episode.action[:5], action)
    assert len(episode) == 200 and episode.timeout[-1]


def test_the_order_of_episodes_does_not_matter(folder):
    env, source = open_policy(folder, "Pendulum-v1")
    first = [record(env, source, TASK, 0.1, seed).fingerprint() for seed in (0, 1)]
    second = [record(env, source, TASK, 0.1, seed).fingerprint() for seed in (1, 0)]
    env.close()
    assert first == second[::-1] and first[0] != first[1]


def test_another_policy_in_the_same_folder_is_noticed(folder, tmp_path):
    digests = set()
    for temperature in (0.0, 1.0):
        provenance = {"beta": temperature}
        policy = load_policy(folder)
        Policy(policy.network, replace(CONFIG, provenance=provenance)).save(tmp_path / "policy")
        env, source = open_policy(tmp_path / "policy", None)
        env.close()
        digests.add(source.digest)
    assert len(digests) == 2


def test_it_acts_in_its_own_environment_only(folder):
    with pytest.raises(InputError, match="--env Hopper-v5: the policy in .* acts in Pendulum-v1; leave --env out"):
        open_policy(folder, "Hopper-v5")
