"""How long an action takes: in JAX and exported, of a policy and of its distilled student, on one core.

    tiltrl run demo
    tiltrl distill runs/demo-fast/policies/beta1-seed0
    python benchmarks/latency.py runs/demo-fast/policies/beta1-seed0 --distilled POLICY

where POLICY is the folder that `tiltrl distill` names at its end.

Writes `benchmarks/results/latency.json` and `latency.md`: percentiles of single calls at logged observations, the
contestants taking turns call by call, so that whatever else the machine does meets all of them alike. The load before
it began stands in the report; on a busy machine the tails are the machine's.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

import tiltrl
from tiltrl import runtime
from tiltrl.bench.machine import machine_facts, pin
from tiltrl.distillation import data_of
from tiltrl.export import export_onnx
from tiltrl.files import write_atomically, write_json
from tiltrl.policy import Policy, load_policy
from tiltrl.progress import LiveProgress
from tiltrl.types import Transitions

PERCENTILES = {"p50": 50.0, "p99": 99.0, "p99.9": 99.9}
GRID = [*map(float, range(100)), 99.5, 99.9, 99.99, 100.0]
"""Percentiles that stand for all the calls in the JSON."""
WARM = 200
RESULTS = Path(__file__).parent / "results"

Act = Callable[[np.ndarray], np.ndarray]


def contestants(
    policies: dict[str, Policy], data: Transitions, behavior: Policy | None, folder: Path, progress: LiveProgress
) -> dict[tuple[str, str], Act]:
    """Every way to act, by the policy's name and what runs it."""
    judges = {"ONNX": None} | ({} if behavior is None else {"ONNX with anomaly score": behavior})
    found: dict[tuple[str, str], Act] = {}
    for name, policy in policies.items():
        found[name, "JAX"] = policy.sample
        for by, judge in judges.items():
            path = folder / f"{len(found)}.onnx"
            progress.say(f"exporting for {name}, {by}")
            export_onnx(policy, path, data, behavior=judge)
            found[name, by] = runtime.Policy(path).act
    return found


def in_turns(
    acts: dict[tuple[str, str], Act], obs: np.ndarray, calls: int, progress: LiveProgress
) -> dict[tuple[str, str], list[float]]:
    """Milliseconds of each call, in order; the first `WARM` of each are left out."""
    spent: dict[tuple[str, str], list[float]] = {key: [] for key in acts}
    progress.start("calls", calls)
    for call in range(-WARM, calls):
        row = obs[call % len(obs)]
        for key, act in acts.items():
            began = time.perf_counter()
            act(row)
            spent[key].append(1000.0 * (time.perf_counter() - began))
        if call > 0 and call % 100 == 0:
            progress.update(call, calls, {})
    return {key: values[WARM:] for key, values in spent.items()}


def report(found: dict[str, Any]) -> str:
    """The table."""
    machine = found["machine"]
    lines = ["# Latency", "", f"`{found['command']}`; raw numbers in [latency.json](latency.json).", ""]
    lines += [f"Milliseconds of one action at one observation, one core, {found['calls']} calls each in turns.", ""]
    lines += ["| policy | by | p50 | p99 | p99.9 |", "|---|---|---|---|---|"]
    for row in found["rows"]:
        numbers = " | ".join(f"{row[name]:.3f}" for name in PERCENTILES)
        lines.append(f"| {row['policy']} | {row['by']} | {numbers} |")
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in ("tiltrl", "jax", "onnxruntime", "numpy"))
    lines += ["", f"One core of {machine['processor']}, load {found['load']:.1f} before it began; {versions}.", ""]
    return "\n".join(lines)


def _ways(policy: Policy) -> list[Policy]:
    """Acting by a single action, and as it is saved where that is another way."""
    return [policy.mean_of(1)] if not policy.config.acting else [policy.mean_of(1), policy]


def _called(name: str, policy: Policy) -> str:
    return f"{name}, {policy.config.acting}" if policy.config.acting else name


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", help="a policy's folder")
    parser.add_argument("--distilled", help="folder of its distilled student")
    parser.add_argument("--anomaly", help="folder of a behavior policy: exported with the anomaly score, too")
    parser.add_argument("--data", help="logged data (default: what the policy was trained on)")
    parser.add_argument("--calls", type=int, default=10_000, help="of each (default: 10000)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    pin(1)  # before JAX looks how many cores there are
    policies = {_called("policy", policy): policy for policy in _ways(load_policy(options.policy))}
    if options.distilled:
        policies |= {_called("distilled", policy): policy for policy in _ways(load_policy(options.distilled))}
    data = tiltrl.load(options.data or data_of(policies["policy"]))
    behavior = load_policy(options.anomaly) if options.anomaly else None
    with LiveProgress(Console()) as progress:
        with tempfile.TemporaryDirectory() as folder:
            acts = contestants(policies, data, behavior, Path(folder), progress)
        spent = in_turns(acts, data.obs, options.calls, progress)
    machine = machine_facts()
    machine["versions"] |= {name: version(name) for name in ("onnxruntime", "numpy")}
    found = {
        "command": shlex.join(["python", "benchmarks/latency.py", *sys.argv[1:]]),
        "calls": options.calls,
        "load": load,
        "rows": [
            {"policy": name, "by": by}
            | {label: float(np.percentile(values, share)) for label, share in PERCENTILES.items()}
            for (name, by), values in spent.items()
        ],
        "machine": machine,
        "percentiles": GRID,
        "milliseconds": {
            f"{name}, {by}": np.round(np.percentile(values, GRID), 4).tolist() for (name, by), values in spent.items()
        },
    }
    write_json(options.out / "latency.json", found)
    write_atomically(options.out / "latency.md", report(found).encode())
    print(report(found))


if __name__ == "__main__":
    main()
