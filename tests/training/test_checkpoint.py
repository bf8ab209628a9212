"""Training state survives a round trip through a folder."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tiltrl.diffusion.energy import Energy, EnergyConfig
from tiltrl.errors import InputError
from tiltrl.serialization import save_arrays
from tiltrl.training.checkpoint import Checkpoints
from tiltrl.training.optimizer import Learner, cosine_adam, gradient_step, init_learner


@pytest.fixture
def heard() -> list[str]:
    """What the checkpoints have said."""
    return []


@pytest.fixture
def reopen(tmp_path: Path, heard: list[str]) -> Callable[[], Checkpoints]:
    """Opens the folder as a new process would."""
    return lambda: Checkpoints(tmp_path / "checkpoints", heard.append)


def found(checkpoints: Checkpoints, like: Any) -> tuple[Any, int]:
    restored = checkpoints.restore(like)
    assert restored is not None
    return restored[:2]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def learner(seed: int, width: int = 4) -> Learner:
    """A small network after one step, so that no part of its state is zero."""
    config = EnergyConfig(action_width=width, time_width=4, obs_width=4, blocks=1, expansion=1, time_features=4)
    energy = Energy(3, 2, config, key=jax.random.key(seed))
    optimizer = cosine_adam(1e-3, 10, cosine=True)
    return gradient_step(init_learner(energy, optimizer), jax.tree.map(jnp.ones_like, energy), optimizer, 0.9)


def test_a_learner_comes_back_whole(reopen: Callable[[], Checkpoints]) -> None:
    saved = learner(0)
    reopen().save(7, saved)
    restored, step = found(reopen(), learner(1))
    assert step == 7
    assert jax.tree.structure(restored) == jax.tree.structure(saved)
    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(saved), strict=True):
        np.testing.assert_array_equal(a, b)


def test_nothing_saved_gives_back_the_start(reopen: Callable[[], Checkpoints]) -> None:
    assert reopen().restore(learner(0)) is None


def test_the_newest_of_the_last_two_is_restored(reopen: Callable[[], Checkpoints], tmp_path: Path) -> None:
    checkpoints = reopen()
    for step in (1, 2, 3):
        checkpoints.save(step, {"x": jnp.array(float(step))})
    assert files(tmp_path) == ["step-0000000002.safetensors", "step-0000000003.safetensors"]
    state, step = found(reopen(), {"x": jnp.array(0.0)})
    assert (float(state["x"]), step) == (3.0, 3)


def test_a_step_saved_again_replaces_what_was(reopen: Callable[[], Checkpoints]) -> None:
    checkpoints = reopen()
    checkpoints.save(1, {"x": jnp.array(1.0)})
    checkpoints.save(1, {"x": jnp.array(2.0)})
    assert float(found(reopen(), {"x": jnp.array(0.0)})[0]["x"]) == 2.0


def damage_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [damage_a_bit, cut_in_half, empty])
def test_a_damaged_one_is_named_and_the_one_before_used(
    reopen: Callable[[], Checkpoints], heard: list[str], tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    for step in (1, 2):
        reopen().save(step, {"x": jnp.array(float(step))})
    damage(tmp_path / "checkpoints/step-0000000002.safetensors")
    state, step = found(reopen(), {"x": jnp.array(0.0)})
    assert (float(state["x"]), step) == (1.0, 1)
    assert len(heard) == 1 and "step-0000000002.safetensors" in heard[0] and "going on from step 1" in heard[0]
    # It stays to be looked at, and counts no more.
    assert reopen().steps() == [1]
    assert "damaged-step-0000000002.safetensors" in files(tmp_path)


def test_one_of_another_format_is_refused(reopen: Callable[[], Checkpoints], tmp_path: Path) -> None:
    save_arrays(tmp_path / "checkpoints/step-0000000005.safetensors", {"x": jnp.zeros(())}, {"format": "0"})
    with pytest.raises(InputError, match="is a checkpoint of format '0'; this version goes on from format 1 only; del"):
        reopen().restore({"x": jnp.zeros(())})


def test_a_damaged_one_without_one_before_means_starting_again(
    reopen: Callable[[], Checkpoints], heard: list[str], tmp_path: Path
) -> None:
    reopen().save(2, {"x": jnp.array(1.0)})
    empty(tmp_path / "checkpoints/step-0000000002.safetensors")
    assert reopen().restore({"x": jnp.array(0.0)}) is None
    assert "starting again" in heard[0]


def test_one_that_the_disk_cannot_read_is_damaged(
    reopen: Callable[[], Checkpoints], monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2):
        reopen().save(step, {"x": jnp.array(float(step))})

    def failing(path: Path, at_most: int) -> bytes:
        if "0002" in path.name:
            raise InputError(f"{path}: cannot be read: Input/output error") from OSError(
                errno.EIO, "Input/output error"
            )
        return path.read_bytes()

    monkeypatch.setattr("tiltrl.serialization.read_file", failing)
    assert found(reopen(), {"x": jnp.array(0.0)})[1] == 1


@pytest.mark.parametrize("method", ["check", "restore"])
def test_one_that_may_not_be_read_is_not_taken_for_a_damaged_one(
    reopen: Callable[[], Checkpoints], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    reopen().save(1, {"x": jnp.array(1.0)})

    def refused(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tiltrl.serialization.open", refused, raising=False)
    with pytest.raises(InputError, match="step-0000000001.safetensors: cannot be read: Permission denied"):
        reopen().check() if method == "check" else reopen().restore({"x": jnp.array(0.0)})
    assert files(tmp_path) == ["step-0000000001.safetensors"]


def test_files_of_other_names_are_left_alone(reopen: Callable[[], Checkpoints], tmp_path: Path) -> None:
    reopen().save(1, {"x": jnp.array(1.0)})
    (tmp_path / "checkpoints/step-0000000010 (copy).safetensors").write_bytes(b"")
    assert reopen().steps() == [1]


def test_what_is_said_of_a_state_comes_back(reopen: Callable[[], Checkpoints]) -> None:
    reopen().save(1, {"x": jnp.array(1.0)}, {"metrics_bytes": "77"})
    restored = reopen().restore({"x": jnp.array(0.0)})
    assert restored is not None and restored[2] == {"format": "1", "step": "1", "metrics_bytes": "77"}


def test_a_state_of_another_shape_is_refused(reopen: Callable[[], Checkpoints]) -> None:
    reopen().save(1, learner(0))
    with pytest.raises(InputError, match="is float32.*; delete .*checkpoints to start this stage again"):
        reopen().restore(learner(0, width=8))


def test_a_state_of_another_structure_is_refused(reopen: Callable[[], Checkpoints]) -> None:
    reopen().save(1, {"x": jnp.zeros(2)})
    with pytest.raises(InputError, match="array .x. is unexpected.*start this stage again|array .y. is missing.*again"):
        reopen().restore({"y": jnp.zeros(2)})
