"""Measurements, each in a process of its own: `python -m tiltrl.bench.measure REQUEST` prints its result as JSON.

Of its own, so that a process that is kept on one core has started no threads before, one stage's peak of memory is not
another's, and whatever was compiled before cannot shorten what is measured. Process and parent speak JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from tiltrl.bench import work
from tiltrl.bench.machine import machine_facts, pin
from tiltrl.bench.results import ActingResult, StageResult, spread
from tiltrl.bench.work import Enough, StageName
from tiltrl.config_io import from_json, parse_json
from tiltrl.errors import InputError
from tiltrl.policy import Policy
from tiltrl.presets import PresetName
from tiltrl.types import as_json

ROUNDS = 5
"""Parts of a measurement, whose differences are its noise."""
STATES = (1, 16, 256)
"""Observations that a policy is called with."""
_SIZES = {"cpu": (512, 1024, 2048)}
_LARGE_SIZES = (4096, 8192)
_PEAK_SECONDS = 1.0
_FEWEST, _MOST = ROUNDS, 5000  # timed calls of a policy

Result = TypeVar("Result")


class Stopwatch:
    """A tick that takes rates, a round each, and then has enough; the first round is for warming up."""

    def __init__(self, seconds: float):
        self._seconds = seconds / ROUNDS
        self._mark: tuple[int, float] | None = None
        self._rates: list[float] = []
        self.compile_seconds = 0.0

    def compiled(self, event: str, duration_secs: float, **_: str | int) -> None:
        """Hear of JAX's events, and sum those of compiling until the first step is done."""
        if self._mark is None and event.startswith("/jax/core/compile/"):
            self.compile_seconds += duration_secs

    def __call__(self, done: int) -> None:
        """Hear of steps.

        Raises:
            Enough: all rounds are measured.
        """
        now = time.perf_counter()
        if self._mark is not None:
            if now - self._mark[1] < self._seconds:
                return
            self._rates.append((done - self._mark[0]) / (now - self._mark[1]))
        self._mark = done, now
        if len(self._rates) > ROUNDS:
            raise Enough

    @property
    def rates(self) -> list[float]:
        """Steps a second of each round."""
        return self._rates[1:]


def measure_stage(stage: StageName, preset: PresetName, seconds: float) -> StageResult:
    """Rate, compile time and memory of one stage."""
    found, watch = work.work_of(stage, preset), Stopwatch(seconds)
    jax.monitoring.register_event_duration_secs_listener(watch.compiled)
    with suppress(Enough):
        found.run(watch)
    memory = peak_memory()  # before there are other programs
    return StageResult(
        stage=stage,
        preset=preset,
        flops=found.cost.flops,
        bytes=found.cost.bytes,
        rows=found.rows,
        steps_per_second=spread(watch.rates),
        peak=product_peak(),
        compile_seconds=watch.compile_seconds,
        memory=memory,
    )


def measure_acting(policy: Policy, preset: PresetName, states: int, cores: int, seconds: float) -> ActingResult:
    """Latency of a policy's call, on the cores that this process is on."""
    rng = np.random.default_rng(0)
    times: list[float] = []
    until = np.inf
    # Until the first calls are done, which compile, time does not count.
    while len(times) < _FEWEST + 2 or (time.perf_counter() < until and len(times) < _MOST):
        obs = rng.standard_normal((states, work.OBS), np.float32)
        began = time.perf_counter()
        policy.sample(obs)
        times.append(time.perf_counter() - began)
        if len(times) == 2:
            until = time.perf_counter() + seconds
    timed = np.array(times[2:])
    parts = [float(np.median(part)) for part in np.array_split(timed, ROUNDS)]
    p99 = float(np.quantile(timed, 0.99, method="higher"))
    return ActingResult(preset, states, cores, len(timed), spread(parts), p99)


def product_peak() -> float:
    """FLOP/s of the best float32 matrix product of a few sizes; on a processor NumPy's count, too."""

    def rate(product: Callable[[], object], size: int) -> float:
        product()  # compiles
        best, until = np.inf, time.perf_counter() + _PEAK_SECONDS / (2 * len(sizes))
        while time.perf_counter() < until or best == np.inf:
            began = time.perf_counter()
            product()
            best = min(best, time.perf_counter() - began)
        return 2.0 * size**3 / best

    cpu = jax.default_backend() == "cpu"
    sizes = _SIZES.get(jax.default_backend(), _LARGE_SIZES)
    multiply = jax.jit(jnp.matmul)
    rates = []
    for size in sizes:
        a = np.random.default_rng(0).standard_normal((size, size), np.float32)
        on_device = jnp.asarray(a)
        rates.append(rate(lambda a=on_device: multiply(a, a).block_until_ready(), size))
        if cpu:
            rates.append(rate(lambda a=a: a @ a, size))
    return max(rates)


def peak_memory() -> int:
    """Bytes: the most the device has had in use; of a processor, the most that one of the programs needs."""
    device = jax.devices()[0]
    if stats := device.memory_stats():
        return stats["peak_bytes_in_use"]
    programs = (program.get_compiled_memory_stats() for program in device.client.live_executables())
    return max(
        p.temp_size_in_bytes + p.argument_size_in_bytes + p.output_size_in_bytes - p.alias_size_in_bytes
        for p in programs
    )


# --- Between processes ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """What a process is to measure."""

    stage: StageName | None  # None: acting
    preset: PresetName
    seconds: float  # for each measurement
    cores: int | None = None  # to be kept on; None: all


@dataclass(frozen=True)
class Answer:
    """What it found: of a stage, or of acting for each number of states."""

    machine: dict[str, Any]
    stage: StageResult | None = None
    acting: tuple[ActingResult, ...] = ()


def asked(request: Request) -> Answer:
    """What a process of its own finds.

    Raises:
        InputError: it refused something.
        MemoryError: there was too little.
        RuntimeError: it failed otherwise, which is a bug.
    """
    command = [sys.executable, "-m", "tiltrl.bench.measure", json.dumps(as_json(request))]
    # Compiled programs that are kept on disk would make compile times those of reading them.
    # Of several GPUs one is measured, as the peak is; unless the user has said which ones.
    environment = {"CUDA_VISIBLE_DEVICES": "0"} | os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        kind, _, told = said[0].partition(": ")
        if kind == f"{InputError.__module__}.{InputError.__qualname__}":
            raise InputError(told)
        if done.returncode == -9 or "RESOURCE_EXHAUSTED" in done.stderr:
            raise MemoryError(f"{request}: {said[0]}")
        raise RuntimeError(f"{request}: {said[0]}")
    return from_json(Answer, parse_json(done.stdout.splitlines()[-1], "answer"), "answer")


def answer(request: Request) -> Answer:
    """Measure in this process."""
    if request.cores is not None:
        pin(request.cores)
    facts = machine_facts()
    if request.stage is not None:
        return Answer(facts, stage=measure_stage(request.stage, request.preset, request.seconds))
    policy = work.acting_policy(request.preset)
    measured = (measure_acting(policy, request.preset, n, facts["cores"], request.seconds) for n in STATES)
    return Answer(facts, acting=tuple(measured))


if __name__ == "__main__":
    print(json.dumps(as_json(answer(from_json(Request, json.loads(sys.argv[1]), "request")))))
