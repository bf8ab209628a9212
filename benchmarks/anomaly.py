"""How well scores of a behavior policy tell logged actions and states from others.

    MINARI_DATASETS_PATH=<folder of the data sets> python benchmarks/anomaly.py BEHAVIOR_POLICY ...

Each is a folder such as runs/demo-fast/policies/behavior-seed0, asked about its own data. Writes
`benchmarks/results/anomaly.md` and the numbers behind it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from tiltrl.data import load
from tiltrl.distillation import data_of
from tiltrl.export.anomaly import some_rows
from tiltrl.files import write_atomically, write_json
from tiltrl.policy import Policy, load_policy, versions

ROWS = 4000
RESULTS = Path(__file__).parent / "results"
Pairs = tuple[np.ndarray, np.ndarray]
HEAD = f"""# Can a score tell what was not logged?

Area under the ROC curve between {ROWS} logged pairs of observation and action, which the behavior model was trained on,
and as many changed ones: .5 is chance, 1 never wrong. Energies hold an unknown constant of the state; the error of
denoising (`Policy.denoising_error`) does not. In brackets: the share of the changed pairs that are more unusual than
99 % of the logged ones. Command: `python benchmarks/anomaly.py BEHAVIOR_POLICY ...`; numbers: `anomaly.json`.
"""


def changed(obs: np.ndarray, action: np.ndarray, low: np.ndarray, high: np.ndarray) -> dict[str, Pairs]:
    """Pairs that were not logged, from ones that were."""
    random, spread = np.random.default_rng(0), obs.std(axis=0)

    def noise(size: float) -> np.ndarray:
        return (obs + size * spread * random.normal(size=obs.shape)).astype(np.float32)

    near = action + 0.15 * (high - low) * random.normal(size=action.shape)
    shuffled = np.stack([random.permutation(column) for column in obs.T], axis=1)

    def wide(times: float) -> np.ndarray:
        return (obs.mean(axis=0) + times * spread * random.normal(size=obs.shape)).astype(np.float32)

    broken = obs.copy()
    broken[np.arange(len(obs)), random.integers(obs.shape[1], size=len(obs))] += 10 * spread.max()
    return {
        "actions: uniform in the bounds": (obs, random.uniform(low, high, action.shape)),
        "actions: of other states": (obs, random.permutation(action)),
        "actions: with noise of .15 of the range": (obs, np.clip(near, low, high)),
        "states: with noise of half their deviation": (noise(0.5), action),
        "states: with noise of twice their deviation": (noise(2.0), action),
        "states: each part of another state": (shuffled, action),
        "states: random, three times as wide": (wide(3.0), action),
        "states: random, a hundred times as wide": (wide(100.0), action),
        "states: one part ten of the largest deviation off": (broken, action),
    }


def scores(policy: Policy) -> dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]:
    """The larger, the more unusual."""
    at = {
        f"energy, t = {t:g}": lambda obs, action, t=t: -policy.energy(obs, action, t) for t in (0.001, 0.03, 0.1, 0.3)
    }
    return at | {"error of denoising": policy.denoising_error}


def measured(folder: Path) -> tuple[str, dict[str, dict[str, tuple[float, float]]]]:
    """The data set, and for each kind of change and score the area and the share beyond 99 %."""
    policy = load_policy(folder)
    data = load(data_of(policy))
    rows = some_rows(len(data), ROWS)
    obs, action = data.obs[rows], data.action[rows]
    low, high = (np.array(each) for each in (policy.config.scaling.action_low, policy.config.scaling.action_high))
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for score, function in scores(policy).items():
        logged = function(obs, action)
        for kind, pair in changed(obs, action, low, high).items():
            other = function(*pair)
            area = roc_auc_score(np.repeat([0, 1], len(obs)), np.concatenate([logged, other]))
            found.setdefault(kind, {})[score] = float(area), float(np.mean(other > np.quantile(logged, 0.99)))
    return data.task.dataset, found


def table(name: str, found: dict[str, dict[str, tuple[float, float]]]) -> str:
    """One data set's numbers as Markdown."""
    names = list(next(iter(found.values())))
    lines = [f"\n## {name}\n", f"| pairs | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for kind, by_score in found.items():
        cells = (f"{area:.3f} ({share:.0%})" for area, share in by_score.values())
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("policies", nargs="+", type=Path, help="folders of behavior policies")
    found = dict(measured(folder) for folder in parser.parse_args().policies)
    text = HEAD + "".join(table(name, numbers) for name, numbers in found.items())
    print(text)
    write_atomically(RESULTS / "anomaly.md", text.encode())
    write_json(RESULTS / "anomaly.json", {"versions": versions(), "found": found})


if __name__ == "__main__":
    main()
