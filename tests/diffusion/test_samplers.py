"""Both solvers on problems whose solution is known in closed form."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tiltrl.diffusion.samplers import GRIDS, SOLVERS, Grid, Solver, sample
from tiltrl.diffusion.schedule import T_MIN, alpha_sigma

MEAN, STD = 0.3, 0.2


def gaussian(action: jax.Array, t: jax.Array) -> jax.Array:
    """The exact data prediction for actions drawn from N(MEAN, STD^2)."""
    alpha, sigma = alpha_sigma(t)
    return MEAN + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (action - alpha * MEAN)


@jax.jit
def exact(noise: jax.Array) -> jax.Array:
    """Where the probability flow takes noise at t = 1: it keeps each quantile."""
    (alpha_1, sigma_1), (alpha_0, sigma_0) = alpha_sigma(jnp.array(1.0)), alpha_sigma(jnp.array(T_MIN))
    quantile = (noise - alpha_1 * MEAN) / jnp.sqrt((alpha_1 * STD) ** 2 + sigma_1**2)
    return alpha_0 * MEAN + jnp.sqrt((alpha_0 * STD) ** 2 + sigma_0**2) * quantile


grid_of = jax.jit(lambda name, calls: GRIDS[name](calls), static_argnums=(0, 1))
scales = jax.jit(alpha_sigma)


@pytest.fixture
def double() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_gaussian_data_give_their_mean_and_deviation(solver: Solver, grid: Grid) -> None:
    noise = np.random.default_rng(0).normal(size=(20_000, 1)).astype(np.float32)
    actions = np.asarray(jax.jit(partial(sample, gaussian, calls=200, solver=solver, grid=grid))(noise))
    np.testing.assert_allclose(actions.mean(), MEAN, atol=0.005)
    np.testing.assert_allclose(actions.std(), STD, rtol=0.03)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("solver", SOLVERS)
def test_halving_the_steps_quarters_the_error(solver: str) -> None:
    noise = np.array([[-1.5], [0.2], [1.0]])
    solve, errors = jax.jit(partial(SOLVERS[solver], gaussian)), []
    for calls in (128, 256, 512):
        actions = solve(noise, np.asarray(grid_of("log_snr", calls), np.float64))
        errors.append(np.abs(np.asarray(actions) - np.asarray(exact(noise))).max())
    orders = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    assert errors[-1] < 1e-4
    np.testing.assert_allclose(orders, 2.0, atol=0.15)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("calls", [1, 2, 7])
def test_a_constant_prediction_is_solved_exactly(solver: str, calls: int) -> None:
    noise = np.array([[2.0]])
    times = np.asarray(grid_of("uniform", calls), np.float64)
    (alpha_1, alpha_0), (sigma_1, sigma_0) = (np.asarray(scale) for scale in scales(times[[0, -1]]))
    expected = alpha_0 * 0.5 + sigma_0 * (noise - alpha_1 * 0.5) / sigma_1
    actions = jax.jit(partial(SOLVERS[solver], lambda action, t: jnp.full_like(action, 0.5)))(noise, times)
    np.testing.assert_allclose(actions, expected, rtol=1e-10)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("calls", [1, 2, 5, 8])
def test_calls_counts_the_network(solver: Solver, calls: int) -> None:
    seen = []

    def counted(action: jax.Array, t: jax.Array) -> jax.Array:
        jax.debug.callback(lambda t: seen.append(float(t)), t)
        return gaussian(action, t)

    jax.jit(partial(sample, counted, calls=calls, solver=solver, grid="uniform"))(np.zeros((1, 1), np.float32))
    jax.effects_barrier()
    np.testing.assert_allclose(sorted(seen, reverse=True), np.asarray(grid_of("uniform", calls))[:-1], rtol=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
def test_actions_end_inside_the_unit_box(solver: Solver) -> None:
    beyond = partial(sample, lambda a, t: 3.0 * jnp.sign(a), calls=4, solver=solver, grid="uniform")
    np.testing.assert_array_equal(jax.jit(beyond)(np.array([[1.0, -1.0]], np.float32)), [[1.0, -1.0]])


@pytest.mark.usefixtures("double")
def test_the_last_of_few_multistep_steps_takes_the_prediction_as_it_is() -> None:
    times = np.asarray(grid_of("quadratic", 4), np.float64)
    last = []

    def counted(action: jax.Array, t: jax.Array) -> jax.Array:
        jax.debug.callback(lambda a, t: last.append((float(t), np.asarray(a))), action, t)
        return gaussian(action, t)

    found = jax.jit(partial(SOLVERS["2mf"], counted))(np.array([[1.0]]), times)
    jax.effects_barrier()
    _, before = min(last)
    (alpha_s, alpha_t), (sigma_s, sigma_t) = (np.asarray(scale) for scale in scales(times[-2:]))
    clean = np.asarray(jax.jit(gaussian)(before, times[-2]))
    noise = (before - alpha_s * clean) / sigma_s  # DDIM: to where the same noise leaves it
    np.testing.assert_allclose(found, alpha_t * clean + sigma_t * noise, rtol=1e-10)
