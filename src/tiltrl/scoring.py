"""What comes of a run: its policies saved, their episodes run, and all of it written down."""

from __future__ import annotations

import dataclasses
import re
import time
from pathlib import Path
from typing import Any

import numpy as np

from tiltrl.api import evaluate, member, policy_config, with_critic
from tiltrl.config_io import from_json
from tiltrl.data.preferences import also_among
from tiltrl.diffusion.energy import Energy
from tiltrl.errors import InputError
from tiltrl.evaluation.blocks import kept_in
from tiltrl.evaluation.report import Row
from tiltrl.evaluation.scores import normalized_score
from tiltrl.files import read_json, write_json
from tiltrl.pipeline import Run
from tiltrl.policy import Policy
from tiltrl.policy_folder import Choice
from tiltrl.results import PolicyEpisodes, write_results
from tiltrl.runs import Stage
from tiltrl.stages.align import agreement, is_held_out
from tiltrl.stages.critics.check import TrustCheck
from tiltrl.stages.critics.score import CriticScore


def behavior_policy(run: Run, i: int, *, critic: bool = False) -> Policy:
    """The behavior of seed number i, which acts by a single sampled action; with the run's critic if that is wanted."""
    return _policy(run, member(run.behavior, i), i, {"stage": "behavior"}, critic)


def aligned_policy(run: Run, i: int, j: int, *, critic: bool = False) -> Policy:
    """The policy of seed number i at tilt number j, which acts as the preset says; `critic` as for the behavior."""
    network = member(member(run.aligned.policy, i), j)
    provenance = {
        "stage": "align",
        "beta": float(run.aligned.beta[i, j]),
        "kl": run.tilts[j].kl,
        "objective": run.preset.align.objective,
    }
    if run.preferences is None:
        provenance |= {"label_fraction": run.config.label_fraction, "rewards": run.rewards}
    else:
        provenance |= {"preferences": run.preferences.digest, "answers": len(run.preferences)}
    return _policy(run, network, i, provenance, critic).mean_of(run.preset.averaged)


def save_policies(run: Run) -> Path:
    """Write every policy to `policies/`, ready to load; returns the folder of the first seed at the first tilt."""
    folder = run.folder.path / "policies"
    critic = run.has_critic
    for i, seed in enumerate(run.seeds):
        behavior = folder / f"behavior-seed{seed}"
        if critic or not behavior.exists():  # it keeps the critic of an earlier command where this one has none
            behavior_policy(run, i, critic=critic).save(behavior)
        for j, _ in enumerate(run.tilts):
            aligned_policy(run, i, j, critic=critic).save(folder / _folder(run, i, j))
    if run.preferences is not None:
        _tell_agreement(run)
    return folder / _folder(run, 0, 0)


Lineup = dict[str, tuple[Stage, list[Policy]]]
"""Policies by their row's name, of each one a seed, and the stage in which their episodes are kept."""


def evaluate_policies(run: Run) -> tuple[list[Row], list[PolicyEpisodes]]:
    """Full episodes of every policy, each seed in environments of its own; a finished policy is not run again.

    Each acts by a single sampled action, by the mean of several, and by the best of several where there is a critic.
    """
    ways: list[tuple[int, Choice]] = [(1, "mean")]
    if run.preset.averaged > 1:
        ways.append((run.preset.averaged, "mean"))
    if run.has_critic:
        ways.append((run.preset.candidates, "best"))
    seeds = range(len(run.seeds))
    lineup: Lineup = {}
    for k, choice in ways:
        critic = choice == "best"  # other actions depend on no critic
        of = run.critic_stage if critic else run.behavior_stage
        members = [behavior_policy(run, i, critic=critic).replace(candidates=k, choice=choice) for i in seeds]
        add_to(lineup, run, "behavior", of, members)
    for j, tilt in enumerate(run.tilts):
        for k, choice in ways:
            critic = choice == "best"
            members = [aligned_policy(run, i, j, critic=critic).replace(candidates=k, choice=choice) for i in seeds]
            add_to(lineup, run, f"aligned, {tilt}", run.policy_stage, members)
    return evaluate_lineup(run, lineup)


def evaluate_lineup(run: Run, lineup: Lineup) -> tuple[list[Row], list[PolicyEpisodes]]:
    """Full episodes of policies, below the logged ones; what is finished is not run again."""
    task = run.data.task
    rows = [Row("data", normalized_score(run.data.returns, task)[None], logged=True)]
    episodes: list[PolicyEpisodes] = []
    for name, (stage, members) in lineup.items():
        began = time.monotonic()
        found = [_episodes(run, stage, name, policy, run.seeds[i]) for i, policy in enumerate(members)]
        episodes += found
        rows.append(Row(name, normalized_score(np.array([some.returns for some in found]), task)))
        if not stage.done:
            stage.finish({}, began)
    return rows, episodes


def write_run(
    run: Run,
    rows: list[Row],
    episodes: list[PolicyEpisodes],
    label: str,
    trust: list[TrustCheck],
    name: str = "results.json",
    **facts: Any,
) -> Path:
    """Write scores and raw returns, configuration, data, trust, wall-clock, versions, and what else is given."""
    path = run.folder.path / name
    write_results(
        path,
        rows,
        scores_are=label,
        config=dataclasses.replace(run.config, rewards=run.rewards, out=None),
        tilts=run.tilts,
        preset=run.preset,
        data={"fingerprint": run.data.fingerprint(), "steps": len(run.data), "episodes": len(run.data.ends)},
        trust=trust,
        seconds=run.folder.seconds(),
        episodes=episodes,
        **facts,
    )
    return path


def _tell_agreement(run: Run) -> None:
    """How often the policies side with the people on questions that they did not learn from."""
    given = run.candidates
    held_out = is_held_out(given.q.shape[1])
    rows = np.flatnonzero(held_out & ~also_among(np.asarray(given.obs[0]), ~held_out))
    others = int(held_out.sum()) - len(rows)
    left_out = f"; {others} of states that it learned other answers of are left out" if others else ""
    if not len(rows):
        what = f"none of {len(held_out)} questions could be spared"
        if others:
            what = f"all {others} questions held out are of states that it learned other answers of"
        run.reporter.say(f"held-out accuracy: not known, as {what}")
        return
    obs, action, q = given.obs[0, rows], given.action[0, rows], given.q[0, rows]
    normalized, unit = run.scaling.normalize_obs(obs), run.scaling.to_unit(action)
    for j, tilt in enumerate(run.tilts):
        policies = [member(member(run.aligned.policy, i), j) for i in range(len(run.seeds))]
        shares = [float(agreement(p, member(run.behavior, i), normalized, unit, q)) for i, p in enumerate(policies)]
        run.reporter.say(
            f"held-out accuracy, {tilt}: {np.mean(shares):.0%} of {len(rows)} questions that it did not learn from "
            f"(by chance {1 / q.shape[1]:.0%}){left_out}"
        )


def _folder(run: Run, i: int, j: int) -> str:
    """A policy's folder: what tilted it and how far, each named only where it is not as usual, and its seed."""
    fraction = run.config.label_fraction
    labels = "" if fraction == 1.0 else f"-labels{fraction:g}"
    given = None if run.preferences is None else f"preferences-{run.preferences.digest[:8]}"
    rewards = None if run.config.rewards == "auto" else run.rewards
    usual = "value" if run.preferences is None else "preference"
    objective = run.preset.align.objective
    critic = run.config.critic if run.given is None else f"critic-{run.given.digest[:8]}"
    others = [critic, given, rewards, objective if objective != usual else None]
    named = "".join(f"-{name}" for name in others if name)
    k = "" if run.config.k is None else f"-k{run.config.k}"
    return f"{run.tilts[j].slug}{named}{k}{labels}-seed{run.seeds[i]}"


def add_to(lineup: Lineup, run: Run, name: str, of: Stage, members: list[Policy]) -> None:
    """Add a row for a stage's policies, named after how they act."""
    config = members[0].config
    averaged = {"choice": "mean"} if config.acting and not config.chooses else {}
    stage = run.folder.stage(
        "evaluation",
        policy=name,
        of=of.key,
        sampler=run.preset.sampler,
        k=config.candidates,
        episodes=run.config.episodes,
        **averaged,
    )
    lineup[f"{name}, {config.acting}" if config.acting else name] = stage, members


def _policy(run: Run, network: Energy, i: int, provenance: dict[str, Any], critic: bool) -> Policy:
    config = policy_config(run.data, run.scaling, run.preset, provenance | {"seed": run.seeds[i]})
    policy = Policy(network, config)
    if not critic:
        return policy
    score = run.score(i)
    assert isinstance(score, CriticScore), "a run has a critic only where it can be saved"
    return with_critic(policy, score)


def _episodes(run: Run, stage: Stage, name: str, policy: Policy, seed: int) -> PolicyEpisodes:
    """Raw returns of one policy's episodes, kept in a file of their own."""
    label = f"{re.sub(r'[^a-z0-9.]+', '-', name)}-seed{seed}"
    path = stage.folder / f"{label}.json"
    if path.is_file():
        episodes = from_json(PolicyEpisodes, read_json(path), str(path))
        if len(episodes.returns) != run.config.episodes:
            raise InputError(f"{path}: field returns: holds {len(episodes.returns)} episodes; {stage.redo}")
        return episodes
    run.reporter.start(f"evaluate {name}, seed {seed}", 1)
    kept = kept_in(stage.folder / "parts" / label)
    found = evaluate(policy, run.config.episodes, seed, lambda done, all: run.reporter.update(done, all, {}), kept)
    numbers = found.returns.tolist(), found.lengths.tolist(), found.seeds.tolist()
    episodes = PolicyEpisodes(name, seed, *map(tuple, numbers))
    write_json(path, episodes)
    return episodes
