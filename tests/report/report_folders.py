"""Folders of small runs and experiments as the commands leave them, made in a moment."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from tiltrl.experiments.cell import Cell, log_of
from tiltrl.experiments.folder import FORMAT as EXPERIMENT_FORMAT
from tiltrl.experiments.folder import Asked
from tiltrl.experiments.record import PolicyScores, Record, keep
from tiltrl.files import write_json
from tiltrl.results import PolicyEpisodes
from tiltrl.runs import FORMAT
from tiltrl.stages.critics.check import TrustCheck
from tiltrl.types import Task

ENV_SPEC = json.dumps({"id": "Hopper-v5", "max_episode_steps": 1000, "additional_wrappers": []})
LABEL = "normalized score, Hopper-v5 (0 = -20, 100 = 3234; not a D4RL score)"
TRUST = TrustCheck(0.25, 0.125, 0.375, 3.0, 0.5, 0.9, 0.4, "good", 0.8)
SCORES = {"data": (10.0, 20.0, 60.0), "behavior": (12.0, 14.0, 16.0), "aligned, beta 1": (30.0, 40.0, 50.0)}


def rows(scores: dict[str, tuple[float, ...]]) -> list[dict[str, Any]]:
    return [{"policy": name, "logged": name == "data", "scores": [values]} for name, values in scores.items()]


def write_results(path: Path, scores: dict[str, tuple[float, ...]] = SCORES, label: str = LABEL, **facts: Any) -> None:
    episodes = [PolicyEpisodes("behavior", 0, (370.5, 435.25, 500.0), (100, 110, 120), (1, 2, 3))]
    told = {
        "scores_are": label,
        "config": {"dataset": "toy", "beta": [], "critic": None},
        "preset": {"behavior": {"steps": 12000, "learning_rate": 0.003}, "betas": [1.0]},
        "data": {"fingerprint": "f00d", "steps": 300, "episodes": 3},
        "trust": [TRUST],
        "episodes": episodes,
        "versions": {"tiltrl": "0.1.0", "jax": "0.10.2"},
        "hardware": {"devices": ["cpu:0"], "cores": 2, "machine": "x86_64"},
        "rows": rows(scores),
    }
    write_json(path, told | facts)


def write_stage(folder: Path, metrics: list[dict[str, Any]], done: bool = True, **summary: Any) -> None:
    folder.mkdir(parents=True)
    if metrics:
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    if done:
        inputs = {"config": {"steps": 12000}, "seeds": [0]}
        write_json(
            folder / "stage.json",
            {
                "key": folder.name[-8:],
                "seconds_in_last_session": 75.0,
                "summary": summary,
                "files": {},
                "inputs": inputs,
            },
        )


def losses(steps: int, every: int = 250, name: str = "denoising_loss") -> list[dict[str, Any]]:
    return [{"step": step, name: [1.0 / step]} for step in range(every, steps + 1, every)]


def write_run(folder: Path, dataset: str = "toy", env_spec: str | None = ENV_SPEC) -> Path:
    """A run that has only begun: run.json."""
    folder.mkdir(parents=True)
    task = Task(dataset, env_spec, (-1.0,), (1.0,), 2, -20.0, 3234.0)
    identity = {"dataset": dataset, "fingerprint": "f00d", "preset": "fast", "budget": 1.0, "seeds": 1, "seed": 0}
    write_json(folder / "run.json", {"format": FORMAT, "task": task} | identity)
    return folder


def write_finished_run(folder: Path, dataset: str = "toy") -> Path:
    """A run with results of its own, and of a baseline."""
    write_run(folder, dataset)
    write_stage(folder / "behavior-0a0a0a0a", losses(12000))
    write_stage(folder / "critic-0b0b0b0b", losses(3000, name="v_loss"), trust=[TRUST])
    metrics = [{"step": step, "accuracy": [[0.2]], "kl": [[0.1]]} for step in (250, 500)]
    write_stage(folder / "align-0c0c0c0c", metrics)
    write_results(folder / "results.json")
    rival = {name: SCORES[name] for name in ("data", "behavior")} | {"iql": (20.0, 21.0, 22.0)}
    write_results(folder / "baseline-iql.json", rival)
    return folder


def write_experiment(folder: Path, dataset: str = "toy") -> Path:
    """Of four cells two are done, one failed, and one is to run."""
    methods = ("eda", "iql", "qgpo", "cnf")
    cells = tuple(Cell(dataset, method, beta=(1.0,) if method == "eda" else ()) for method in methods)
    machine = {"cores": 2, "machine": "x86_64"}
    write_json(folder / "experiment.json", Asked(EXPERIMENT_FORMAT, "scores", cells, {"tiltrl": "0.1.0"}, machine))
    eda, iql, qgpo, _ = cells
    done = Record(
        eda,
        "done",
        ("tiltrl", "run", "toy"),
        61.0,
        scores_are=LABEL,
        rows=tuple(PolicyScores(name, name == "data", (values,)) for name, values in SCORES.items()),
        trust=({"verdict": "good", "rank": 0.25, "trust": 0.8, "reliability": 0.9},),
        versions={"jax": "0.10.2"},
        hardware={"cores": 2},
    )
    keep(done, folder)
    rival = PolicyScores("iql", False, ((20.0, 21.0, 22.0),))
    keep(replace(done, cell=iql, rows=(done.rows[0], rival), command=("tiltrl", "baseline", "iql", "toy")), folder)
    keep(Record(qgpo, "failed", ("tiltrl", "baseline", "qgpo", "toy"), 3.0, "diverged at step 7 <of 9>"), folder)
    lines = [f"line {i}" for i in range(1000)] + ["\x1b[31mtiltrl: diverged at step 7 <of 9>\x1b[0m"]
    write_stage(write_run(folder / "runs" / "toy-seed0") / "behavior-0a0a0a0a", losses(500))
    log_of(qgpo, folder).write_text("\n".join(lines) + "\n")
    return folder
