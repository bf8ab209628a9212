"""Stage 3: candidate actions from the behavior model, each with its value (EDA, Section 3.2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from tiltrl.config_io import check_ranges
from tiltrl.diffusion.energy import Energy, data_prediction
from tiltrl.diffusion.samplers import Grid, Solver, sample
from tiltrl.errors import InputError
from tiltrl.training.rows import KeptRows, compute_rows
from tiltrl.types import Candidates, Scaling

Score = Callable[[Float[np.ndarray, "batch obs"], Float[np.ndarray, "batch act"]], Float[np.ndarray, " batch"]]
"""Any value of actions: `(obs, action) -> q`, both in the environment's units."""


@dataclass(frozen=True)
class SamplerConfig:
    """How actions are drawn from a diffusion model. The defaults are the paper's and the release's."""

    calls: int = 15  # network calls a sample
    solver: Solver = "2s"
    grid: Grid = "uniform"

    def __post_init__(self) -> None:
        """Refuse numbers of calls that are none, or never end.

        Raises:
            InputError: as said.
        """
        check_ranges(self, calls=(1, 1000))


@dataclass(frozen=True)
class AnnotateConfig:
    """Which states get candidates, and in what units their values are. The defaults are the paper's and the release's.

    Normalized values are divided by their spread among the candidates of a state and multiplied by the critic's trust,
    so that one beta means about the same step away from the behavior in every task, and a smaller one where the critic
    is doubtful. With Gaussian values of full trust, `KL(pi || mu)` is `1 / (2 beta^2)` nats.
    """

    k: int = 16  # candidates a state
    states: int | None = None  # states drawn from the data; None: all of them
    normalize: bool = False
    scale: float = 3.0  # factor on Q where it is not normalized; the release multiplies by 3 (Eq. 14 does not)


def sample_actions(
    energy: Energy, obs: Float[Array, "batch obs"], config: SamplerConfig, key: PRNGKeyArray, k: int = 1
) -> Float[Array, "batch k act"]:
    """K actions in the unit box for each normalized observation."""
    return actions_from(energy, obs, jax.random.normal(key, (obs.shape[0], k, energy.act_dim)), config)


def actions_from(
    energy: Energy, obs: Float[Array, "batch obs"], noise: Float[Array, "batch k act"], config: SamplerConfig
) -> Float[Array, "batch k act"]:
    """Where the solver, which is deterministic, takes standard normal noise: actions in the unit box."""

    def denoise(action: Float[Array, "batch k act"], t: Float[Array, ""]) -> Float[Array, "batch k act"]:
        return data_prediction(energy, action, obs[:, None], t)

    return sample(denoise, noise, calls=config.calls, solver=config.solver, grid=config.grid)


_draw = jax.jit(sample_actions, static_argnames=("config", "k"))


def sample_candidates(
    energy: Energy,
    obs: Float[np.ndarray, "states obs"],
    k: int,
    config: SamplerConfig,
    key: PRNGKeyArray,
    *,
    batch: int = 512,
    kept: KeptRows | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Float[np.ndarray, "states k act"]:
    """K independent actions of one behavior model for each normalized state, in the unit box.

    With `kept`, an interrupted call is continued, to the same bits.

    Raises:
        InputError: k < 2, where nothing could be compared.
    """
    if k < 2:
        raise InputError(f"k = {k}; at least 2 candidates a state are needed to compare")

    def compute(index: Int[np.ndarray, " batch"], start: int) -> Float[np.ndarray, "batch k act"]:
        return np.asarray(_draw(energy, obs[index], config, jax.random.fold_in(key, start), k))

    shape = (k, energy.act_dim)
    return compute_rows(compute, len(obs), shape, batch=batch, kept=kept, on_progress=on_progress)


def annotate(
    score: Score, obs: Float[np.ndarray, "states obs"], action: Float[np.ndarray, "states k act"], part: int = 4096
) -> Float[np.ndarray, "states k"]:
    """The value of every candidate, by any function of (obs, action) in the environment's units.

    Raises:
        InputError: the function returns another shape, or NaN or infinite values.
    """
    states, k, act = action.shape
    values = np.empty((states, k), np.float32)
    # In parts, so that a critic's activations fit in memory and a score that fails does so at once.
    for start in range(0, states, part):
        some = action[start : start + part]
        rows = len(some) * k
        q = np.asarray(score(np.repeat(obs[start : start + part], k, axis=0), some.reshape(rows, act)))
        if q.shape != (rows,):
            raise InputError(f"score returned shape {q.shape} for {rows} actions; expected ({rows},)")
        if not np.isfinite(q).all():
            bad = q[~np.isfinite(q)][0]
            raise InputError(f"score returned {bad} for an action; every candidate needs a finite value")
        values[start : start + part] = q.reshape(-1, k)
    return values


def without_direction(q: Float[np.ndarray, "*seeds states k"]) -> float:
    """Share of the states whose candidates all have the same value."""
    return float(np.mean(np.ptp(q, axis=-1) == 0))


def scaled_values(
    q: Float[np.ndarray, "states k"], config: AnnotateConfig, trust: float
) -> Float[np.ndarray, "states k"]:
    """Values as the alignment loss takes them: normalized and shrunk by trust, or multiplied by the fixed scale.

    The fixed scale is the paper's way, which knows no trust.
    """
    if not config.normalize:
        return config.scale * q
    centered = q - q.mean(axis=1, keepdims=True)
    spread = float(np.sqrt(np.mean(centered**2)))
    # A critic that finds all actions equal asks for no tilt.
    return centered * (trust / spread) if spread > 0 else centered


def make_candidates(
    energy: Energy,
    scaling: Scaling,
    obs: Float[np.ndarray, "states obs"],
    score: Score,
    trust: float,
    config: AnnotateConfig,
    sampler: SamplerConfig,
    key: PRNGKeyArray,
    kept: KeptRows | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Candidates:
    """K actions of one behavior model at each of the given states, with their values in units of beta.

    Args:
        energy: the behavior model.
        scaling: between the environment's units and the model's.
        obs: the states, in the environment's units.
        score: values actions, in the environment's units.
        trust: how far the score is believed, 0 to 1; used where values are normalized.
        config: K, and the units of the values.
        sampler: how the actions are drawn.
        key: of the noise.
        kept: where actions are kept as they are drawn.
        on_progress: called with (states done, states in all).

    Raises:
        InputError: K < 2, or the score is not finite, or the same for all actions of each state.
    """
    normalized = scaling.normalize_obs(obs)
    unit = sample_candidates(energy, normalized, config.k, sampler, key, kept=kept, on_progress=on_progress)
    action = scaling.to_env(unit)
    q = annotate(score, obs, action)
    if without_direction(q) == 1:
        raise InputError(
            f"the critic values all {config.k} candidates of every state alike, so it gives no direction to align to"
        )
    return Candidates(obs, action, scaled_values(q, config, trust))


def choose_states(total: int, fraction: float, config: AnnotateConfig, seed: int) -> Int[np.ndarray, " states"]:
    """Indices of the states that get candidates: a random share of the data, at most `config.states`, ascending.

    Raises:
        InputError: the fraction is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise InputError(f"label_fraction = {fraction}; it is a share of the states, above 0 and at most 1")
    count = min(max(1, round(total * fraction)), config.states or total)
    return np.sort(np.random.default_rng(seed).choice(total, count, replace=False))
