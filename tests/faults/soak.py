"""Hours of small runs and evaluations in one process: does its memory, do its open files and threads stay put?

    python tests/faults/soak.py --hours 2 --out runs/soak

Each iteration is a whole run through Python on the demo data (into a new folder, deleted afterwards), its policy loaded
and evaluated, and now and then a bandit or a data set converted. After each, one line of numbers is appended to
`soak.jsonl`. At the end, or at Ctrl-C, a table (first half beside second half, slope an hour) and a picture are made;
`--report` makes them of the lines there are.
"""

from __future__ import annotations

import argparse
import collections
import gc
import json
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / "tiltrl-soak-compilations"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tiltrl.api import evaluate
from tiltrl.bandit.experiment import BanditOptions, run_bandits
from tiltrl.data import load
from tiltrl.data.write import write_minari, write_npz
from tiltrl.evaluation.report import draw
from tiltrl.evaluation.scores import score_label
from tiltrl.options import RunConfig
from tiltrl.pipeline import Run
from tiltrl.policy import load_policy
from tiltrl.scoring import evaluate_policies, save_policies, write_run

MIB = 1 << 20
WARM_UP = 0.1  # share of the time at the start that the slope leaves out
COLUMNS = {  # name in a line: heading, divisor, digits
    "rss": ("memory, MiB", MIB, 1),
    "peak": ("peak memory, MiB", MIB, 1),
    "handles": ("open files", 1, 1),
    "threads": ("threads", 1, 1),
    "arrays": ("live JAX arrays", 1, 1),
    "objects": ("Python objects", 1, 0),
    "seconds": ("seconds an iteration", 1, 2),
}


class Silent:
    """A reporter that hears and says nothing."""

    def start(self, stage: str, total: int) -> None:
        """Nothing."""

    def update(self, done: int, total: int, metrics: dict[str, Any]) -> None:
        """Nothing."""

    def say(self, message: str) -> None:
        """Nothing."""


def one_run(folder: Path, i: int, rng: random.Random) -> None:
    """A run of all stages, then one of its policies as a user has it."""
    config = RunConfig(
        "demo",
        beta=(0.5, 1.0)[: 1 + i % 2],
        seed=rng.randrange(90_000),
        budget=(0.005, 0.01)[i % 2],
        label_fraction=0.01,
        episodes=1,
        out=folder,
    )
    run = Run(config, Silent())
    saved = save_policies(run)
    rows, episodes = evaluate_policies(run)
    label = score_label(run.data.task)
    write_run(run, rows, episodes, label)
    draw(rows, label, folder / "report.png", f"soak {i}")
    one_evaluation(saved, rng)


def one_evaluation(saved: Path, rng: random.Random) -> None:
    """Load, act, ask for energies, run an episode."""
    policy = load_policy(saved, seed=rng.randrange(1000))
    policy.reset(rng.randrange(1000))
    obs = np.zeros((64, policy.config.task.obs_dim), np.float32)
    action = policy.sample(obs)
    policy.energy(obs, action, 0.5)
    policy.best_of(4).sample(obs)
    evaluate(policy, episodes=2, seed=rng.randrange(1000))


def one_bandit(folder: Path, rng: random.Random) -> None:
    """A bandit from data to pictures."""
    options = BanditOptions(
        dataset=("moons",), budget=0.002, samples=200, times=(0.1,), seed=rng.randrange(1000), out=folder
    )
    run_bandits(options, Silent())


def one_conversion(folder: Path, i: int) -> None:
    """The demo data to another format and back."""
    out = folder.with_suffix(".npz") if i % 2 else folder
    data = load("demo[:0.1]")
    if i % 2:
        write_npz(data, out)
    else:
        write_minari(data, out, "soak/demo-v0")
    try:
        load(str(out))
    finally:
        if out.is_file():
            out.unlink()


def measured() -> dict[str, int]:
    """What a process can have too much of."""
    gc.collect()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "rss": int(status["VmRSS"].split()[0]) * 1024,
        "peak": int(status["VmHWM"].split()[0]) * 1024,
        "handles": len(os.listdir("/proc/self/fd")),
        "threads": int(status["Threads"]),
        "python_threads": threading.active_count(),
        "arrays": len(jax.live_arrays()),
        "objects": len(gc.get_objects()),
    }


def growth(before: collections.Counter[str], after: collections.Counter[str], most: int = 15) -> str:
    """The types of which there are more objects than before."""
    return "\n".join(f"{count:+8d}  {name}" for name, count in (after - before).most_common(most))


def census() -> collections.Counter[str]:
    """How many objects of each type the garbage collector knows."""
    return collections.Counter(f"{type(o).__module__}.{type(o).__qualname__}" for o in gc.get_objects())


def soak(hours: float, out: Path, seed: int, only: str | None) -> None:
    """Iterate until the time is over; whatever ends it, the lines written so far are whole."""
    began, rng = time.monotonic(), random.Random(seed)
    before: collections.Counter[str] | None = None
    i = 0
    with (out / "soak.jsonl").open("a") as lines, tempfile.TemporaryDirectory(prefix="tiltrl-soak-") as place:
        try:
            while (elapsed := time.monotonic() - began) < 3600 * hours:
                folder = Path(place) / f"{i}"
                kinds: dict[str, Callable[[], None]] = {
                    "run": lambda folder=folder, i=i: one_run(folder, i, rng),
                    "bandit": lambda folder=folder: one_bandit(folder, rng),
                    "convert": lambda folder=folder, i=i: one_conversion(folder, i // 5),
                }
                kind = only or ("bandit" if i % 10 == 4 else "convert" if i % 5 == 2 else "run")
                started = time.monotonic()
                kinds[kind]()
                shutil.rmtree(folder, ignore_errors=True)
                took = time.monotonic() - started
                line = {"time": time.monotonic() - began, "iteration": i, "kind": kind, "seconds": took} | measured()
                lines.write(json.dumps(line) + "\n")
                lines.flush()
                print(
                    f"{elapsed / 60:7.1f} min  {i:5d} {kind:8} {took:6.1f} s  {line['rss'] / MIB:8.1f} MiB  "
                    f"{line['handles']} files  {line['threads']} threads  {line['arrays']} arrays  "
                    f"{line['objects']} objects",
                    flush=True,
                )
                i += 1
                if before is None and elapsed > 3600 * hours * WARM_UP:
                    before = census()
        except KeyboardInterrupt:
            print("interrupted; the report is of what there is")
    if before is not None:
        print("objects there are more of since the warm-up:\n" + growth(before, census()))


def slope(hours: np.ndarray, values: np.ndarray) -> float:
    """Change an hour, by least squares, after the warm-up."""
    late = hours >= hours[-1] * WARM_UP
    if late.sum() < 3:
        return float("nan")
    return float(np.polyfit(hours[late], values[late], 1)[0])


def report(out: Path) -> str:
    """The table; the picture goes beside the lines.

    Raises:
        SystemExit: there are too few lines to say anything.
    """
    lines = [json.loads(line) for line in (out / "soak.jsonl").read_text().splitlines()]
    if len(lines) < 4:
        sys.exit(f"{out / 'soak.jsonl'}: {len(lines)} lines are too few for a report")
    hours = np.array([line["time"] for line in lines]) / 3600
    counts = collections.Counter(line["kind"] for line in lines)
    # Up to two hours the halves are compared; of longer soaks the first hour and the last.
    span = min(1.0, hours[-1] / 2)
    first, last = hours <= span, hours > hours[-1] - span
    rows = [
        f"{hours[-1]:.2f} h in one process: " + ", ".join(f"{n} {kind}" for kind, n in counts.items()),
        "",
        f"| | mean of the first {span:.2f} h | mean of the last {span:.2f} h | slope an hour, after warm-up | "
        "at the end |",
        "|---|---:|---:|---:|---:|",
    ]
    figure = Figure(figsize=(9, 2 * len(COLUMNS)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(COLUMNS), 1, sharex=True)
    for axis, (name, (heading, divisor, digits)) in zip(axes, COLUMNS.items(), strict=True):
        values = np.array([line[name] for line in lines], float) / divisor
        numbers = values[first].mean(), values[last].mean(), slope(hours, values), values[-1]
        signs = ("", "", "+", "")
        cells = " | ".join(f"{number:{sign},.{digits}f}" for number, sign in zip(numbers, signs, strict=True))
        rows.append(f"| {heading} | {cells} |")
        axis.plot(hours, values, ".", markersize=3, color="#3b6ea5")
        axis.set_ylabel(heading, fontsize=8)
        axis.set_ylim(bottom=0)
        axis.grid(linewidth=0.4)
    axes[-1].set_xlabel("hours")
    figure.savefig(out / "soak.png")
    return "\n".join(rows)


def main() -> None:
    """Parse, soak, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--out", type=Path, default=Path("runs/soak"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("run", "bandit", "convert"), help="one kind of iteration, to find a cause")
    parser.add_argument("--report", action="store_true", help="only report on the lines there are")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.report:
        (options.out / "soak.jsonl").unlink(missing_ok=True)
        soak(options.hours, options.out, options.seed, options.only)
    table = report(options.out)
    (options.out / "soak.md").write_text(table + "\n")
    print("\n" + table + f"\n\npicture  {options.out / 'soak.png'}")


if __name__ == "__main__":
    main()
