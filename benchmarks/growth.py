"""How the time of a step grows: with the rows of the data set, with the seeds, with the temperatures of an alignment.

    python benchmarks/growth.py             # whatever device JAX sees; about ten minutes on two cores
    python benchmarks/growth.py fast        # of one preset only, into files of its own

Writes `benchmarks/results/DEVICE/growth.json`, or `growth-PRESET.json`, the table `.md` and the picture `.png`. Made-up
data of hopper's sizes; the steps are those of the preset, taken by the training loop itself. The points of a curve are
measured in turns, so that whatever else the machine does falls on all of them. "By count" is what the step would take
if its time were proportional to its matrix products (`tiltrl.bench.counts`): a device that a small step leaves idle
does better.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from tiltrl.bench.counts import alignment_step, behavior_step
from tiltrl.bench.machine import machine_facts
from tiltrl.bench.results import Spread, spread
from tiltrl.bench.work import ACT, ENDLESS, LABELED, OBS, Enough, made_up
from tiltrl.diffusion.energy import Energy
from tiltrl.errors import InputError
from tiltrl.files import write_atomically, write_json
from tiltrl.presets import PRESETS, Preset, preset_named
from tiltrl.progress import LiveProgress, Reporter
from tiltrl.stages.align import train_policy
from tiltrl.stages.behavior import Pairs, train_behavior
from tiltrl.training.loop import Quiet, Session

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
ROWS = 1_000_000  # where the rows are not what grows
SEEDS = (1, 2, 3, 4, 5)
BETAS = (1, 2, 3, 4, 5, 6, 7)
ROUNDS = 3
SECONDS = 1.0  # of a round, at least
WARM_SECONDS = 0.3
RESULTS = Path(__file__).parent / "results"

Train = Callable[[Session], Any]


class Clock(Quiet):
    """Times steps, from when the loop has taken some."""

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._first: float | None = None
        self._mark: tuple[int, float] | None = None
        self.seconds_a_step = 0.0

    def record(self, step: int, steps: int, metrics: dict[str, Any] | None, train: Any) -> None:
        """Note the time.

        Raises:
            Enough: it has been measured.
        """
        now = time.perf_counter()
        if self._first is None:
            self._first = now
        elif self._mark is None:
            if now - self._first >= WARM_SECONDS:
                self._mark = step, now
        elif now - self._mark[1] >= self._seconds:
            self.seconds_a_step = (now - self._mark[1]) / (step - self._mark[0])
            raise Enough


@dataclass(frozen=True)
class Point:
    """One setting of a curve."""

    value: int  # rows, seeds or betas
    flops: int  # of one step, by count
    train: Train


@dataclass(frozen=True)
class Curve:
    """What was measured of one preset while one number grows."""

    preset: str
    grows: str  # rows, seeds or betas
    values: tuple[int, ...]
    seconds_a_step: tuple[Spread, ...]
    flops: tuple[int, ...]

    @property
    def times(self) -> tuple[float, ...]:
        """Medians, over that of the first point."""
        return tuple(found.median / self.seconds_a_step[0].median for found in self.seconds_a_step)

    @property
    def by_count(self) -> tuple[float, ...]:
        """The same, were time proportional to FLOPs."""
        return tuple(flops / self.flops[0] for flops in self.flops)


def pairs(rows: int) -> Pairs:
    """Noise, as the networks see it."""
    data = made_up(2, rows, states=1)
    return jnp.asarray(data.obs), jnp.asarray(data.action)


def behavior_point(preset: Preset, value: int, data: Pairs, seeds: int) -> Point:
    """Pretraining of some seeds at once on some data."""
    config = replace(preset.behavior, steps=ENDLESS)
    keys = jax.random.split(jax.random.key(0), seeds)
    flops = seeds * behavior_step(config, OBS, ACT).flops
    return Point(value, flops, lambda session: train_behavior(data, config, keys, session))


def sizes(preset: Preset) -> list[Point]:
    """Behavior, one seed, on the first rows of one set."""
    obs, action = pairs(max(SIZES))
    return [behavior_point(preset, rows, (obs[:rows], action[:rows]), 1) for rows in SIZES]


def seeds(preset: Preset) -> list[Point]:
    """Behavior of several seeds on one set."""
    data = pairs(ROWS)
    return [behavior_point(preset, count, data, count) for count in SEEDS]


def betas(preset: Preset) -> list[Point]:
    """Alignment of one seed at several temperatures."""
    config, k, network = replace(preset.align, steps=ENDLESS), preset.annotate.k, preset.behavior.network
    keys = jax.random.key(0)[None]
    data = made_up(k, rows=LABELED, states=LABELED)
    obs, candidates, q = (jnp.asarray(array)[None] for array in (data.obs, data.candidates, data.q))
    behavior = jax.vmap(lambda key: Energy(OBS, ACT, network, key=key))(keys)
    # The behavior's energies are computed once, the policies' once a temperature.
    whole = alignment_step(config, network, k, OBS, ACT).flops
    once = whole // 4

    def point(count: int) -> Point:
        temperatures = jnp.geomspace(0.1, 10.0, count)
        return Point(
            count,
            once + count * (whole - once),
            lambda session: train_policy(behavior, obs, candidates, q, temperatures, config, keys, session),
        )

    return [point(count) for count in BETAS]


CURVES: dict[str, Callable[[Preset], list[Point]]] = {"rows": sizes, "seeds": seeds, "betas": betas}
TITLES = {"rows": "behavior, rows of data", "seeds": "behavior, seeds", "betas": "alignment, temperatures"}


def measure(preset: str, grows: str, progress: Reporter) -> Curve:
    """One curve, its points in turns; the first turn compiles and does not count."""
    points = CURVES[grows](preset_named(preset))
    found: list[list[float]] = [[] for _ in points]
    total = (ROUNDS + 1) * len(points)
    progress.start(f"{preset} {grows}", total)
    for turn in range(ROUNDS + 1):
        for i, point in enumerate(points):
            clock = Clock(SECONDS if turn else 0.0)
            with suppress(Enough):
                point.train(clock)
            if turn:
                found[i].append(clock.seconds_a_step)
            progress.update(turn * len(points) + i + 1, total, {"ms": 1e3 * clock.seconds_a_step})
    return Curve(
        preset,
        grows,
        tuple(point.value for point in points),
        tuple(map(spread, found)),
        tuple(point.flops for point in points),
    )


def draw(curves: list[Curve]) -> bytes:
    """The picture, as PNG: a row a preset; beside each curve what its FLOPs alone would make of it."""
    presets = list(dict.fromkeys(curve.preset for curve in curves))
    figure = Figure(figsize=(12, 3.4 * len(presets)), dpi=110, layout="constrained")
    axes = figure.subplots(len(presets), len(CURVES), squeeze=False)
    for curve in curves:
        axis = axes[presets.index(curve.preset), list(CURVES).index(curve.grows)]
        median, least, most = (
            np.array([1e3 * getattr(found, name) for found in curve.seconds_a_step])
            for name in ("median", "least", "most")
        )
        axis.errorbar(curve.values, median, (median - least, most - median), marker="o", capsize=3, label="measured")
        axis.plot(curve.values, median[0] * np.array(curve.by_count), "--", color="gray", label="by count of FLOPs")
        axis.set(title=f"{curve.preset}: {TITLES[curve.grows]}", ylim=(0, None), ylabel="ms a step")
        if curve.grows == "rows":
            axis.set_xscale("log")
        axis.legend()
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def table(curves: list[Curve], machine: dict[str, Any]) -> str:
    """All numbers, as Markdown."""
    lines = [
        "# How the time of a step grows",
        "",
        f"{machine['processor']}, {machine['cores']} cores; JAX on {machine['device']}. Made-up data, hopper's sizes.",
        f"Command: `python benchmarks/growth.py`; medians of {ROUNDS} rounds in turns, with their range.",
    ]
    for curve in curves:
        lines += [
            "",
            f"| {curve.preset}: {TITLES[curve.grows]} | ms a step | least | most | times the first | by count |",
            "|---|---|---|---|---|---|",
        ]
        for value, found, times, count in zip(
            curve.values, curve.seconds_a_step, curve.times, curve.by_count, strict=True
        ):
            ms = " | ".join(f"{1e3 * seconds:.2f}" for seconds in (found.median, found.least, found.most))
            lines.append(f"| {value:,} | {ms} | {times:.2f} | {count:.2f} |")
    return "\n".join(lines) + "\n"


def main(presets: list[str], results: Path = RESULTS) -> None:
    """Measure, write, print. What is done is written after each curve.

    Raises:
        InputError: there is no such preset, or the results cannot be written.
    """
    if unknown := [name for name in presets if name not in PRESETS]:
        raise InputError(f"preset {unknown[0]!r} is unknown; choose among {', '.join(PRESETS)}")
    console, machine, curves = Console(), machine_facts(), []
    path = results / machine["backend"] / "-".join(["growth", *presets])
    path.parent.mkdir(parents=True, exist_ok=True)
    with LiveProgress(console) as progress:
        for preset in presets or PRESETS:
            for grows in CURVES:
                curves.append(measure(preset, grows, progress))
                facts = [asdict(c) | {"times_the_first": c.times, "by_count_of_flops": c.by_count} for c in curves]
                write_json(path.with_suffix(".json"), {"curves": facts, "machine": machine})
    text = table(curves, machine)
    write_atomically(path.with_suffix(".md"), text.encode())
    write_atomically(path.with_suffix(".png"), draw(curves))
    console.print(text, highlight=False, markup=False)


if __name__ == "__main__":
    main(sys.argv[1:])
