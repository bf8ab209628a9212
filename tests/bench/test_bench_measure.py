"""What a stopwatch counts, and measurements in processes of their own."""

from __future__ import annotations

import sys
import time

import pytest

from tiltrl.bench.measure import ROUNDS, Request, Stopwatch, asked, product_peak
from tiltrl.bench.work import Enough
from tiltrl.errors import InputError


def test_a_stopwatch_takes_a_rate_a_round_and_leaves_out_the_first() -> None:
    watch = Stopwatch(0.1 * ROUNDS)
    with pytest.raises(Enough):
        for done in range(1, 10_000):
            watch(done)
            time.sleep(0.5 if done == 1 else 0.01)  # the first step after compiling is slow
    assert len(watch.rates) == ROUNDS
    assert all(20 < rate <= 100 for rate in watch.rates)


def test_a_stopwatch_sums_what_is_compiled_until_the_first_step() -> None:
    watch = Stopwatch(1.0)
    watch.compiled("/jax/core/compile/backend_compile_duration", 2.0)
    watch.compiled("/jax/something/else", 4.0)
    watch(1)
    watch.compiled("/jax/core/compile/backend_compile_duration", 8.0)
    assert watch.compile_seconds == 2.0


def test_the_peak_is_that_of_a_computer() -> None:
    assert 1e8 < product_peak() < 1e16


@pytest.mark.slow
def test_a_stage_in_a_process_of_its_own() -> None:
    found = asked(Request("critic", "fast", 0.1)).stage
    assert found is not None and (found.stage, found.preset) == ("critic", "fast")
    assert 0 < found.steps_per_second.least <= found.steps_per_second.median <= found.steps_per_second.most
    assert 0 < found.share < 2
    assert found.compile_seconds > 0
    assert found.memory > 100e6  # a million logged steps


@pytest.mark.slow
def test_acting_on_one_core() -> None:
    answer = asked(Request(None, "fast", 0.1, cores=1))
    assert [found.states for found in answer.acting] == [1, 16, 256]
    for found in answer.acting:
        assert found.cores == answer.machine["cores"]
        assert 0 < found.p50.least <= found.p50.median <= found.p99
    assert answer.acting[0].p50.median < answer.acting[2].p50.median


def test_what_a_process_refuses_is_refused_here() -> None:
    with pytest.raises(InputError, match="field stage"):
        asked(Request("cooking", "fast", 0.1))  # pyright: ignore[reportArgumentType]


def test_a_process_that_fails_otherwise_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(RuntimeError, match="exit status 1"):
        asked(Request("critic", "fast", 0.1))
