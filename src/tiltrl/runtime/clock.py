"""A fixed rate against the clock, and what became of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Beat:
    """Ticks at multiples of a period, each as soon as the system wakes the process after its time."""

    hz: float
    clock: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep
    late: list[float] = field(default_factory=list)  # seconds after its time at which each tick began
    missed: int = 0  # ticks that could not begin, as the work of one before was not done

    def __iter__(self) -> Iterator[int]:
        """Number of each tick that is kept, waiting for its time; those that work overran are left out."""
        start, tick = self.clock(), 0
        while True:
            while (left := start + tick / self.hz - self.clock()) > 0:
                self.sleep(left)
            self.late.append(-left)
            yield tick
            following = max(tick + 1, int(np.ceil((self.clock() - start) * self.hz)))
            self.missed += following - tick - 1
            tick = following


def percentiles(seconds: list[float]) -> str:
    """Such as "p50 0.21, p99 0.30, max 1.20 ms"."""
    p50, p99, most = 1000.0 * np.percentile(seconds, (50, 99, 100))
    return f"p50 {p50:.3f}, p99 {p99:.3f}, max {most:.3f} ms"
