"""A run: the stages in order, every seed at once, each stage reused where what it depends on has not changed."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import PRNGKeyArray

from tiltrl.api import check_score, member, policy_config, split_for_critic, with_critic
from tiltrl.data import load
from tiltrl.diffusion.energy import Energy
from tiltrl.errors import InputError
from tiltrl.evaluation.report import Row
from tiltrl.evaluation.rollout import check_environment, rollout
from tiltrl.evaluation.scores import normalized_score
from tiltrl.files import write_json
from tiltrl.policy import Policy, versions
from tiltrl.presets import Preset, PresetName, check_betas, preset_named
from tiltrl.progress import Reporter
from tiltrl.runs import RunFolder, Stage
from tiltrl.serialization import load_arrays, save_arrays
from tiltrl.stages.align import train_policy
from tiltrl.stages.annotate import choose_states, make_candidates
from tiltrl.stages.behavior import train_behavior
from tiltrl.stages.critics.check import TrustCheck
from tiltrl.stages.critics.networks import Critic, init_critic
from tiltrl.stages.critics.score import CriticScore
from tiltrl.stages.critics.train import train_critic
from tiltrl.stages.prepare import scaling_of
from tiltrl.training.loop import Session
from tiltrl.training.session import FolderSession
from tiltrl.types import Candidates, Scaling, Transitions


@dataclass(frozen=True)
class RunConfig:
    """What a run is asked to do. Each field is an option of the command line, and its docstring the help."""

    dataset: tyro.conf.Positional[str]
    """Logged data: a Minari id or folder, `demo` for the bundled Hopper data, or `a+b` for two sets joined."""
    preset: PresetName = "fast"
    """`fast` trains in minutes on a laptop; `paper` is the paper's networks and schedules (hours on a GPU)."""
    beta: tuple[float, ...] = ()
    """Temperatures: the smaller, the further from the behavior. Several are trained at once. Default: the preset's."""
    seeds: int = 1
    """How many independent runs to train at once, with seeds `seed`, `seed` + 1, ..."""
    seed: int = 0
    """The first seed."""
    label_fraction: float = 1.0
    """Share of the data's states whose candidates get values (the paper reaches 95 % of the score with 0.01)."""
    episodes: int = 20
    """Episodes that each policy is evaluated on."""
    budget: float = 1.0
    """Share of the preset's training steps to take: 0.01 is a quick look whether everything works."""
    out: Path | None = None
    """The run's folder. The same command on the same folder continues it. Default: runs/DATASET-PRESET."""

    @property
    def folder(self) -> Path:
        """Where the run goes: `out`, or a folder named after the data set and preset."""
        return self.out or Path("runs") / f"{re.sub(r'[^A-Za-z0-9.-]+', '-', self.dataset).strip('-')}-{self.preset}"


class Run:
    """One run in its folder. Each stage is a property: asking for it does, or finds done, all it builds on."""

    def __init__(self, config: RunConfig, reporter: Reporter):
        """Check everything that can be checked before long work starts.

        Raises:
            InputError: the data, the environment, a number or the folder cannot be used.
        """
        for name, least in (("seeds", 1), ("episodes", 1), ("seed", 0)):
            if getattr(config, name) < least:
                raise InputError(f"{name} = {getattr(config, name)}; it must be at least {least}")
        self.config = config
        self.reporter = reporter
        self.preset: Preset = preset_named(config.preset).scaled(config.budget)
        self.betas = config.beta or self.preset.betas
        check_betas(self.betas)
        choose_states(1, config.label_fraction, self.preset.annotate, 0)
        self.data: Transitions = load(config.dataset)
        if self.data.task.env_spec is not None:
            check_environment(self.data.task)
        identity = {
            "dataset": config.dataset,
            "fingerprint": self.data.fingerprint(),
            "preset": config.preset,
            "budget": config.budget,
            "seeds": config.seeds,
            "seed": config.seed,
        }
        self.folder = RunFolder(config.folder, identity)
        self.scaling: Scaling = scaling_of(self.data, normalize=self.preset.normalize_obs)

    @cached_property
    def split(self) -> tuple[Transitions, np.ndarray, Transitions, np.ndarray]:
        """The critic's training and held-out episodes and rewards.

        Ask for it first where a critic will be needed, since it fails on rewards that cannot be used; the behavior
        alone needs none.
        """
        return split_for_critic(self.data, self.preset)

    @cached_property
    def behavior_stage(self) -> Stage:
        """Where the behavior model lives."""
        normalize = self.preset.normalize_obs
        return self.folder.stage("behavior", config=self.preset.behavior, normalize=normalize, seeds=self._seeds)

    @cached_property
    def behavior(self) -> Energy:
        """Mu of every seed."""

        def train(session: Session) -> Energy:
            obs = jnp.asarray(self.scaling.normalize_obs(self.data.obs))
            action = jnp.asarray(self.scaling.to_unit(self.data.action))
            return train_behavior(obs, action, self.preset.behavior, self._keys("behavior"), session)

        return self._trained(self.behavior_stage, self._energy_like(), self.preset.behavior.steps, train)

    @cached_property
    def critic_stage(self) -> Stage:
        """Where the critic lives; its check needs the behavior's candidates."""
        return self.folder.stage(
            "critic", config=self.preset.critic, held_out=self.preset.held_out, behavior=self.behavior_stage.key
        )

    @cached_property
    def critic(self) -> Critic:
        """Q of every seed, trained on all but the held-out episodes, and checked on those."""
        train_data, reward, held_out, held_out_reward = self.split
        behavior = self.behavior

        def train(session: Session) -> Critic:
            return train_critic(train_data, reward, self.scaling, self.preset.critic, self._keys("critic"), session)

        def check(critics: Critic) -> dict[str, Any]:
            self.reporter.say("checking the critic on held-out episodes")
            checks = []
            for i in range(self.config.seeds):
                score = CriticScore(member(critics, i), self.scaling, self.preset.annotate.pessimism)
                checks.append(check_score(score, member(behavior, i), held_out, held_out_reward, self.preset))
            return {"trust": checks}

        task = self.data.task
        like = self._stacked_like(
            lambda key: init_critic(task.obs_dim, task.act_dim, self.preset.critic.shape, key=key)
        )
        critics = self._trained(self.critic_stage, like, self.preset.critic.steps, train, check)
        for i, found in enumerate(self.trust):
            self.reporter.say(_describe_trust(self._seeds[i], found))
        return critics

    @property
    def trust(self) -> list[TrustCheck]:
        """What the critic's check found, a seed each; the critic must have been trained."""
        return [TrustCheck(**found) for found in self.critic_stage.summary["trust"]]

    @cached_property
    def candidates_stage(self) -> Stage:
        """Where the candidates live."""
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
        stage, seeds, config = self.candidates_stage, self._seeds, self.preset.annotate
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
            critics, behavior = self.critic, self.behavior
            self.reporter.start("candidates", states * len(seeds))
            found = []
            for i, key in enumerate(self._keys("candidates")):
                score = CriticScore(member(critics, i), self.scaling, config.pessimism, self.trust[i])

                def progress(done: int, total: int, before: int = i * states) -> None:
                    self.reporter.update(before + done, states * len(seeds), {})

                found.append(
                    make_candidates(
                        member(behavior, i),
                        self.scaling,
                        self.data.obs[chosen[i]],
                        score,
                        score.trust,
                        config,
                        self.preset.sampler,
                        key,
                        progress,
                    )
                )
            save_arrays(path, {name: np.stack([getattr(c, name) for c in found]) for name in like})
            stage.finish({"states": states, "k": config.k})
        arrays = load_arrays(path, like)
        return Candidates(**{name: np.asarray(array) for name, array in arrays.items()})

    @cached_property
    def policy_stage(self) -> Stage:
        """Where the aligned policies live."""
        return self.folder.stage(
            "align", config=self.preset.align, betas=self.betas, candidates=self.candidates_stage.key
        )

    @cached_property
    def policies(self) -> Energy:
        """Pi of every seed and beta."""
        behavior, found = self.behavior, self.candidates

        def train(session: Session) -> Energy:
            return train_policy(
                behavior,
                jnp.asarray(self.scaling.normalize_obs(found.obs)),
                jnp.asarray(self.scaling.to_unit(found.action)),
                jnp.asarray(found.q),
                jnp.asarray(self.betas),
                self.preset.align,
                self._keys("align"),
                session,
            )

        def stack(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((leaf.shape[0], len(self.betas), *leaf.shape[1:]), leaf.dtype)

        like = jax.tree.map(stack, self._energy_like())
        return self._trained(self.policy_stage, like, self.preset.align.steps, train)

    def behavior_policy(self, i: int, *, best_of: bool = False) -> Policy:
        """The behavior of seed number i; with `best_of`, the best by Q of several of its actions."""
        return self._policy(member(self.behavior, i), i, {"stage": "behavior"}, best_of)

    def aligned_policy(self, i: int, j: int, *, best_of: bool = False) -> Policy:
        """The policy of seed number i at temperature number j; `best_of` as for the behavior."""
        network = member(member(self.policies, i), j)
        return self._policy(network, i, {"stage": "align", "beta": self.betas[j]}, best_of)

    def evaluate(self) -> list[Row]:
        """Full episodes of every policy, each seed in environments of its own; a finished policy is not run again."""
        config, task = self.config, self.data.task
        rows = [Row("data", normalized_score(self.data.returns, task)[None], logged=True)]
        seeds = range(config.seeds)
        plain: dict[str, list[Policy]] = {"behavior": [self.behavior_policy(i) for i in seeds]}
        best_of: dict[str, list[Policy]] = {"behavior": [self.behavior_policy(i, best_of=True) for i in seeds]}
        for j, beta in enumerate(self.betas):
            name = f"aligned, beta {beta:g}"
            plain[name] = [self.aligned_policy(i, j) for i in seeds]
            best_of[name] = [self.aligned_policy(i, j, best_of=True) for i in seeds]
        policies = {}
        for name in plain:
            policies[name] = plain[name]
            policies[f"{name}, best of {self.preset.candidates}"] = best_of[name]
        stage = self.evaluation_stage
        for name, members in policies.items():
            found = [self._episodes(stage, name, policy, self._seeds[i]) for i, policy in enumerate(members)]
            rows.append(Row(name, np.array([episodes["scores"] for episodes in found])))
        stage.finish({"policies": list(policies)})
        return rows

    @cached_property
    def evaluation_stage(self) -> Stage:
        """Where the episodes of every policy are kept."""
        return self.folder.stage("evaluation", align=self.policy_stage.key, episodes=self.config.episodes)

    def save_policies(self) -> Path:
        """Write every policy to `policies/`, ready to load; returns the folder of the first seed at the first beta."""
        folder = self.folder.path / "policies"
        for i, seed in enumerate(self._seeds):
            self.behavior_policy(i, best_of=True).replace(candidates=1).save(folder / f"behavior-seed{seed}")
            for j, beta in enumerate(self.betas):
                policy = self.aligned_policy(i, j, best_of=True).replace(candidates=1)
                policy.save(folder / f"beta{beta:g}-seed{seed}")
        return folder / f"beta{self.betas[0]:g}-seed{self._seeds[0]}"

    @property
    def _seeds(self) -> list[int]:
        return [self.config.seed + i for i in range(self.config.seeds)]

    def _keys(self, stage: str) -> PRNGKeyArray:
        """One key a seed; a seed's keys do not depend on how many others there are."""
        offset = ("behavior", "critic", "candidates", "align").index(stage)
        return jnp.stack([jax.random.fold_in(jax.random.key(seed), offset) for seed in self._seeds])

    def _energy_like(self) -> Any:
        task, network = self.data.task, self.preset.behavior.network
        return self._stacked_like(lambda key: Energy(task.obs_dim, task.act_dim, network, key=key))

    def _stacked_like(self, init: Any) -> Any:
        """Shapes of one module a seed, without making it."""
        keys = jax.random.split(jax.random.key(0), self.config.seeds)
        return eqx.filter_eval_shape(eqx.filter_vmap(init), keys)

    def _trained(self, stage: Stage, like: Any, steps: int, train: Any, check: Any = None) -> Any:
        """The stage's networks: read if it is done, else trained (from its last checkpoint) and written."""
        path = stage.folder / "networks.safetensors"
        if stage.done:
            self.reporter.say(f"{stage.name}: unchanged, reused from {stage.folder}")
            return load_arrays(path, like)
        self.reporter.start(stage.name, steps)
        with FolderSession(stage.folder, self.reporter.update) as session:
            networks = train(session)
        save_arrays(path, networks)
        stage.finish({} if check is None else check(networks))
        return networks

    def _policy(self, network: Energy, i: int, provenance: dict[str, Any], best_of: bool) -> Policy:
        config = policy_config(self.data, self.scaling, self.preset, provenance | {"seed": self._seeds[i]})
        policy = Policy(network, config)
        return with_critic(policy, member(self.critic, i), self.preset) if best_of else policy

    def _episodes(self, stage: Stage, name: str, policy: Policy, seed: int) -> dict[str, Any]:
        """Raw returns and scores of one policy's episodes, kept in a file of their own."""
        path = stage.folder / f"{re.sub(r'[^a-z0-9.]+', '-', name)}-seed{seed}.json"
        if path.is_file():
            return json.loads(path.read_text())
        policy.reset(seed)
        # Environments of different seeds start from different states.
        first = 10_000 * (seed + 1)
        task = self.data.task
        self.reporter.start(f"evaluate {name}, seed {seed}", 1)
        found = rollout(
            lambda obs, _: policy.sample(obs),
            task,
            episodes=self.config.episodes,
            seed=first,
            on_step=lambda step, horizon, running: self.reporter.update(step if running else horizon, horizon, {}),
        )
        episodes = {
            "policy": name,
            "seed": seed,
            "scores": normalized_score(found.returns, task).tolist(),
            "returns": found.returns.tolist(),
            "lengths": found.lengths.tolist(),
            "environment_seeds": found.seeds.tolist(),
        }
        write_json(path, episodes)
        return episodes


def _describe_trust(seed: int, check: TrustCheck) -> str:
    """The check in one line, with what follows from it."""
    meaning = {
        "good": "it ranks held-out actions better than chance",
        "weak": "it hardly ranks held-out actions better than chance; the tilt is shrunk",
        "harmful": "it ranks held-out actions worse than chance; the tilt is shrunk to almost nothing",
    }[check.verdict]
    return (
        f"critic of seed {seed}: {check.verdict}: {meaning} (rank correlation {check.rank:.3f}, 95 % "
        f"{check.rank_low:.3f} to {check.rank_high:.3f}; spread among candidates {check.spread:.3g}, disagreement "
        f"{check.disagreement:.3g}; random above logged action in {check.random_above_data:.0%} of states)"
    )


def write_results(run: Run, rows: list[Row], label: str) -> Path:
    """Everything a reader of the numbers needs, in one JSON."""
    path = run.folder.path / "results.json"
    config = dataclasses.replace(run.config, beta=run.betas, out=None)
    write_json(
        path,
        {
            "scores_are": label,
            "config": config,
            "preset": run.preset,
            "data": {"fingerprint": run.data.fingerprint(), "steps": len(run.data), "episodes": len(run.data.ends)},
            "trust": run.trust,
            "seconds": run.folder.seconds(),
            "versions": versions(),
            "hardware": {
                "devices": [str(d) for d in jax.devices()],
                "cores": os.cpu_count(),
                "host": platform.machine(),
            },
            "rows": [{"policy": row.name, "logged": row.logged, "scores": row.scores.tolist()} for row in rows],
            "episodes": [json.loads(file.read_text()) for file in run.evaluation_stage.files("*-seed*.json")],
        },
    )
    return path
