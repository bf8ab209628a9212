"""A training run in a folder: stopped and continued, it is the run that was not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tiltrl.errors import InputError
from tiltrl.serialization import fingerprint, load_arrays
from tiltrl.training.checkpoint import Checkpoints
from tiltrl.training.loop import fit
from tiltrl.training.optimizer import cosine_adam
from tiltrl.training.session import FolderSession, OnProgress, Saving

STEPS, CHUNK = 40, 10
State = dict[str, jax.Array]


def train(
    folder: Path,
    on_progress: OnProgress = lambda *_: None,
    saving: Saving | None = None,
    bad_at: int = 0,
    say: Callable[[str], None] = lambda _: None,
    learning_rate: float = 0.0,
) -> State:
    """A random walk of two members, in the folder; the metric turns NaN at step `bad_at`."""
    optimizer = cosine_adam(learning_rate, STEPS, cosine=False)

    def draw(_: None, __: None, key: jax.Array) -> jax.Array:
        return jax.random.normal(key)

    def update(state: State, _: None, __: None, key: jax.Array) -> tuple[State, State]:
        count, place = state["count"] + 1.0, state["place"] + draw(None, None, key)
        # At too high a rate, the step is taken no further.
        move, opt_state = optimizer.update(jnp.ones(()), state["opt_state"])
        bad = (count == bad_at) & ((learning_rate == 0.0) | (jnp.abs(move) > 0.3 * learning_rate))
        walk = jnp.where(bad, jnp.nan, place)
        return {"count": count, "place": place, "opt_state": opt_state}, {"walk": walk}

    keys = jax.random.split(jax.random.key(0), 2)
    state = {"count": jnp.zeros(2), "place": jnp.zeros(2), "opt_state": jax.vmap(optimizer.init)(jnp.zeros(2))}
    with FolderSession(folder, on_progress, say, saving) as session:
        return fit(
            update,
            state,
            member_data=None,
            shared_data=None,
            keys=keys,
            steps=STEPS,
            draw=draw,
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
    return Checkpoints(folder / "checkpoints", print).steps()


def logged(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_and_stops_and_the_run_goes_on(tmp_path: Path, signum: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", signal_at(20, signum))
    assert saved(tmp_path / "stopped") == [20]
    heard: list[int] = []
    resumed = train(tmp_path / "stopped", lambda done, *_: heard.append(done))
    assert heard[0] > 20 and heard[-1] == STEPS
    assert logged(tmp_path / "stopped") == [10, 20, 30, 40]
    np.testing.assert_array_equal(resumed["place"], train(tmp_path / "whole")["place"])


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, signal_at(20, signal.SIGINT, times=2))
    assert not (tmp_path / "checkpoints").exists()


def test_a_signal_in_the_last_steps_stops_the_run_and_loses_none(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, signal_at(STEPS, signal.SIGTERM))
    assert saved(tmp_path) == [STEPS]
    heard: list[int] = []
    assert train(tmp_path, lambda done, *_: heard.append(done))["count"][0] == STEPS
    assert not heard


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
    train(tmp_path / "always", saving=Saving(every=0.0))
    assert len(saved(tmp_path / "always")) == 2


@pytest.mark.parametrize("at", [13, 20, 37])
def test_a_kill_anywhere_changes_no_bit(tmp_path: Path, at: int) -> None:
    def die(step: int, steps: int, metrics: dict[str, Any]) -> None:
        if step >= at:
            raise SystemExit  # as sudden as a test can be: nothing is saved on the way out

    with pytest.raises(SystemExit):
        train(tmp_path / "killed", die, saving=Saving(every=0.0))
    resumed, whole = train(tmp_path / "killed"), train(tmp_path / "whole")
    np.testing.assert_array_equal(resumed["place"], whole["place"])
    assert (tmp_path / "killed/metrics.jsonl").read_bytes() == (tmp_path / "whole/metrics.jsonl").read_bytes()


def test_divergence_is_named_to_the_step_and_its_batch_kept(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"walk = \[nan, nan\] at step 25: training diverged; .*--recover"):
        train(tmp_path, saving=Saving(every=0.0), bad_at=25)
    assert 10 <= saved(tmp_path)[-1] < 25
    facts = json.loads((tmp_path / "diverged/diverged.json").read_text())
    assert (facts["step"], facts["what"], facts["values"]) == (25, "walk", ["nan", "nan"])
    keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(jax.random.split(jax.random.key(0), 2), 24)
    batch = load_arrays(tmp_path / "diverged/batch.safetensors", jnp.zeros(2))
    np.testing.assert_array_equal(batch, jax.vmap(jax.random.normal)(keys))
    assert facts["batch_fingerprint"] == fingerprint(batch)
    # Steps 21 to 24 are told of here, and the log ends with the last whole chunk: they will be taken again.
    assert len(facts["metrics_of_the_steps_before"]["walk"]) == 4
    assert logged(tmp_path) == [10, 20]
    with pytest.raises(InputError, match="at step 25"):
        train(tmp_path, bad_at=25)
    assert logged(tmp_path) == [10, 20]


def test_a_divergence_is_taken_back_with_half_the_learning_rate(tmp_path: Path) -> None:
    heard: list[str] = []
    train(tmp_path, saving=Saving(every=0.0, recover=3), bad_at=25, say=heard.append, learning_rate=1.0)
    assert [line.rpartition(" with ")[2] for line in heard] == [
        "0.5 times the learning rate",
        "0.25 times the learning rate",
    ]
    assert logged(tmp_path) == [10, 20, 30, 40]


def test_a_divergence_is_taken_back_so_often_and_no_more(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at step 3: training diverged"):
        train(tmp_path, saving=Saving(recover=1), bad_at=3, learning_rate=1.0)
    # The first checkpoint, made for this: the very beginning, now at half the rate.
    assert saved(tmp_path) == [0]


def test_a_divergence_without_a_checkpoint_to_go_back_to_ends(tmp_path: Path) -> None:
    def remove(step: int, steps: int, metrics: dict[str, Any]) -> None:
        shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)

    with pytest.raises(InputError, match="at step 3: training diverged, and there is no checkpoint to go back to"):
        train(tmp_path, remove, saving=Saving(recover=1), bad_at=3, learning_rate=1.0)


def test_a_signal_before_the_first_step_stops_at_once(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), FolderSession(tmp_path, lambda *_: None, print):
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("the signal was not heard")


def test_a_run_that_moved_to_another_version_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, signal_at(20, signal.SIGINT))
    monkeypatch.setattr("tiltrl.training.session._circumstances", lambda: {"jax": "99.0"})
    heard: list[str] = []
    train(tmp_path, say=heard.append)
    assert len(heard) == 1 and f"begun with jax {jax.__version__}: equal up to rounding" in heard[0]
