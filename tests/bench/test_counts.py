"""The formulas against XLA's own count of what it compiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from tiltrl.bench import counts
from tiltrl.bench.work import ACT, OBS
from tiltrl.diffusion.energy import Energy, data_prediction, noise_prediction
from tiltrl.presets import FAST, PAPER, Preset
from tiltrl.stages.align import alignment_loss
from tiltrl.stages.behavior import denoising_loss
from tiltrl.stages.critics.advantage import AdvantageConfig, Steps, advantage_losses
from tiltrl.stages.critics.iql import Batch, IQLConfig, iql_losses
from tiltrl.stages.critics.networks import init_critic

ROWS, K = 64, 4
KEY = jax.random.key(0)
each_preset = pytest.mark.parametrize("preset", [FAST, PAPER], ids=["fast", "paper"])


def xla(function: Callable[..., Any], *args: Any) -> dict[str, float]:
    """What it counts of the compiled program."""
    return jax.jit(function).lower(*args).compile().cost_analysis()


def floats(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def assert_agree(flops: int, found: dict[str, float]) -> None:
    """Activations and norms are not counted: up to a tenth in the fast preset's network, less in the paper's."""
    assert 0.99 * flops <= found["flops"] <= 1.1 * flops


def energy_of(preset: Preset) -> Energy:
    return Energy(OBS, ACT, preset.behavior.network, key=KEY)


@each_preset
def test_forward(preset: Preset) -> None:
    energies = jax.vmap(lambda energy, a, s, t: energy(a, s, t), in_axes=(None, 0, 0, 0))
    found = xla(energies, energy_of(preset), floats(ROWS, ACT), floats(ROWS, OBS), floats(ROWS))
    ours = counts.energy_forward(preset.behavior.network, OBS, ACT, ROWS)
    assert ours.flops <= found["flops"] <= 1.03 * ours.flops
    # What lies between products that are not fused into them goes to memory, too.
    assert ours.bytes <= found["bytes accessed"] <= 2.5 * ours.bytes


@each_preset
def test_gradient_of_the_action(preset: Preset) -> None:
    predictions = jax.vmap(noise_prediction, in_axes=(None, 0, 0, 0))
    found = xla(predictions, energy_of(preset), floats(ROWS, ACT), floats(ROWS, OBS), floats(ROWS))
    assert_agree(counts.energy_gradient(preset.behavior.network, OBS, ACT, ROWS).flops, found)


@each_preset
def test_a_call_of_the_sampler(preset: Preset) -> None:
    """Of K actions a state, whose observation is embedded once."""
    found = xla(data_prediction, energy_of(preset), floats(ROWS, K, ACT), floats(ROWS, 1, OBS), floats())
    once = replace(preset.sampler, calls=1)
    assert_agree(counts.sampling(preset.behavior.network, once, K, OBS, ACT, ROWS).flops, found)


@each_preset
def test_double_gradient(preset: Preset) -> None:
    config = replace(preset.behavior, batch=ROWS)

    def loss(energy: Energy, obs: jax.Array, action: jax.Array) -> jax.Array:
        return denoising_loss(energy, obs, action, KEY, times="uniform", dropout=config.network.dropout > 0)

    found = xla(jax.grad(loss), energy_of(preset), floats(ROWS, OBS), floats(ROWS, ACT))
    assert_agree(counts.behavior_step(config, OBS, ACT).flops, found)


@each_preset
def test_alignment(preset: Preset) -> None:
    config, energy = replace(preset.align, batch=ROWS), energy_of(preset)
    batch = floats(ROWS, K, ACT), floats(ROWS, OBS), floats(ROWS), floats(ROWS, K)

    def gradient(pi: Energy, mu: Energy, *batch: jax.Array) -> Any:
        return jax.grad(alignment_loss, has_aux=True)(pi, mu, *batch, 0.3)

    found = xla(gradient, energy, energy, *batch)
    assert_agree(counts.alignment_step(config, preset.behavior.network, K, OBS, ACT).flops, found)


def test_iql() -> None:
    config = IQLConfig(batch=ROWS)
    critic = init_critic(OBS, ACT, config.shape, key=KEY)
    batch = Batch(floats(ROWS, OBS), floats(ROWS, ACT), floats(ROWS), floats(ROWS, OBS), floats(ROWS))

    def gradient(q: Any, v: Any, target: Any, batch: Batch) -> Any:
        return jax.grad(lambda both: iql_losses(*both, target, batch, config.expectile)[0])((q, v))

    found = xla(gradient, critic.q, critic.v, critic.q, batch)
    assert_agree(counts.iql_step(config, OBS, ACT).flops, found)


def test_advantage() -> None:
    config = AdvantageConfig(batch=ROWS)
    critic = init_critic(OBS, ACT, config.shape, key=KEY)
    once = Batch(floats(ROWS, OBS), floats(ROWS, ACT), floats(ROWS), floats(ROWS, OBS), floats(ROWS))
    episode = jax.ShapeDtypeStruct((ROWS,), jnp.int32)
    steps = Steps(*once, floats(ROWS), floats(ROWS), floats(ROWS, OBS), episode)

    def gradient(critic: Any, target: Any, batch: Steps, seen: jax.Array) -> Any:
        return jax.grad(lambda critic: advantage_losses(critic, target, batch, seen, config)[0])(critic)

    found = xla(gradient, critic, critic, steps, floats(ROWS, config.v_ensemble))
    assert_agree(counts.advantage_step(config, OBS, ACT).flops, found)


def test_the_papers_network_by_hand() -> None:
    """6 products of each layer on the action's path: at these sizes 6 x 3.3 MFLOP a sample, to a percent."""
    forward = counts.energy_forward(PAPER.behavior.network, OBS, ACT, 1).flops
    assert forward == 2 * (3 * 128 + 11 * 96 + 32 * 32 + 32 * 32 + 256 * 256 + 3 * 2 * 256 * 1024 + 256 * 3)
    step = counts.behavior_step(PAPER.behavior, OBS, ACT).flops
    assert step == pytest.approx(6 * PAPER.behavior.batch * forward, rel=0.02)
