"""A span of steps is prepared as it is in the whole set, from memory or from disk, and trains as well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tiltrl.data.shards import read_shards, write_shards
from tiltrl.data.transforms import split_episodes
from tiltrl.diffusion.energy import EnergyConfig
from tiltrl.errors import InputError
from tiltrl.stages.behavior import BehaviorConfig, denoising_loss, train_behavior
from tiltrl.stages.critics.advantage import AdvantageConfig, advantage_losses, n_step
from tiltrl.stages.critics.iql import IQLConfig, iql_losses
from tiltrl.stages.critics.train import train_critic
from tiltrl.stages.prepare import advantage_data, behavior_data, one_step_data, scaling_of
from tiltrl.training import stream
from tiltrl.types import Task, Transitions

CONFIG = AdvantageConfig(n_step=5, discount=0.9)


def made_up(episodes: int) -> Transitions:
    """A noisy walk in two dimensions, pushed by the action; episodes of 1 to 30 steps, half of them cut by time."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 31, episodes)
    steps, last = int(lengths.sum()), np.zeros(lengths.sum(), bool)
    last[np.cumsum(lengths) - 1] = True
    obs = rng.normal(size=(steps, 2)).astype(np.float32) + 3
    action = np.tanh(rng.normal(size=(steps, 1)) + obs[:, :1] - 3).astype(np.float32)
    terminal = last & (rng.random(steps) < 0.5)
    return Transitions(
        obs=obs,
        action=action,
        reward=obs[:, 0] + action[:, 0],
        next_obs=obs + 0.1 * action,
        terminal=terminal,
        timeout=last & ~terminal,
        task=Task("made up", None, (-1.0,), (1.0,), 2),
    )


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> Transitions:
    return read_shards(write_shards([made_up(300)], tmp_path_factory.mktemp("set") / "shards"), "made up")


@pytest.mark.parametrize("kind", ["behavior", "one step", "advantage"])
def test_a_span_is_that_of_the_whole(on_disk: Transitions, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def prepared(data: Transitions) -> Any:
        scaling = scaling_of(data, normalize=True)
        data, rows, _ = split_episodes(data, 0.3, seed=0)
        if kind == "behavior":
            return behavior_data(data, scaling)
        return (
            one_step_data(data, rows, scaling, 0.9)
            if kind == "one step"
            else advantage_data(data, rows, scaling, CONFIG)
        )

    whole = prepared(made_up(300))
    monkeypatch.setattr(stream, "DEVICE_BYTES", 0)
    parts = prepared(on_disk)
    rows = len(jax.tree.leaves(whole)[0])
    assert parts.rows == rows
    for start, stop in [(0, rows), (0, 1), (rows - 1, rows), *((i, min(i + 7, rows)) for i in range(0, rows, 5))]:
        for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts.prepare(start, stop)), strict=True):
            np.testing.assert_array_equal(a[start:stop], b)


def test_the_whole_is_what_the_training_episodes_alone_give(on_disk: Transitions) -> None:
    scaling = scaling_of(on_disk, normalize=True)
    data, rows, held_out = split_episodes(on_disk, 0.3, seed=0)
    found, train = advantage_data(data, rows, scaling, CONFIG), data.take(rows)
    assert not isinstance(found, stream.Stream)
    total, rest, landing = n_step(train.reward, train.terminal, train.timeout, CONFIG.n_step, CONFIG.discount)
    np.testing.assert_array_equal(found.obs, scaling.normalize_obs(train.obs))
    np.testing.assert_array_equal(found.n_reward, total)
    np.testing.assert_array_equal(found.n_discount, rest)
    np.testing.assert_array_equal(found.landed_obs, scaling.normalize_obs(train.next_obs[landing]))
    np.testing.assert_array_equal(np.flatnonzero(np.diff(found.episode)), train.ends[:-1])
    assert len(rows) + len(held_out) == len(on_disk)


def test_observations_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    folder = write_shards([made_up(3)], tmp_path / "set")
    path = folder / "obs.npy"
    path.write_bytes(path.read_bytes()[:-4] + np.float32(np.nan).tobytes())
    with pytest.raises(InputError, match="made up: obs holds values that are not finite"):
        scaling_of(read_shards(folder, "made up"), normalize=False)


def first(members: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[0], members)


KEYS = jax.random.split(jax.random.key(0), 1)
NETWORK = EnergyConfig(action_width=16, time_width=8, obs_width=16, blocks=1, expansion=1, dropout=0.0, time_features=8)
BEHAVIOR = BehaviorConfig(network=NETWORK, steps=1000, batch=64, learning_rate=3e-3, cosine=True)
ADVANTAGE = AdvantageConfig(steps=1000, batch=64, width=16, depth=1, n_step=5, discount=0.9)
IQL = IQLConfig(steps=1000, batch=64, width=16, depth=1, discount=0.9, learning_rate=1e-3)


def not_asked(obs: np.ndarray, k: int) -> np.ndarray:
    raise AssertionError("these critics ask for no action of the behavior")


@pytest.mark.parametrize(
    ("config", "bytes_a_row"),
    [
        pytest.param(BEHAVIOR, 12, marks=pytest.mark.slow),
        pytest.param(ADVANTAGE, 48, marks=pytest.mark.slow),
        (IQL, 28),
    ],
    ids=["behavior", "advantage", "iql"],
)
def test_a_stream_trains_to_about_the_same_loss(
    on_disk: Transitions,
    config: BehaviorConfig | AdvantageConfig | IQLConfig,
    bytes_a_row: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scaling = scaling_of(on_disk, normalize=True)
    data, rows, _ = split_episodes(on_disk, 0.3, seed=0)

    def loss() -> float:
        """Of a trained network, on all training steps."""
        if isinstance(config, BehaviorConfig):
            energy = first(train_behavior(behavior_data(data, scaling), config, KEYS))
            obs, action = (leaf[rows] for leaf in whole_behavior)
            return float(denoising_loss(energy, obs, action, KEYS[0], times="stratified", dropout=False))
        critic = first(train_critic(data, rows, scaling, config, not_asked, KEYS))
        if isinstance(config, IQLConfig):
            return float(iql_losses(critic.q, critic.v, critic.q, whole_batch, config.expectile)[0])
        seen = jnp.ones((len(rows), config.v_ensemble))
        return float(advantage_losses(critic, critic, whole_steps, seen, config)[0])

    whole_behavior: Any = behavior_data(data, scaling)
    whole_batch: Any = one_step_data(data, rows, scaling, CONFIG.discount)
    whole_steps: Any = advantage_data(data, rows, scaling, CONFIG)
    whole = loss()
    # Pools of about a third of the rows, of which a quarter changes with every chunk.
    monkeypatch.setattr(stream, "DEVICE_BYTES", 0)
    monkeypatch.setattr(stream, "BLOCKS", 4)
    monkeypatch.setattr(stream, "GROUPS", 4)
    monkeypatch.setattr(stream, "POOL_BYTES", len(rows) // 3 * bytes_a_row)
    assert loss() == pytest.approx(whole, rel=0.03)
