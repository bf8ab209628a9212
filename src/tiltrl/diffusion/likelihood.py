"""Normalized log-densities of a diffusion model, by its probability-flow ODE (Song et al., ICLR 2021, Appendix D).

The ODE is solved in `y = a_t / alpha_t` over `u = log(sigma_t / alpha_t)`, where it reads `dy/du = exp(u) eps`
(Karras et al., NeurIPS 2022, Eq. 1, over log sigma): smooth over the whole range, also where sigma is small.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from tiltrl.diffusion.energy import Energy, noise_prediction
from tiltrl.diffusion.schedule import T_MIN, alpha_sigma, log_snr, time_at_log_snr

EXACT_UP_TO = 8
"""Action sizes up to which the trace of the Jacobian is exact by default: one forward derivative a dimension."""


def log_prob(
    energy: Energy,
    action: Float[Array, " act"],
    obs: Float[Array, " obs"],
    probes: Float[Array, "probes act"],
    *,
    rtol: float,
    atol: float,
    max_steps: int = 4096,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Log-density of one action under the model's flow, at `T_MIN`; inputs in the networks' units.

    It is the density of what an exact solver of the ODE samples before clipping: that of the data, blurred by
    `sigma = 0.01`.

    Args:
        energy: the model.
        action: the action.
        obs: the observation.
        probes: vectors v with mean of `v v^T` the identity; the trace of the Jacobian J is the mean of `v^T J v`.
            Scaled basis vectors make it exact (`exact_probes`), random signs estimate it (Hutchinson).
        rtol: relative tolerance of the solver.
        atol: absolute tolerance.
        max_steps: after which the solver gives up.

    Returns:
        The log-density in nats, and 1 where the solver gave up, else 0.
    """
    import diffrax  # here, because it is slow to import and little needs it

    ends = -log_snr(jnp.array([T_MIN, 1.0]))
    alpha, _ = alpha_sigma(jnp.array([T_MIN, 1.0]))

    def drift(u: Any, state: tuple[Array, Array], _: Any) -> tuple[Array, Array]:
        y, _ = state
        # Rounding must not leave [T_MIN, 1], outside which the network was never asked.
        t = jnp.clip(time_at_log_snr(-u), T_MIN, 1.0)
        a, _ = alpha_sigma(t)

        def velocity(y: Array) -> Array:
            return jnp.exp(u) * noise_prediction(energy, a * y, obs, t)

        value, push = jax.linearize(velocity, y)
        return value, jnp.mean(jnp.sum(probes * jax.vmap(push)(probes), axis=1))

    found = diffrax.diffeqsolve(
        diffrax.ODETerm(drift),
        diffrax.Tsit5(),
        t0=ends[0],
        t1=ends[1],
        dt0=None,
        y0=(action / alpha[0], jnp.zeros(())),
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
        max_steps=max_steps,
        throw=False,
    )
    assert found.ys is not None  # SaveAt(t1=True) is Diffrax's default
    y, expansion = jax.tree.map(lambda leaf: leaf[-1], found.ys)
    prior = -0.5 * jnp.sum((alpha[1] * y) ** 2 + jnp.log(2.0 * jnp.pi))
    volume = action.shape[0] * (jnp.log(alpha[1]) - jnp.log(alpha[0]))
    failed = (found.result != diffrax.RESULTS.successful).astype(jnp.float32)
    return prior + volume + expansion, failed


def exact_probes(act: int) -> Float[Array, "act act"]:
    """Probes whose mean of `v^T J v` is the trace itself."""
    return jax.device_put(np.sqrt(np.float32(act)) * np.eye(act, dtype=np.float32))
