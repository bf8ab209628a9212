"""The work of each stage, ready to be run on made-up data of hopper's sizes, by the functions that a run uses.

What is timed is told by a `Tick`: it hears how many steps are done, may wait, and raises `Enough` to stop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from tiltrl.bench import counts
from tiltrl.bench.counts import Cost
from tiltrl.diffusion.energy import Energy
from tiltrl.policy import Policy
from tiltrl.policy_folder import PolicyConfig
from tiltrl.presets import PresetName, preset_named
from tiltrl.stages.align import train_policy
from tiltrl.stages.annotate import sample_candidates
from tiltrl.stages.behavior import train_behavior
from tiltrl.stages.critics.advantage import AdvantageConfig, Steps, train_advantage
from tiltrl.stages.critics.iql import Batch, IQLConfig, train_iql
from tiltrl.stages.critics.networks import init_critic
from tiltrl.training.loop import Quiet, Session
from tiltrl.types import Scaling, Task

OBS, ACT = 11, 3
"""Sizes of hopper's observations and actions."""
ROWS = 1_000_000
"""Logged steps, as D4RL's sets have: more than fit into a processor's cache."""
LABELED = 16_384
"""States with candidates."""
EPISODES = 1000
ENDLESS = 1_000_000_000
"""More steps than any measurement takes."""

StageName = Literal["behavior", "critic", "candidates", "alignment"]
STAGES: tuple[StageName, ...] = ("behavior", "critic", "candidates", "alignment")

Tick = Callable[[int], None]
"""Called every now and then with the number of steps done so far; raises `Enough` to stop."""


class Enough(Exception):
    """No more steps are wanted."""


@dataclass(frozen=True)
class Work:
    """What one stage of one preset does over and over."""

    stage: StageName
    preset: PresetName
    cost: Cost  # of one step, by count
    rows: int  # examples or candidates a step
    run: Callable[[Tick], Any]  # takes steps until the tick raises


@dataclass(frozen=True)
class Data:
    """Made-up logged steps and candidates, normalized."""

    obs: np.ndarray  # (rows, obs)
    action: np.ndarray  # (rows, act), in the unit box
    next_obs: np.ndarray  # (rows, obs)
    reward: np.ndarray  # (rows,)
    discount: np.ndarray  # (rows,)
    candidates: np.ndarray  # (states, k, act): at the first observations
    q: np.ndarray  # (states, k)


def made_up(k: int, rows: int = ROWS, states: int = LABELED, seed: int = 0) -> Data:
    """Noise of hopper's sizes: no rate here depends on what the numbers are."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    def unit(*shape: int) -> np.ndarray:
        return 2.0 * rng.random(shape, np.float32) - 1.0

    return Data(
        obs=normal(rows, OBS),
        action=unit(rows, ACT),
        next_obs=normal(rows, OBS),
        reward=normal(rows),
        discount=np.full(rows, 0.99, np.float32),
        candidates=unit(states, k, ACT),
        q=normal(states, k),
    )


class _Listening(Quiet):
    """A session that keeps nothing and tells how far it is."""

    def __init__(self, tick: Tick):
        self._tick = tick

    def record(self, step: int, steps: int, metrics: dict[str, Any] | None, train: Any) -> None:
        """Tell."""
        self._tick(step)


def behavior_work(preset: PresetName) -> Work:
    """Pretraining through the double gradient."""
    given = preset_named(preset)
    config = replace(given.behavior, steps=ENDLESS)

    def train(session: Session) -> None:
        data = made_up(given.annotate.k)
        train_behavior((jax.device_put(data.obs), jax.device_put(data.action)), config, _keys(), session)

    return Work("behavior", preset, counts.behavior_step(config, OBS, ACT), config.batch, _until_enough(train))


def critic_work(preset: PresetName) -> Work:
    """The preset's own critic: IQL or the advantage critic."""
    given = preset_named(preset)
    config = replace(given.critic, steps=ENDLESS)
    assert isinstance(config, IQLConfig | AdvantageConfig), "no preset comes with another"

    def train(session: Session) -> None:
        data = made_up(given.annotate.k)
        obs, action, reward, next_obs, discount = map(
            jax.device_put, (data.obs, data.action, data.reward, data.next_obs, data.discount)
        )
        if isinstance(config, IQLConfig):
            train_iql(Batch(obs, action, reward, next_obs, discount), config, _keys(), session)
        else:
            episode = jnp.arange(ROWS) * EPISODES // ROWS
            steps = Steps(obs, action, reward, next_obs, discount, reward, discount, next_obs, episode)
            train_advantage(steps, EPISODES, config, _keys(), session)

    iql = isinstance(config, IQLConfig)
    cost = counts.iql_step(config, OBS, ACT) if iql else counts.advantage_step(config, OBS, ACT)
    return Work("critic", preset, cost, config.batch, _until_enough(train))


def alignment_work(preset: PresetName) -> Work:
    """Tilting at one temperature."""
    given = preset_named(preset)
    config, network, k = replace(given.align, steps=ENDLESS), given.behavior.network, given.annotate.k

    def train(session: Session) -> None:
        data = made_up(k)
        obs, candidates, q = (jax.device_put(array[None]) for array in (data.obs[:LABELED], data.candidates, data.q))
        behavior = jax.vmap(lambda key: Energy(OBS, ACT, network, key=key))(_keys())
        train_policy(behavior, obs, candidates, q, jnp.asarray(given.betas[:1]), config, _keys(), session)

    cost = counts.alignment_step(config, network, k, OBS, ACT)
    return Work("alignment", preset, cost, config.batch * k, _until_enough(train))


def candidates_work(preset: PresetName, states: int) -> Work:
    """Annotation's sampling; a step is a batch of so many states."""
    given = preset_named(preset)
    network, k = given.behavior.network, given.annotate.k

    def run(tick: Tick) -> None:
        energy = Energy(OBS, ACT, network, key=jax.random.key(0))
        obs = made_up(k, rows=LABELED).obs
        before = 0
        while True:
            sample_candidates(
                energy,
                obs,
                k,
                given.sampler,
                jax.random.key(1),
                batch=states,
                on_progress=lambda done, _, before=before: tick(before + done // states),
            )
            before += len(obs) // states

    cost = counts.sampling(network, given.sampler, k, OBS, ACT, states)
    return Work("candidates", preset, cost, states * k, run)


def work_of(stage: StageName, preset: PresetName) -> Work:
    """The work of a stage, in batches that keep the device busy."""
    if stage == "candidates":
        return candidates_work(preset, 64 if jax.default_backend() == "cpu" else 512)
    return {"behavior": behavior_work, "critic": critic_work, "alignment": alignment_work}[stage](preset)


def acting_policy(preset: PresetName) -> Policy:
    """A policy of random weights that acts as the preset's do with rejection sampling."""
    given = preset_named(preset)
    low, high = (-1.0,) * ACT, (1.0,) * ACT
    config = PolicyConfig(
        task=Task("made up", None, low, high, OBS),
        scaling=Scaling((0.0,) * OBS, (1.0,) * OBS, low, high),
        energy=given.behavior.network,
        sampler=given.sampler,
        critic=given.critic.shape,
        candidates=given.candidates,
    )
    energy_key, critic_key = jax.random.split(jax.random.key(0))
    network = Energy(OBS, ACT, given.behavior.network, key=energy_key)
    return Policy(network, config, init_critic(OBS, ACT, given.critic.shape, key=critic_key))


def _keys() -> jax.Array:
    return jax.random.key(0)[None]


def _until_enough(train: Callable[[Session], None]) -> Callable[[Tick], None]:
    return lambda tick: train(_Listening(tick))
