"""What `tiltrl bench` finds: as values, and as JSON that is checked when it is read again."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tiltrl.bench.work import StageName
from tiltrl.config_io import from_json, parse_json
from tiltrl.errors import InputError
from tiltrl.files import read_file
from tiltrl.presets import PresetName

_MOST_BYTES = 1_000_000


@dataclass(frozen=True)
class Spread:
    """One quantity, measured several times."""

    median: float
    least: float
    most: float

    def apart(self, other: Spread) -> bool:
        """Whether the ranges do not overlap: a difference beyond what the rounds differ by."""
        return self.most < other.least or other.most < self.least


def spread(values: Sequence[float]) -> Spread:
    """Median and range."""
    return Spread(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class StageResult:
    """One stage of one preset."""

    stage: StageName
    preset: PresetName
    flops: int  # of one step, by count
    bytes: int  # the same
    rows: int  # examples or candidates of one step
    steps_per_second: Spread
    peak: float  # FLOP/s of the best matrix product, measured by the same process
    compile_seconds: float  # tracing, lowering and compiling all that ran until the first step was done
    memory: int  # bytes: the device's peak, or where it keeps no count, what the largest program needs

    @property
    def flops_per_second(self) -> float:
        """By the count."""
        return self.flops * self.steps_per_second.median

    @property
    def share(self) -> float:
        """Of the peak."""
        return self.flops_per_second / self.peak


@dataclass(frozen=True)
class ActingResult:
    """Latency of one call of `Policy.sample`, the best of several candidates by the critic."""

    preset: PresetName
    states: int  # observations a call
    cores: int
    calls: int  # timed
    p50: Spread  # seconds; the medians of consecutive parts of the calls
    p99: float  # seconds, of all calls; the longest, where there are fewer than a hundred


@dataclass(frozen=True)
class Failure:
    """What could not be measured."""

    what: str
    why: str
    bug: bool  # ours, and not too little memory or a refusal

    def __str__(self) -> str:
        return f"{self.what}: {self.why}"

    def error(self, message: str) -> Exception:
        """How a command ends that could not do all."""
        return RuntimeError(message) if self.bug else InputError(message)


@dataclass(frozen=True)
class BenchResult:
    """All of one run."""

    kind: Literal["tiltrl bench 1"]  # what the file is, and the version of its layout
    machine: dict[str, Any]
    seconds: float  # asked for, for each measurement
    stages: tuple[StageResult, ...]
    acting: tuple[ActingResult, ...]
    failures: tuple[Failure, ...] = ()


def read_result(path: Path) -> BenchResult:
    """A file that `tiltrl bench --out` has written.

    Raises:
        InputError: it is none.
    """
    try:
        return from_json(BenchResult, parse_json(read_file(path, _MOST_BYTES), str(path)), str(path))
    except InputError as error:
        raise InputError(f"{error}; give a file that `tiltrl bench --out` has written") from error
