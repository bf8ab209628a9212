"""Losses: values and gradients worked out by hand, and what must not change them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tiltrl import losses

Q = jnp.array([0.0, jnp.log(2.0), jnp.log(5.0)])  # softmax: 1/8, 2/8, 5/8
LABEL = np.array([1, 2, 5]) / 8


def test_denoising() -> None:
    predicted, noise = jnp.array([1.0, -2.0]), jnp.array([0.5, 1.0])
    value, gradient = jax.value_and_grad(losses.denoising)(predicted, noise)
    assert value == 0.25 + 9.0
    np.testing.assert_allclose(gradient, [1.0, -6.0])


@pytest.mark.parametrize(
    ("difference", "value", "slope"), [(2.0, 0.7 * 4, 0.7 * 4), (-2.0, 0.3 * 4, -0.3 * 4), (0.0, 0.0, 0.0)]
)
def test_expectile(difference: float, value: float, slope: float) -> None:
    found = jax.value_and_grad(losses.expectile)(jnp.array(difference), 0.7)
    np.testing.assert_allclose(found, (value, slope), rtol=1e-6)


def test_expectile_of_one_half_is_half_the_square() -> None:
    differences = jnp.linspace(-3, 3, 7)
    np.testing.assert_allclose(losses.expectile(differences, 0.5), 0.5 * differences**2)


def test_expectile_is_least_at_the_expectile() -> None:
    # Of the values 0 and 1, the 0.9-expectile is 0.9: there 0.9 (1 - m) = 0.1 m.
    slope = jax.grad(lambda m: jnp.mean(losses.expectile(jnp.array([0.0, 1.0]) - m, 0.9)))
    assert float(slope(0.9)) == pytest.approx(0.0, abs=1e-6)
    assert slope(0.5) < 0 < slope(0.95)


def test_value_alignment() -> None:
    log_ratio, beta = jnp.array([0.0, 0.0, jnp.log(2.0)]), 2.0  # softmax of twice it: 1/6, 1/6, 4/6
    value, gradient = jax.value_and_grad(losses.value_alignment, argnums=1)(Q, log_ratio, beta)
    model = np.array([1, 1, 4]) / 6
    np.testing.assert_allclose(value, -(LABEL * np.log(model)).sum(), rtol=1e-6)
    np.testing.assert_allclose(gradient, beta * (model - LABEL), rtol=1e-5)


def test_value_alignment_sees_only_differences() -> None:
    log_ratio = jnp.array([0.3, -1.0, 0.5])
    here = losses.value_alignment(Q, log_ratio, 0.5)
    np.testing.assert_allclose(losses.value_alignment(Q + 7.0, log_ratio, 0.5), here, rtol=1e-5)
    np.testing.assert_allclose(losses.value_alignment(Q, log_ratio - 4.0, 0.5), here, rtol=1e-5)


@pytest.mark.parametrize("beta", [0.1, 1.0, 5.0])
def test_value_alignment_is_least_where_beta_times_the_ratio_is_q(beta: float) -> None:
    loss = jax.value_and_grad(losses.value_alignment, argnums=1)
    least, gradient = loss(Q, Q / beta + 3.0, beta)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-5 * max(beta, 1 / beta))
    np.testing.assert_allclose(least, -(LABEL * np.log(LABEL)).sum(), rtol=1e-5)  # the label's entropy
    assert loss(Q, 1.1 * Q / beta, beta)[0] > least


def test_preference_alignment() -> None:
    log_ratio, beta = jnp.array([0.0, 0.0, jnp.log(2.0)]), 2.0
    value, gradient = jax.value_and_grad(losses.preference_alignment, argnums=1)(Q, log_ratio, beta)
    model, best = np.array([1, 1, 4]) / 6, np.eye(3)[np.argmax(Q)]
    np.testing.assert_allclose(value, -np.log(model[np.argmax(Q)]), rtol=1e-6)
    np.testing.assert_allclose(gradient, beta * (model - best), rtol=1e-5)


@pytest.mark.parametrize("beta", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("best", [0, 1])
def test_two_preferred_candidates_are_dpo(best: int, beta: float) -> None:
    log_ratio = jnp.array([0.4, -1.3])
    q = jnp.zeros(2).at[best].set(3.0)
    ours = jax.value_and_grad(losses.preference_alignment, argnums=1)(q, log_ratio, beta)
    theirs = jax.value_and_grad(lambda r: losses.dpo(r[best], r[1 - best], beta))(log_ratio)
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-6)
    np.testing.assert_allclose(ours[1], theirs[1], atol=1e-6)
