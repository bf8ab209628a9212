"""The table of scores: every task of the list, one `tiltrl run` each, resumable.

    MINARI_DATASETS_PATH=<folder of the data sets> python benchmarks/scores.py

Writes `benchmarks/results/scores.md` and, for each task, the raw numbers of its run. Tasks that are not done yet are
left out of the table, so it can be stopped and continued.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from tiltrl.evaluation.scores import interval

# Data set, number of seeds: three on the mixed sets, one elsewhere, which is what two cores had time for.
TASKS = (
    ("tiltrl/hopper/mixed-v0", 3),
    ("tiltrl/halfcheetah/mixed-v0", 3),
    ("tiltrl/hopper/noisy-v0", 1),
    ("tiltrl/hopper/medium-v0+tiltrl/hopper/expert-v0", 1),
    ("tiltrl/hopper/medium-v0", 1),
)
HEAD = (
    "# Scores of the fast preset\n\nNormalized by D4RL's reference returns, on regenerated data and v5 "
    "environments: **not D4RL scores**.\nLast checkpoint; "
    "intervals are bootstraps over episodes, stratified by seed.\n"
    "Command: `python benchmarks/scores.py`. Raw returns, configuration and versions of each: `scores/*.json`.\n"
)
RESULTS = Path(__file__).parent / "results"
RUNS = Path("runs/scores")


def slug(dataset: str) -> str:
    """The data set as a file name."""
    return "+".join(part.removeprefix("tiltrl/").replace("/", "-") for part in dataset.split("+"))


def table() -> str:
    """All finished tasks, as Markdown."""
    lines = []
    for dataset, _ in TASKS:
        file = RESULTS / "scores" / f"{slug(dataset)}.json"
        if not file.is_file():
            continue
        found = json.loads(file.read_text())
        trust = ", ".join(f"{check['verdict']} ({check['rank']:.2f})" for check in found["trust"])
        lines += [
            f"\n### {slug(dataset)}\n",
            f"{np.shape(found['rows'][1]['scores'])[0]} seed(s), {found['config']['episodes']} episodes each. "
            f"Critic's check (rank correlation): {trust}.\n",
            "| policy | mean | 95 % interval | median |",
            "|---|---|---|---|",
        ]
        for row in found["rows"]:
            scores = np.array(row["scores"])
            known = interval(scores)
            span = f"{known.low:.1f} to {known.high:.1f}"
            lines.append(f"| {row['policy']} | {known.mean:.1f} | {span} | {np.median(scores):.1f} |")
    return "\n".join(lines)


def main(only: list[str]) -> None:
    """Run all tasks, or only those named, such as hopper-mixed-v0 (finished stages are reused); write the table."""
    for dataset, seeds in TASKS:
        if only and slug(dataset) not in only:
            continue
        out = RUNS / slug(dataset)
        command = ["tiltrl", "run", dataset, "--seeds", str(seeds), "--out", str(out)]
        subprocess.run([str(Path(sys.executable).with_name(command[0])), *command[1:]], check=True)
        (RESULTS / "scores").mkdir(parents=True, exist_ok=True)
        shutil.copy(out / "results.json", RESULTS / "scores" / f"{slug(dataset)}.json")
        shutil.copy(out / "report.png", RESULTS / "scores" / f"{slug(dataset)}.png")
    (RESULTS / "scores.md").write_text(HEAD + table() + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
