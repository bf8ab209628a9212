"""Reads the reference arrays' PyTorch weights into our networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from tiltrl.diffusion.energy import Energy, EnergyConfig
from tiltrl.stages.critics.networks import MLP

Arrays = Mapping[str, np.ndarray]

LINEAR = {
    "embed_time": "cond_model.0",
    "time_out": "dense1",
    "embed_action": "dense2",
    "embed_obs": "dense3",
    "join": "main.fc",
    "out": "main.out_fc",
}
BLOCK = {"norm": "layer_norm", "fc1": "fc1", "fc2": "fc2"}


def parts(energy: Energy) -> dict[str, Any]:
    """Every array of the network (or of its gradient) by its name in PyTorch."""
    named = {"embed.0.W": energy.frequencies}
    for ours, theirs in LINEAR.items():
        layer = getattr(energy, ours)
        named |= {f"{theirs}.weight": layer.weight, f"{theirs}.bias": layer.bias}
    for k, block in enumerate(energy.blocks):
        for ours, theirs in BLOCK.items():
            layer = getattr(block, ours)
            named |= {f"main.blocks.{k}.{theirs}.{part}": getattr(layer, part) for part in ("weight", "bias")}
    return named


def read_energy(arrays: Arrays, prefix: str, obs_dim: int, act_dim: int) -> Energy:
    """The bottleneck network saved under a prefix, at the paper's sizes."""
    blank = eqx.filter_eval_shape(Energy, obs_dim, act_dim, EnergyConfig(), key=jax.random.key(0))
    values = [jnp.asarray(arrays[f"{prefix}/{name}"]) for name in parts(blank)]
    return eqx.tree_at(lambda energy: list(parts(energy).values()), blank, values)


def read_ensemble(arrays: Arrays, prefixes: Sequence[str], inputs: int) -> MLP:
    """One perceptron of two hidden layers for each prefix, as one module with a leading axis."""

    def layers(network: MLP) -> list[Any]:
        return [array for layer in network.layers for array in (layer.weight, layer.bias)]

    names = [f"{index}.{part}" for index in (0, 2, 4) for part in ("weight", "bias")]  # odd indices are ReLUs
    values = [jnp.stack([jnp.asarray(arrays[f"{prefix}.{name}"]) for prefix in prefixes]) for name in names]
    blank = eqx.filter_eval_shape(MLP, inputs, 256, 2, layer_norm=False, key=jax.random.key(0))
    return eqx.tree_at(layers, blank, values)
