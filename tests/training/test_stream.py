"""Pools: which rows they hold, that nothing but their number decides it, and training from them."""

from __future__ import annotations

import threading
from dataclasses import replace
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tiltrl.training import stream as module
from tiltrl.training.loop import fit
from tiltrl.training.optimizer import cosine_adam, gradient_step, init_learner
from tiltrl.training.stream import Stream, example, on_device, pools

ROWS = 103


def prepare(start: int, stop: int) -> dict[str, Any]:
    number = np.arange(start, stop)
    return {"number": number.astype(np.int32), "x": np.stack([number, -number], axis=1).astype(np.float32)}


STREAM = Stream(prepare, ROWS, block=4, blocks=3, groups=2)


def numbers(stream: Stream[Any], first: int, count: int) -> list[np.ndarray]:
    """The rows that consecutive pools hold."""
    with pools(stream, first) as each:
        found = [jax.tree.map(np.array, pool) for pool in islice(each, count)]  # copies: the next takes their place
    for pool in found:
        np.testing.assert_array_equal(pool["x"], np.stack([pool["number"], -pool["number"]], axis=1))
    return [pool["number"] for pool in found]


@pytest.mark.parametrize(("bytes_kept", "streams"), [(ROWS * 12, False), (ROWS * 12 - 1, True)])
def test_size_decides_what_stays_on_the_device(monkeypatch: pytest.MonkeyPatch, bytes_kept: int, streams: bool) -> None:
    monkeypatch.setattr(module, "DEVICE_BYTES", bytes_kept)
    data = on_device(prepare, ROWS)
    assert isinstance(data, Stream) == streams
    assert {name: leaf.shape[1:] for name, leaf in example(data).items()} == {"number": (), "x": (2,)}


@pytest.mark.parametrize(("pool_bytes", "block"), [(1 << 20, 103), (12 * 512 * 5, 5), (1, 1)])
def test_blocks_fill_a_pool_and_fit_the_data(monkeypatch: pytest.MonkeyPatch, pool_bytes: int, block: int) -> None:
    monkeypatch.setattr(module, "DEVICE_BYTES", 0)
    monkeypatch.setattr(module, "POOL_BYTES", pool_bytes)
    data = on_device(prepare, ROWS)
    assert isinstance(data, Stream)
    assert data.block == block


def test_whole_data_is_its_own_pool() -> None:
    data = on_device(prepare, ROWS)
    with pools(data, 3) as each:
        assert all(pool is data for pool in islice(each, 3))


def test_a_pool_is_a_function_of_its_number() -> None:
    found = numbers(STREAM, 0, 12)
    for first in (1, 2, 7, 11):
        np.testing.assert_array_equal(numbers(STREAM, first, 1)[0], found[first])
    assert len({pool.tobytes() for pool in found}) == 12


def test_a_pool_trades_its_oldest_group_for_the_next() -> None:
    found = numbers(STREAM, 0, 6)
    for number in range(5):
        kept = found[number] == found[number + 1]
        assert kept.sum() == 12  # of 24
        fresh = np.asarray(STREAM.group(number + 2)["number"])
        np.testing.assert_array_equal(found[number + 1][~kept], fresh)


def test_blocks_are_rows_in_a_row_and_the_last_goes_on_with_the_first() -> None:
    blocks = np.concatenate([np.asarray(STREAM.group(i)["number"]) for i in range(400)]).reshape(-1, 4)
    np.testing.assert_array_equal((blocks - blocks[:, :1]) % ROWS, np.tile(np.arange(4), (1200, 1)))
    assert (blocks[:, 0] > blocks[:, 3]).any()


def test_rows_are_visited_about_equally_often() -> None:
    epochs, per_epoch = 300, ROWS // 4
    spans = [span for block in range(epochs * per_epoch) for span in STREAM._spans(block)]
    visits = np.bincount(np.concatenate([np.arange(*span) for span in spans]))
    # Of 103 rows an epoch leaves out 3, at a random place: 300 visits less 8.7, with a deviation of 3.
    assert visits.sum() == epochs * per_epoch * 4
    assert visits.max() <= epochs
    assert visits.min() >= epochs * 100 / 103 - 15


def test_no_row_comes_twice_in_an_epoch() -> None:
    spans = [span for block in range(ROWS // 4) for span in STREAM._spans(block)]
    seen = np.concatenate([np.arange(*span) for span in spans])
    assert len(np.unique(seen)) == len(seen) == 100


def test_the_next_rows_are_prepared_beside_the_steps() -> None:
    threads = set()

    def noting(start: int, stop: int) -> Any:
        threads.add(threading.current_thread())
        return prepare(start, stop)

    numbers(replace(STREAM, prepare=noting), 0, 2)
    assert threads - {threading.current_thread()}
    assert not any(thread.is_alive() for thread in threads - {threading.current_thread()})


def test_what_fails_in_the_background_is_raised() -> None:
    calls = iter(range(1000))

    def failing(start: int, stop: int) -> Any:
        if next(calls) > 20:
            raise OSError("disk gone")
        return prepare(start, stop)

    with pytest.raises(OSError, match="disk gone"):
        numbers(replace(STREAM, prepare=failing), 0, 20)


class Kept:
    """A session that stores the state, and starts from one."""

    def __init__(self, state: Any = None, step: int = 0):
        self.state, self.step, self.metrics = state, step, []

    def restore(self, state: Any) -> tuple[Any, int]:
        return (state, 0) if self.state is None else (jax.tree.map(jnp.copy, self.state), self.step)

    def record(self, step: int, steps: int, metrics: dict[str, Any], state: Any) -> None:
        self.state, self.step = jax.tree.map(jnp.copy, state), step
        self.metrics.append(metrics)


KEYS = jax.random.split(jax.random.key(0), 2)


def train(keys: jax.Array = KEYS, session: Kept | None = None, steps: int = 60) -> Any:
    """The mean of the rows' numbers, by steps along a batch's."""
    optimizer = cosine_adam(3.0, 60, cosine=True)

    def update(learner: Any, _: None, data: Any, key: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
        batch = data["number"][jax.random.randint(key, (8,), 0, len(data["number"]))]
        loss, gradient = jax.value_and_grad(lambda w: jnp.mean((w - batch) ** 2))(learner.params)
        return gradient_step(learner, gradient, optimizer, 0.0), {"loss": loss}

    state = jax.vmap(lambda key: init_learner(10 * jax.random.normal(key), optimizer))(keys)
    return fit(update, state, member_data=None, shared_data=STREAM, keys=keys, steps=steps, chunk=8, session=session)


@pytest.mark.parametrize("half", [8, 29])  # at the end of a chunk, and within one
def test_two_halves_are_the_whole_bit_for_bit(half: int) -> None:
    session = Kept()
    train(session=session, steps=half)
    resumed = train(session=Kept(session.state, session.step))
    for a, b in zip(jax.tree.leaves(train()), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b)


def test_one_member_of_many_is_that_member_alone() -> None:
    together, alone = train(), train(KEYS[1:])
    np.testing.assert_allclose(together.params[1], alone.params[0], rtol=1e-6)


def test_training_sees_the_whole_set() -> None:
    assert np.mean(train().params) == pytest.approx((ROWS - 1) / 2, abs=12)
