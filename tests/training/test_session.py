"""A training run in a folder: stopped and continued, it is the run that was not."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tiltrl.errors import InputError
from tiltrl.training.loop import fit
from tiltrl.training.session import FolderSession, OnProgress

STEPS, CHUNK = 40, 10
State = dict[str, jax.Array]


def train(folder: Path, on_progress: OnProgress = lambda *_: None, save_every: float = 60.0, bad_at: int = 0) -> State:
    """A random walk of two members, in the folder; the metric turns NaN at step `bad_at`."""

    def update(state: State, _: None, __: None, key: jax.Array) -> tuple[State, State]:
        count, place = state["count"] + 1.0, state["place"] + jax.random.normal(key)
        return {"count": count, "place": place}, {"walk": jnp.where(count == bad_at, jnp.nan, place)}

    keys = jax.random.split(jax.random.key(0), 2)
    with FolderSession(folder, on_progress, save_every) as session:
        return fit(
            update,
            {"count": jnp.zeros(2), "place": jnp.zeros(2)},
            member_data=None,
            shared_data=None,
            keys=keys,
            steps=STEPS,
            chunk=CHUNK,
            session=session,
        )


def signal_at(step: int, signum: int, times: int = 1) -> OnProgress:
    """Sends this process a signal while the chunk that ends at `step` is recorded."""

    def on_progress(done: int, steps: int, metrics: dict[str, Any]) -> None:
        if done == step:
            for _ in range(times):
                os.kill(os.getpid(), signum)

    return on_progress


def saved(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir())


def logged(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_stops_and_the_run_goes_on(tmp_path: Path, signum: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", signal_at(20, signum))
    assert saved(tmp_path / "stopped") == [20]
    heard: list[int] = []
    resumed = train(tmp_path / "stopped", lambda done, *_: heard.append(done))
    assert heard == [30, 40]
    assert logged(tmp_path / "stopped") == [10, 20, 30, 40]
    np.testing.assert_array_equal(resumed["place"], train(tmp_path / "whole")["place"])


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, signal_at(20, signal.SIGINT, times=2))
    assert not (tmp_path / "checkpoints").exists()


def test_a_signal_in_the_last_chunk_lets_it_end(tmp_path: Path) -> None:
    assert train(tmp_path, signal_at(STEPS, signal.SIGINT))["count"][0] == STEPS


def test_handlers_are_put_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    train(tmp_path)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_thread_trains_without_catching_signals(tmp_path: Path) -> None:
    done: list[Any] = []
    thread = threading.Thread(target=lambda: done.append(train(tmp_path)))
    thread.start()
    thread.join()
    assert done[0]["count"][0] == STEPS


def test_it_saves_by_the_clock_and_at_the_end(tmp_path: Path) -> None:
    train(tmp_path / "rarely")
    assert saved(tmp_path / "rarely") == [STEPS]
    train(tmp_path / "always", save_every=0.0)
    assert saved(tmp_path / "always") == [30, 40]


def test_divergence_is_named_and_the_last_good_state_kept(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"walk = \[nan, nan\] near step 30: training diverged"):
        train(tmp_path, save_every=0.0, bad_at=25)
    assert saved(tmp_path) == [10, 20]
