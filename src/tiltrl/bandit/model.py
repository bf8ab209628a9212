"""Behavior and policy of a bandit with a single state, by the same stages that robots get."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from tiltrl.bandit.datasets import BanditSet, Points
from tiltrl.diffusion.energy import Energy, EnergyConfig
from tiltrl.errors import InputError
from tiltrl.stages.align import AlignConfig, train_policy
from tiltrl.stages.annotate import SamplerConfig, sample_candidates
from tiltrl.stages.behavior import BehaviorConfig, train_behavior
from tiltrl.stages.keys import stage_key
from tiltrl.training.loop import Session

STATE = np.zeros(1, np.float32)
"""The observation of the only state."""


@dataclass(frozen=True)
class BanditConfig:
    """How the two models are trained; sizes for a laptop."""

    points: int = 100_000  # logged actions
    k: int = 64  # candidates compared at once; the paper's theory wants many
    candidates: int = 32_768  # drawn from mu
    regroupings: int = 8  # times that they are shuffled into new groups of K: all are of one state
    batch: int = 512  # candidates an alignment step
    behavior: BehaviorConfig = field(
        default_factory=lambda: BehaviorConfig(
            network=EnergyConfig(
                action_width=64,
                time_width=24,
                obs_width=4,
                blocks=2,
                expansion=2,
                dropout=0.0,
                time_scale=1.0,
                time_input="log_snr",
                action_scale=0.5,
            ),
            steps=16_000,
            batch=128,
            learning_rate=2e-3,
            cosine=True,
            warmup=0.04,
            clip=0.3,
            second_moment=0.95,
            average=0.999,
            times="mixed",
        )
    )
    align: AlignConfig = field(
        default_factory=lambda: AlignConfig(
            steps=7_000,
            batch=0,
            learning_rate=2e-3,
            cosine=True,
            warmup=0.1,
            clip=1.0,
            second_moment=0.95,
            average=0.998,
            times="mixed",
        )
    )
    sampler: SamplerConfig = field(default_factory=lambda: SamplerConfig(calls=25, solver="2m", grid="log_snr"))

    def __post_init__(self) -> None:
        """Refuse what cannot be compared or sampled.

        Raises:
            InputError: k lies outside [2, batch], or there are fewer than 2 calls.
        """
        if not 2 <= self.k <= self.batch:
            raise InputError(f"k = {self.k}; at least 2 candidates are needed to compare, and at most {self.batch}")
        if self.sampler.calls < 2:
            raise InputError(f"calls = {self.sampler.calls}; a second-order sampler needs at least 2 network calls")


def fit_mu(points: Points, config: BanditConfig, seed: int, session: Session | None = None) -> Energy:
    """The behavior model of logged points."""
    data = jnp.zeros((len(points), 1)), jnp.asarray(points, jnp.float32)
    return _only(train_behavior(data, config.behavior, stage_key(seed, "behavior")[None], session))


def draw_candidates(mu: Energy, config: BanditConfig, seed: int) -> Float[np.ndarray, "groups k 2"]:
    """Candidates of mu, in groups of K; each is in as many groups as there are regroupings."""
    groups = config.candidates // config.k
    key = stage_key(seed, "candidates")
    batch = min(max(1, 8192 // config.k), groups)
    drawn = sample_candidates(mu, np.zeros((groups, 1), np.float32), config.k, config.sampler, key, batch=batch)
    rng = np.random.default_rng(seed)
    shuffled = [rng.permutation(drawn.reshape(-1, 2)) for _ in range(config.regroupings)]
    return np.concatenate(shuffled).reshape(-1, config.k, 2)


def tilt(
    mu: Energy,
    candidates: Float[np.ndarray, "groups k 2"],
    known: BanditSet,
    betas: Sequence[float],
    config: BanditConfig,
    seed: int,
    session: Session | None = None,
) -> list[Energy]:
    """One aligned policy a temperature, all in one program.

    The value-based loss compares `softmax(Q / beta)` with the bare log-ratio: Eq. 14 at temperature 1 on values in
    units of beta. Its optimum at t = 0 is that of Eq. 14 at beta, and by Proposition 3.1 temperature 1 is the one at
    which it is a consistent diffusion for t > 0 too. The preference loss has no values to divide, and takes beta as
    Eq. 15 does.
    """
    groups, k, _ = candidates.shape
    q = known.q(candidates.reshape(-1, 2)).reshape(groups, k).astype(np.float32)
    align = replace(config.align, batch=config.batch // k)

    # What differs by temperature is the values with the one loss, and the temperature itself with the other.
    value = align.objective == "value"
    temperatures = jnp.asarray(betas, jnp.float32)
    scaled = jnp.asarray(q) / temperatures[:, None, None] if value else jnp.asarray(q)[None]

    def members(leaf: Array) -> Array:
        return jnp.broadcast_to(leaf, (len(scaled), *leaf.shape))

    found = train_policy(
        jax.tree.map(members, mu),
        members(jnp.zeros((groups, 1))),
        members(jnp.asarray(candidates)),
        scaled,
        jnp.ones(1) if value else temperatures,
        align,
        members(stage_key(seed, "align")),
        session,
    )
    return [
        jax.tree.map(lambda leaf, i=i: leaf[i, 0] if value else leaf[0, i], found.policy) for i in range(len(betas))
    ]


def draw(energy: Energy, n: int, sampler: SamplerConfig, key: Array) -> Points:
    """Samples of mu or pi, as many network calls each as the sampler has."""
    return sample_candidates(energy, np.zeros((1, 1), np.float32), n, sampler, key, batch=1)[0]


@jax.jit
def _energies(energy: Energy, points: Float[Array, "n 2"], t: Float[Array, ""]) -> Float[Array, " n"]:
    return energy(points, jnp.asarray(STATE), t)


@jax.jit
def _scores(energy: Energy, points: Float[Array, "n 2"], t: Float[Array, ""]) -> Float[Array, "n 2"]:
    return jax.grad(lambda some: jnp.sum(energy(some, jnp.asarray(STATE), t)))(points)


def energies(energy: Energy, points: Points, t: float) -> Float[np.ndarray, " n"]:
    """`f` of each point: its log-density at time t, up to a constant."""
    return np.asarray(_energies(energy, jnp.asarray(points, jnp.float32), jnp.asarray(t, jnp.float32)))


def scores(energy: Energy, points: Points, t: float) -> Points:
    """The gradient of `f` at each point."""
    return np.asarray(_scores(energy, jnp.asarray(points, jnp.float32), jnp.asarray(t, jnp.float32)))


def _only(stacked: Energy) -> Energy:
    return jax.tree.map(lambda leaf: leaf[0], stacked)
