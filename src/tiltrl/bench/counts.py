"""FLOPs and bytes of one step of each stage, by count: functions of configurations and sizes alone.

Only matrix products are counted, as only they are compared with a matrix-product peak; what is left out (activations,
norms, noise, the optimizer's arithmetic) is a few percent of the FLOPs at these widths. The bytes are those of a
program that fuses everything else into the products: each reads its two operands and writes its result. The
derivations are in `docs/performance.md`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tiltrl.diffusion.energy import EnergyConfig
from tiltrl.stages.align import AlignConfig
from tiltrl.stages.annotate import SamplerConfig
from tiltrl.stages.behavior import BehaviorConfig
from tiltrl.stages.critics.advantage import AdvantageConfig
from tiltrl.stages.critics.iql import IQLConfig
from tiltrl.stages.critics.networks import CriticShape

FLOAT = 4
"""Bytes of a number."""

Layer = tuple[int, int]
"""Inputs and outputs of a linear layer."""


@dataclass(frozen=True)
class Cost:
    """What has to be computed and moved."""

    flops: int  # a multiplication and an addition are two
    bytes: int  # between memory and processor

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.bytes + other.bytes)

    def __mul__(self, times: int) -> Cost:
        return Cost(self.flops * times, self.bytes * times)


@dataclass(frozen=True)
class Layers:
    """The linear layers of an energy network, by whether the action's gradient passes through them."""

    path: tuple[Layer, ...]  # from the action to the energy
    condition: tuple[Layer, ...]  # of time and observation only


def energy_layers(config: EnergyConfig, obs_dim: int, act_dim: int) -> Layers:
    """The linear layers of an energy network; the one that joins the three embeddings is a product of each."""
    width, hidden = config.width, config.expansion * config.width
    blocks = ((width, hidden), (hidden, width)) * config.blocks
    return Layers(
        path=((act_dim, config.action_width), (config.action_width, width), *blocks, (width, act_dim)),
        condition=(
            (config.time_features, config.time_width),
            (config.time_width, config.time_width),
            (config.time_width, width),
            (obs_dim, config.obs_width),
            (config.obs_width, width),
        ),
    )


def mlp_layers(inputs: int, shape: CriticShape) -> tuple[Layer, ...]:
    """The linear layers of one perceptron of a critic."""
    sizes = [inputs, *[shape.width] * shape.depth, 1]
    return tuple(zip(sizes[:-1], sizes[1:], strict=True))


def products(layers: Iterable[Layer], rows: int) -> Cost:
    """One product a layer, over so many rows.

    A layer's product, that with its transpose (the gradient of its input) and that of its rows (the gradient of its
    weights) are of the same three sizes, so that all cost the same.
    """
    costs = [Cost(2 * rows * i * o, FLOAT * (rows * i + i * o + rows * o)) for i, o in layers]
    return sum(costs, Cost(0, 0))


def parameters(layers: Iterable[Layer]) -> int:
    """Weights and biases."""
    return sum(i * o + o for i, o in layers)


def adam(count: int) -> Cost:
    """Adam and a running average of so many parameters.

    Parameter, gradient, both moments and the average are read; all but the gradient are written.
    """
    return Cost(0, 9 * FLOAT * count)


def energy_forward(config: EnergyConfig, obs_dim: int, act_dim: int, rows: int) -> Cost:
    """The energies of so many actions."""
    layers = energy_layers(config, obs_dim, act_dim)
    return products(layers.path + layers.condition, rows)


def energy_gradient(config: EnergyConfig, obs_dim: int, act_dim: int, states: int, k: int = 1) -> Cost:
    """Noise predictions of K actions of so many states: forward, and back to the action; the condition is a state's."""
    layers = energy_layers(config, obs_dim, act_dim)
    return products(layers.path, states * k) * 2 + products(layers.condition, states)


def behavior_step(config: BehaviorConfig, obs_dim: int, act_dim: int) -> Cost:
    """Forward 1, input gradient 1, reverse over both 4; layers of the condition have no part in the input gradient."""
    layers = energy_layers(config.network, obs_dim, act_dim)
    passes = products(layers.path, config.batch) * 6 + products(layers.condition, config.batch) * 3
    return passes + adam(parameters(layers.path + layers.condition))


def alignment_step(config: AlignConfig, network: EnergyConfig, k: int, obs_dim: int, act_dim: int) -> Cost:
    """The policy's energies and their reverse, 1 + 2; the frozen behavior's energies, 1. The condition is a state's."""
    layers = energy_layers(network, obs_dim, act_dim)
    passes = products(layers.path, config.batch * k) * 4 + products(layers.condition, config.batch) * 4
    return passes + adam(parameters(layers.path + layers.condition))


def iql_step(config: IQLConfig, obs_dim: int, act_dim: int) -> Cost:
    """Q: forward and reverse 3, its target 1, for each of the ensemble; V: 3, and 1 at the next state."""
    q = mlp_layers(obs_dim + act_dim, config.shape)
    v = mlp_layers(obs_dim, config.shape)
    passes = products(q, config.batch) * (4 * config.ensemble) + products(v, config.batch) * 4
    return passes + adam(config.ensemble * parameters(q) + parameters(v))


def advantage_step(config: AdvantageConfig, obs_dim: int, act_dim: int) -> Cost:
    """V: forward and reverse 3, its target 1 at each of three states; advantages: 3. For each of the ensembles."""
    q = mlp_layers(obs_dim + act_dim, config.shape)
    v = mlp_layers(obs_dim, config.shape)
    passes = products(v, config.batch) * (6 * config.v_ensemble) + products(q, config.batch) * (3 * config.q_ensemble)
    return passes + adam(config.v_ensemble * parameters(v) + config.q_ensemble * parameters(q))


def sampling(network: EnergyConfig, sampler: SamplerConfig, k: int, obs_dim: int, act_dim: int, states: int) -> Cost:
    """K actions of so many states from noise: a noise prediction each call."""
    return energy_gradient(network, obs_dim, act_dim, states, k) * sampler.calls
