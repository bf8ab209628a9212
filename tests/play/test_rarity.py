"""How rare an action is for a behavior."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest
import small_world

from tiltrl.diffusion.one_step import OneStep, OneStepConfig
from tiltrl.errors import InputError
from tiltrl.play.rarity import Rarity
from tiltrl.policy import Policy

OBS = np.array([0.3, -1.0, 2.0], np.float32)


def test_the_likeliest_is_rarer_than_nothing_and_the_unheard_of_than_all() -> None:
    rarity = Rarity(small_world.policy())  # Gaussian around 0
    assert rarity(OBS, np.zeros(2, np.float32)) <= 0.05
    assert rarity(OBS, np.full(2, 0.999, np.float32)) >= 0.9
    near, far = np.array([0.2, 0.2], np.float32), np.array([0.7, 0.7], np.float32)
    assert rarity(OBS, near) < rarity(OBS, far)


def test_of_the_behaviors_own_actions_the_shares_are_spread_evenly() -> None:
    behavior = small_world.policy(seed=1)
    rarity = Rarity(behavior)
    shares = [rarity(OBS, action) for action in behavior.sample(np.repeat(OBS[None], 200, axis=0))]
    assert np.abs(np.quantile(shares, [0.25, 0.5, 0.75]) - [0.25, 0.5, 0.75]).max() < 0.15


def test_it_draws_from_a_sequence_of_its_own() -> None:
    behavior, alone = small_world.policy(), small_world.policy()
    rarity = Rarity(behavior)
    first = rarity(OBS, OBS[:2] / 4)
    np.testing.assert_array_equal(behavior.sample(OBS), alone.sample(OBS))
    rarity.reset(0)
    assert rarity(OBS, OBS[:2] / 4) == first


def test_a_distilled_behavior_has_no_energies() -> None:
    shape = OneStepConfig(width=8, blocks=1)
    config = replace(small_world.policy().config, energy=None, one_step=shape)
    with pytest.raises(InputError, match="the policy is distilled"):
        Rarity(Policy(OneStep(3, 2, shape, key=jax.random.key(0)), config))
