"""The five verbs, small, on the bundled data."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import TINY

import tiltrl
from tiltrl.data.transforms import split_episodes
from tiltrl.evaluation.blocks import kept_in
from tiltrl.stages.behavior import train_behavior
from tiltrl.stages.keys import stage_key
from tiltrl.stages.prepare import behavior_data, scaling_of


@pytest.fixture(scope="module")
def small() -> tuple[tiltrl.Transitions, object]:
    _, _, data = split_episodes(tiltrl.load("demo"), 0.05, seed=0)
    return data, TINY


@pytest.fixture(scope="module")
def behavior(small):
    return tiltrl.fit_behavior(*small)


def test_from_data_to_episodes(small, behavior, tmp_path):
    data, preset = small
    critic = tiltrl.fit_critic(data, behavior, preset)
    assert critic.check is not None
    assert critic(data.obs[:7], data.action[:7]).shape == (7,)
    policy = tiltrl.align(behavior, critic, data, beta=1.0, preset=preset)
    episodes = tiltrl.evaluate(policy, episodes=2)
    assert episodes.returns.shape == (2,)
    policy.save(tmp_path / "policy")
    loaded = tiltrl.load_policy(tmp_path / "policy")
    policy.reset(3)
    loaded.reset(3)
    np.testing.assert_array_equal(loaded.sample(data.obs[:4]), policy.sample(data.obs[:4]))


def test_a_critic_of_no_rewards_is_refused(small, behavior):
    data, preset = small
    silent = dataclasses.replace(data, reward=np.zeros_like(data.reward))
    with pytest.raises(tiltrl.InputError, match="all rewards are 0.*--critic FILE:FUNCTION.*--preferences FILE"):
        tiltrl.fit_critic(silent, behavior, preset)


def test_alignment_follows_a_score_given_by_hand(small, behavior):
    """A score that likes the first action component must raise it, with no critic and no reward in sight."""
    data, preset = small
    long = dataclasses.replace(preset, align=dataclasses.replace(TINY.align, batch=64, steps=250))
    policy = tiltrl.align(behavior, lambda obs, action: action[:, 0], data, beta=0.5, preset=long)
    states = data.obs[:500]
    behavior.reset(0)
    policy.reset(0)
    before, after = behavior.sample(states)[:, 0].mean(), policy.sample(states)[:, 0].mean()
    assert after > before + 0.05
    assert (behavior.config.acting, policy.config.acting) == ("", "mean of 8"), "as the preset says"


@pytest.mark.parametrize("beta", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(small, behavior, beta):
    with pytest.raises(tiltrl.InputError, match="beta"):
        tiltrl.align(behavior, lambda obs, action: action[:, 0], small[0], beta=beta, preset=small[1])


def test_a_score_that_is_not_finite_is_refused(small, behavior):
    with pytest.raises(tiltrl.InputError, match="finite"):
        tiltrl.align(behavior, lambda obs, action: np.full(len(action), np.nan), small[0], beta=1.0, preset=small[1])


def test_episodes_beyond_a_block_change_none_before_and_go_on_from_those_kept(behavior, tmp_path, monkeypatch):
    monkeypatch.setattr("tiltrl.api.EPISODES_AT_ONCE", 2)
    few, heard = tiltrl.evaluate(behavior, episodes=2), []
    many = tiltrl.evaluate(behavior, 5, on_progress=lambda done, total: heard.append((done, total)))
    np.testing.assert_array_equal(many.returns[:2], few.returns)
    assert len(np.unique(many.returns)) == 5 and many.seeds.tolist() == list(range(10_000, 10_005))
    assert heard == sorted(heard) and heard[-1] == (3000, 3000)

    def killed_in_the_last_block(block, run):
        if block == 2:
            raise KeyboardInterrupt
        return kept_in(tmp_path)(block, run)

    with pytest.raises(KeyboardInterrupt):
        tiltrl.evaluate(behavior, 5, kept=killed_in_the_last_block)
    np.testing.assert_array_equal(tiltrl.evaluate(behavior, 5, kept=kept_in(tmp_path)).returns, many.returns)


def test_the_same_seed_gives_the_same_bits_and_a_seed_of_many_the_same_up_to_rounding(small):
    data, preset = small
    pairs = behavior_data(data, scaling_of(data, normalize=True))
    keys = jnp.stack([stage_key(seed, "behavior") for seed in range(3)])
    config = dataclasses.replace(preset.behavior, steps=40)
    alone, again = (train_behavior(pairs, config, keys[1:2]) for _ in range(2))
    together = train_behavior(pairs, config, keys)
    for a, b, c in zip(*map(jax.tree.leaves, (alone, again, together)), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(a[0], c[1], rtol=1e-4, atol=1e-5)
