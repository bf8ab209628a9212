"""The error of denoising where the data's law is known."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tiltrl.diffusion.denoising_error import TIMES, denoising_error
from tiltrl.diffusion.schedule import alpha_sigma


class Gaussian:
    """The energy of actions N(mean(s), deviation^2) after diffusion, plus any constant of the state."""

    def __init__(self, deviation: float, constant: float = 0.0):
        self.deviation, self.constant = deviation, constant

    def __call__(self, action: Any, obs: Any, t: Any, *, key: Any = None) -> Any:
        alpha, sigma = (each[..., None] for each in alpha_sigma(t))
        variance = (alpha * self.deviation) ** 2 + sigma**2
        return jnp.sum(-((action - alpha * obs) ** 2) / (2 * variance), axis=-1) + self.constant * jnp.sum(obs, axis=-1)


def by_hand(deviation: float, off: np.ndarray) -> float:
    """The mean of `(eps_hat - eps)^2` over pairs of opposite noises, over that of `eps^2`; `off`: from the mean."""
    noise = np.random.RandomState(0).standard_normal((len(TIMES), len(off)))
    found = []
    for t, eps in zip(TIMES, noise, strict=True):
        alpha, sigma = (float(each) for each in alpha_sigma(jnp.float32(t)))
        variance = (alpha * deviation) ** 2 + sigma**2
        for signed in (eps, -eps):
            predicted = sigma * (alpha * off + sigma * signed) / variance
            found.append((predicted - signed) ** 2)
    return float(np.mean(found) / np.mean(noise**2))


@pytest.mark.parametrize("off", [0.0, 0.3, 2.0])
def test_is_what_a_gaussian_gives_by_hand(off: float) -> None:
    obs, action = jnp.array([[0.2, -0.1]]), jnp.array([[0.2 + off, -0.1]])
    found = denoising_error(Gaussian(0.3), obs, action)  # type: ignore[arg-type]
    np.testing.assert_allclose(found, [by_hand(0.3, np.array([off, 0.0]))], rtol=1e-5)


def test_grows_with_the_distance_and_knows_no_constant_of_the_state() -> None:
    obs = jax.random.normal(jax.random.key(0), (6, 2))
    near, far = (denoising_error(Gaussian(0.2), obs, obs + off) for off in (0.1, 0.5))  # type: ignore[arg-type]
    assert np.all(np.asarray(far) > np.asarray(near))
    shifted = denoising_error(Gaussian(0.2, constant=100.0), obs, obs + 0.1)  # type: ignore[arg-type]
    np.testing.assert_allclose(shifted, near, rtol=1e-5)


def test_is_1_where_no_noise_is_predicted() -> None:
    flat = lambda action, obs, t, key=None: jnp.zeros(action.shape[:-1])  # noqa: E731
    found = denoising_error(flat, jnp.zeros((2, 3)), jnp.zeros((2, 4)))  # type: ignore[arg-type]
    np.testing.assert_allclose(found, 1.0, rtol=1e-6)
