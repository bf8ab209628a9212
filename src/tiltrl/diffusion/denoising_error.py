"""How far an action is from what a behavior model has learned, comparable across states."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from tiltrl.diffusion.energy import Energy, noise_prediction
from tiltrl.diffusion.schedule import diffuse

TIMES = (0.03, 0.1, 0.25)
"""Diffusion times of the noise: what is wrong with an action at any scale shows at one of them."""


def denoising_error(
    energy: Energy, obs: Float[Array, "batch obs"], action: Float[Array, "batch act"]
) -> Float[Array, " batch"]:
    """Squared error of the predicted noise when the given action is noised, as a share of the noise's mean square.

    With all times and much noise this is the variational bound of `-log mu(a | s)` (Ho et al. 2020, arXiv 2006.11239,
    Eq. 14) but for its weights and constant, so unlike energies it has no unknown constant of the state. Here it is a
    score and no bound: six network passes as one batch, at three times, with one noise each and its opposite, fixed so
    that equal inputs give equal scores.

    Args:
        energy: the behavior model.
        obs: normalized observations.
        action: unit actions.
    """
    act = action.shape[-1]
    # NumPy's legacy generator, whose stream is frozen: the score means the same in every version.
    noise = np.random.RandomState(0).standard_normal((len(TIMES), 1, act)).astype(np.float32)
    noise = jnp.asarray(np.concatenate([noise, -noise], axis=1).reshape(-1, act))
    times = jnp.asarray(np.repeat(np.array(TIMES, np.float32), 2))
    noisy = diffuse(action[:, None], noise, times)
    predicted = noise_prediction(energy, noisy, obs[:, None], times)
    return jnp.mean((predicted - noise) ** 2, axis=(1, 2)) / jnp.mean(noise**2)
