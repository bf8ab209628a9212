"""Candidates and their values."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tiltrl.diffusion.schedule import alpha_sigma
from tiltrl.errors import InputError
from tiltrl.stages.annotate import (
    AnnotateConfig,
    SamplerConfig,
    annotate,
    choose_states,
    make_candidates,
    sample_candidates,
    scaled_values,
)
from tiltrl.types import Scaling

OBS, ACT = 2, 1
SAMPLER = SamplerConfig(calls=10, solver="2m", grid="log_snr")
SCALING = Scaling((1.0, 0.0), (2.0, 1.0), (-3.0,), (5.0,))
STATES = np.random.default_rng(0).normal(size=(5, OBS)).astype(np.float32)
VALUES = np.array([[1.0, 2.0, 6.0], [0.0, 0.0, 3.0], [2.0, 2.5, 2.0]], np.float32)


class Gaussian(eqx.Module):
    """The exact energy of actions from N(obs[0] / 10, 0.1^2), in the place of a network."""

    act_dim: int = eqx.field(static=True)  # tells the sampler the size of an action

    def __call__(self, action: jax.Array, obs: jax.Array, t: jax.Array, *, key: None = None) -> jax.Array:
        alpha, sigma = alpha_sigma(t)
        return -jnp.sum((action - 0.1 * alpha * obs[..., :1]) ** 2, axis=-1) / (2 * (0.01 * alpha**2 + sigma**2))


@pytest.fixture(scope="module")
def energy() -> Gaussian:
    return Gaussian(ACT)


def test_candidates_are_different_actions_of_their_own_state(energy: Gaussian) -> None:
    heard: list[tuple[int, int]] = []
    found = sample_candidates(
        energy, STATES, 200, SAMPLER, jax.random.key(0), batch=2, on_progress=lambda *done: heard.append(done)
    )
    assert found.shape == (5, 200, ACT)
    np.testing.assert_allclose(found.mean(axis=(1, 2)), 0.1 * STATES[:, 0], atol=0.05)
    assert len(np.unique(found)) == found.size  # no noise used twice
    assert heard == [(2, 5), (4, 5), (5, 5)]


def test_one_candidate_is_too_few(energy: Gaussian) -> None:
    with pytest.raises(InputError, match="k = 1; at least 2"):
        sample_candidates(energy, STATES, 1, SAMPLER, jax.random.key(0))


def test_each_candidate_is_scored_at_its_own_state() -> None:
    action = np.arange(30, dtype=np.float32).reshape(5, 3, 2)
    q = annotate(lambda obs, a: 100 * obs[:, 0] + a[:, 1], STATES, action)
    np.testing.assert_allclose(q, 100 * STATES[:, :1] + action[..., 1], rtol=1e-6)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (np.zeros((15, 1)), r"score returned shape \(15, 1\) for 15 actions; expected \(15,\)"),
        (np.where(np.arange(15) == 7, np.nan, 0.0), "score returned nan"),
        (np.where(np.arange(15) == 7, -np.inf, 0.0), "score returned -inf"),
    ],
)
def test_scores_that_cannot_be_used(result: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        annotate(lambda obs, action: result, STATES, np.zeros((5, 3, 1), np.float32))


def test_values_are_multiplied_by_the_fixed_scale() -> None:
    np.testing.assert_array_equal(scaled_values(VALUES, AnnotateConfig(scale=3.0), trust=0.1), 3 * VALUES)


def test_normalized_values_spread_by_the_trust_whatever_their_units() -> None:
    config = AnnotateConfig(normalize=True)
    found, centered = scaled_values(VALUES, config, trust=0.5), VALUES - VALUES.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(found.mean(axis=1), 0.0, atol=1e-6)
    np.testing.assert_allclose(found.std(), 0.5, rtol=1e-6)
    # One unit for all states: where less is at stake, less is asked for.
    np.testing.assert_allclose(found.std(axis=1) / found.std(), VALUES.std(axis=1) / centered.std(), rtol=1e-5)
    moved = scaled_values(10 * VALUES + np.array([[7.0], [-9.0], [0.0]], np.float32), config, trust=0.5)
    np.testing.assert_allclose(moved, found, atol=1e-5)


def test_equal_values_ask_for_no_tilt() -> None:
    assert not scaled_values(np.full((2, 3), 4.0, np.float32), AnnotateConfig(normalize=True), 1.0).any()


def test_candidates_and_scores_are_in_the_environments_units(energy: Gaussian) -> None:
    config, score = AnnotateConfig(k=4, scale=2.0), lambda obs, action: obs[:, 0] + action[:, 0]
    found = make_candidates(energy, SCALING, STATES, score, 1.0, config, SAMPLER, jax.random.key(0))
    unit = sample_candidates(energy, SCALING.normalize_obs(STATES), 4, SAMPLER, jax.random.key(0))
    np.testing.assert_allclose(found.action, 1.0 + 4.0 * unit, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.q, 2.0 * (STATES[:, :1] + found.action[..., 0]), rtol=1e-5)
    np.testing.assert_array_equal(found.obs, STATES)


def test_states_are_a_share_of_the_data_without_repetition() -> None:
    config = AnnotateConfig(states=30)
    np.testing.assert_array_equal(choose_states(10, 1.0, config, 0), np.arange(10))
    for fraction, count in ((0.5, 30), (0.2, 20), (1e-6, 1)):
        chosen = choose_states(100, fraction, config, 0)
        assert len(chosen) == count and (np.diff(chosen) > 0).all()
    assert not np.array_equal(choose_states(100, 0.2, config, 0), choose_states(100, 0.2, config, 1))


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.1, float("nan")])
def test_shares_that_are_none(fraction: float) -> None:
    with pytest.raises(InputError, match="label_fraction"):
        choose_states(10, fraction, AnnotateConfig(), 0)
