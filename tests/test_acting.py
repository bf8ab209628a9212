"""Acting: one program a shape, which moves its key on."""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import numpy as np
import pytest

from tiltrl.acting import Actor, _program, best_actions, draw_actions
from tiltrl.diffusion.energy import Energy, EnergyConfig
from tiltrl.diffusion.one_step import OneStep, OneStepConfig
from tiltrl.stages.annotate import SamplerConfig
from tiltrl.stages.critics.networks import Critic, CriticShape, init_critic

OBS, ACT = 3, 2
SAMPLER = SamplerConfig(calls=3, solver="2m", grid="quadratic")
STATES = np.random.default_rng(0).normal(size=(4, OBS)).astype(np.float32)
SHAPE = CriticShape(width=8, depth=1, layer_norm=False, q_ensemble=2, v_ensemble=1, dueling=True)


draw, best = eqx.filter_jit(draw_actions), eqx.filter_jit(best_actions)


def energy(seed: int) -> Energy:
    config = EnergyConfig(action_width=8, time_width=4, obs_width=4, blocks=1, expansion=1, time_features=4)
    return eqx.filter_jit(Energy)(OBS, ACT, config, key=jax.random.key(seed))


@pytest.fixture(scope="module")
def critic() -> Critic:
    return eqx.filter_jit(init_critic)(OBS, ACT, SHAPE, key=jax.random.key(1))


def started(actor: Actor, seed: int) -> Actor:
    actor.reset(jax.random.key(seed))
    return actor


def test_actions_are_what_the_solver_makes_of_the_keys_in_turn() -> None:
    network, key = energy(0), jax.random.key(5)
    actor = started(Actor(network, None, SAMPLER, 1, 1.0), 5)
    for _ in range(3):
        key, use = jax.random.split(key)
        expected = np.asarray(draw(network, STATES, SAMPLER, use, 1))[:, 0]
        np.testing.assert_allclose(actor(STATES), expected, rtol=1e-5, atol=1e-6)


def test_a_sequence_starts_anew_with_its_key_and_goes_on_over_all_sizes() -> None:
    actor = Actor(energy(0), None, SAMPLER, 1, 1.0)
    runs = []
    for seed in (1, 1, 2):
        started(actor, seed)
        runs.append([actor(STATES), actor(STATES[:1]), actor(STATES)])
    assert all(np.array_equal(a, b) for a, b in zip(runs[0], runs[1], strict=True))
    assert not np.array_equal(runs[0][0], runs[2][0]) and not np.array_equal(runs[0][0], runs[0][2])


def one_step(seed: int) -> OneStep:
    return eqx.filter_jit(OneStep)(OBS, ACT, OneStepConfig(8, 1, 1), key=jax.random.key(seed))


@pytest.mark.parametrize("make", [energy, one_step])
def test_the_best_of_several_is_the_critics(make: Callable[[int], Energy | OneStep], critic: Critic) -> None:
    network, (_, use) = make(0), jax.random.split(jax.random.key(0))
    drawn = draw(network, STATES, SAMPLER, use, 5)
    q = jax.jit(jax.vmap(lambda o, actions: jax.vmap(lambda a: critic(o, a, 1.0))(actions)))(STATES, drawn)
    expected = np.asarray(drawn)[np.arange(4), np.argmax(q, axis=1)]
    np.testing.assert_allclose(best(critic, STATES, drawn, 1.0), expected)
    actor = started(Actor(network, critic, SAMPLER, 5, 1.0), 0)
    np.testing.assert_allclose(actor(STATES), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [energy, one_step])
def test_without_a_critic_the_mean_of_several_is_taken(make: Callable[[int], Energy | OneStep]) -> None:
    network, (_, use) = make(0), jax.random.split(jax.random.key(0))
    drawn = np.asarray(draw(network, STATES, SAMPLER, use, 5))
    actor = started(Actor(network, None, SAMPLER, 5, 1.0), 0)
    np.testing.assert_allclose(actor(STATES), drawn.mean(axis=1), rtol=1e-5, atol=1e-6)


def test_policies_of_equal_shapes_share_one_program() -> None:
    before = _program.cache_info().misses
    for seed in (10, 11):
        actor = started(Actor(energy(seed), None, SamplerConfig(calls=2), 1, 1.0), 0)
        for _ in range(3):
            actor(STATES[:2])
    assert _program.cache_info().misses == before + 1
