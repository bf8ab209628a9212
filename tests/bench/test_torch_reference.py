"""Turns: what is counted in them, who waits, and what is told of those who cannot."""

from __future__ import annotations

import multiprocessing
import threading
from dataclasses import replace
from typing import Any

import pytest
from benchmark_scripts import load_script

from tiltrl.errors import InputError

reference = load_script("torch_reference")


class Done(Exception):
    """The pipe has been closed."""


def stepping(turns: Any) -> threading.Thread:
    """Steps in another thread, until the pipe is closed."""

    def run() -> None:
        done = 0
        try:
            while True:
                done += 1
                turns(done)
        except EOFError:
            pass

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_a_turn_counts_its_own_steps_and_seconds() -> None:
    ours, theirs = multiprocessing.Pipe()
    thread = stepping(reference.Turns(theirs, 0.05))
    assert ours.recv() == "ready"
    assert not ours.poll(0.1)  # nothing happens before it is told to
    for _ in range(2):
        ours.send("go")
        steps, seconds, cpu = ours.recv()
        assert steps > 0 and 0.05 <= seconds < 5 and cpu >= 0
        assert not ours.poll(0.1)
    ours.close()
    thread.join()


def test_bursts_grow_with_the_pace_of_the_steps() -> None:
    taken, told = [], []

    def tick(done: int) -> None:
        assert len(taken) == done
        told.append(done)
        if done > 100:
            raise Done

    with pytest.raises(Done):
        reference.in_bursts(lambda: taken.append(1), lambda: None, tick)
    assert told == [1, 11, 111]


def test_ratios_are_of_the_rates_of_one_round() -> None:
    found = reference.ratios({"ours": [2.0, 6.0, 8.0], "eager": [1.0, 2.0, 2.0]})
    assert found == {"eager": {"median": 3.0, "least": 2.0, "most": 4.0, "rounds": [2.0, 3.0, 4.0]}}


def test_a_way_that_does_not_run_says_why() -> None:
    ours, theirs = multiprocessing.Pipe()
    reference.run_theirs = fail
    reference.worker("eager", "behavior", reference.Options(), theirs)
    assert ours.recv() == "ValueError: no such luck"
    theirs.close()
    assert "died" in reference.heard(ours)


def fail(*_: Any) -> None:
    raise ValueError("no\nsuch luck")


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"seconds": 0.0}, {"threads": 0}, {"threads": 10_000}])
def test_options_that_cannot_be_used(wrong: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(InputError, match=next(iter(wrong))):
        replace(reference.Options(), **wrong).check()


def test_without_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="PyTorch is not installed"):
        reference.Options().check()
