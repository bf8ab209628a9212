"""Does the trust check predict what alignment gains? Its numbers beside realized gains, over many critics.

    tiltrl run DATASET --critic NAME --out FOLDER; tiltrl critic check FOLDER --rollouts 64     # for many of them
    python benchmarks/trust.py FOLDER FOLDER ...

Each critic of each seed is one point: a number of its check, and the mean score of the aligned policy less the
behavior's. Writes `benchmarks/results/trust.md`, and the points as `trust.json`.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from tiltrl.errors import InputError
from tiltrl.evaluation.ranking import Estimate
from tiltrl.files import write_atomically, write_json

LEAST = 4
"""Critics below which a correlation over them means nothing."""
# Where each number stands in a seed's check; those of rollouts are missing where none were made.
NUMBERS = {
    "rank": ("trust", "rank"),
    "rank, lower bound": ("trust", "rank_low"),
    "reliability": ("trust", "reliability"),
    "trust": ("trust", "trust"),
    "held-out slope": ("held_out", "slope", "value"),
    "held-out rank between near states": ("held_out", "nearby", "value"),
    "held-out over-estimation, share": ("held_out", "overestimation_share"),
    "rollouts: rank within a state": ("rollouts", "ranking", "raw", "value"),
    "rollouts: the same without noise": ("rollouts", "ranking", "corrected", "value"),
    "rollouts: slope": ("rollouts", "ranking", "slope", "value"),
    "rollouts: one-step gain": ("rollouts", "one_step_gain", "value"),
    "rollouts: gain of following Q": ("rollouts", "gain", "value"),
    "rollouts: the same, share of spread": ("rollouts", "gain_share"),
}


@dataclass(frozen=True)
class Point:
    """One critic."""

    folder: str
    seed: int
    verdict: str
    numbers: dict[str, float]  # of its check, by name
    gain: float  # mean score of the aligned policy less the behavior's


def points_of(folder: Path) -> list[Point]:
    """The critics of one run, a seed each; without a `critic-check.json` of them only with what the run itself found.

    Raises:
        InputError: the run is not finished, or was not evaluated with a behavior and an aligned policy.
    """
    path = folder / "results.json"
    if not path.is_file():
        raise InputError(f"{path}: is missing; finish the run with `tiltrl run`")
    results = json.loads(path.read_text())
    scores = {row["policy"]: row["scores"] for row in results["rows"]}
    aligned = [name for name in scores if name.startswith("aligned, ") and " of " not in name]
    if "behavior" not in scores or not aligned:
        raise InputError(f"{path}: rows: hold {', '.join(scores)}; a behavior and an aligned policy are needed")
    files = [*folder.glob("critic-check.json"), *folder.glob("critic-*/critic-check.json")]
    checks = [{"trust": trust} for trust in results["trust"]]
    for file in files:  # a folder may hold several critics; the scores are those of the last run's
        kept = json.loads(file.read_text())["checks"]
        if [check["trust"] for check in kept] == results["trust"]:
            checks = kept
            break
        print(f"{file}: skipped, as results.json is of another critic")
    found = []
    for i, check in enumerate(checks):
        numbers = {name: value for name, place in NUMBERS.items() if (value := _at(check, place)) is not None}
        gain = float(np.mean(scores[aligned[0]][i]) - np.mean(scores["behavior"][i]))
        verdict = check.get("verdict", check["trust"]["verdict"])
        found.append(Point(folder.name, check.get("seed", i), verdict, numbers, gain))
    return found


def spearman(x: Float[np.ndarray, " critics"], y: Float[np.ndarray, " critics"], resamples: int = 2000) -> Estimate:
    """Rank correlation and its 95 % bootstrap interval over critics."""
    from scipy import stats

    def correlation(index: np.ndarray) -> float:
        a, b = stats.rankdata(x[index]), stats.rankdata(y[index])
        return 0.0 if np.ptp(a) == 0 or np.ptp(b) == 0 else float(np.corrcoef(a, b)[0, 1])

    rng, count = np.random.default_rng(0), len(x)
    drawn = [correlation(rng.integers(count, size=count)) for _ in range(resamples)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(correlation(np.arange(count)), float(low), float(high))


def report(points: list[Point]) -> str:
    """The table, in Markdown."""
    lines = [
        "# What the trust check predicts",
        "",
        f"Over {len(points)} critics: rank correlation of a number of the check with what alignment gained (mean",
        "score of the aligned policy less the behavior's), 95 % bootstrap over critics.",
        "Command: `python benchmarks/trust.py FOLDER ...`.",
        "",
        "| number | critics | Spearman | 95 % interval |",
        "|---|---|---|---|",
    ]
    for name in NUMBERS:
        of = [point for point in points if name in point.numbers]
        if len(of) >= LEAST:
            found = spearman(np.array([point.numbers[name] for point in of]), np.array([point.gain for point in of]))
            lines.append(f"| {name} | {len(of)} | {found.value:.2f} | {found.low:.2f} to {found.high:.2f} |")
    lines += ["", "| verdict | critics | mean gain | worst | best |", "|---|---|---|---|---|"]
    for verdict in ("good", "weak", "harmful"):
        if gains := [point.gain for point in points if point.verdict == verdict]:
            numbers = f"{np.mean(gains):.1f} | {min(gains):.1f} | {max(gains):.1f}"
            lines.append(f"| {verdict} | {len(gains)} | {numbers} |")
    return "\n".join(lines) + "\n"


def _at(value: Any, place: tuple[str, ...]) -> float | None:
    for name in place:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def main() -> None:
    """Read the folders and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    points = [point for folder in options.folders for point in points_of(folder)]
    text = report(points)
    write_atomically(options.out / "trust.md", text.encode())
    write_json(options.out / "trust.json", {"points": [asdict(point) for point in points]})
    print(text)


if __name__ == "__main__":
    main()
