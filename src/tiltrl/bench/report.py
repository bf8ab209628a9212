"""What a person reads of it: tables of rates, of latencies, and of what has changed since an earlier run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from tiltrl.bench.results import BenchResult, Spread


@dataclass(frozen=True)
class Change:
    """One quantity then and now."""

    what: str
    then: Spread
    now: Spread
    faster: float  # above 1: faster now
    same_work: bool  # whether a step is of as many FLOPs as then

    @property
    def verdict(self) -> str:
        """In words. Beyond noise: the ranges of the rounds, then and now, do not overlap."""
        if not self.same_work:
            return "another amount of work"
        if not self.now.apart(self.then):
            return "within noise"
        return "faster" if self.faster > 1.0 else "SLOWER"


def changes(then: BenchResult, now: BenchResult) -> Iterator[Change]:
    """Of each quantity that both have."""
    stages = {(found.stage, found.preset): found for found in then.stages}
    for found in now.stages:
        if (old := stages.get((found.stage, found.preset))) is not None:
            rates = old.steps_per_second, found.steps_per_second
            faster = rates[1].median / rates[0].median
            yield Change(f"{found.preset} {found.stage}, steps a second", *rates, faster, old.flops == found.flops)
    calls = {(found.preset, found.states, found.cores): found for found in then.acting}
    for found in now.acting:
        if (old := calls.get((found.preset, found.states, found.cores))) is not None:
            what = f"{found.preset} acting, {found.states} states on {found.cores} core(s), p50 in ms"
            yield Change(what, _ms(old.p50), _ms(found.p50), old.p50.median / found.p50.median, True)


def print_bench(result: BenchResult, console: Console) -> None:
    """The tables of one run."""
    machine = result.machine
    console.print(
        f"{machine['processor']}, {machine['cores']} core(s); JAX {machine['versions']['jax']} on {machine['device']}"
    )
    if result.stages:
        table = _table(
            ("preset", "stage"),
            (
                "GFLOP\na step",
                "MB\na step",
                "steps\n/s",
                "rows\n/s",
                "GFLOP\n/s",
                "of the\npeak",
                "compile\ns",
                "memory\nMB",
            ),
        )
        for found in result.stages:
            rate = found.steps_per_second.median
            numbers = found.flops / 1e9, found.bytes / 1e6, rate, rate * found.rows, found.flops_per_second / 1e9
            ends = f"{found.share:.0%}", f"{found.compile_seconds:.1f}", f"{found.memory / 1e6:.0f}"
            table.add_row(found.preset, found.stage, *map(_number, numbers), *ends)
        console.print(table)
        peaks = [found.peak / 1e9 for found in result.stages]
        console.print(
            f"rows: examples, or candidates. Peak: float32 matrix products beside each stage, {min(peaks):.0f} to "
            f"{max(peaks):.0f} GFLOP/s. GFLOP and MB by count (docs/performance.md)",
            style="dim",
        )
    if result.acting:
        table = _table(("preset",), ("states", "cores", "p50, ms", "p99, ms", "calls"))
        for found in result.acting:
            times = _number(1e3 * found.p50.median), _number(1e3 * found.p99)
            table.add_row(found.preset, str(found.states), str(found.cores), *times, str(found.calls))
        console.print(table)
        console.print("acting: one Policy.sample, the best of the preset's candidates by its critic", style="dim")


def print_changes(then: BenchResult, now: BenchResult, console: Console) -> None:
    """What has changed since, and whether beyond noise."""
    different = [name for name in ("processor", "cores", "device") if then.machine.get(name) != now.machine.get(name)]
    for name in different:
        told = f"{then.machine.get(name)} then, {now.machine.get(name)} now"
        console.print(f"WARNING: another {name}: {told}; rates of two machines say little about the code")
    found = list(changes(then, now))
    if not found:
        console.print("the earlier file has none of what was measured now")
        return
    table = _table(("since then",), ("then", "now", "faster by", ""))
    for change in found:
        numbers = _number(change.then.median), _number(change.now.median), f"{change.faster:.2f}"
        table.add_row(change.what, *numbers, change.verdict)
    console.print(table)
    console.print("within noise: the ranges of the rounds, then and now, overlap", style="dim")


def _table(words: tuple[str, ...], numbers: tuple[str, ...]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in words:
        table.add_column(heading)
    for heading in numbers:
        table.add_column(heading, justify="right")
    return table


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _ms(seconds: Spread) -> Spread:
    return Spread(1e3 * seconds.median, 1e3 * seconds.least, 1e3 * seconds.most)
