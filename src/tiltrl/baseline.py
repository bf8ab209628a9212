"""A rival in a run's folder, beside EDA: on the same data, and on its behavior model and critic where it has them."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from tiltrl.api import member, policy_config, with_critic
from tiltrl.errors import InputError
from tiltrl.evaluation.report import Row
from tiltrl.given import AnyScore
from tiltrl.methods import Method, MethodName, method_named
from tiltrl.options import RunConfig
from tiltrl.pipeline import Run
from tiltrl.policy import Policy
from tiltrl.presets import shortened
from tiltrl.progress import Reporter
from tiltrl.results import PolicyEpisodes
from tiltrl.runs import Stage
from tiltrl.scoring import Lineup, add_to, behavior_policy, evaluate_lineup
from tiltrl.stages.annotate import choose_states
from tiltrl.stages.baselines.common import Given, Outcome
from tiltrl.stages.critics.networks import init_critic
from tiltrl.stages.critics.score import CriticScore
from tiltrl.stages.prepare import one_step_data
from tiltrl.trained import trained
from tiltrl.training.loop import Session
from tiltrl.types import read


class Baseline:
    """One rival in a run's folder. Each stage is a property: asking for it does, or finds done, all it builds on."""

    def __init__(self, name: MethodName, config: RunConfig, reporter: Reporter):
        """Check everything that can be checked before long work starts.

        Args:
            name: of the method.
            config: what to do; what only EDA's alignment has a use for is left as it is.
            reporter: hears of progress.

        Raises:
            InputError: as `Run`; or an option is given that the method has no use for.
        """
        self.name, self.method = name, method_named(name)
        _check_options(name, self.method, config)
        self.run = Run(
            dataclasses.replace(config, critic=config.critic or self.method.critic),
            reporter,
            rewards=self.method.rewards,
        )
        if self.run.given is not None:
            raise InputError(f"critic = {config.critic}: {name} needs networks that it can look into; name one of ours")
        self.config = self.method.configs[config.preset]
        if self.method.train is not None:
            self.config = shortened(self.config, config.budget)

    @cached_property
    def stage(self) -> Stage:
        """Where its networks live."""
        return self.run.folder.stage(
            f"baseline-{self.name}",
            config=self.config,
            rewards=self.run.rewards if self.method.rewards else None,
            held_out=self.run.preset.held_out if self.method.rewards else None,
            normalize=self.run.preset.normalize_obs,
            seeds=self.run.seeds,
            behavior=self.run.behavior_stage.key if self.method.behavior else None,
            sampler=self.run.preset.sampler if self.method.behavior else None,
            critic=self.run.critic_stage.key if self.method.critic else None,
            **({"annotate": self.run.preset.annotate} if self.method.logged_states else {}),
        )

    @cached_property
    def outcome(self) -> Outcome:
        """The actors of every seed, and their critics where the method makes its own."""
        run, config, train = self.run, self.config, self.method.train
        if train is None:
            return Outcome(run.behavior, None)
        task = run.data.task
        sizes = task.obs_dim, task.act_dim

        def one(key: Any) -> Outcome:
            own = config.own_critic
            return Outcome(
                config.actor.make(*sizes, key=key), None if own is None else init_critic(*sizes, own, key=key)
            )

        like = eqx.filter_eval_shape(eqx.filter_vmap(one), jax.random.split(jax.random.key(0), len(run.seeds)))
        given = None if self.stage.done else self._given()

        def fit(session: Session) -> Outcome:
            assert given is not None, "it is asked for where nothing is done"
            return train(given, config, run.keys("baseline"), session)

        return trained(self.stage, like, config.steps, fit, run.reporter, saving=run.saving)

    def policy(self, i: int) -> Policy:
        """Of seed number i, as the method acts."""
        run, actor = self.run, member(self.outcome.actor, i)
        provenance = {"stage": "baseline", "method": self.name, "seed": run.seeds[i]}
        described = policy_config(run.data, run.scaling, run.preset, provenance)
        if self.method.train is not None:
            described = dataclasses.replace(described, energy=None, actor=self.config.actor)
        policy = Policy(actor, described)
        chooser = self._chooser(i)
        return policy if chooser is None else with_critic(policy, chooser).best_of(self.config.candidates)

    def save(self) -> Path:
        """Write the policy of every seed, ready to load; returns the first one's folder."""
        folder = self.run.folder.path / "policies"
        places = [folder / f"{self.name}-seed{seed}" for seed in self.run.seeds]
        for i, place in enumerate(places):
            self.policy(i).save(place)
        return places[0]

    def evaluate(self) -> tuple[list[Row], list[PolicyEpisodes]]:
        """Full episodes of the rival and, where it has one, of the behavior model.

        One that acts by a single sampled action is run by the mean of several as well, as EDA's policies are.
        """
        run, seeds = self.run, range(len(self.run.seeds))
        lineup: Lineup = {}
        if self.method.behavior:
            add_to(lineup, run, "behavior", run.behavior_stage, [behavior_policy(run, i) for i in seeds])
        members = [self.policy(i) for i in seeds]
        add_to(lineup, run, self.name, self.stage, members)
        averaged = run.preset.averaged
        if averaged > 1 and members[0].config.candidates == 1 and members[0].network.noise_dim:
            add_to(lineup, run, self.name, self.stage, [policy.mean_of(averaged) for policy in members])
        return evaluate_lineup(run, lineup)

    def _given(self) -> Given:
        """What it learns from; asks for the behavior and the critic first."""
        run, method = self.run, self.method
        behavior = run.behavior if method.behavior else None
        critic = None
        if method.critic is not None:
            critic = jax.tree.map(lambda *leaves: np.stack(leaves), *(one.critic for one in _networks(run.critic)))
        if method.rewards:
            data, rows, _ = run.split
        else:
            data, rows = run.data, np.arange(len(run.data))
        values = run.preset.critic if self.config.own_critic is None else self.config
        chosen = rows[choose_states(len(rows), 1.0, run.preset.annotate, run.config.seed)]
        return Given(
            data=one_step_data(data, rows, run.scaling, values.discount),
            states=run.scaling.normalize_obs(read(run.data.obs, chosen)),
            actions=self._behavior_actions,
            behavior=behavior,
            critic=critic,
        )

    def _behavior_actions(self, obs: np.ndarray, k: int) -> np.ndarray:
        """What the behavior of each seed would do, kept until the stage is finished."""
        return self.run.behavior_actions(self.stage, "logged", obs, k, self.config.steps)

    def _chooser(self, i: int) -> CriticScore | None:
        """What picks among the actions of seed number i, where the method takes the best of several."""
        if self.config.candidates == 1:
            return None
        if self.method.critic is not None:
            (score,) = _networks([self.run.critic[i]])
            return score
        critic, shape = self.outcome.critic, self.config.own_critic
        assert critic is not None, "a method that chooses among actions has a critic"
        return CriticScore(member(critic, i), shape, self.run.scaling, self.config.pessimism)


def _networks(scores: list[AnyScore]) -> list[CriticScore]:
    """The same, known to be networks of ours."""
    found = [score for score in scores if isinstance(score, CriticScore)]
    assert len(found) == len(scores), "another critic was refused"
    return found


def _check_options(name: str, method: Method, config: RunConfig) -> None:
    """Refuse what is for EDA's alignment only, or for methods with a critic.

    Raises:
        InputError: such an option was given.
    """
    of_eda = "beta", "kl", "objective", "preferences", "k", "best_of", "align_steps", "label_fraction"
    defaults = RunConfig(config.dataset)
    for option in (*of_eda, *(() if method.critic is not None else ("critic",))):
        if (value := getattr(config, option)) != getattr(defaults, option):
            raise InputError(f"{option} = {value}: {name} has no use for it; leave it out")
