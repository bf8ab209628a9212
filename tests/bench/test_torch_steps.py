"""The PyTorch reference computes what ours does: same weights, same losses, gradients and samples."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from benchmark_scripts import load_script

from tiltrl import losses
from tiltrl.bench.work import ACT, OBS, made_up
from tiltrl.diffusion.energy import Energy, EnergyConfig, data_prediction, noise_prediction
from tiltrl.diffusion.samplers import dpmpp_2s
from tiltrl.diffusion.schedule import diffuse, uniform_times
from tiltrl.presets import PAPER
from tiltrl.stages.align import alignment_loss
from tiltrl.stages.critics.iql import Batch, IQLConfig, iql_losses
from tiltrl.stages.critics.networks import MLP, init_critic

torch = pytest.importorskip("torch", reason="PyTorch is not installed; the core does without")
N, K = 6, 4
SMALL = EnergyConfig(action_width=8, time_width=4, obs_width=4, blocks=2, time_features=6, time_scale=1.0, dropout=0.0)
NETWORKS = (SMALL, replace(SMALL, action_scale=0.5, time_input="log_snr"))


steps = load_script("torch_steps")


def tensor(array: Any) -> Any:
    return torch.from_numpy(np.array(array))


def to_torch(energy: Energy, config: EnergyConfig) -> Any:
    """The reference's network with our weights: their names are the same."""
    network = steps.Energy(OBS, ACT, config)
    named = {
        jax.tree_util.keystr(path, simple=True, separator="."): tensor(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(energy)
    }
    network.load_state_dict(named)
    return network


def perceptron(network: MLP, member: int, config: IQLConfig, inputs: int) -> Any:
    theirs = steps.mlp(inputs, config)
    with torch.no_grad():
        for layer, ours in zip(theirs[::2], network.layers, strict=True):
            layer.weight.copy_(tensor(ours.weight[member]))
            layer.bias.copy_(tensor(ours.bias[member]))
    return theirs


def assert_close(ours: Any, theirs: Any) -> None:
    theirs = theirs.detach().numpy() if isinstance(theirs, torch.Tensor) else theirs
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=2e-4, atol=2e-5)


def assert_same_gradients(ours: Energy, theirs: Any) -> None:
    named = dict(theirs.named_parameters())
    for path, leaf in jax.tree_util.tree_leaves_with_path(ours):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if name != "frequencies":  # fixed
            gradient = named[name].grad
            assert_close(leaf, np.zeros_like(leaf) if gradient is None else gradient)


@pytest.fixture
def batch() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    return {
        "obs": draw(N, OBS),
        "action": draw(N, ACT),
        "noise": draw(N, ACT),
        "t": rng.uniform(0.01, 1, N).astype(np.float32),
        "next_obs": draw(N, OBS),
        "reward": draw(N),
        "candidates": draw(N, K, ACT),
        "q": draw(N, K),
    }


@pytest.mark.parametrize("config", NETWORKS, ids=["bare", "preconditioned"])
@pytest.mark.parametrize("score", ["score_by_autograd", "score_by_func"])
def test_denoising_loss_and_its_gradients(config: EnergyConfig, score: str, batch: dict[str, np.ndarray]) -> None:
    energy = Energy(OBS, ACT, config, key=jax.random.key(0))
    obs, action, noise, t = (batch[name] for name in ("obs", "action", "noise", "t"))

    def loss(energy: Energy) -> jax.Array:
        noisy = diffuse(jnp.asarray(action), jnp.asarray(noise), jnp.asarray(t))
        predicted = jax.vmap(noise_prediction, in_axes=(None, 0, 0, 0))(energy, noisy, obs, t)
        return jnp.mean(jax.vmap(losses.denoising)(predicted, noise))

    ours, gradient = jax.value_and_grad(loss)(energy)
    network = to_torch(energy, config)
    theirs = steps.denoising_loss(network, getattr(steps, score), *map(tensor, (action, obs, t, noise)))
    theirs.backward()
    assert_close(ours, theirs)
    assert_same_gradients(gradient, network)


def test_alignment_loss_and_its_gradients(batch: dict[str, np.ndarray]) -> None:
    policy, behavior = (Energy(OBS, ACT, SMALL, key=jax.random.key(seed)) for seed in (0, 1))
    noisy, obs, t, q = (jnp.asarray(batch[name]) for name in ("candidates", "obs", "t", "q"))
    gradient, info = jax.grad(alignment_loss, has_aux=True)(policy, behavior, noisy, obs, t, q, 0.3)
    network, fixed = to_torch(policy, SMALL), to_torch(behavior, SMALL)
    theirs = steps.alignment_loss(network, fixed, *map(tensor, (noisy, obs, t, q)), 0.3)
    theirs.backward()
    assert_close(info["alignment_loss"], theirs)
    assert_same_gradients(gradient, network)


def test_iql_losses(batch: dict[str, np.ndarray]) -> None:
    config = IQLConfig(width=8)
    critic, target = (init_critic(OBS, ACT, config.shape, key=jax.random.key(seed)) for seed in (0, 1))
    obs, action, next_obs, reward = (jnp.asarray(batch[name]) for name in ("obs", "action", "next_obs", "reward"))
    discount = jnp.full(N, 0.99)
    _, info = iql_losses(critic.q, critic.v, target.q, Batch(obs, action, reward, next_obs, discount), config.expectile)

    def twin(network: MLP) -> Any:
        both = steps.TwinQ(OBS, ACT, config)
        both.q1, both.q2 = (perceptron(network, member, config, OBS + ACT) for member in (0, 1))
        return both

    v = perceptron(critic.v, 0, config, OBS)
    s, a, s2, r = map(tensor, (obs, action, next_obs, reward))
    assert_close(info["v_loss"], steps.v_loss(v, twin(target.q), s, a, config.expectile))
    assert_close(info["q_loss"], steps.q_loss(twin(critic.q), s, a, r + 0.99 * v(s2).squeeze(-1).detach()))


@pytest.mark.parametrize("calls", [4, 5])
def test_samples(calls: int, batch: dict[str, np.ndarray]) -> None:
    config = NETWORKS[1]
    energy = Energy(OBS, ACT, config, key=jax.random.key(0))

    def denoise(action: jax.Array, t: jax.Array) -> jax.Array:
        return jax.vmap(lambda a, s: data_prediction(energy, a, s, t))(action, jnp.asarray(batch["obs"]))

    ours = jnp.clip(dpmpp_2s(denoise, jnp.asarray(batch["noise"]), uniform_times(calls)), -1.0, 1.0)
    network = to_torch(energy, config).requires_grad_(False)
    sampler = steps.Sampler(network, calls, steps.score_by_autograd, lambda f: f, torch.device("cpu"))
    assert_close(ours, sampler(tensor(batch["obs"]), tensor(batch["noise"])))


def test_each_stage_takes_steps() -> None:
    small = replace(
        PAPER,
        behavior=replace(PAPER.behavior, network=SMALL, batch=8, average=0.9),
        align=replace(PAPER.align, batch=8),
        critic=IQLConfig(width=8, batch=8),
    )
    bench = steps.Bench(small, made_up(K, rows=20_000), "cpu", None)
    for step in (bench.behavior(), bench.alignment(), bench.iql()):
        assert step() is None
    assert bench.acting(2)().shape == (2, ACT)
    assert bench.candidates(3)().shape == (3 * small.annotate.k, ACT)
