"""The bottleneck network: its gradient is the noise prediction, and its parts do what they say."""

from __future__ import annotations

from dataclasses import replace

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
ACTION, STATE, T = jnp.array([0.3, -0.7]), jnp.array([1.0, 0.0, -2.0]), jnp.array(0.4)


@jax.jit
def make(key: jax.Array) -> Energy:
    return Energy(OBS, ACT, SMALL, key=key)


@pytest.fixture(scope="module")
def energy() -> Energy:
    return make(jax.random.key(1))


def test_noise_prediction_is_minus_sigma_times_the_gradient() -> None:
    with jax.enable_x64(True):
        energy = make(jax.random.key(1))
        action, state, t = (jnp.asarray(x, jnp.float64) for x in (ACTION, STATE, T))
        step = 1e-6 * jnp.eye(ACT)
        f, eps = eqx.filter_jit(energy), jax.jit(noise_prediction)(energy, action, state, t)
        slope = jnp.array([(f(action + h, state, t) - f(action - h, state, t)) / 2e-6 for h in step])
        np.testing.assert_allclose(eps, -alpha_sigma(t)[1] * slope, rtol=1e-6)
        assert jnp.abs(slope).min() > 1e-3


def test_data_prediction_undoes_the_noise_it_predicts(energy: Energy) -> None:
    clean = data_prediction(energy, ACTION, STATE, T)
    np.testing.assert_allclose(diffuse(clean, noise_prediction(energy, ACTION, STATE, T), T), ACTION, atol=1e-5)


def test_features_come_in_pairs() -> None:
    with pytest.raises(InputError, match="time_features = 7; half are sines"):
        replace(SMALL, time_features=7)


def test_dropout_acts_only_with_a_key(energy: Energy) -> None:
    calm = [energy(ACTION, STATE, T) for _ in range(2)]
    assert calm[0] == calm[1]
    dropped = [energy(ACTION, STATE, T, key=jax.random.key(seed)) for seed in (0, 1)]
    assert len({float(f) for f in (calm[0], *dropped)}) == 3


def test_a_batch_is_its_rows_and_what_they_share_is_broadcast(energy: Energy) -> None:
    key = jax.random.key(2)
    action, state = jax.random.normal(key, (4, 3, ACT)), jax.random.normal(key, (4, OBS))
    times = jnp.array([0.01, 0.2, 0.7, 1.0])
    found = energy(action, state[:, None], times[:, None])
    one_by_one = [[energy(a, s, t) for a in some] for some, s, t in zip(action, state, times, strict=True)]
    np.testing.assert_allclose(found, one_by_one, rtol=1e-5, atol=1e-6)
    predicted = noise_prediction(energy, action, state[:, None], times[:, None])
    np.testing.assert_allclose(
        predicted[2, 1], noise_prediction(energy, action[2, 1], state[2], times[2]), rtol=1e-4, atol=1e-6
    )


def test_time_enters_as_sines_then_cosines_of_fixed_frequencies(energy: Energy) -> None:
    angles = 2 * np.pi * float(T) * np.asarray(energy.frequencies)
    features = jnp.asarray(np.concatenate([np.sin(angles), np.cos(angles)]))
    time = energy.time_out(jax.nn.silu(energy.embed_time(features)))
    h = energy.join(jnp.concatenate([energy.embed_action(ACTION), time, energy.embed_obs(STATE)]))
    for block in energy.blocks:
        h = block(h[None])[0]
    np.testing.assert_allclose(energy(ACTION, STATE, T), jnp.sum(energy.out(jax.nn.silu(h))), rtol=1e-4)
    gradient = jax.grad(lambda network: network(ACTION, STATE, T))(energy)
    assert not gradient.frequencies.any() and gradient.embed_time.weight.any()


def test_the_noise_level_may_enter_as_log_snr(energy: Energy) -> None:
    other = jax.jit(lambda key: Energy(OBS, ACT, replace(SMALL, time_input="log_snr"), key=key))(jax.random.key(1))
    times = jnp.array([0.02, 0.4, 0.9])
    found, same_time = (jax.vmap(lambda t, e=e: e(ACTION, STATE, t))(times) for e in (other, energy))
    # The same weights: what one makes of a quarter of lambda_t, the other makes of that number as a time.
    np.testing.assert_allclose(
        found, jax.vmap(lambda lam: energy(ACTION, STATE, lam / 4))(log_snr(times)), rtol=1e-5, atol=1e-6
    )
    assert jnp.abs(found - same_time).max() > 5e-3, (found, same_time)


@pytest.mark.parametrize("t", [1e-3, 0.05, 0.4, 1.0])
def test_a_silent_preconditioned_network_is_the_gaussian_of_its_scale(t: float) -> None:
    config = replace(SMALL, action_scale=0.5)
    energy = jax.jit(lambda key: Energy(OBS, ACT, config, key=key))(jax.random.key(1))
    silent = eqx.tree_at(lambda e: e.out, energy, jax.tree.map(jnp.zeros_like, energy.out))
    alpha, sigma = alpha_sigma(jnp.array(t))
    variance = (0.5 * alpha) ** 2 + sigma**2
    score = -noise_prediction(silent, ACTION, STATE, jnp.array(t)) / sigma
    np.testing.assert_allclose(score, -ACTION / variance, rtol=1e-5)


@pytest.mark.parametrize("t", [0.1, 0.4, 1.0])
def test_a_preconditioned_network_predicts_data_by_the_factors_of_karras(t: float) -> None:
    time = jnp.array(t)
    energy = jax.jit(lambda key: Energy(OBS, ACT, replace(SMALL, action_scale=0.5, detail=0.0), key=key))(
        jax.random.key(1)
    )
    bare = jax.jit(lambda key: Energy(OBS, ACT, SMALL, key=key))(jax.random.key(1))
    alpha, sigma = (float(x) for x in alpha_sigma(time))
    c = (sigma**2 + (0.5 * alpha) ** 2) ** -0.5
    raw = jax.grad(lambda a: bare(a, STATE, time))(c * ACTION)
    expected = alpha * 0.25 * c**2 * ACTION + sigma * 0.5 * c * raw  # c_skip a + c_out F(c_in a)
    np.testing.assert_allclose(data_prediction(energy, ACTION, STATE, time), expected, rtol=1e-3, atol=2e-4)


def test_the_gain_of_a_preconditioned_network_is_bounded() -> None:
    energy = jax.jit(lambda key: Energy(OBS, ACT, replace(SMALL, action_scale=0.5), key=key))(jax.random.key(1))
    silent = eqx.tree_at(lambda e: e.out, energy, jax.tree.map(jnp.zeros_like, energy.out))
    loud = eqx.tree_at(lambda e: e.out.bias, silent, jnp.array([1.0, 0.0]))  # a network that says 1 everywhere
    for t in (1e-3, 0.05, 0.5):
        alpha, sigma = (float(x) for x in alpha_sigma(jnp.array(t)))
        gain = loud(ACTION, STATE, jnp.array(t)) - silent(ACTION, STATE, jnp.array(t))
        assert float(gain) == pytest.approx(0.5 * alpha / (sigma**2 + 0.1**2) ** 0.5, rel=1e-4)


def test_every_input_matters(energy: Energy) -> None:
    here = energy(ACTION, STATE, T)
    assert here != energy(ACTION + 0.1, STATE, T)
    assert here != energy(ACTION, STATE + 0.1, T)
    assert here != energy(ACTION, STATE, T + 0.1)


def test_batches_are_a_vmap_under_jit(energy: Energy) -> None:
    actions, states, times = jnp.stack([ACTION, -ACTION]), jnp.stack([STATE, 2 * STATE]), jnp.array([0.1, 0.9])
    together = jax.jit(jax.vmap(energy))(actions, states, times)
    alone = [energy(a, s, t) for a, s, t in zip(actions, states, times, strict=True)]
    np.testing.assert_allclose(together, jnp.stack(alone), rtol=1e-5, atol=1e-6)


def test_the_papers_size_at_hopper() -> None:
    shapes = jax.eval_shape(lambda key: Energy(11, 3, EnergyConfig(), key=key), jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    # The paper's 1.85 M with three unused 256 x 256 maps of the release, which are not here.
    assert count == pytest.approx(1.85e6 - 3 * 257 * 256, rel=0.01)
