"""Measures of a tilt on Gaussians, whose divergence is known."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tiltrl.diffusion.schedule import T_MIN, alpha_sigma, diffuse, log_snr, random_times
from tiltrl.stages.tilt import compared, watch


class Normal(eqx.Module):
    """The exact energy of one-dimensional actions from N(mean, std^2), at every diffusion time."""

    mean: jax.Array
    std: jax.Array

    def __call__(self, action: jax.Array, obs: jax.Array, t: jax.Array, *, key: None = None) -> jax.Array:
        alpha, sigma = alpha_sigma(t)
        return -((action[..., 0] - alpha * self.mean) ** 2) / (2 * (alpha**2 * self.std**2 + sigma**2))


@pytest.mark.parametrize(("mean", "std"), [(0.3, 0.5), (1.0, 0.5), (0.0, 0.3), (0.4, 0.8)])
def test_the_mean_over_log_snr_is_the_divergence(mean: float, std: float) -> None:
    mu, pi = (Normal(*map(jnp.asarray, known)) for known in ((0.0, 0.5), (mean, std)))
    n = 200_000
    action = mean + std * jax.random.normal(jax.random.key(0), (n, 1))
    t = random_times(jax.random.key(2), n, "log_snr")
    noisy = diffuse(action, jax.random.normal(jax.random.key(1), (n, 1)), t)
    log_ratio, divergence = compared(pi, mu, noisy, jnp.zeros((n, 1)), t)
    found = jnp.mean(divergence)
    np.testing.assert_array_equal(log_ratio, pi(noisy, None, t) - mu(noisy, None, t))
    expected = np.log(0.5 / std) + (std**2 + mean**2) / (2 * 0.5**2) - 0.5
    np.testing.assert_allclose(found, expected, rtol=0.03)


def test_what_is_watched_by_hand() -> None:
    class Linear(eqx.Module):
        slope: jax.Array

        def __call__(self, action: jax.Array, obs: jax.Array, t: jax.Array, *, key: None = None) -> jax.Array:
            return action @ self.slope

    action = jnp.array([[[1.0, 0.0], [0.0, 0.5]]])  # one state, two candidates, taken as if they were diffused
    policy, behavior = Linear(jnp.array([0.5, 0.0])), Linear(jnp.array([0.0, 0.0]))  # log ratios: 1/2, 0
    t = jnp.array([0.5])
    found = watch(policy, behavior, action, action, jnp.zeros((1, 1)), t, jnp.array([[2.0, 0.0]]), 3.0)
    weights = np.exp([0.5, 0.0]) / np.exp([0.5, 0.0]).sum()
    _, sigma = alpha_sigma(t[0])
    expected = {
        "accuracy": 1.0,
        "margin": 3.0 * 0.5,
        "kl": (log_snr(jnp.array(T_MIN)) - log_snr(jnp.array(1.0))) * (sigma * 0.5) ** 2,
        "effective_candidates": 1.0 / (weights**2).sum(),
        "drift_chosen": 0.5,
        "drift_rejected": 0.0,
        "clipped": weights[0] * 0.5,
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, err_msg=name)
