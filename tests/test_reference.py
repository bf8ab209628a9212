"""Agreement with arrays from the authors' release: its weights must give its numbers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_weights import Arrays, parts, read_energy, read_ensemble

from tiltrl import losses
from tiltrl.diffusion.energy import Energy, data_prediction, noise_prediction
from tiltrl.diffusion.samplers import SOLVERS
from tiltrl.diffusion.schedule import alpha_sigma, diffuse, uniform_times
from tiltrl.stages.align import alignment_loss
from tiltrl.stages.critics.iql import Batch, IQLConfig, IQLState, iql_step
from tiltrl.training.optimizer import cosine_adam

PATH = Path(__file__).parents[2] / "shared" / "reference" / "eda_hopper_shape.npz"
OBS, ACT = 11, 3

pytestmark = pytest.mark.skipif(not PATH.is_file(), reason="the reference arrays are not on this machine")


@pytest.fixture(scope="module")
def arrays() -> Iterator[Arrays]:
    with np.load(PATH) as file:
        yield dict(file)


@pytest.fixture(scope="module")
def behavior(arrays: Arrays) -> Energy:
    return read_energy(arrays, "behavior", OBS, ACT)


@pytest.fixture(scope="module")
def policy(arrays: Arrays) -> Energy:
    return read_energy(arrays, "policy", OBS, ACT)


def group(arrays: Arrays, prefix: str) -> dict[str, jax.Array]:
    """The arrays of one group, by the rest of their names."""
    return {name.removeprefix(prefix): jnp.asarray(a) for name, a in arrays.items() if name.startswith(prefix)}


def assert_close(ours: Any, theirs: Any, tolerance: float = 1e-4) -> None:
    """Largest difference, relative to the largest entry."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


def assert_gradient_norms(gradient: Energy, norms: dict[str, jax.Array]) -> None:
    """The norm of every parameter's gradient; parameters that are not listed have none."""
    for name, array in parts(gradient).items():
        # No shift of f is seen by a loss of its gradient: the release lists no norm for such a parameter.
        expected = float(norms.get(name, 0.0))
        assert float(jnp.linalg.norm(array)) == pytest.approx(expected, rel=1e-4, abs=1e-7), name
    assert set(norms) <= set(parts(gradient))


def test_schedule(arrays: Arrays) -> None:
    known = group(arrays, "schedule/")
    alpha, sigma = alpha_sigma(known["t"])
    assert_close(alpha, known["alpha"])
    assert_close(sigma, known["sigma"])


def test_denoising(arrays: Arrays, behavior: Energy) -> None:
    known = group(arrays, "denoise/")
    noisy = diffuse(known["action"], known["noise"], known["t"])
    assert_close(noisy, known["noisy_action"])
    inputs = known["noisy_action"], known["state"], known["t"]
    assert_close(jax.jit(jax.vmap(lambda *one: behavior(*one)))(*inputs), known["energy"])
    assert_close(jax.jit(jax.vmap(noise_prediction, in_axes=(None, 0, 0, 0)))(behavior, *inputs), known["eps"])


def test_denoising_loss_and_gradient(arrays: Arrays, behavior: Energy) -> None:
    known = group(arrays, "denoise/")

    @jax.jit
    @jax.value_and_grad
    def loss(energy: Energy) -> jax.Array:
        eps = jax.vmap(noise_prediction, in_axes=(None, 0, 0, 0))(
            energy, known["noisy_action"], known["state"], known["t"]
        )
        return jnp.mean(jax.vmap(losses.denoising)(eps, known["noise"]))

    value, gradient = loss(behavior)
    assert_close(value, known["loss"])
    assert_gradient_norms(gradient, group(arrays, "denoise/grad_norm/"))


@pytest.mark.parametrize("calls", [5, 15, 25])
@pytest.mark.parametrize("solver", ["2s", "2m"])
def test_samplers(arrays: Arrays, behavior: Energy, solver: str, calls: int) -> None:
    known = group(arrays, "sampler/")

    def denoise(action: jax.Array, t: jax.Array) -> jax.Array:
        return jax.vmap(lambda a, s: data_prediction(behavior, a, s, t))(action, known["state"])

    actions = jax.jit(lambda noise: SOLVERS[solver](denoise, noise, uniform_times(calls)))(known["noise"])
    assert_close(actions, known[f"dpmpp{solver}_time_uniform/actions_{calls}"], tolerance=1e-3)


def test_alignment_loss_and_gradient(arrays: Arrays, behavior: Energy, policy: Energy) -> None:
    known = group(arrays, "align/")
    noisy = diffuse(known["actions"], known["noise"], jnp.broadcast_to(known["t"][:, None], known["q"].shape))
    gradient, info = jax.jit(jax.grad(alignment_loss, has_aux=True))(
        policy, behavior, noisy, known["state"], known["t"], known["alpha"] * known["q"], known["beta"]
    )
    assert_close(info["alignment_loss"], known["loss"])
    assert_gradient_norms(gradient, group(arrays, "align/grad_norm/"))


def test_one_iql_step(arrays: Arrays) -> None:
    def networks(when: str) -> tuple[Any, Any, Any]:
        q, target = ([f"iql/{when}/{kind}/q{i}" for i in (1, 2)] for kind in ("q", "q_target"))
        return (
            read_ensemble(arrays, q, OBS + ACT),
            read_ensemble(arrays, [f"iql/{when}/v"], OBS),
            read_ensemble(arrays, target, OBS + ACT),
        )

    known, config = group(arrays, "iql/batch/"), IQLConfig()
    batch = Batch(
        obs=known["state"],
        action=known["action"],
        reward=known["reward"][:, 0],
        next_obs=known["next_state"],
        discount=config.discount * (1.0 - known["terminal"][:, 0]),
    )
    q, v, target = networks("before")
    optimizer = cosine_adam(config.learning_rate, config.steps, cosine=config.cosine)
    step = jax.jit(iql_step, static_argnames=("config", "optimizer"))
    state, info = step(IQLState(q, v, target, optimizer.init((q, v))), batch, config, optimizer)
    assert_close(info["v_loss"], arrays["iql/v_loss"])
    assert_close(info["q_loss"], arrays["iql/q_loss"])
    before, after = jax.tree.leaves((q, v, target)), jax.tree.leaves(networks("after"))
    for old, ours, theirs in zip(before, jax.tree.leaves((state.q, state.v, state.target)), after, strict=True):
        assert_close(ours, theirs)
        assert_close(ours - old, theirs - old, tolerance=0.02)  # a step is small beside the weights' own rounding
