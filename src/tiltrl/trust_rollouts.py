"""The rollout half of `tiltrl critic check`: actions tried from recorded states, and the critic's advice followed."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from tiltrl.api import member
from tiltrl.config_io import check_ranges
from tiltrl.diffusion.energy import Energy
from tiltrl.errors import InputError
from tiltrl.evaluation.montecarlo import Act, RewardUnits, returns_from, reward_units
from tiltrl.evaluation.reset import Simulator, reproduced, require_reproduced, whole_states
from tiltrl.evaluation.truth import RolloutCheck, rollout_check
from tiltrl.pipeline import Run
from tiltrl.serialization import save_arrays
from tiltrl.stages.annotate import SamplerConfig, Score, actions_from, annotate, sample_candidates
from tiltrl.stages.keys import stage_key
from tiltrl.trained import arrays_of
from tiltrl.training.rows import KeptRows, compute_rows
from tiltrl.types import Transitions


@dataclass(frozen=True)
class RolloutConfig:
    """How many rollouts are made, and how long they are."""

    states: int  # to begin in, each of a held-out step
    candidates: int = 8  # actions of the behavior tried in a state; and those that Q chooses among
    repeats: int = 4  # of each; even, so that halves can be compared
    greedy: int = 4  # rollouts that follow Q, for each repeat
    horizon: int = 250  # a reward after it would count 8 % at the usual discount
    steps_ahead: int = 20  # for which Q is followed: long enough to leave the data, where it leads there
    states_at_once: int = 8  # whose rollouts go in lockstep: 256 environments, some 300 MB

    def __post_init__(self) -> None:
        """Refuse numbers that nothing can be told from.

        Raises:
            InputError: one lies outside its bounds, or Q would be followed for longer than rewards are summed.
        """
        check_ranges(self, states=(2, 100_000), horizon=(1, 100_000), steps_ahead=(1, 100_000))
        if self.steps_ahead > self.horizon:
            raise InputError(
                f"steps_ahead = {self.steps_ahead}; it must lie in 1 to the horizon, {self.horizon}: nothing is summed "
                "after it"
            )


def check_by_rollouts(run: Run, i: int, config: RolloutConfig) -> RolloutCheck:
    """Try actions from states of held-out episodes, in the environment; kept in the run's folder as they come.

    Args:
        run: with a finished critic.
        i: number of the seed.
        config: how many and how long.

    Raises:
        InputError: the data names no environment, or the environment cannot be put into the data's states.
    """
    data, _, held_out = run.split
    score, discount = run.score(i), run.preset.critic.discount
    units = reward_units(run.data.reward, data.reward)
    states, share = usable_states(held_out, units, config.states, run.seeds[i])
    key = jax.random.fold_in(stage_key(run.seeds[i], "act"), 1)
    normalized = run.scaling.normalize_obs(states)
    behavior = member(run.behavior, i)
    candidates = run.scaling.to_env(
        sample_candidates(behavior, normalized, config.candidates, run.preset.sampler, jax.random.fold_in(key, 0))
    )
    stage = run.folder.stage("rollouts", critic=run.critic_stage.key, seed=run.seeds[i], config=config)
    shape = (config.candidates + config.greedy, config.repeats)
    path = stage.folder / "returns.safetensors"
    if not stage.done:
        run.reporter.start(f"rollouts, seed {run.seeds[i]}", len(states))
        began = time.monotonic()
        with ExitStack() as stack:
            width = config.states_at_once * config.repeats * max(config.candidates, config.greedy)
            simulators = [stack.enter_context(closing(Simulator(held_out.task))) for _ in range(width)]
            trial = _Trial(behavior, score, run.preset.sampler, config, discount, units)

            def compute(index: Int[np.ndarray, " batch"], start: int) -> Float[np.ndarray, "batch columns repeats"]:
                of_batch = jax.random.fold_in(jax.random.fold_in(key, 1), start)
                return trial.run(run, simulators, states[index], candidates[index], of_batch)

            kept = stack.enter_context(KeptRows(stage.folder / "parts", run.reporter.say, run.saving.every))
            found = compute_rows(
                compute,
                len(states),
                shape,
                batch=config.states_at_once,
                kept=kept,
                on_progress=lambda done, total: run.reporter.update(done, total, {}),
            )
        save_arrays(path, found)
        stage.finish({"states": len(states), "reproduced": share}, began)
    like = jax.ShapeDtypeStruct((len(states), *shape), jnp.float32)
    returns = np.asarray(arrays_of(stage, path.name, like), np.float64)
    return rollout_check(
        annotate(score, states, candidates).astype(np.float64),
        returns[:, : config.candidates],
        returns[:, config.candidates :],
        horizon=config.horizon,
        discount=discount,
        reproduced=share,
        steps_ahead=config.steps_ahead,
    )


def usable_states(
    held_out: Transitions, units: RewardUnits, count: int, seed: int
) -> tuple[Float[np.ndarray, "states obs"], float]:
    """Held-out states that an environment can be put into, at most so many, and the share of those tried that can.

    Raises:
        InputError: the data names no environment, or too few of the states reproduce their recorded step.
    """
    task = held_out.task
    if task.env_spec is None:
        raise InputError(
            f"--rollouts {count}: {task.dataset} names no environment to roll out in; check the critic without it"
        )
    whole = np.flatnonzero(whole_states(held_out.obs))
    tried = np.random.default_rng(seed).permutation(whole)[: count + count // 4 + 1]
    raw = (held_out.reward[tried] - units.shift) / units.scale if units.scale else held_out.reward[tried]
    with closing(Simulator(task)) as simulator:
        step = held_out.obs[tried], held_out.action[tried], raw, held_out.next_obs[tried]
        found = reproduced(simulator, *step)
    require_reproduced(found, f"--rollouts {count}: {task.dataset}")
    return held_out.obs[tried[found][:count]], float(found.mean())


@dataclass(frozen=True)
class _Trial:
    """Rollouts of one behavior and one critic."""

    behavior: Energy
    score: Score
    sampler: SamplerConfig
    config: RolloutConfig
    discount: float
    units: RewardUnits

    def run(
        self,
        run: Run,
        simulators: list[Simulator],
        obs: Float[np.ndarray, "states obs"],
        candidates: Float[np.ndarray, "states k act"],
        key: PRNGKeyArray,
    ) -> Float[np.ndarray, "states columns repeats"]:
        """Returns of each candidate, then of following Q, of each repeat."""
        config, scaling = self.config, run.scaling
        states = len(obs)

        def behave(columns: int) -> Act:
            def act(seen: Float[np.ndarray, "rollouts obs"], step: int) -> Float[np.ndarray, "rollouts act"]:
                shape = states, columns, config.repeats
                unit = _behave(
                    self.behavior, scaling.normalize_obs(seen), jax.random.fold_in(key, step), self.sampler, shape
                )
                return scaling.to_env(np.asarray(unit))

            return act

        def choose(seen: Float[np.ndarray, "rollouts obs"], step: int) -> Float[np.ndarray, "rollouts act"]:
            shape = states, config.greedy, config.repeats, config.candidates
            unit = _choices(
                self.behavior, scaling.normalize_obs(seen), jax.random.fold_in(key, step), self.sampler, shape
            )
            actions = scaling.to_env(np.asarray(unit))
            best = np.argmax(annotate(self.score, seen, actions), axis=1)
            return actions[np.arange(len(seen)), best]

        def returns(columns: int, first: Act, steps: int) -> Float[np.ndarray, "states columns repeats"]:
            then = behave(columns)
            found = returns_from(
                simulators,
                np.repeat(obs, columns * config.repeats, axis=0),
                lambda seen, step: first(seen, step) if step < steps else then(seen, step),
                horizon=config.horizon,
                discount=self.discount,
                units=self.units,
            )
            return found.reshape(states, columns, config.repeats)

        tried = np.repeat(candidates.reshape(-1, candidates.shape[2]), config.repeats, axis=0)
        by_candidate = returns(config.candidates, lambda seen, step: tried, 1)
        by_choice = returns(config.greedy, choose, config.steps_ahead)
        return np.concatenate([by_candidate, by_choice], axis=1).astype(np.float32)


@partial(jax.jit, static_argnames=("sampler", "shape"))
def _behave(
    behavior: Energy,
    obs: Float[Array, "rollouts obs"],
    key: PRNGKeyArray,
    sampler: SamplerConfig,
    shape: tuple[int, int, int],
) -> Float[Array, "rollouts act"]:
    """One action each; a state's columns share their noise, which takes most of it out of their differences."""
    states, columns, repeats = shape
    noise = jax.random.normal(key, (states, repeats, behavior.act_dim))
    shared = jnp.broadcast_to(noise[:, None], (states, columns, repeats, behavior.act_dim))
    return actions_from(behavior, obs, shared.reshape(-1, 1, behavior.act_dim), sampler)[:, 0]


@partial(jax.jit, static_argnames=("sampler", "shape"))
def _choices(
    behavior: Energy,
    obs: Float[Array, "rollouts obs"],
    key: PRNGKeyArray,
    sampler: SamplerConfig,
    shape: tuple[int, int, int, int],
) -> Float[Array, "rollouts k act"]:
    """K actions each, the first of which is the one of `_behave`."""
    states, columns, repeats, k = shape
    own = jax.random.normal(jax.random.fold_in(key, 1), (states, columns, repeats, k, behavior.act_dim))
    shared = jax.random.normal(key, (states, repeats, behavior.act_dim))
    noise = own.at[:, :, :, 0].set(shared[:, None]).reshape(-1, k, behavior.act_dim)
    return actions_from(behavior, obs, noise, sampler)
