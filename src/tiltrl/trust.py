"""`tiltrl critic check`: the verdict on a trained critic, with all numbers behind it, from the run's folder alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np

from tiltrl.api import member
from tiltrl.config_io import from_json
from tiltrl.data.transforms import discounted_returns
from tiltrl.errors import InputError
from tiltrl.evaluation.calibration import HeldOut, held_out_check, known_to_the_end
from tiltrl.evaluation.ranking import Estimate
from tiltrl.evaluation.truth import RolloutCheck
from tiltrl.files import read_json, write_json
from tiltrl.given import is_function
from tiltrl.options import RunConfig
from tiltrl.pipeline import Run
from tiltrl.policy import versions
from tiltrl.progress import Reporter
from tiltrl.stages.annotate import annotate, sample_candidates
from tiltrl.stages.critics.check import TrustCheck, Verdict
from tiltrl.trust_rollouts import RolloutConfig, check_by_rollouts
from tiltrl.types import Transitions

MOST_STEPS = 20_000
"""Held-out steps, about, that are looked at; whole episodes."""
LEAST_STATES = 16
"""States below which rollouts give no verdict: a 95 % interval resampled from 5 values of pure noise leaves out 0 in
16 % of cases, from 2 in half of them, from 1 always; from 16 in 8 %."""


@dataclass(frozen=True)
class CriticCheck:
    """All that a check found of one seed's critic; written to `critic-check.json`."""

    seed: int
    verdict: Verdict
    reason: str  # what the verdict was made on
    trust: TrustCheck  # found right after training; shrinks the tilt of the fast preset
    held_out: HeldOut
    rollouts: RolloutCheck | None  # None: not asked for


def check_critic_of(folder: Path, rollouts: RolloutConfig | None, reporter: Reporter) -> list[CriticCheck]:
    """Check the critic of a run, one result a seed, and write them to `critic-check.json` in the folder.

    Args:
        folder: a run's, with one critic; or a critic's within it.
        rollouts: how many to make; None: none.
        reporter: hears of progress.

    Raises:
        InputError: the folder holds no finished critic, or several; its data is gone or has changed; or the environment
            cannot be reset to the data's states.
    """
    run = reopened(folder, reporter)
    if not run.data.reward.any():
        raise InputError(f"{run.config.dataset}: all rewards are 0, so nothing tells a good critic from a bad one")
    checks = []
    for i, seed in enumerate(run.seeds):
        held_out, trust = held_out_of(run, i), run.trust[i]
        found = None if rollouts is None else check_by_rollouts(run, i, rollouts)
        checks.append(CriticCheck(seed, *judged(trust, found), trust, held_out, found))
    about = {"critic": run.critic_stage.key, "dataset": run.config.dataset, "rollouts": rollouts}
    write_json(folder / "critic-check.json", about | {"versions": versions(), "checks": checks})
    return checks


def judged(trust: TrustCheck, rollouts: RolloutCheck | None) -> tuple[Verdict, str]:
    """The verdict and its reason: rollouts decide where there are any, since they try what alignment does."""
    if rollouts is None:
        return trust.verdict, f"rank correlation on held-out episodes, and {trust.reliability:.0%} agreement"
    if rollouts.states < LEAST_STATES:
        return "weak", f"too few states: rollouts from {rollouts.states} decide nothing, from {LEAST_STATES} they may"
    gain, rank = rollouts.gain, rollouts.ranking.raw
    what = f"following Q for {rollouts.steps_ahead} steps"
    if gain.high < 0:
        return "harmful", f"{what} returned less than the behavior"
    if rank.high < 0:
        return "harmful", "it ranks the actions of one state backwards"
    if gain.low > 0:
        return "good", f"{what} returned more than the behavior"
    return "weak", f"{what} returned neither more nor less than the behavior beyond doubt"


def measured(one: CriticCheck) -> list[tuple[str, Estimate | float, str]]:
    """All that was measured, for a table: what it is, what was found (a number is a share), what would be right."""
    held_out, rollouts = one.held_out, one.rollouts
    found: list[tuple[str, Estimate | float, str]] = [
        ("held-out: rank correlation with the outcome", held_out.rank, "above 0"),
        ("held-out: the same, between near states", held_out.nearby, "above 0"),
        ("held-out: slope of differences", held_out.slope, "1"),
        ("held-out: slope of the level", held_out.level_slope, "1"),
        (f"held-out: over-estimation ({held_out.overestimation_share:+.0%} of spread)", held_out.overestimation, "0"),
        ("networks agree on differences", one.trust.reliability, "100%"),
    ]
    if rollouts is None:
        return found
    order = rollouts.ranking
    return found + [
        ("rollouts: rank correlation within a state", order.raw, "above 0"),
        (f"rollouts: the same without noise ({order.reliability:.0%} is signal)", order.corrected, "1"),
        ("rollouts: slope of differences", order.slope, "1"),
        ("rollouts: slope of the level", rollouts.level_slope, "1"),
        (f"rollouts: over-estimation ({rollouts.overestimation_share:+.0%} of spread)", rollouts.overestimation, "0"),
        (f"rollouts: gain of Q's choice of {rollouts.candidates}, once", rollouts.one_step_gain, "above 0"),
        (
            f"rollouts: gain of it for {rollouts.steps_ahead} steps ({rollouts.gain_share:+.0%} of spread)",
            rollouts.gain,
            "above 0",
        ),
    ]


def reopened(folder: Path, reporter: Reporter) -> Run:
    """The run of a folder, with the options that its critic was trained with.

    Raises:
        InputError: as `check_critic_of`.
    """
    critic = critic_folder(folder)
    where = f"{critic / 'stage.json'}: summary.options"
    summary = read_json(critic / "stage.json").get("summary")
    options = summary.get("options") if isinstance(summary, dict) else None
    if options is None:
        raise InputError(f"{where}: is missing, so an earlier TiltRL trained it; {_again(critic)}")
    asked = from_json(RunConfig, options, where)
    if asked.critic is not None and is_function(asked.critic):  # nothing in a folder chooses code to execute
        raise InputError(
            f"{where}: the critic is the function {asked.critic}, which is not executed because a folder says so; "
            "its check on held-out episodes stands in summary.trust"
        )
    run = Run(replace(asked, out=critic.parent), reporter)
    if run.critic_stage.folder.name != critic.name:
        raise InputError(
            f"{critic}: with the same options this version would train {run.critic_stage.folder.name}; {_again(critic)}"
        )
    for stage in (run.behavior_stage, run.critic_stage):
        if not stage.done:
            raise InputError(f"{stage.folder}: is not finished; the command that began the run goes on with it")
    return run


def critic_folder(folder: Path) -> Path:
    """The folder of the run's one critic; or the same folder, if that is a critic's.

    Raises:
        InputError: it is neither, or there are several to choose from.
    """
    if not (folder / "run.json").is_file():
        if folder.name.startswith("critic-") and (folder.parent / "run.json").is_file():
            if not (folder / "stage.json").is_file():
                raise InputError(f"{folder}: the critic is not finished; `tiltrl critic train` goes on with it")
            return folder
        raise InputError(
            f"{folder}: is not a run's folder (no run.json in it); give one that `tiltrl run` or `tiltrl critic train` "
            "made"
        )
    found = sorted(path.parent for path in folder.glob("critic-*/stage.json"))
    if not found:
        raise InputError(f"{folder}: holds no finished critic; `tiltrl critic train DATASET --out {folder}` makes one")
    if len(found) > 1:
        raise InputError(
            f"{folder}: holds {len(found)} critics ({', '.join(path.name for path in found)}); give one of them"
        )
    return found[0]


def held_out_of(run: Run, i: int) -> HeldOut:
    """The held-out half of the check of seed number i."""
    _, _, data = run.split
    data = _some(data)
    score, discount = run.score(i), run.preset.critic.discount
    run.reporter.start(f"held-out episodes, seed {run.seeds[i]}", len(data))
    unit = sample_candidates(
        member(run.behavior, i),
        run.scaling.normalize_obs(data.obs),
        4,
        run.preset.sampler,
        jax.random.key(0),
        on_progress=lambda done, total: run.reporter.update(done, total, {}),
    )
    q = annotate(score, data.obs, run.scaling.to_env(_with_logged(unit, run, data)))
    logged, others = q[:, 0].astype(np.float64), q[:, 1:].astype(np.float64)
    follows = np.where(data.timeout & ~data.terminal, discount * score.value(data.next_obs), 0.0)
    return held_out_check(
        obs=run.scaling.normalize_obs(data.obs),
        advantage=logged - others.mean(axis=1),
        q=logged,
        value=score.value(data.obs).astype(np.float64),
        returns=discounted_returns(data.reward + follows, data.terminal, data.timeout, discount),
        known=known_to_the_end(data.terminal, data.timeout, discount),
        episode=np.repeat(np.arange(len(data.ends)), np.diff(data.ends, prepend=-1)),
    )


def _with_logged(unit: np.ndarray, run: Run, data: Transitions) -> np.ndarray:
    """Unit actions: each step's logged one, then its candidates."""
    return np.concatenate([run.scaling.to_unit(data.action)[:, None], unit], axis=1)


def _some(data: Transitions) -> Transitions:
    """Every n-th episode, so that about `MOST_STEPS` are left, of all parts of joined data."""
    number = np.repeat(np.arange(len(data.ends)), np.diff(data.ends, prepend=-1))
    return data.take(np.flatnonzero(number % -(-len(data) // MOST_STEPS) == 0))


def _again(critic: Path) -> str:
    return f"delete {critic} and train it again with `tiltrl critic train`"
