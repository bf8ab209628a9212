"""A student against a teacher whose map is known in closed form."""

from __future__ import annotations

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tiltrl.diffusion.one_step import OneStep, OneStepConfig
from tiltrl.diffusion.schedule import T_MIN, alpha_sigma
from tiltrl.errors import InputError
from tiltrl.stages.annotate import SamplerConfig
from tiltrl.stages.distill import (
    DistillConfig,
    agreement,
    choose_states,
    energy_distance,
    noise_and_actions,
    train_student,
    triples,
)
from tiltrl.training.rows import KeptRows

ACT, STD = 2, 0.2
SAMPLER = SamplerConfig(calls=30, solver="2m", grid="log_snr")
SMALL = DistillConfig(OneStepConfig(width=32, blocks=1, expansion=2), pairs=4096, steps=600, batch=256, average=0.99)
STATES = np.random.default_rng(0).uniform(-1.0, 1.0, (2048, 3)).astype(np.float32)


class Gaussian(eqx.Module):
    """The exact energy of actions from N(obs[0] / 4, STD^2), in the place of a network."""

    act_dim: int = eqx.field(static=True)

    def __call__(self, action: jax.Array, obs: jax.Array, t: jax.Array, *, key: None = None) -> jax.Array:
        alpha, sigma = alpha_sigma(t)
        away = action - 0.25 * alpha * obs[..., :1]
        return -jnp.sum(away**2, axis=-1) / (2 * ((STD * alpha) ** 2 + sigma**2))


def flow(noise: np.ndarray, obs: np.ndarray) -> np.ndarray:
    """Where the probability flow takes noise: it keeps each quantile, so the map is linear."""
    mean = 0.25 * obs[..., :1]
    (alpha_1, sigma_1), (alpha_0, sigma_0) = (tuple(map(float, alpha_sigma(jnp.array(t)))) for t in (1.0, T_MIN))
    quantile = (noise - alpha_1 * mean) / np.hypot(alpha_1 * STD, sigma_1)
    return np.clip(alpha_0 * mean + np.hypot(alpha_0 * STD, sigma_0) * quantile, -1.0, 1.0)


@pytest.fixture(scope="module")
def pairs() -> np.ndarray:
    return noise_and_actions(Gaussian(ACT), STATES, 2, SAMPLER, jax.random.key(0))


@pytest.fixture(scope="module")
def student(pairs: np.ndarray) -> OneStep:
    stacked = train_student(triples(STATES, pairs), SMALL, jax.random.key(1))
    return jax.tree.map(lambda leaf: leaf[0], stacked)


def test_the_teachers_answers_are_its_flow(pairs: np.ndarray) -> None:
    assert pairs.shape == (2048, 2, 2, ACT)
    noise, action = pairs[:, :, 0], pairs[:, :, 1]
    np.testing.assert_allclose(action, flow(noise, STATES[:, None]), atol=0.01)
    assert len(np.unique(noise)) > 0.99 * noise.size  # none used twice
    np.testing.assert_allclose([noise.mean(), noise.std()], [0.0, 1.0], atol=0.05)


def test_a_student_learns_the_linear_map_of_a_gaussian(student: OneStep) -> None:
    rng = np.random.default_rng(1)
    obs, noise = rng.uniform(-1, 1, (500, 3)).astype(np.float32), rng.normal(size=(500, ACT)).astype(np.float32)
    found = np.asarray(student(jnp.asarray(noise), jnp.asarray(obs)))
    assert np.sqrt(np.mean((found - flow(noise, obs)) ** 2)) < 0.1 * STD


def test_a_student_is_as_random_as_its_teacher(student: OneStep) -> None:
    near = agreement(student, Gaussian(ACT), STATES[:256], SAMPLER, jax.random.key(2))
    assert 0.0 < near.error < 0.1
    assert abs(near.distance) < 0.01
    assert 0.95 < near.spread < 1.05
    # One that answers with the mean has nearly as small an error as can be had without noise, and is found out.
    certain = eqx.tree_at(lambda s: s.embed_noise, student, jax.tree.map(jnp.zeros_like, student.embed_noise))
    far = agreement(certain, Gaussian(ACT), STATES[:256], SAMPLER, jax.random.key(2))
    assert far.spread < 1e-3 and far.distance > 0.3


def test_the_energy_distance_is_nought_in_the_mean_of_equal_distributions_alone() -> None:
    rng = np.random.default_rng(0)
    some, others = rng.normal(size=(2, 4000, 8, 1)).astype(np.float32)
    assert abs(energy_distance(some, others)) < 0.02
    # Of point masses at 0 and 1 it is twice their distance.
    np.testing.assert_allclose(energy_distance(np.zeros((1, 3, 1)), np.ones((1, 3, 1))), 2.0)


def test_an_interrupted_interview_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    whole = noise_and_actions(Gaussian(ACT), STATES, 8, SAMPLER, jax.random.key(0))

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    def ask(on_progress=None) -> np.ndarray:
        with KeptRows(tmp_path / "parts", print) as kept:
            return noise_and_actions(
                Gaussian(ACT), STATES, 8, SAMPLER, jax.random.key(0), kept=kept, on_progress=on_progress
            )

    with pytest.raises(KeyboardInterrupt):
        ask(interrupt)
    assert list((tmp_path / "parts").iterdir())
    np.testing.assert_array_equal(ask(), whole)


@pytest.mark.parametrize(("total", "states", "k"), [(10_000, 4096, 1), (4096, 4096, 1), (1000, 1000, 5)])
def test_there_are_as_many_states_as_pairs_or_as_there_are(total: int, states: int, k: int) -> None:
    index, noises = choose_states(total, SMALL, seed=0)
    assert (len(index), noises) == (states, k)
    assert (np.diff(index) > 0).all() and index[-1] < total


def test_settings_that_train_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="steps = 0; it must lie in 1 to"):
        DistillConfig(steps=0)
    assert DistillConfig(pairs=10, steps=10).scaled(0.01) == DistillConfig(pairs=1, steps=1)
