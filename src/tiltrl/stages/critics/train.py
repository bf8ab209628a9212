"""Critics by their configuration, and the check every one of them ends with."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray

from tiltrl.stages.critics.advantage import AdvantageConfig, train_advantage
from tiltrl.stages.critics.check import TrustCheck, check_critic
from tiltrl.stages.critics.function import FunctionScore
from tiltrl.stages.critics.iql import IQLConfig, train_iql
from tiltrl.stages.critics.networks import Critic
from tiltrl.stages.critics.online import OnlineConfig, train_online
from tiltrl.stages.critics.score import CriticScore
from tiltrl.stages.critics.softmax import BehaviorActions, SoftmaxConfig, supported_rows, train_softmax
from tiltrl.stages.prepare import advantage_data, numbered_data, one_step_data
from tiltrl.training.loop import Session
from tiltrl.types import Scaling, Transitions, parts, read

CriticConfig = IQLConfig | AdvantageConfig | SoftmaxConfig | OnlineConfig


def train_critic(
    transitions: Transitions,
    rows: Int[np.ndarray, " rows"],
    scaling: Scaling,
    config: CriticConfig,
    behavior: BehaviorActions,
    keys: PRNGKeyArray,
    session: Session | None = None,
) -> Critic:
    """Fit one critic a key, of the kind that the configuration is of; its leaves gain a leading `members` axis.

    Args:
        transitions: with transformed rewards.
        rows: those to train on: the steps of whole episodes, ascending.
        scaling: between the environment's units and the networks'.
        config: kind and settings.
        behavior: called by those critics that ask what the behavior would do.
        keys: one key a member.
        session: where to resume from and report to.
    """
    if isinstance(config, IQLConfig):
        return train_iql(one_step_data(transitions, rows, scaling, config.discount), config, keys, session)
    if isinstance(config, OnlineConfig):
        return train_online(one_step_data(transitions, rows, scaling, config.discount), config, keys, session)
    if isinstance(config, SoftmaxConfig):
        some = supported_rows(rows, config)
        actions = behavior(scaling.normalize_obs(read(transitions.next_obs, some)), config.k)
        return train_softmax(numbered_data(transitions, some, scaling, config.discount), actions, config, keys, session)
    episodes = int(np.count_nonzero((transitions.terminal | transitions.timeout)[rows]))
    return train_advantage(advantage_data(transitions, rows, scaling, config), episodes, config, keys, session)


def assess(
    score: CriticScore | FunctionScore,
    held_out: Transitions,
    candidates: Float[np.ndarray, "steps k act"],
    discount: float,
) -> TrustCheck:
    """The trust check of one critic.

    Args:
        score: the critic.
        held_out: whole episodes it was not trained on, with transformed rewards.
        candidates: actions sampled from the behavior at every held-out step, in the environment's units.
        discount: the critic's.
    """
    low, high = np.array(score.scaling.action_low), np.array(score.scaling.action_high)
    uniform = np.random.default_rng(0).uniform(low, high, held_out.action.shape).astype(np.float32)
    found: list[tuple[np.ndarray, ...]] = []
    for part in parts(len(held_out), 4096):  # so that the networks' activations fit in memory
        obs, action, some = held_out.obs[part], held_out.action[part], candidates[part]
        steps, k, act = some.shape
        repeated, flat = np.repeat(obs, k, axis=0), some.reshape(-1, act)
        logged = score(obs, action)
        found.append(
            (
                logged - score(repeated, flat).reshape(steps, k).mean(axis=1),
                score.value(obs),
                score.value(held_out.next_obs[part]),
                score(obs, uniform[part]) > logged,
                score.ensemble(repeated, flat).reshape(-1, steps, k),
            )
        )
    *by_step, by_network = zip(*found, strict=True)
    advantage, value, last_value, random_above = (np.concatenate(some) for some in by_step)
    return check_critic(
        advantage=advantage,
        value=value,
        reward=held_out.reward,
        terminal=held_out.terminal,
        timeout=held_out.timeout,
        last_value=last_value,
        discount=discount,
        candidate_values=np.concatenate(by_network, axis=1),
        random_above_data=float(np.mean(random_above)),
    )
