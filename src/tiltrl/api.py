"""The verbs in Python: load a data set, fit the behavior, fit the critic, align, distill, evaluate.

Each trains one model in memory, by the same functions and presets as the command line.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from tiltrl.data.preferences import Preferences
from tiltrl.data.registry import RewardsOption
from tiltrl.data.transforms import rewards_for, scale_rewards, split_episodes
from tiltrl.diffusion.energy import Energy
from tiltrl.diffusion.one_step import OneStep
from tiltrl.errors import InputError
from tiltrl.evaluation.blocks import EPISODES_AT_ONCE, Kept, anew, joined
from tiltrl.evaluation.rollout import Episodes, rollout
from tiltrl.policy import Policy, PolicyConfig
from tiltrl.presets import FAST, Preset, Tilt, tilts
from tiltrl.stages.align import train_policy
from tiltrl.stages.annotate import Score, choose_states, make_candidates, sample_candidates
from tiltrl.stages.behavior import train_behavior
from tiltrl.stages.critics.check import TrustCheck
from tiltrl.stages.critics.function import FunctionScore
from tiltrl.stages.critics.score import CriticScore
from tiltrl.stages.critics.train import assess, train_critic
from tiltrl.stages.distill import DistillConfig, noise_and_actions, train_student, triples
from tiltrl.stages.distill import choose_states as choose_noises
from tiltrl.stages.keys import stage_key
from tiltrl.stages.prepare import behavior_data, scaling_of
from tiltrl.training.rows import KeptRows
from tiltrl.types import Candidates, Scaling, Transitions, read

MOST_SEEDS = 100_000
EPISODES_A_SEED = 10_000
"""Environment seeds set aside for each seed."""
MOST_HELD_OUT = 200_000
"""Steps, about, that are held out for the critic's trust check at most: the behavior is sampled at each."""


def member(stacked: Any, index: int) -> Any:
    """One member of a module whose leaves have a leading `members` axis."""
    return _member(stacked, index)


@jax.jit
def _member(stacked: Any, index: int) -> Any:
    """One program for all leaves, and for every index."""
    return jax.tree.map(lambda leaf: leaf[index], stacked)


def critic_rewards(data: Transitions, rewards: RewardsOption = "auto") -> np.ndarray:
    """The rewards a critic trains on: by the named transform, or the usual one of the data's environment.

    Raises:
        InputError: the transform cannot be applied to this data.
    """
    return scale_rewards(data, rewards_for(data.task, rewards))


def split_for_critic(
    data: Transitions, preset: Preset, rewards: RewardsOption = "auto"
) -> tuple[Transitions, Int[np.ndarray, " rows"], Transitions]:
    """The data with transformed rewards (scaled by the whole data's returns), the steps to train on, and the rest.

    Of a very large set no more is held out than a check can use.

    Raises:
        InputError: all rewards are zero, or cannot be transformed.
    """
    if not data.reward.any():
        raise InputError(
            f"{data.task.dataset}: all rewards are 0, from which a critic can learn nothing; name the column that "
            "holds them (?reward=NAME), or align with values of your own (--critic FILE:FUNCTION; in Python any score) "
            "or with people's answers (--preferences FILE)"
        )
    whole = dataclasses.replace(data, reward=critic_rewards(data, rewards))
    return split_episodes(whole, min(preset.held_out, MOST_HELD_OUT / len(data)), seed=0)


def check_score(
    score: CriticScore | FunctionScore,
    behavior: Energy,
    held_out: Transitions,
    preset: Preset,
    kept: KeptRows | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> TrustCheck:
    """The critic's trust check, with a few candidates of the behavior at every held-out step; rewards transformed."""
    unit = sample_candidates(
        behavior,
        score.scaling.normalize_obs(held_out.obs),
        4,
        preset.sampler,
        jax.random.key(0),
        kept=kept,
        on_progress=on_progress,
    )
    return assess(score, held_out, score.scaling.to_env(unit), preset.critic.discount)


def fit_behavior(data: Transitions, preset: Preset = FAST, seed: int = 0) -> Policy:
    """A diffusion model of the logged behavior; rewards are not looked at."""
    scaling = scaling_of(data, normalize=preset.normalize_obs)
    networks = train_behavior(behavior_data(data, scaling), preset.behavior, stage_key(seed, "behavior")[None])
    config = policy_config(data, scaling, preset, {"stage": "behavior", "seed": seed})
    return Policy(member(networks, 0), config, seed=seed)


def fit_critic(
    data: Transitions, behavior: Policy, preset: Preset = FAST, seed: int = 0, rewards: RewardsOption = "auto"
) -> CriticScore:
    """A critic `(obs, action) -> q` of the logged rewards, in the transformed reward's units.

    Its `.check` says how far to trust it.

    Args:
        data: a share of its episodes is held out for the check.
        behavior: its actions are what the critic will have to choose among.
        preset: kind and settings of the critic.
        seed: of the training.
        rewards: how they are transformed, see `tiltrl.data.transforms.scale_rewards`; "auto": as is usual for the
            environment.

    Raises:
        InputError: the rewards cannot be transformed so, or the behavior is distilled.
    """
    energy = behavior.diffusion
    whole, rows, held_out = split_for_critic(data, preset, rewards)
    scaling = behavior.config.scaling

    def actions(obs: np.ndarray, k: int) -> np.ndarray:
        return sample_candidates(energy, obs, k, preset.sampler, stage_key(seed, "support"))[None]

    critics = train_critic(whole, rows, scaling, preset.critic, actions, stage_key(seed, "critic")[None])
    score = CriticScore(member(critics, 0), preset.critic.shape, scaling, preset.critic.score_pessimism)
    return dataclasses.replace(score, check=check_score(score, energy, held_out, preset))


def align(
    behavior: Policy,
    score: Score,
    data: Transitions,
    beta: float | None = None,
    preset: Preset = FAST,
    seed: int = 0,
    kl: float | None = None,
) -> Policy:
    """Tilt the behavior towards higher scores: `pi ∝ mu exp(Q / beta)`.

    Args:
        behavior: the model to start from; it is not changed.
        score: any function `(obs, action) -> q` of arrays of rows, such as a critic of `fit_critic`. A critic stays
            with the policy: `policy.best_of(4)` takes the best by Q of 4 actions.
        data: where the states come from; its own actions and rewards are not used.
        beta: temperature: the smaller, the further from the behavior. None: the preset's first.
        preset: number of candidates, steps and the like.
        seed: of the candidates and of training.
        kl: instead of beta: nats of `KL(pi || mu)` a state to go from the behavior. The temperature is found, and
            stands in the policy's provenance.

    Raises:
        InputError: beta or kl cannot be used, or both are given, a score is not finite, or the behavior is distilled.
    """
    tilt = _asked(beta, kl, preset)
    energy, scaling = behavior.diffusion, behavior.config.scaling
    obs = read(data.obs, choose_states(len(data), 1.0, preset.annotate, seed))
    trust = score.trust if isinstance(score, CriticScore) else 1.0
    key = stage_key(seed, "candidates")
    given = make_candidates(energy, scaling, obs, score, trust, preset.annotate, preset.sampler, key)
    aligned = _tilted(behavior, given, tilt, preset, seed, {"trust": trust})
    return with_critic(aligned, score) if isinstance(score, CriticScore) else aligned


def align_preferences(
    behavior: Policy,
    preferences: Preferences,
    beta: float | None = None,
    preset: Preset = FAST,
    seed: int = 0,
    kl: float | None = None,
    objective: Literal["preference", "dpo"] = "preference",
) -> Policy:
    """Tilt the behavior towards the actions that people preferred; no critic and no reward are needed.

    Args:
        behavior: the model to start from; it is not changed.
        preferences: of `read_preferences` or `from_pairs`.
        beta: temperature: the smaller, the further from the behavior. None: the preset's first.
        preset: number of steps and the like.
        seed: of training.
        kl: instead of beta, as in `align`.
        objective: whether the chosen action has to beat the others together or each of them, see `tiltrl.losses`.

    Raises:
        InputError: beta or kl cannot be used, or both are given, the behavior is distilled, or the preferences are of
            another task.
    """
    tilt = _asked(beta, kl, preset)
    given, task = preferences.candidates(), behavior.config.task
    if (given.obs.shape[1], given.action.shape[2]) != (task.obs_dim, task.act_dim):
        raise InputError(
            f"preferences have states of {given.obs.shape[1]} dimensions and actions of {given.action.shape[2]}; the "
            f"behavior's have {task.obs_dim} and {task.act_dim}"
        )
    chosen = dataclasses.replace(preset, align=dataclasses.replace(preset.align, objective=objective))
    told = {"objective": objective, "preferences": preferences.digest, "answers": len(preferences)}
    return _tilted(behavior, given, tilt, chosen, seed, told)


def _asked(beta: float | None, kl: float | None, preset: Preset) -> Tilt:
    """The one tilt that was asked for; neither way: the preset's first."""
    betas = () if beta is None else (beta,)
    (tilt,) = tilts(betas, (kl,)) if kl is not None else tilts(betas or preset.betas[:1], ())
    return tilt


def _tilted(behavior: Policy, given: Candidates, tilt: Tilt, preset: Preset, seed: int, told: dict[str, Any]) -> Policy:
    """The behavior aligned with candidates; `told` is what its provenance says beside the tilt."""
    energy, scaling = behavior.diffusion, behavior.config.scaling
    found = train_policy(
        jax.tree.map(lambda leaf: leaf[None], energy),
        jnp.asarray(scaling.normalize_obs(given.obs))[None],
        jnp.asarray(scaling.to_unit(given.action))[None],
        jnp.asarray(given.q)[None],
        jnp.array([tilt.beta]),
        preset.align,
        stage_key(seed, "align")[None],
        kl=None if tilt.kl is None else jnp.array([tilt.kl]),
    )
    facts = {"stage": "align", "beta": float(found.beta[0, 0]), "kl": tilt.kl, "seed": seed} | told
    provenance = behavior.config.provenance | facts
    # A critic that the behavior may hold is not what this tilt was made with.
    acting = {"candidates": preset.averaged, "choice": "mean"}
    described = dataclasses.replace(behavior.config, provenance=provenance, critic=None, **acting)
    return Policy(member(member(found.policy, 0), 0), described, seed=seed)


def distill(
    policy: Policy, obs: Float[np.ndarray, "states obs"], config: DistillConfig | None = None, seed: int = 0
) -> Policy:
    """A policy that acts in one pass of a small network, as the given one does after all calls of its solver.

    Args:
        policy: the teacher; it is not changed. Its critic stays with the student.
        obs: states that matter, in the environment's units, such as `data.obs`.
        config: number of pairs, steps and the like; as usual if not given.
        seed: of the states that are chosen, the noises and training.

    Raises:
        InputError: the policy is distilled itself, or the states are not its task's.
    """
    energy, config = policy.diffusion, config or DistillConfig()
    index, k = choose_noises(len(states_for(policy, obs)), config, seed)
    states = policy.config.scaling.normalize_obs(obs[index])
    pair_key, train_key, _ = jax.random.split(stage_key(seed, "distill"), 3)
    pairs = noise_and_actions(energy, states, k, policy.config.sampler, pair_key)
    return distilled(policy, train_student(triples(states, pairs), config, train_key), config, seed)


def states_for(policy: Policy, obs: Float[np.ndarray, "states obs"]) -> Float[np.ndarray, "states obs"]:
    """The same states, if they can be the policy's.

    Raises:
        InputError: there are none, or they have another size.
    """
    size = policy.config.task.obs_dim
    if obs.ndim != 2 or not len(obs) or obs.shape[1] != size:
        raise InputError(
            f"obs has shape {obs.shape}; the policy's task has states of {size} dimensions: (states, {size})"
        )
    return obs


def distilled(teacher: Policy, student: OneStep, config: DistillConfig, seed: int) -> Policy:
    """The policy of a network that `train_student` has fitted."""
    provenance = teacher.config.provenance | {"stage": "distill", "teacher": teacher.digest, "seed": seed}
    described = dataclasses.replace(teacher.config, energy=None, one_step=config.network, provenance=provenance)
    return Policy(member(student, 0), described, teacher.critic, seed)


def evaluate(
    policy: Policy,
    episodes: int = 20,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
    kept: Kept = anew,
) -> Episodes:
    """Returns and lengths of whole episodes of the policy in the environment its data was recorded in.

    Args:
        policy: its sequence of random numbers is started anew.
        episodes: how many; up to a hundred run side by side.
        seed: of the actions and of the environments' first states.
        on_progress: called with (steps done, steps of as many whole episodes) after each step of all that run.
        kept: keeps what is done, for one who may be interrupted.

    Raises:
        InputError: the data names no environment, or it is not installed or does not match; numbers out of range.
    """
    if not (0 <= seed < MOST_SEEDS and 1 <= episodes <= EPISODES_A_SEED):
        raise InputError(
            f"seed = {seed}, episodes = {episodes}; seeds are 0 to {MOST_SEEDS - 1}, episodes 1 to {EPISODES_A_SEED}"
        )
    starts = range(0, episodes, EPISODES_AT_ONCE)

    def run(block: int) -> Episodes:
        # A sequence of random numbers of its own, so that a block is what it is whether or not others were kept.
        policy.reset(seed + MOST_SEEDS * block)

        def on_step(step: int, horizon: int, running: int) -> None:
            if on_progress is not None:
                done = step if running else horizon
                on_progress(block * horizon + done, len(starts) * horizon)

        return rollout(
            lambda obs, _: policy.sample(obs),
            policy.config.task,
            episodes=min(EPISODES_AT_ONCE, episodes - starts[block]),
            seed=EPISODES_A_SEED * (seed + 1) + starts[block],  # other first states for other seeds
            on_step=on_step,
        )

    return joined([kept(block, partial(run, block)) for block in range(len(starts))])


def policy_config(data: Transitions, scaling: Scaling, preset: Preset, provenance: dict[str, Any]) -> PolicyConfig:
    """How a policy of this data and preset is described; without rejection sampling."""
    return PolicyConfig(
        task=data.task,
        scaling=scaling,
        energy=preset.behavior.network,
        sampler=preset.sampler,
        provenance={"data": data.fingerprint()} | provenance,
    )


def with_critic(policy: Policy, score: CriticScore) -> Policy:
    """The same policy with a critic at hand, for `best_of`."""
    config = dataclasses.replace(policy.config, critic=score.shape, pessimism=score.pessimism)
    return Policy(policy.network, config, score.critic, policy.seed)
