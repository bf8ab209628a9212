"""The forward process: a variance-preserving SDE with a linear noise schedule (EDA, Eq. 5).

`a_t = alpha_t a + sigma_t eps` for `t` in [0, 1]. Everything here works elementwise on arrays of any shape.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

BETA_MIN = 0.1
BETA_MAX = 20.0
T_MIN = 1e-3
"""The smallest diffusion time that is trained on and the last one a sampler visits (EDA, Appendix D)."""


def log_alpha(t: Float[Array, "..."]) -> Float[Array, "..."]:
    """Log of the signal scale: `-t^2 (b1 - b0) / 4 - t b0 / 2`."""
    return -0.25 * t**2 * (BETA_MAX - BETA_MIN) - 0.5 * t * BETA_MIN


def alpha_sigma(t: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Signal scale `alpha_t` and noise scale `sigma_t`, with `alpha^2 + sigma^2 = 1`."""
    la = log_alpha(t)
    # expm1 keeps sigma accurate at small t, where 1 - alpha^2 would cancel.
    return jnp.exp(la), jnp.sqrt(-jnp.expm1(2.0 * la))


def log_snr(t: Float[Array, "..."]) -> Float[Array, "..."]:
    """Half the log signal-to-noise ratio, `lambda_t = log(alpha_t / sigma_t)` (DPM-Solver's variable)."""
    la = log_alpha(t)
    return la - 0.5 * jnp.log(-jnp.expm1(2.0 * la))


def time_at_log_snr(lam: Float[Array, "..."]) -> Float[Array, "..."]:
    """Inverse of `log_snr`: the time `t` at which `lambda_t = lam`."""
    # alpha^2 = sigmoid(2 lam), so log alpha = -softplus(-2 lam) / 2; then the quadratic in t, in its stable form.
    minus_log_alpha = 0.5 * jnp.logaddexp(0.0, -2.0 * lam)
    slope = BETA_MAX - BETA_MIN
    return 4.0 * minus_log_alpha / (BETA_MIN + jnp.sqrt(BETA_MIN**2 + 4.0 * slope * minus_log_alpha))


def diffuse(
    action: Float[Array, "*batch act"], noise: Float[Array, "*batch act"], t: Float[Array, "*batch"]
) -> Float[Array, "*batch act"]:
    """Sample `a_t` given clean actions and standard normal noise (Eq. 5)."""
    alpha, sigma = alpha_sigma(t)
    return alpha[..., None] * action + sigma[..., None] * noise


TimeLaw = Literal["uniform", "stratified", "log_snr", "mixed"]
"""How training draws diffusion times in [T_MIN, 1]: see `random_times`."""


def random_times(key: PRNGKeyArray, n: int, law: TimeLaw) -> Float[Array, " n"]:
    """Times of a training batch.

    `uniform` is the paper's: independent and uniform in t. `stratified` is the same law with less variance: one time in
    each of n equal intervals. `log_snr` has intervals equal in `lambda_t`. `mixed` takes every other one of these
    instead of those in t, the odd or the even ones as it falls: uniform times leave 2 % of the examples to the noise
    levels (sigma < 0.07) that decide all detail finer than that.
    """
    key, parity_key = jax.random.split(key)
    u = jax.random.uniform(key, (n,))
    if law == "uniform":
        return T_MIN + (1.0 - T_MIN) * u
    share = (u + jnp.arange(n)) / n
    times = T_MIN + (1.0 - T_MIN) * share
    if law == "stratified":
        return times
    ends = log_snr(jnp.array([T_MIN, 1.0]))
    # Rounding must not leave [T_MIN, 1].
    spread = jnp.clip(time_at_log_snr(ends[0] + (ends[1] - ends[0]) * share), T_MIN, 1.0)
    if law == "log_snr":
        return spread
    parity = jax.random.randint(parity_key, (), 0, 2)
    return jnp.where(jnp.arange(n) % 2 == parity, times, spread)


def uniform_times(calls: int) -> Float[Array, "calls+1"]:
    """`calls` intervals uniform in `t`, from 1 down to `T_MIN`: the paper's grid."""
    return jnp.linspace(1.0, T_MIN, calls + 1)


def log_snr_times(calls: int) -> Float[Array, "calls+1"]:
    """`calls` intervals uniform in `lambda_t`, from t = 1 down to `T_MIN` (DPM-Solver's default grid)."""
    ends = log_snr(jnp.array([1.0, T_MIN]))
    # The ends are set exactly, so that a sampler starts from pure noise whatever the rounding.
    return (
        time_at_log_snr(jnp.linspace(ends[0], ends[1], calls + 1)).at[jnp.array([0, -1])].set(jnp.array([1.0, T_MIN]))
    )


def quadratic_times(calls: int) -> Float[Array, "calls+1"]:
    """`calls` intervals even in the square root of `t`, from 1 down to `T_MIN`: for few calls.

    Steps that are uniform in `t` leap over all small noise at once, steps uniform in `lambda_t` spend half their calls
    there. Quadratic ones, of Song et al. (2021, *Denoising Diffusion Implicit Models*), lie between.
    """
    return (jnp.linspace(1.0, T_MIN**0.5, calls + 1) ** 2).at[-1].set(T_MIN)
