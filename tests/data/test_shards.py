"""Shards come back as they were written, stay on disk, and are refused when damaged."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import fields, replace
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
from synthetic import transitions

from tiltrl.data.shards import is_shards, read_shards, write_shards
from tiltrl.data.transforms import join
from tiltrl.errors import InputError
from tiltrl.types import Transitions, read

PARTS = [transitions([3, 2]), transitions([4], terminal=False), transitions([70_000], reward=np.arange(70_000))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_shards(iter(PARTS), tmp_path / "set")


def test_parts_come_back_as_one_set(folder: Path) -> None:
    data = read_shards(folder, "named")
    for field in fields(Transitions):
        if field.name != "task":
            expected = np.concatenate([getattr(part, field.name) for part in PARTS])
            found = getattr(data, field.name)
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected)
    assert data.task == replace(PARTS[0].task, dataset="named")
    np.testing.assert_array_equal(data.ends, [2, 4, 8, 70_008])


def test_what_is_large_stays_on_disk(folder: Path) -> None:
    data = read_shards(folder, "set")
    assert all(isinstance(array, np.memmap) for array in (data.obs, data.action, data.next_obs))
    assert not any(isinstance(array, np.memmap) for array in (data.reward, data.terminal, data.timeout))


def test_the_same_data_has_the_same_fingerprint_whatever_the_file(folder: Path, tmp_path: Path) -> None:
    data = read_shards(folder, "set")
    in_memory = data.take(np.arange(len(data)))
    assert data.fingerprint() == in_memory.fingerprint()
    again = read_shards(write_shards([data], tmp_path / "again"), "again")
    assert again.fingerprint() == data.fingerprint() != PARTS[0].fingerprint()


@pytest.mark.parametrize("rows", [slice(3, 9), slice(0), np.array([5, 70_000, 5, 0]), np.arange(2_500), np.arange(0)])
def test_rows_are_copies_that_outlive_the_map(folder: Path, rows: slice | np.ndarray) -> None:
    data = read_shards(folder, "set")
    expected = np.concatenate([part.obs for part in PARTS])[rows]
    for array in (data.obs, np.asarray(data.obs)):
        found = read(array, rows)
        assert not isinstance(found, np.memmap)
        assert found.base is None
        np.testing.assert_array_equal(found, expected)


def test_unsaved_changes_of_a_map_survive_a_reading(folder: Path) -> None:
    changed = np.load(folder / "obs.npy", mmap_mode="c")
    changed[0] = 7.0
    assert read(changed, slice(0, 1)) == 7.0
    assert changed[0] == 7.0


def test_parts_without_an_environment_have_the_bounds_of_all(tmp_path: Path) -> None:
    spans = ((-1.0, 0.5), (0.0, 3.0), (-2.0, 1.0))
    several = [transitions([3], env_spec=None, action_low=(low,), action_high=(high,)) for low, high in spans]
    task = read_shards(write_shards(iter(several), tmp_path / "set"), "set").task
    assert (
        (task.action_low, task.action_high)
        == ((-2.0,), (3.0,))
        == tuple(getattr(reduce(join, several).task, name) for name in ("action_low", "action_high"))
    )
    with pytest.raises(InputError, match="part 1: cannot join .* the upper action bound is"):
        write_shards([transitions([3]), transitions([3], action_high=(2.0,))], tmp_path / "two")


NAN = np.array([[np.nan], [0.0]], np.float32)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "there are no steps to write"),
        (
            [transitions([2]), transitions([2], obs_dim=2)],
            "part 1: cannot join set and set: the observation size is 1 in the f",
        ),
        ([replace(transitions([2]), next_obs=NAN)], "part 0: next_obs, row 0, column 0: nan; finite"),
        ([replace(transitions([2]), action=np.full((2, 1), 3.0))], "part 0: action, row 0, column 0: 3.0; the action"),
        ([replace(transitions([2]), action=np.zeros((2, 3)))], r"part 0: action: shape \(2, 3\); \(2, 1\) is needed"),
        ([replace(transitions([2]), terminal=np.zeros(2, bool))], "part 0: timeout, row 1: False; the last step"),
    ],
)
def test_bad_parts_leave_nothing_behind(tmp_path: Path, data: list[Transitions], message: str) -> None:
    with pytest.raises(InputError, match=message):
        write_shards(data, tmp_path / "set")
    assert not list(tmp_path.iterdir())


def test_a_source_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    def failing():
        yield PARTS[0]
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError):
        write_shards(failing(), tmp_path / "set")
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_kept(folder: Path) -> None:
    before = sorted(folder.iterdir())
    with pytest.raises(InputError, match="set: exists already"):
        write_shards(PARTS, folder)
    assert sorted(folder.iterdir()) == before


def test_only_a_folder_of_shards_is_one(folder: Path) -> None:
    assert is_shards(folder)
    assert not is_shards(folder.parent)


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def shorter(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def other_bytes(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"\7")


def never_ends(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"\0")


def not_finite(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4] + np.float32(np.inf).tobytes())


def pickled(path: Path) -> None:
    np.save(path, np.array([{}]), allow_pickle=True)


def changed(**keys: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | keys))

    return change


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("obs.npy", Path.unlink, "obs.npy: cannot be read: No such file"),
        (
            "obs.npy",
            shorter,
            r"obs.npy: 280163 bytes .*asks for 280164 bytes, .* float32 and shape \(70009",
        ),
        ("obs.npy", longer, "obs.npy: 280165 bytes .*asks for 280164"),
        ("obs.npy", pipe, "obs.npy: is no file"),
        ("obs.npy", pickled, "obs.npy: .* bytes that begin with"),
        ("action.npy", lambda path: path.write_bytes(b""), "action.npy: 0 bytes"),
        ("next_obs.npy", lambda path: np.save(path, np.zeros((70_009, 2), np.float32)), "next_obs.npy: 560200 bytes"),
        ("next_obs.npy", lambda path: np.save(path, np.zeros((70_009, 1), np.int32)), "next_obs.npy: 280164 bytes"),
        ("reward.npy", lambda path: np.save(path, np.zeros(70_009)), "reward.npy: 560200 bytes"),
        ("reward.npy", not_finite, "reward.npy: holds values that are not finite"),
        ("timeout.npy", other_bytes, "timeout.npy: holds bytes that are neither 0 nor 1"),
        ("terminal.npy", never_ends, "timeout.npy: the last step does not end its episode"),
        ("shards.json", lambda path: path.write_text("{"), "shards.json: not a readable JSON"),
        ("shards.json", changed(version=2), "shards.json: version = 2; this release reads version 1"),
        ("shards.json", changed(steps=0), "shards.json: steps = 0; at least one"),
        ("shards.json", changed(steps="many"), "shards.json: field steps"),
        ("shards.json", changed(steps=5), r"obs.npy: 280164 bytes .*shape \(5, 1\)"),
    ],
)
def test_damage_is_named(folder: Path, name: str, damage: Callable[[Path], None], message: str) -> None:
    damage(folder / name)
    with pytest.raises(InputError, match=message):
        read_shards(folder, "set")
