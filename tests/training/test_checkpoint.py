"""Training state survives a round trip through a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tiltrl.diffusion.energy import Energy, EnergyConfig
from tiltrl.errors import InputError
from tiltrl.training.checkpoint import Checkpoints
from tiltrl.training.loop import Learner, cosine_adam, gradient_step, init_learner

Open = Callable[[], Checkpoints]


@pytest.fixture
def reopen(tmp_path: Path) -> Iterator[Open]:
    """Opens the folder as a new process would."""
    opened: list[Checkpoints] = []

    def open_it() -> Checkpoints:
        opened.append(Checkpoints(tmp_path / "checkpoints"))
        return opened[-1]

    yield open_it
    for checkpoints in opened:
        checkpoints.close()


def learner(seed: int, width: int = 4) -> Learner:
    """A small network after one step, so that no part of its state is zero."""
    config = EnergyConfig(action_width=width, time_width=4, obs_width=4, blocks=1, expansion=1, time_features=4)
    energy = Energy(3, 2, config, key=jax.random.key(seed))
    optimizer = cosine_adam(1e-3, 10, cosine=True)
    return gradient_step(init_learner(energy, optimizer), jax.tree.map(jnp.ones_like, energy), optimizer, 0.9)


def test_a_learner_comes_back_whole(reopen: Open) -> None:
    saved = learner(0)
    reopen().save(7, saved)
    restored, step = reopen().restore(learner(1))
    assert step == 7
    assert jax.tree.structure(restored) == jax.tree.structure(saved)
    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(saved), strict=True):
        np.testing.assert_array_equal(a, b)


def test_nothing_saved_gives_back_the_start(reopen: Open) -> None:
    start = learner(0)
    assert reopen().restore(start) == (start, 0)


def test_the_newest_of_the_last_two_is_restored(reopen: Open, tmp_path: Path) -> None:
    checkpoints = reopen()
    for step in (1, 2, 3):
        checkpoints.save(step, {"x": jnp.array(float(step))})
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "3"]
    state, step = reopen().restore({"x": jnp.array(0.0)})
    assert (float(state["x"]), step) == (3.0, 3)


def test_a_step_is_saved_once(reopen: Open) -> None:
    checkpoints = reopen()
    checkpoints.save(1, {"x": jnp.array(1.0)})
    checkpoints.save(1, {"x": jnp.array(2.0)})
    assert float(reopen().restore({"x": jnp.array(0.0)})[0]["x"]) == 1.0


def test_a_state_of_another_shape_is_refused(reopen: Open) -> None:
    reopen().save(1, learner(0))
    with pytest.raises(InputError, match="checkpoints: the checkpoint at step 1 cannot be continued: .*delete"):
        reopen().restore(learner(0, width=8))


def test_a_state_of_another_structure_is_refused(reopen: Open) -> None:
    reopen().save(1, {"x": jnp.zeros(2)})
    with pytest.raises(InputError, match="cannot be continued"):
        reopen().restore({"y": jnp.zeros(2)})
