"""How far a policy has been tilted from its behavior, and whether the tilt does what was asked."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from tiltrl.diffusion.energy import Energy
from tiltrl.diffusion.schedule import T_MIN, alpha_sigma, log_snr

AT_BOUND = 0.999
"""From here on an action of the unit box counts as clipped."""


def compared(
    policy: Energy,
    behavior: Energy,
    noisy: Float[Array, "*batch act"],
    obs: Float[Array, "*#batch obs"],
    t: Float[Array, "*#batch"],
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """`f_pi - f_mu` of diffused actions, and the share of each in `KL(pi || mu)`, in nats.

    The mean of those shares over `pi_t` and times even in log-SNR is the divergence:
    `KL = int |d lambda_t / dt| E_pi ||eps_pi - eps_mu||^2 dt` (Girsanov; Kingma et al. 2021, *Variational Diffusion
    Models*, has the same integral). It needs no constant of the energies. Drawn uniformly in t, the factor would make a
    few small times all that counts.
    """

    def energies(network: Energy) -> tuple[Array, Array]:
        value, pull = jax.vjp(lambda action: network(action, obs, t), noisy)
        return value, pull(jnp.ones_like(value))[0]

    # Both as one program of half the size: what is watched would else compile longer than what is trained.
    value, slope = jax.vmap(energies)(jax.tree.map(lambda *leaves: jnp.stack(leaves), policy, behavior))
    _, sigma = alpha_sigma(t)
    difference = sigma[..., None] * (slope[0] - slope[1])  # of noise predictions, but for the sign
    most, least = log_snr(jnp.array([T_MIN, 1.0]))
    return value[0] - value[1], (most - least) * jnp.sum(difference**2, axis=-1)


def watch(
    policy: Energy,
    behavior: Energy,
    action: Float[Array, "batch k act"],
    noisy: Float[Array, "batch k act"],
    obs: Float[Array, "batch obs"],
    t: Float[Array, " batch"],
    q: Float[Array, "batch k"],
    beta: Float[Array, ""] | float,
) -> dict[str, Float[Array, ""]]:
    """What the tilt does to candidates it was not trained on.

    Returns:
        `accuracy`: share of states whose most valued candidate is also the most tilted one. `margin`: by how much the
        implied value `beta (f_pi - f_mu)` of the most valued exceeds the others' mean, in units of q.
        `kl`: estimate of `KL(pi || mu)` in nats. `effective_candidates`: `1 / sum w^2` of the weights `w` that the
        policy gives the K diffused candidates; near 1, it sees but one. `drift_chosen` and `drift_rejected`:
        `f_pi - f_mu` of the most valued candidate, and of the others; should both fall, the energy leaves the
        candidates for other actions. `clipped`: share of the policy's action components that lie at a bound.

    Args:
        policy: pi.
        behavior: mu.
        action: candidates in the unit box.
        noisy: the same, diffused to t.
        obs: their states.
        t: one time a state, even in log-SNR.
        q: the candidates' values.
        beta: temperature.
    """
    log_ratio, divergence = compared(policy, behavior, noisy, obs[:, None], t[:, None])
    weights = jax.nn.softmax(log_ratio)
    best = jax.nn.one_hot(jnp.argmax(q, axis=1), q.shape[1])
    chosen = jnp.sum(best * log_ratio, axis=1)
    rejected = (jnp.sum(log_ratio, axis=1) - chosen) / (q.shape[1] - 1)
    clipped = jnp.mean((jnp.abs(action) >= AT_BOUND).astype(jnp.float32), axis=-1)
    found = {
        "accuracy": (jnp.argmax(q, axis=1) == jnp.argmax(log_ratio, axis=1)).astype(jnp.float32),
        "margin": beta * (chosen - rejected),
        # The policy's own diffused actions, as the behavior's with weights.
        "kl": jnp.sum(weights * divergence, axis=1),
        "effective_candidates": 1.0 / jnp.sum(weights**2, axis=1),
        "drift_chosen": chosen,
        "drift_rejected": rejected,
        "clipped": jnp.sum(weights * clipped, axis=1),
    }
    return {name: jnp.mean(value) for name, value in found.items()}
