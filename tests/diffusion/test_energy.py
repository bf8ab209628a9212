"""The bottleneck network: its gradient is the noise prediction, and its parts do what they say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tiltrl.diffusion.energy import Energy, EnergyConfig, data_prediction, noise_prediction
from tiltrl.diffusion.schedule import alpha_sigma, diffuse, log_snr
from tiltrl.errors import InputError

OBS, ACT = 3, 2
SMALL = EnergyConfig(action_width=8, time_width=4, obs_width=4, blocks=2, expansion=2, dropout=0.5, time_scale=5.0)
ACTION, STATE, T = np.array([0.3, -0.7], np.float32), np.array([1.0, 0.0, -2.0], np.float32), np.float32(0.4)
value, noise, clean = map(eqx.filter_jit, (Energy.__call__, noise_prediction, data_prediction))
slope = eqx.filter_jit(jax.grad(Energy.__call__, argnums=1))


@pytest.fixture(scope="module")
def energy() -> Energy:
    return eqx.filter_jit(Energy)(OBS, ACT, SMALL, key=jax.random.key(1))


def as_if(energy: Energy, **changes: Any) -> Energy:
    """The same weights in a network of another configuration, which none of these fields shapes."""
    other = eqx.filter_eval_shape(Energy, OBS, ACT, replace(SMALL, **changes), key=jax.random.key(1))
    return jax.tree.unflatten(jax.tree.structure(other), jax.tree.leaves(energy))


def scales(t: float) -> tuple[float, float]:
    """Signal and noise scale as numbers."""
    alpha, sigma = jax.jit(alpha_sigma)(np.float32(t))
    return float(alpha), float(sigma)


def test_noise_prediction_is_minus_sigma_times_the_gradient(energy: Energy) -> None:
    with jax.enable_x64(True):
        energy = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), energy)
        action, state, t = (np.asarray(x, np.float64) for x in (ACTION, STATE, T))
        step = 1e-6 * np.eye(ACT)
        (up, down), eps = (
            value(energy, np.stack([action + step, action - step]), state, t),
            noise(energy, action, state, t),
        )
        by_steps = (np.asarray(up) - np.asarray(down)) / 2e-6
        sigma = float(jax.jit(alpha_sigma)(t)[1])
        np.testing.assert_allclose(eps, -sigma * by_steps, rtol=1e-6)
        assert np.abs(by_steps).min() > 1e-3


def test_data_prediction_undoes_the_noise_it_predicts(energy: Energy) -> None:
    again = jax.jit(diffuse)(clean(energy, ACTION, STATE, T), noise(energy, ACTION, STATE, T), T)
    np.testing.assert_allclose(again, ACTION, atol=1e-5)


def test_features_come_in_pairs() -> None:
    with pytest.raises(InputError, match="time_features = 7; half are sines"):
        replace(SMALL, time_features=7)


def test_dropout_acts_only_with_a_key(energy: Energy) -> None:
    calm = [float(value(energy, ACTION, STATE, T)) for _ in range(2)]
    assert calm[0] == calm[1]
    dropped = [value(energy, ACTION, STATE, T, key=jax.random.key(seed)) for seed in (0, 1)]
    assert len({float(f) for f in (calm[0], *dropped)}) == 3


def test_a_batch_is_its_rows_and_what_they_share_is_broadcast(energy: Energy) -> None:
    rng = np.random.default_rng(2)
    action, state = rng.normal(size=(4, 3, ACT)).astype(np.float32), rng.normal(size=(4, OBS)).astype(np.float32)
    times = np.array([0.01, 0.2, 0.7, 1.0], np.float32)
    found = value(energy, action, state[:, None], times[:, None])
    one_by_one = [[value(energy, a, s, t) for a in some] for some, s, t in zip(action, state, times, strict=True)]
    np.testing.assert_allclose(found, one_by_one, rtol=1e-5, atol=1e-6)
    predicted = np.asarray(noise(energy, action, state[:, None], times[:, None]))
    np.testing.assert_allclose(predicted[2, 1], noise(energy, action[2, 1], state[2], times[2]), rtol=1e-4, atol=1e-6)


def test_time_enters_as_sines_then_cosines_of_fixed_frequencies(energy: Energy) -> None:
    angles = 2 * np.pi * float(T) * np.asarray(energy.frequencies)
    features = np.concatenate([np.sin(angles), np.cos(angles)])

    @jax.jit
    def by_hand(energy: Energy) -> jax.Array:
        time = energy.time_out(jax.nn.silu(energy.embed_time(jnp.asarray(features))))
        h = energy.join(jnp.concatenate([energy.embed_action(ACTION), time, energy.embed_obs(STATE)]))
        for block in energy.blocks:
            h = block(h[None])[0]
        return jnp.sum(energy.out(jax.nn.silu(h)))

    np.testing.assert_allclose(value(energy, ACTION, STATE, T), by_hand(energy), rtol=1e-4)
    gradient = jax.jit(jax.grad(lambda network: network(ACTION, STATE, T)))(energy)
    assert not np.any(gradient.frequencies) and np.any(gradient.embed_time.weight)


def test_the_noise_level_may_enter_as_log_snr(energy: Energy) -> None:
    times = np.array([0.02, 0.4, 0.9], np.float32)
    actions = np.tile(ACTION, (3, 1))
    found, same_time = (
        np.asarray(value(e, actions, STATE, times)) for e in (as_if(energy, time_input="log_snr"), energy)
    )
    # The same weights: what one makes of a quarter of lambda_t, the other makes of that number as a time.
    quarter = np.asarray(jax.jit(log_snr)(times)) / 4
    np.testing.assert_allclose(found, value(energy, actions, STATE, quarter), rtol=1e-5, atol=1e-6)
    assert np.abs(found - same_time).max() > 5e-3, (found, same_time)


@pytest.mark.parametrize("t", [1e-3, 0.05, 0.4, 1.0])
def test_a_silent_preconditioned_network_is_the_gaussian_of_its_scale(t: float, energy: Energy) -> None:
    scaled = as_if(energy, action_scale=0.5)
    silent = eqx.tree_at(lambda e: e.out, scaled, jax.tree.map(np.zeros_like, scaled.out))
    alpha, sigma = scales(t)
    variance = (0.5 * alpha) ** 2 + sigma**2
    score = -np.asarray(noise(silent, ACTION, STATE, np.float32(t))) / sigma
    np.testing.assert_allclose(score, -ACTION / variance, rtol=1e-5)


@pytest.mark.parametrize("t", [0.1, 0.4, 1.0])
def test_a_preconditioned_network_predicts_data_by_the_factors_of_karras(t: float, energy: Energy) -> None:
    time = np.float32(t)
    alpha, sigma = scales(t)
    c = (sigma**2 + (0.5 * alpha) ** 2) ** -0.5
    raw = np.asarray(slope(energy, np.float32(c) * ACTION, STATE, time))
    expected = alpha * 0.25 * c**2 * ACTION + sigma * 0.5 * c * raw  # c_skip a + c_out F(c_in a)
    scaled = as_if(energy, action_scale=0.5, detail=0.0)
    np.testing.assert_allclose(clean(scaled, ACTION, STATE, time), expected, rtol=1e-3, atol=2e-4)


def test_the_gain_of_a_preconditioned_network_is_bounded(energy: Energy) -> None:
    scaled = as_if(energy, action_scale=0.5)
    silent = eqx.tree_at(lambda e: e.out, scaled, jax.tree.map(np.zeros_like, scaled.out))
    # A network that says 1 everywhere.
    loud = eqx.tree_at(lambda e: e.out.bias, silent, np.array([1.0, 0.0], np.float32))
    for t in (1e-3, 0.05, 0.5):
        alpha, sigma = scales(t)
        said, unsaid = (float(value(e, ACTION, STATE, np.float32(t))) for e in (loud, silent))
        assert said - unsaid == pytest.approx(0.5 * alpha / (sigma**2 + 0.1**2) ** 0.5, rel=1e-4)


def test_every_input_matters(energy: Energy) -> None:
    here = float(value(energy, ACTION, STATE, T))
    assert here != float(value(energy, ACTION + np.float32(0.1), STATE, T))
    assert here != float(value(energy, ACTION, STATE + np.float32(0.1), T))
    assert here != float(value(energy, ACTION, STATE, T + np.float32(0.1)))


def test_batches_are_a_vmap_under_jit(energy: Energy) -> None:
    actions, states = np.stack([ACTION, -ACTION]), np.stack([STATE, 2 * STATE])
    times = np.array([0.1, 0.9], np.float32)
    together = jax.jit(jax.vmap(energy))(actions, states, times)
    alone = [value(energy, a, s, t) for a, s, t in zip(actions, states, times, strict=True)]
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-6)


def test_the_papers_size_at_hopper() -> None:
    shapes = jax.eval_shape(lambda key: Energy(11, 3, EnergyConfig(), key=key), jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    # The paper's 1.85 M with three unused 256 x 256 maps of the release, which are not here.
    assert count == pytest.approx(1.85e6 - 3 * 257 * 256, rel=0.01)
