"""The losses, as pure functions of arrays for one example; `jax.vmap` and average them for a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def denoising(predicted: Float[Array, " act"], noise: Float[Array, " act"]) -> Float[Array, ""]:
    """Squared error of the noise prediction, summed over action dimensions (EDA, Eq. 10)."""
    return jnp.sum((predicted - noise) ** 2)


def expectile(difference: Float[Array, ""], tau: float) -> Float[Array, ""]:
    """Asymmetric squared error `|tau - 1(u < 0)| u^2` of `u = target - prediction` (IQL, Eq. 5)."""
    return jnp.where(difference > 0, tau, 1.0 - tau) * difference**2


def value_alignment(
    q: Float[Array, " k"], log_ratio: Float[Array, " k"], beta: Float[Array, ""] | float
) -> Float[Array, ""]:
    """Cross-entropy between the softmax of Q and that of the implied value (EDA, Eq. 14).

    Args:
        q: values of the K candidates of one state; only differences matter.
        log_ratio: `f_pi(a_t^k | s, t) - f_mu(a_t^k | s, t)`, all at one t, so that constants of (s, t) cancel.
        beta: temperature. At the optimum `beta * log_ratio` equals q up to a constant.
    """
    return -jnp.sum(jax.nn.softmax(q) * jax.nn.log_softmax(beta * log_ratio))


def preference_alignment(
    q: Float[Array, " k"], log_ratio: Float[Array, " k"], beta: Float[Array, ""] | float
) -> Float[Array, ""]:
    """Cross-entropy between the best candidate and the softmax of the implied value (EDA, Eq. 15).

    Only which candidate is best matters, not by how much. Arguments as `value_alignment`.
    """
    return -jax.nn.log_softmax(beta * log_ratio)[jnp.argmax(q)]


def dpo_alignment(
    q: Float[Array, " k"], log_ratio: Float[Array, " k"], beta: Float[Array, ""] | float
) -> Float[Array, ""]:
    """Mean over the other candidates of `dpo` of the best one against each; with K = 2, Eq. 16. As `value_alignment`.

    It asks of the best that it beats every other one, where `preference_alignment` asks that it beats them together.
    """
    best = jnp.argmax(q)
    others = 1.0 - jax.nn.one_hot(best, len(q))
    return jnp.sum(others * dpo(log_ratio[best], log_ratio, beta)) / (len(q) - 1)


def dpo(chosen: Float[Array, ""], rejected: Float[Array, "..."], beta: Float[Array, ""] | float) -> Float[Array, "..."]:
    """`-log sigmoid(beta (chosen - rejected))` of two log-ratios (EDA, Eq. 16): the preference loss with K = 2."""
    return -jax.nn.log_sigmoid(beta * (chosen - rejected))


Objective = Literal["value", "preference", "dpo"]
OBJECTIVES: dict[Objective, Callable[..., Float[Array, ""]]] = {
    "value": value_alignment,
    "preference": preference_alignment,
    "dpo": dpo_alignment,
}
"""Losses of `(q, log_ratio, beta)` over the K candidates of one state."""
