"""The table of scores: every data set and critic of the list, one `tiltrl run` each, resumable.

    MINARI_DATASETS_PATH=<folder of the data sets> python benchmarks/scores.py [hopper-mixed-v0 ...] [--critics iql ...]

One setting for all of them. Writes `benchmarks/results/scores.md` and the raw numbers of each run. What is not done yet
is left out of the table, so it can be stopped and continued; a behavior is trained once for all critics.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tiltrl.evaluation.scores import interval

# Data set, number of seeds: three on the mixed sets, one elsewhere, which is what two cores had time for.
TASKS = (
    ("tiltrl/hopper/mixed-v0", 3),
    ("tiltrl/halfcheetah/mixed-v0", 3),
    ("tiltrl/hopper/noisy-v0", 1),
    ("tiltrl/hopper/medium-v0", 1),
    ("tiltrl/hopper/medium-v0+tiltrl/hopper/expert-v0", 1),
    ("tiltrl/halfcheetah/medium-v0", 1),
    ("tiltrl/halfcheetah/medium-v0+tiltrl/halfcheetah/expert-v0", 1),
)
CRITICS = ("advantage", "iql", "ensemble", "softmax", "online")
BEST_OF = 16
HEAD = f"""# Scores of the fast preset, by critic

Normalized by D4RL's reference returns, on regenerated data and v5 environments: **not D4RL scores**. Last checkpoint,
beta 1 everywhere; intervals are bootstraps over episodes, stratified by seed. `best of {BEST_OF}`: the best by Q of
{BEST_OF} of the behavior's actions. Command: `python benchmarks/scores.py`. Raw returns, configuration, wall-clock and
versions of each row: `scores/*.json`.

| data set | critic | seeds | episodes | data's mean | behavior | best of {BEST_OF} | aligned | gain | trust check |
|---|---|---|---|---|---|---|---|---|---|
"""
RESULTS = Path(__file__).parent / "results"
RUNS = Path("runs/scores")


def slug(dataset: str) -> str:
    """The data set as a file name."""
    return "+".join(part.removeprefix("tiltrl/").replace("/", "-") for part in dataset.split("+"))


def row(name: str, critic: str, found: dict[str, Any]) -> str:
    """One finished run as a line of the table."""
    scores = {each["policy"]: np.array(each["scores"]) for each in found["rows"]}
    aligned = next(value for policy, value in scores.items() if policy.startswith("aligned") and "best" not in policy)
    behavior, best_of = scores["behavior"], scores[f"behavior, best of {BEST_OF}"]
    trust = ", ".join(f"{check['verdict']} ({check['rank']:.2f})" for check in found["trust"])
    cells = [name, critic, str(len(behavior)), str(behavior.size), f"{scores['data'].mean():.1f}"]
    for values in (behavior, best_of, aligned):
        known = interval(values)
        cells.append(f"{known.mean:.1f} ({known.low:.1f} to {known.high:.1f})")
    return f"| {' | '.join([*cells, f'{aligned.mean() - behavior.mean():+.1f}', trust])} |"


def table() -> str:
    """All finished runs, as Markdown."""
    lines = []
    for dataset, _ in TASKS:
        for critic in CRITICS:
            file = RESULTS / "scores" / f"{slug(dataset)}-{critic}.json"
            if file.is_file():
                lines.append(row(slug(dataset), critic, json.loads(file.read_text())))
    return "\n".join(lines)


def main() -> None:
    """Run what is asked for, all by default (finished stages are reused); write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="*", help="such as hopper-mixed-v0; default: all")
    parser.add_argument("--critics", nargs="+", choices=CRITICS, default=CRITICS)
    asked = parser.parse_args()
    for dataset, seeds in TASKS:
        if asked.data and slug(dataset) not in asked.data:
            continue
        out = RUNS / slug(dataset)
        for critic in asked.critics:
            options = ["--critic", critic, "--seeds", str(seeds), "--best-of", str(BEST_OF), "--out", str(out)]
            subprocess.run([str(Path(sys.executable).with_name("tiltrl")), "run", dataset, *options], check=True)
            (RESULTS / "scores").mkdir(parents=True, exist_ok=True)
            shutil.copy(out / "results.json", RESULTS / "scores" / f"{slug(dataset)}-{critic}.json")
            shutil.copy(out / "report.png", RESULTS / "scores" / f"{slug(dataset)}-{critic}.png")
            (RESULTS / "scores.md").write_text(HEAD + table() + "\n")


if __name__ == "__main__":
    main()
