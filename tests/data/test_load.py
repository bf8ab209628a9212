"""The one entry, `load`: which loader a name leads to, and what a wrong name says."""

from __future__ import annotations

from pathlib import Path

import minari
import numpy as np
import pytest
from synthetic import episode, write_minari

import tiltrl.data
from tiltrl.data import load
from tiltrl.errors import InputError

DEMO = Path(tiltrl.data.__file__).parent / "demo" / "data"


def test_demo_is_a_small_valid_minari_set() -> None:
    demo = load("demo")
    theirs = minari.MinariDataset(DEMO)
    assert (len(demo), len(demo.ends)) == (theirs.total_steps, theirs.total_episodes)
    np.testing.assert_array_equal(demo.obs[: demo.ends[0] + 1], theirs[0].observations[:-1])
    assert theirs[0].observations.dtype == theirs.observation_space.dtype == np.float32
    assert demo.task.dataset == "demo"
    assert sum(path.stat().st_size for path in DEMO.iterdir()) <= 6_010_000


def test_plus_joins(tmp_path: Path) -> None:
    a = str(write_minari(tmp_path / "a"))
    b = str(write_minari(tmp_path / "b", [episode(4)]))
    joined = load(f"{a}+{b}+{a}")
    assert len(joined) == 5 + 4 + 5
    assert joined.task.dataset == f"{a}+{b}+{a}"


def test_a_folder_may_have_a_plus_in_its_name(tmp_path: Path) -> None:
    assert len(load(str(write_minari(tmp_path / "a+b")))) == 5


def test_minari_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_minari(tmp_path / "mujoco" / "hopper" / "medium-v0")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    assert len(load("mujoco/hopper/medium-v0")) == 5
    with pytest.raises(InputError, match="minari download mujoco/hopper/expert-v0"):
        load("mujoco/hopper/expert-v0")


@pytest.mark.parametrize("spec", ["", "demo+", "Demo", "no/such/folder", "file.npz"])
def test_unknown_specs_say_what_kinds_exist(spec: str) -> None:
    with pytest.raises(InputError, match="'demo' .bundled., a folder in Minari's format, the id"):
        load(spec)
