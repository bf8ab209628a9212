"""The command line: parse, call, print."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from tiltrl.api import evaluate as evaluate_policy
from tiltrl.bandit.options import BanditOptions
from tiltrl.bench.options import BenchOptions
from tiltrl.bench.report import print_bench, print_changes
from tiltrl.bench.run import run_bench
from tiltrl.cli_baseline import baseline
from tiltrl.cli_critic import critic
from tiltrl.cli_data import data
from tiltrl.cli_experiment import experiment
from tiltrl.cli_export import export
from tiltrl.cli_parse import parse
from tiltrl.cli_preferences import preferences
from tiltrl.cli_report import report
from tiltrl.cli_share import play, push
from tiltrl.config_io import from_json
from tiltrl.distillation import Distillation, DistillOptions
from tiltrl.errors import InputError
from tiltrl.evaluation.blocks import EPISODES_AT_ONCE, anew, kept_in
from tiltrl.evaluation.report import Row, draw, print_table
from tiltrl.evaluation.scores import normalized_score, score_label
from tiltrl.files import slug, write_json
from tiltrl.hub import on_hub
from tiltrl.options import RunConfig
from tiltrl.pipeline import Run
from tiltrl.policy import Policy, acting, load_policy, versions
from tiltrl.progress import LiveProgress
from tiltrl.results import write_results
from tiltrl.scoring import evaluate_policies, save_policies, write_run
from tiltrl.serialization import pack
from tiltrl.stages.distill import Agreement
from tiltrl.training.hosts import Hosts, join
from tiltrl.training.parallel import any_of
from tiltrl.types import as_json

Options = Annotated[RunConfig, tyro.conf.arg(name="")]
console = Console(markup=False, emoji=False)  # what is in brackets or colons is the user's text


def run(config: Options) -> None:
    """The whole job: behavior, critic, candidates, alignment, evaluation; a table, a picture and policies to load.

    Example: tiltrl run demo --beta 1 2 --seeds 3 --out runs/demo

    Stages that are done are reused: the same command again, or with another --beta, trains only what is missing.
    """
    with LiveProgress(console) as progress:
        run = Run(config, progress, rewards=config.preferences is None)
        policy = save_policies(run)
        if run.data.task.env_spec is None:
            progress.say(
                f"policies in {policy.parent}; the data names no environment, so there is nothing to evaluate in"
            )
            return
        rows, episodes = evaluate_policies(run)
    label = score_label(run.data.task)
    results = write_run(run, rows, episodes, label, run.trust if config.preferences is None else [])
    picture = run.folder.path / "report.png"
    draw(rows, label, picture, f"{config.dataset}: {config.preset} preset, {config.seeds} seed(s)")
    console.print()
    print_table(rows, label, console)
    console.print(
        f"\npicture  {picture}\nnumbers  {results}\npolicy   {policy}\n\n"
        f'Load it:  policy = tiltrl.load_policy("{policy}"); action = policy.sample(obs)',
        highlight=False,
        soft_wrap=True,
    )


def behavior(config: Options, hosts: Annotated[Hosts, tyro.conf.arg(name="")]) -> None:
    """Fit the diffusion model of the logged behavior (no rewards needed), on all devices of one or more machines."""
    _ = hosts.address
    with LiveProgress(console) as progress, hosts.folder(config.folder) as out:
        run = Run(replace(config, out=out), progress, rewards=False)
        asked = {name: getattr(config, name) for name in ("preset", "budget", "seeds", "seed", "recover")}
        join(hosts, asked | {"data fingerprint": run.data.fingerprint()}, progress.say)
        done = any_of(run.behavior_stage.done)  # in the first process; the others' folders are new
        if hosts.process == 0 or not done:
            _ = run.behavior
    where = f"in {run.behavior_stage.folder}" if hosts.process == 0 else "with process 0"
    console.print(f"behavior {where}", soft_wrap=True)


def annotate(config: Options) -> None:
    """Sample candidate actions from the behavior and value them with the critic."""
    with LiveProgress(console) as progress:
        run = Run(config, progress)
        _ = run.candidates
    console.print(f"candidates in {run.candidates_stage.folder}", soft_wrap=True)


def align(config: Options) -> None:
    """Tilt the behavior towards the critic, or to --preferences, at every --beta; writes policies to load."""
    with LiveProgress(console) as progress:
        run = Run(config, progress, rewards=config.preferences is None)
        policy = save_policies(run)
    console.print(f"policies in {policy.parent}", soft_wrap=True)


@dataclass(frozen=True)
class EvaluateConfig:
    """Which policy to evaluate, and on how many episodes."""

    policy: tyro.conf.Positional[Path]
    """A policy's folder, such as runs/demo-fast/policies/beta1-seed0, or hf:owner/name."""
    episodes: int = 20
    """How many episodes."""
    seed: int = 0
    """Of the actions and of the environments' first states."""
    mean_of: int | None = None
    """Act by the mean of so many sampled actions; 1: by a single one. Default: as the policy is saved."""
    best_of: int | None = None
    """Act by the one of so many sampled actions that the policy's critic prefers. Default: as the policy is saved."""
    out: Path | None = None
    """Where the raw returns go, as JSON. Default: evaluation-seed<seed>.json in the policy's folder (of several actions
    evaluation-mean-of-<n>-seed<seed>.json or best-of), or of one from the hub in a folder in runs. What is done of more
    than a hundred episodes is kept beside it, or without --out in runs, until all are."""


def evaluate(config: Annotated[EvaluateConfig, tyro.conf.arg(name="")]) -> None:
    """Run full episodes of a saved policy, in the environment its data was recorded in.

    Example: tiltrl evaluate runs/demo-fast/policies/beta1-seed0 --episodes 100
    """
    policy = acting(load_policy(config.policy), config.mean_of, config.best_of)
    task = policy.config.task
    label = score_label(task)
    name, file = config.policy.name, "evaluation"
    if how := policy.config.acting:
        name, file = f"{name}, {how}", f"{file}-{slug(how)}"
    path = config.out or _results_of(config.policy, f"{file}-seed{config.seed}.json")
    kept = _unfinished(config, policy)
    with LiveProgress(console) as progress:
        progress.start("evaluate", 1)
        found = evaluate_policy(
            policy,
            config.episodes,
            config.seed,
            lambda done, total: progress.update(done, total, {}),
            kept=kept_in(kept) if config.episodes > EPISODES_AT_ONCE else anew,
        )
    row = Row(name, normalized_score(found.returns, task)[None])
    print_table([row], label, console)
    facts = {"scores_are": label, "episodes": config.episodes, "seed": config.seed}
    write_results(
        path, [row], **facts, policy=policy.config, returns=found.returns.tolist(), lengths=found.lengths.tolist()
    )
    shutil.rmtree(kept, ignore_errors=True)
    console.print(f"numbers  {path}", soft_wrap=True)


def distill(options: Annotated[DistillOptions, tyro.conf.arg(name="")]) -> None:
    """Turn a diffusion policy into one that acts in a single pass, three times as fast or more; takes a minute or two.

    Example: tiltrl distill runs/demo-fast/policies/beta1-seed0
    """
    with LiveProgress(console) as progress:
        work = Distillation(options, progress)
        policy = work.save()
    found = from_json(Agreement, work.student_stage.summary["agreement"], str(work.student_stage.folder / "stage.json"))
    console.print(
        f"at new noises, in shares of the teacher's spread: {found.error:.1%} from its actions, its distribution "
        f"{found.distance:.2%} away, and {found.spread:.0%} as wide\npolicy   {policy}",
        highlight=False,
        soft_wrap=True,
    )


def _results_of(policy: Path, name: str) -> Path:
    """The path of a file in the policy's folder, which may be a stranger's, so that no link in it is written through.

    Raises:
        InputError: there is a link of that name.
    """
    if on_hub(policy):
        return Path("runs", slug(policy.as_posix()), name)
    path = policy / name
    if path.is_symlink():
        raise InputError(f"{path}: is a link, and what is written to it would go elsewhere; delete it, or give --out")
    return path


def _unfinished(config: EvaluateConfig, policy: Policy) -> Path:
    """Where the episodes of exactly this evaluation are kept until all are done.

    Never in the policy's folder: whoever made that could have put episodes there.
    """
    digest = hashlib.sha256(json.dumps([as_json(policy.config), config.episodes, config.seed, versions()]).encode())
    digest.update(pack((policy.network, policy.critic)))
    path = config.out or Path("runs", config.policy.name)
    return path.with_name(f".{slug(path.name)}-{digest.hexdigest()[:16]}.parts")


def bandit(options: Annotated[BanditOptions, tyro.conf.arg(name="")]) -> None:
    """Two-dimensional bandits, where the truth is known: the paper's Figures 3 and 8 as pictures and numbers.

    Example: tiltrl bandit --dataset 8gaussians moons --beta 0.5
    """
    # Imported here, because pictures and distances are slow to import and no other command needs them.
    from tiltrl.bandit.compare import run_comparison
    from tiltrl.bandit.experiment import run_bandits

    if options.compare:
        with LiveProgress(console) as progress:
            compared = run_comparison(options, progress)
        _print_comparison(compared)
        numbers = options.out / "comparison.json"
        console.print(f"\nnumbers  {numbers}, and a picture beside it for each set", highlight=False, soft_wrap=True)
        return
    with LiveProgress(console) as progress:
        results = run_bandits(options, progress)
    table = Table(box=None, pad_edge=False)
    headings = "data set", "pi to the true tilt", "perfect sample", "mu to the true tilt", "pi off the data", "Q corr."
    for heading in (*headings, "slope"):
        table.add_column(heading, justify="left" if heading == "data set" else "right")
    for name, found in results.items():
        distances = (f"{found[f'distance_{key}']:.3f}" for key in ("pi", "floor", "mu"))
        agreement = (f"{found[f'q_{key}']:.3f}" for key in ("correlation", "slope"))
        table.add_row(name, *distances, f"{found['off_data_pi']:.1%}", *agreement)
    console.print(table)
    console.print(
        "distances: sliced Wasserstein-1, in units of half the box; off the data: pi's samples further from data than "
        "999 of 1000 points of data are",
        style="dim",
    )
    console.print(
        f"\npictures {options.out / 'bandits.png'} and one a set\nnumbers  {options.out / 'results.json'}",
        highlight=False,
        soft_wrap=True,
    )


def _print_comparison(compared: dict[str, list[dict[str, Any]]]) -> None:
    for name, rows in compared.items():
        table = Table(title=name, title_justify="left", box=None, pad_edge=False)
        for heading in ("model", "distance to data", "off the data", "network calls", "seconds"):
            table.add_column(heading, justify="left" if heading == "model" else "right")
        for row in rows:
            numbers = f"{row['distance']:.3f}", f"{row['off_data']:.1%}", str(row["network_calls"])
            table.add_row(row["model"], *numbers, f"{row['seconds']:.2f}")
        console.print(table)


def bench(options: Annotated[BenchOptions, tyro.conf.arg(name="")]) -> None:
    """How fast this machine does each stage, in shares of what it can: rates, latencies, memory; about four minutes.

    Example: tiltrl bench --out before.json; ...; tiltrl bench --compare before.json

    Made-up data of hopper's sizes, so none is needed. docs/performance.md tells what the numbers mean.
    """
    then = options.check()
    with LiveProgress(console) as progress:
        now = run_bench(options, progress)
    print_bench(now, console)
    if then is not None:
        print_changes(then, now, console)
    if options.out is not None:
        write_json(options.out, now)
        console.print(f"numbers  {options.out}", soft_wrap=True)
    if now.failures:
        worst = next((one for one in now.failures if one.bug), now.failures[0])
        raise worst.error(f"{len(now.failures)} could not be measured, such as {worst}")


def main() -> None:
    """Parse the command line and run what it asks for; `tiltrl.main` turns how it ends into an exit status."""
    if sys.argv[1:] == ["--version"]:
        print(" ".join(f"{name} {version}" for name, version in versions().items()))
        return
    job = parse(
        {
            f.__name__: f
            for f in (
                *(run, behavior, critic, annotate, align, baseline, distill, evaluate, play, export, push),
                *(data, preferences, bandit, bench, experiment, report),
            )
        },
        prog="tiltrl",
        description="From logged behavior to a better policy: a diffusion model of the behavior, tilted by values.",
    )
    job()
