"""Our rates against plain PyTorch's: the three training steps, acting and candidates, as ratios in one run.

    python benchmarks/torch_reference.py [--device cuda] [--preset fast] [--out FILE]

It needs PyTorch: pip install 'tiltrl[torch]'.

For each stage there is one process of ours, running the functions that `tiltrl run` runs, and one for each way of
PyTorch (`torch_steps.py`): eager, compiled. They work on data of the same sizes, and in turns: while one computes for
some seconds, the others wait for a message. The ratio is of the rates of one round, so that what the machine does
besides weighs on both; told is the median of the rounds, with the least and the most. The ratio by CPU time says how
much less work of the processor a step takes; on a GPU it is that of the host.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, Literal

import jax
import tyro
from rich.console import Console
from rich.table import Table

from tiltrl.bench.machine import available_cores, machine_facts, pin
from tiltrl.errors import InputError
from tiltrl.files import write_json
from tiltrl.presets import PresetName
from tiltrl.progress import LiveProgress

StageName = Literal["behavior", "alignment", "iql", "acting", "acting-256", "candidates"]
STAGES: tuple[StageName, ...] = ("behavior", "alignment", "iql", "acting", "acting-256", "candidates")
WAYS: dict[str, dict[str, Any] | None] = {"eager": None, "compiled": {}, "graphs": {"mode": "reduce-overhead"}}
"""Options of `torch.compile`; None: without."""
OURS = "ours"
Tick = Callable[[int], None]
console = Console(markup=False, emoji=False)


@dataclass(frozen=True)
class Options:
    """What is compared."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Where both compute. On cuda, PyTorch's `reduce-overhead` (CUDA graphs) is a third way."""
    preset: PresetName = "paper"
    """Sizes of networks and batches. IQL is the paper preset's only."""
    stages: tuple[StageName, ...] = STAGES
    """Which stages."""
    rounds: int = 5
    """Turns that each process takes, beside a first one that does not count."""
    seconds: float = 4.0
    """Length of a turn; it ends with the step in which that is over."""
    threads: int | None = None
    """Cores for each process, the same for all. Default: all there are."""
    out: Path | None = None
    """Where all numbers go, as JSON."""

    def check(self) -> None:
        """Refuse what cannot be done.

        Raises:
            InputError: as said.
        """
        if importlib.util.find_spec("torch") is None:
            raise InputError("PyTorch is not installed; it comes with: pip install 'tiltrl[torch]'")
        if self.device == "cuda" and not cuda_available():
            raise InputError("device = 'cuda'; PyTorch finds none here, or was built without")
        if not 1 <= self.rounds <= 1000:
            raise InputError(f"rounds = {self.rounds}; it must lie in 1 to 1000")
        if not 0 < self.seconds <= 600:
            raise InputError(f"seconds = {self.seconds}; a turn takes more than 0 and at most 600")
        cores = len(available_cores())
        if self.threads is not None and not 1 <= self.threads <= cores:
            raise InputError(f"threads = {self.threads}; this process may use 1 to {cores}")


def cuda_available() -> bool:
    """Whether PyTorch can use a GPU; importing it takes seconds, which only those pay who ask."""
    import torch

    return torch.cuda.is_available()


# --- In a process of its own ------------------------------------------------------------------------------------------


class Turns:
    """A tick that works when told to: at the end of each turn it tells steps and seconds, and waits for the next.

    Seconds by the clock, and of the processor, all threads together: those know no other processes.
    """

    def __init__(self, pipe: Connection, seconds: float):
        self._pipe = pipe
        self._seconds = seconds
        self._from: int | None = None

    def __call__(self, done: int) -> None:
        """Hear of progress."""
        now = time.perf_counter()
        if self._from is None:
            self._pipe.send("ready")  # the first step has compiled everything
        elif now - self._began < self._seconds:
            return
        else:
            self._pipe.send((done - self._from, now - self._began, time.process_time() - self._began_cpu))
        self._pipe.recv()
        self._from, self._began, self._began_cpu = done, time.perf_counter(), time.process_time()


def worker(way: str, stage: StageName, options: Options, pipe: Connection) -> None:
    """Take turns at one stage until the parent ends the process, or tell why that cannot be."""
    if options.threads is not None:
        pin(options.threads)
    turns = Turns(pipe, options.seconds)
    try:
        (run_ours if way == OURS else run_theirs)(way, stage, options, turns)
    except Exception as error:  # whatever a library cannot do here is a result, to be told
        pipe.send(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def run_ours(_: str, stage: StageName, options: Options, tick: Tick) -> None:
    """The functions that a run uses.

    Raises:
        InputError: JAX is not on the device that the reference is on.
    """
    import jax
    import numpy as np

    from tiltrl.bench import work

    if options.device == "cuda" and jax.default_backend() != "gpu":
        raise InputError(f"device = cuda: JAX is on the {jax.default_backend()}; install it for CUDA")

    def act(states: int) -> None:
        policy, rng = work.acting_policy(options.preset), np.random.default_rng(0)
        in_bursts(lambda: policy.sample(rng.standard_normal((states, work.OBS), np.float32)), lambda: None, tick)

    runs: dict[StageName, Callable[[], object]] = {
        "behavior": lambda: work.behavior_work(options.preset).run(tick),
        "alignment": lambda: work.alignment_work(options.preset).run(tick),
        "iql": lambda: work.critic_work(options.preset).run(tick),
        "acting": lambda: act(1),
        "acting-256": lambda: act(256),
        "candidates": lambda: work.candidates_work(options.preset, states_at_once(options.device)).run(tick),
    }
    runs[stage]()


def run_theirs(way: str, stage: StageName, options: Options, tick: Tick) -> None:
    """The reference."""
    import torch
    from torch_steps import Bench

    from tiltrl.bench.work import made_up
    from tiltrl.presets import preset_named

    torch.set_num_threads(options.threads or len(available_cores()))
    torch.set_float32_matmul_precision("high")  # TF32 on GPUs that have it, as JAX does unless told otherwise
    preset = preset_named(options.preset)
    bench = Bench(preset, made_up(preset.annotate.k), options.device, WAYS[way])
    steps: dict[StageName, Callable[[], Callable[[], object]]] = {
        "behavior": bench.behavior,
        "alignment": bench.alignment,
        "iql": bench.iql,
        "acting": lambda: bench.acting(1),
        "acting-256": lambda: bench.acting(256),
        "candidates": lambda: bench.candidates(states_at_once(options.device)),
    }
    in_bursts(steps[stage](), torch.cuda.synchronize if options.device == "cuda" else lambda: None, tick)


def states_at_once(device: str) -> int:
    """States of a batch of candidates: what keeps a GPU busy is a minute's work of a processor."""
    return 512 if device == "cuda" else 64


def in_bursts(step: Callable[[], object], synchronize: Callable[[], None], tick: Tick) -> None:
    """Steps without end; every quarter of a second or so they are waited for and told of."""
    done, pace = 0, 1
    while True:
        began = time.perf_counter()
        for _ in range(pace):
            step()
        synchronize()
        done += pace
        pace = max(1, min(10 * pace, int(pace * 0.25 / (time.perf_counter() - began))))
        tick(done)


# --- In the parent ----------------------------------------------------------------------------------------------------


@contextmanager
def processes(stage: StageName, options: Options) -> Iterator[dict[str, Connection]]:
    """One process for each way that there is, by its pipe."""
    context = multiprocessing.get_context("spawn")
    ways = (OURS, *(way for way in WAYS if options.device == "cuda" or way != "graphs"))
    started, pipes = [], {}
    try:
        for way in ways:
            pipes[way], theirs = context.Pipe()
            started.append(context.Process(target=worker, args=(way, stage, options, theirs), daemon=True))
            started[-1].start()
            theirs.close()
        yield pipes
    finally:
        for process in started:
            process.kill()
            process.join()


def heard(pipe: Connection) -> Any:
    """What the process says next; if it died without a word, that."""
    try:
        return pipe.recv()
    except EOFError:
        return "the process died (out of memory?)"


def compare(stage: StageName, options: Options, progress: LiveProgress) -> dict[str, Any]:
    """Rates and ratios of one stage; of a way that failed, why."""
    progress.start(stage, options.rounds + 2)
    with processes(stage, options) as pipes:
        answers = {way: heard(pipe) for way, pipe in pipes.items()}
        failed = {way: answer for way, answer in answers.items() if answer != "ready"}
        progress.update(1, options.rounds + 2, {})
        rates: dict[str, list[float]] = {way: [] for way in pipes if way not in failed}
        cpu_rates: dict[str, list[float]] = {way: [] for way in rates}
        for round_ in range(options.rounds + 1):
            # In another order each time, so that nobody is always the one after the heaviest.
            for way in sorted(rates, reverse=bool(round_ % 2)):
                pipes[way].send("go")
                answer = heard(pipes[way])
                if isinstance(answer, str):
                    failed[way] = answer
                    del rates[way]
                elif round_:  # the first is for warming up
                    rates[way].append(answer[0] / answer[1])
                    cpu_rates[way].append(answer[0] / answer[2])
            progress.update(round_ + 2, options.rounds + 2, {way: r[-1] for way, r in rates.items() if r})
    for way, reason in failed.items():
        progress.say(f"{stage}, {way}: does not run: {reason}")
    return {
        "steps_per_second": {way: spread(r) for way, r in rates.items()},
        "ratio": ratios(rates),
        "ratio_cpu": ratios({way: cpu_rates[way] for way in rates}),
        "failed": failed,
    }


def ratios(rates: dict[str, list[float]]) -> dict[str, Any]:
    """Ours over each other way's, round by round."""
    return {
        way: spread([ours / theirs for ours, theirs in zip(rates[OURS], rates[way], strict=True)])
        for way in rates
        if way != OURS and OURS in rates
    }


def spread(values: list[float]) -> dict[str, Any]:
    """Median, least and most, and each round's."""
    return {"median": median(values), "least": min(values), "most": max(values), "rounds": values}


def table(found: dict[StageName, dict[str, Any]]) -> Table:
    """What came out, a row a stage and way."""
    table = Table(box=None, pad_edge=False)
    headings = (
        "stage",
        "against",
        "ours, ms a step",
        "theirs, ms a step",
        "ours / theirs",
        "least",
        "most",
        "by CPU time",
    )
    for heading in headings:
        table.add_column(heading, justify="left" if heading in headings[:2] else "right")
    for stage, result in found.items():
        rates = result["steps_per_second"]
        ours = f"{1e3 / rates[OURS]['median']:.3g}" if OURS in rates else "failed"
        for way, ratio in result["ratio"].items():
            numbers = (f"{ratio[name]:.2f}" for name in ("median", "least", "most"))
            by_cpu = f"{result['ratio_cpu'][way]['median']:.2f}"
            table.add_row(stage, way, ours, f"{1e3 / rates[way]['median']:.3g}", *numbers, by_cpu)
        for way in result["failed"]:
            table.add_row(stage, way, ours, "failed", "", "", "", "")
    return table


def main(options: Options) -> None:
    """Measure, print, write."""
    options.check()
    # For the processes. Two libraries share a GPU's memory, so neither may take it all beforehand.
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # PyTorch's steps run on one of several, and so do ours
    os.environ |= {"JAX_PLATFORMS": options.device, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    jax.config.update("jax_platforms", options.device)  # and for this one, which has read the environment already
    found = {}
    with LiveProgress(console) as progress:
        for stage in options.stages:
            if stage == "iql" and options.preset == "fast":
                progress.say("iql: the fast preset has another critic; compare it with --preset paper")
                continue
            found[stage] = compare(stage, options, progress)
    console.print(table(found))
    console.print("ratio of rates within a round, the median of the rounds: above 1, ours is faster", style="dim")
    if options.out is not None:
        torch = importlib.metadata.version("torch")
        facts = {"options": asdict(options), "machine": machine_facts(), "torch": torch}
        write_json(options.out, facts | {"stages": found})
        console.print(f"numbers  {options.out}", soft_wrap=True)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
