"""A run: the stages in order, every seed at once, each stage reused where what it depends on has not changed."""

from __future__ import annotations

import dataclasses
import time
from functools import cached_property
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from tiltrl.api import (
    EPISODES_A_SEED,
    MOST_SEEDS,
    check_score,
    member,
    split_for_critic,
)
from tiltrl.config_io import from_json
from tiltrl.data import load
from tiltrl.data.preferences import Preferences, read_preferences
from tiltrl.data.registry import RewardsName
from tiltrl.data.transforms import rewards_for
from tiltrl.diffusion.energy import Energy
from tiltrl.errors import InputError
from tiltrl.evaluation.rollout import check_environment
from tiltrl.given import AnyScore, GivenCritic, check_used, given_critic
from tiltrl.options import RunConfig
from tiltrl.presets import Preset, Tilt, chosen, tilts
from tiltrl.progress import Reporter
from tiltrl.results import describe_trust
from tiltrl.runs import RunFolder, Stage
from tiltrl.serialization import save_arrays
from tiltrl.stages.align import Aligned, train_policy
from tiltrl.stages.annotate import choose_states, make_candidates, sample_candidates, without_direction
from tiltrl.stages.behavior import train_behavior
from tiltrl.stages.critics.check import TrustCheck
from tiltrl.stages.critics.networks import Critic, init_critic
from tiltrl.stages.critics.score import CriticScore
from tiltrl.stages.critics.train import train_critic
from tiltrl.stages.keys import Purpose, stage_key
from tiltrl.stages.prepare import behavior_data, scaling_of
from tiltrl.trained import arrays_of, trained
from tiltrl.training.loop import Session
from tiltrl.training.rows import KeptRows
from tiltrl.types import Candidates, Scaling, Transitions, read


class Run:
    """One run in its folder. Each stage is a property: asking for it does, or finds done, all it builds on."""

    def __init__(self, config: RunConfig, reporter: Reporter, *, rewards: bool = True):
        """Check everything that can be checked before long work starts.

        Args:
            config: what to do.
            reporter: hears of progress.
            rewards: whether a critic will be needed, and so rewards that can be used; the behavior needs none.

        Raises:
            InputError: the data, the environment, a number or the folder cannot be used.
        """
        for name, least, most in (("seeds", 1, 1000), ("episodes", 1, EPISODES_A_SEED), ("seed", 0, MOST_SEEDS - 1001)):
            if not least <= getattr(config, name) <= most:
                raise InputError(f"{name} = {getattr(config, name)}; it must lie in {least} to {most}")
        self.config = config
        self.reporter = reporter
        self.given: GivenCritic | None = given_critic(config.critic)
        self.preset: Preset = chosen(
            config.preset, config.budget, config.critic, config.agreed, config.k, config.best_of, config.align_steps
        )
        self.tilts: tuple[Tilt, ...] = tilts(config.beta or (() if config.kl else self.preset.betas), config.kl)
        choose_states(1, config.label_fraction, self.preset.annotate, 0)
        self.saving = config.saving
        self.data: Transitions = load(config.dataset)
        if self.data.task.env_spec is not None:
            check_environment(self.data.task)
        self.rewards: RewardsName = rewards_for(self.data.task, config.rewards)
        if rewards and config.preferences is not None:
            raise InputError(f"preferences = {config.preferences}: no critic is made of these; use align or run")
        if self.given is not None:
            self.given = self.given.beside(self.data, force=config.force)
        self.scaling: Scaling = scaling_of(self.data, normalize=self.preset.normalize_obs)
        check_used(self.given, self.scaling, force=config.force, best_of=config.best_of)
        if rewards and self._checkable:
            _ = self.split
        self.preferences: Preferences | None = None
        if config.preferences is not None:
            self.preferences = read_preferences(config.preferences, self.data.task, config.contradictions)
            reporter.say(self.preferences.describe())
        identity = {
            "dataset": config.dataset,
            "fingerprint": self.data.fingerprint(),
            "task": self.data.task,
            "preset": config.preset,
            "budget": config.budget,
            "seeds": config.seeds,
            "seed": config.seed,
        }
        self.folder = RunFolder(config.folder, identity)

    @cached_property
    def split(self) -> tuple[Transitions, np.ndarray, Transitions]:
        """The data with transformed rewards, the steps that the critic is trained on, and the held-out episodes."""
        return split_for_critic(self.data, self.preset, self.rewards)

    @cached_property
    def behavior_stage(self) -> Stage:
        """Where the behavior model lives."""
        normalize = self.preset.normalize_obs
        return self.folder.stage("behavior", config=self.preset.behavior, normalize=normalize, seeds=self.seeds)

    @cached_property
    def behavior(self) -> Energy:
        """Mu of every seed."""

        def train(session: Session) -> Energy:
            data = behavior_data(self.data, self.scaling)
            return train_behavior(data, self.preset.behavior, self.keys("behavior"), session)

        return trained(
            self.behavior_stage,
            self._energy_like(),
            self.preset.behavior.steps,
            train,
            self.reporter,
            saving=self.saving,
        )

    @cached_property
    def critic_stage(self) -> Stage:
        """Where the critic lives; its check needs the behavior's candidates."""
        return self.folder.stage(
            "critic",
            config=self.preset.critic if self.given is None else self.given.digest,
            rewards=self.rewards,
            held_out=self.preset.held_out,
            sampler=self.preset.sampler,
            behavior=self.behavior_stage.key,
        )

    @cached_property
    def critic(self) -> list[AnyScore]:
        """The critic of every seed, checked on held-out episodes."""
        scores = self._trained_critic() if self.given is None else self._given_critic(self.given)
        if not (checks := self.trust):
            return scores
        for seed, found in zip(self.seeds, checks, strict=True):
            self.reporter.say(describe_trust(seed, found, shrinks=self._trust_counts))
        return [dataclasses.replace(score, check=found) for score, found in zip(scores, checks, strict=True)]

    def _trained_critic(self) -> list[AnyScore]:
        """The networks of every seed, trained on all but the held-out episodes."""
        data, rows, _ = self.split
        _ = self.behavior
        config = self.preset.critic

        def train(session: Session) -> Critic:
            keys = self.keys("critic")
            return train_critic(data, rows, self.scaling, config, self._next_actions, keys, session)

        def scores(critics: Critic) -> list[AnyScore]:
            networks = [member(critics, i) for i in range(len(self.seeds))]
            return [CriticScore(one, config.shape, self.scaling, config.score_pessimism) for one in networks]

        def check(critics: Critic) -> dict[str, Any]:
            return self._checked(scores(critics))

        task = self.data.task
        like = self._stacked_like(lambda key: init_critic(task.obs_dim, task.act_dim, config.shape, key=key))
        return scores(trained(self.critic_stage, like, config.steps, train, self.reporter, check, self.saving))

    def _given_critic(self, given: GivenCritic) -> list[AnyScore]:
        """The same critic for every seed, which leaves its check in the stage's folder and nothing else."""
        sampler = self.preset.sampler
        scores = [given.score(member(self.behavior, i), sampler, self.scaling) for i in range(len(self.seeds))]
        if not self.critic_stage.done:
            began = time.monotonic()
            self.critic_stage.finish(self._checked(scores), began)
        if not self._checkable:
            self.reporter.say(f"critic {given.place}: not checked, as all rewards of the data are 0")
        else:
            self.reporter.say(
                f"critic {given.place}: the episodes it is checked on are not known to be unseen: if it has "
                "learned from them, the check says too much good of it"
            )
        return scores

    def _checked(self, scores: list[AnyScore]) -> dict[str, Any]:
        """What the check of each seed's critic finds, if there are rewards to check it by."""
        checks = []
        for i, score in enumerate(scores if self._checkable else []):
            _, _, held_out = self.split
            self.reporter.start(f"check critic, seed {self.seeds[i]}", len(held_out))
            with self._parts(self.critic_stage, i) as kept:
                checks.append(check_score(score, member(self.behavior, i), held_out, self.preset, kept, self._progress))
        # With what it was asked for, so that `tiltrl critic check` needs only the folder.
        return {"trust": checks, "options": dataclasses.replace(self.config, out=None)}

    @property
    def _trust_counts(self) -> bool:
        """Whether a tilt is the smaller the less its critic is trusted; of an order, or to a divergence, it is not."""
        return self.preset.annotate.normalize and not self.config.kl and self.preset.align.objective == "value"

    @property
    def _checkable(self) -> bool:
        """Whether the critic can be checked: without rewards one can be given, though none trained."""
        return self.given is None or bool(self.data.reward.any())

    @property
    def trust(self) -> list[TrustCheck]:
        """What the critic's check found, a seed each; the critic must have been trained."""
        where = str(self.critic_stage.folder / "stage.json")
        return [from_json(TrustCheck, found, where) for found in self.critic_stage.summary.get("trust", [])]

    @cached_property
    def candidates_stage(self) -> Stage:
        """Where the candidates live; those of preferences are in the file."""
        if self.preferences is not None:
            return self.folder.stage(
                "candidates", preferences=self.preferences.digest, behavior=self.behavior_stage.key
            )
        return self.folder.stage(
            "candidates",
            config=self.preset.annotate,
            sampler=self.preset.sampler,
            label_fraction=self.config.label_fraction,
            critic=self.critic_stage.key,
        )

    @cached_property
    def candidates(self) -> Candidates:
        """States, actions and their values in units of beta, with a leading axis of seeds."""
        stage, seeds, config = self.candidates_stage, self.seeds, self.preset.annotate
        if self.preferences is not None:
            given = self.preferences.candidates()
            return Candidates(*(np.stack([array] * len(seeds)) for array in (given.obs, given.action, given.q)))
        chosen = [choose_states(len(self.data), self.config.label_fraction, config, seed) for seed in seeds]
        states, act = len(chosen[0]), self.data.task.act_dim
        shapes = {
            "obs": (len(seeds), states, self.data.task.obs_dim),
            "action": (len(seeds), states, config.k, act),
            "q": (len(seeds), states, config.k),
        }
        like = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
        path = stage.folder / "candidates.safetensors"
        if not stage.done:
            _, behavior = self.critic, self.behavior
            began = time.monotonic()
            found = []
            for i, seed in enumerate(seeds):
                self.reporter.start(f"candidates, seed {seed}", states)
                score = self.score(i)
                with self._parts(stage, i) as kept:
                    found.append(
                        make_candidates(
                            member(behavior, i),
                            self.scaling,
                            read(self.data.obs, chosen[i]),
                            score,
                            score.trust,
                            config,
                            self.preset.sampler,
                            stage_key(seed, "candidates"),
                            kept,
                            self._progress,
                        )
                    )
            stacked = {name: np.stack([getattr(c, name) for c in found]) for name in like}
            save_arrays(path, stacked)
            if silent := without_direction(stacked["q"]):
                self.reporter.say(
                    f"in {silent:.2%} of the states the critic values all candidates alike: they give no direction"
                )
            about = {"states": states, "share_of_data": states / len(self.data), "k": config.k}
            stage.finish(about | {"share_without_direction": silent}, began)
        arrays = arrays_of(stage, path.name, like)
        return Candidates(**{name: np.asarray(array) for name, array in arrays.items()})

    @cached_property
    def policy_stage(self) -> Stage:
        """Where the aligned policies live."""
        return self.folder.stage(
            "align", config=self.preset.align, tilts=self.tilts, candidates=self.candidates_stage.key
        )

    @cached_property
    def aligned(self) -> Aligned:
        """Pi of every seed and tilt, and its temperature."""
        behavior, found = self.behavior, self.candidates

        def train(session: Session) -> Aligned:
            return train_policy(
                behavior,
                jnp.asarray(self.scaling.normalize_obs(found.obs)),
                jnp.asarray(self.scaling.to_unit(found.action)),
                jnp.asarray(found.q),
                jnp.array([tilt.beta for tilt in self.tilts]),
                self.preset.align,
                self.keys("align"),
                session,
                jnp.array([tilt.kl for tilt in self.tilts]) if self.tilts[0].kl is not None else None,
            )

        def stack(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((leaf.shape[0], len(self.tilts), *leaf.shape[1:]), leaf.dtype)

        betas = jax.ShapeDtypeStruct((len(self.seeds), len(self.tilts)), jnp.float32)
        like: Any = (jax.tree.map(stack, self._energy_like()), betas)
        return trained(
            self.policy_stage, Aligned(*like), self.preset.align.steps, train, self.reporter, saving=self.saving
        )

    @property
    def has_critic(self) -> bool:
        """Whether actions can be chosen among by a value that is saved with the policy."""
        return self.preferences is None and (self.given is None or self.given.saved_with(self.scaling))

    @property
    def seeds(self) -> list[int]:
        """Of the run's members."""
        return [self.config.seed + i for i in range(self.config.seeds)]

    def keys(self, purpose: Purpose) -> PRNGKeyArray:
        """One key a seed."""
        return jnp.stack([stage_key(seed, purpose) for seed in self.seeds])

    def _progress(self, done: int, total: int) -> None:
        self.reporter.update(done, total, {})

    def _parts(self, stage: Stage, i: int, name: str = "") -> KeptRows:
        """Where a stage keeps the actions it has drawn for seed number i; `name` tells several of its samples apart."""
        return KeptRows(stage.folder / "parts" / f"{name}seed{self.seeds[i]}", self.reporter.say, self.saving.every)

    def _next_actions(self, obs: np.ndarray, k: int) -> np.ndarray:
        """What the behavior of each seed would do at next states, for the critic."""
        return self.behavior_actions(self.critic_stage, "next", obs, k, self.preset.critic.steps)

    def behavior_actions(self, stage: Stage, where: str, obs: np.ndarray, k: int, steps: int) -> np.ndarray:
        """What the behavior of each seed would do, kept by a stage in training until it is finished.

        Args:
            stage: which asks.
            where: the states, in a word.
            obs: the states, normalized.
            k: actions at each.
            steps: of the stage, whose progress goes on after this.

        Returns:
            Actions (members, states, k, act) in the unit box.
        """
        found = []
        for i, seed in enumerate(self.seeds):
            self.reporter.start(f"actions at {where} states, seed {seed}", len(obs))
            energy, key = member(self.behavior, i), stage_key(seed, "support")
            with self._parts(stage, i, f"{where}-") as kept:
                drawn = sample_candidates(
                    energy, obs, k, self.preset.sampler, key, kept=kept, on_progress=self._progress
                )
            found.append(drawn)
        self.reporter.start(stage.name, steps)
        return np.stack(found)

    def score(self, i: int) -> AnyScore:
        """The critic of seed number i, with what its check found."""
        return self.critic[i]

    def _energy_like(self) -> Any:
        task, network = self.data.task, self.preset.behavior.network
        return self._stacked_like(lambda key: Energy(task.obs_dim, task.act_dim, network, key=key))

    def _stacked_like(self, init: Any) -> Any:
        """Shapes of one module a seed, without making it."""
        keys = jax.random.split(jax.random.key(0), self.config.seeds)
        return eqx.filter_eval_shape(eqx.filter_vmap(init), keys)
