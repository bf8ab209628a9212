"""The one door, `load`: which reader a name leads to, and what a wrong name says."""

from __future__ import annotations

import json
import os
from pathlib import Path

import h5py
import minari
import numpy as np
import pytest
from synthetic import episode, write_minari

import tiltrl.data
from tiltrl.data import from_arrays, load
from tiltrl.data.shards import write_shards
from tiltrl.data.write import write_d4rl
from tiltrl.errors import InputError

DEMO = Path(tiltrl.data.__file__).parent / "demo" / "data"


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TILTRL_MINARI_URL", "TILTRL_D4RL_URL", "TILTRL_OGBENCH_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there


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


def test_a_slice_takes_whole_episodes(tmp_path: Path) -> None:
    a = str(write_minari(tmp_path / "a", [episode(3), episode(2), episode(4), episode(1)]))
    assert [len(load(f"{a}{cut}")) for cut in ("[:0.5]", "[0.5:]", "[:1]", "[1:3]", "[2:]")] == [5, 5, 3, 6, 5]
    assert len(load(f"{a}[:1]+{a}[3:]").ends) == 2
    assert load(f"{a}[:1]").task.dataset == f"{a}[:1]"


def test_a_folder_may_have_a_plus_in_its_name(tmp_path: Path) -> None:
    assert len(load(str(write_minari(tmp_path / "a+b")))) == 5
    assert len(load(write_minari(tmp_path / "c[:1]"))) == 5  # a path, too
    assert len(load(f"{tmp_path / 'a+b'}+{tmp_path / 'c[:1]'}[:1]")) == 5 + 3


def test_minari_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_minari(tmp_path / "mujoco" / "hopper" / "medium-v0")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    assert len(load("mujoco/hopper/medium-v0")) == 5
    assert len(load("minari:mujoco/hopper/medium-v0[:1]")) == 3
    with pytest.raises(InputError):
        load("x" * 300 + "-v0")
    with pytest.raises(InputError, match="minari download mujoco/hopper/expert-v0.*has mujoco/hopper/medium-v0"):
        load("mujoco/hopper/expert-v0")
    assert not (tmp_path / "mujoco" / "hopper" / "expert-v0").exists()


def test_the_hdf5_file_of_a_minari_set_may_be_given(tmp_path: Path) -> None:
    assert len(load(str(write_minari(tmp_path / "a") / "data" / "main_data.hdf5"))) == 5


@pytest.mark.parametrize(
    "spec",
    ["../up-v0", "minari:../up-v0", "minari:/etc/x-v0", "a/../../up-v0", "a//b-v0", "a/./b-v0", "minari:", "é-v0"],
)
def test_an_id_cannot_lead_out_of_the_data_sets_folder(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_minari(tmp_path / "up-v0")
    write_minari(tmp_path / "root" / "a" / "b-v0")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "root"))
    with pytest.raises(InputError, match="no Minari id|of no known kind"):
        load(spec)


def test_a_link_cannot_lead_an_id_out_of_the_data_sets_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_minari(tmp_path / "elsewhere")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link-v0").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "root"))
    with pytest.raises(InputError, match="link-v0: leads out of .*root by a link, to .*elsewhere"):
        load("link-v0")
    assert len(load(str(tmp_path / "root" / "link-v0"))) == 5  # as a path it is the user's own choice


def test_a_d4rl_file_is_known_by_its_arrays(tmp_path: Path) -> None:
    steps = np.arange(6)
    data = from_arrays(
        steps[:, None] * np.ones(11), np.zeros((6, 3)), steps, terminal=steps == 2, env="Hopper-v5", next_obs=None
    )
    path = tmp_path / "a+b.hdf5"
    write_d4rl(data, path)
    for spec in (str(path), f"d4rl:{path}", f"{path}?env=Hopper-v5"):
        again = load(spec)
        assert again.fingerprint() == data.fingerprint()
        assert again.task.dataset == spec and json.loads(again.task.env_spec or "")["id"] == "Hopper-v5"
    with h5py.File(path, "a") as file:  # with numbered episodes it is somebody else's log
        del file["timeouts"], file["metadata"]
        file["episode"] = [0, 0, 0, 1, 1]
    assert len(load(f"{path}[1:]")) == 2
    with h5py.File(path, "a") as file:  # and one that calls time-outs something else
        del file["episode"]
        file["truncations"] = [0, 0, 0, 1, 0]
    assert len(load(str(path)).ends) == 3


def test_a_d4rl_file_is_not_looked_for_behind_links(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # opening it would wait forever
    with h5py.File(tmp_path / "log.hdf5", "w") as file:
        for name in ("observations", "episode", "timeouts"):
            file[name] = h5py.ExternalLink(str(tmp_path / "pipe"), name)
    with pytest.raises(InputError, match="no array is called observations"):
        load(str(tmp_path / "log.hdf5"))


def test_an_ogbench_file_is_known_by_its_arrays(tmp_path: Path) -> None:
    steps = np.arange(6)
    arrays = {"observations": np.ones((6, 2)), "actions": np.zeros((6, 1)), "qpos": np.zeros((6, 2))}
    np.savez(tmp_path / "o.npz", terminals=steps % 3 == 2, qvel=arrays["qpos"], **arrays)
    data = load(str(tmp_path / "o.npz"))
    assert not data.terminal.any() and len(data) == 4  # a trajectory's end is no terminal
    assert load(f"ogbench:{tmp_path / 'o.npz'}").fingerprint() == data.fingerprint()
    assert load(f"{tmp_path / 'o.npz'}?obs=qpos").terminal.any()  # as arrays of whatever kind


def test_a_lerobot_folder_is_known_by_its_description(tmp_path: Path) -> None:
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "info.json").write_text("{}")
    for spec in (str(tmp_path), f"lerobot:{tmp_path}"):
        with pytest.raises(InputError, match="info.json: codebase_version is None; LeRobot's"):
            load(spec)


@pytest.mark.parametrize("kind", ["d4rl", "ogbench", "lerobot", "minari"])
def test_names_that_a_kind_does_not_know(kind: str, tmp_path: Path) -> None:
    for name in ("nothing-v9", str(tmp_path / "none"), "../x", ""):
        with pytest.raises(InputError):
            load(f"{kind}:{name}")


def test_shards_are_mapped(tmp_path: Path) -> None:
    data = from_arrays(np.arange(12), np.zeros(12), np.arange(12), episode=np.arange(12) // 4)
    write_shards([data], tmp_path / "shards")
    part = load(f"{tmp_path / 'shards'}[1:2]")
    assert isinstance(part.obs, np.memmap)
    np.testing.assert_array_equal(part.reward, [4, 5, 6])


def test_columns_are_for_files_of_arrays(tmp_path: Path) -> None:
    folder = write_minari(tmp_path / "a")
    for spec in ("demo?obs=x", f"{folder}?action=u", f"minari:{folder}?obs=x"):
        with pytest.raises(InputError, match="columns cannot be named in a data set of kind"):
            load(spec)
    assert len(load("demo?env=Hopper-v5[:1]").ends) == 1
    with pytest.raises(InputError, match="obs has 2 dimensions where environment Pendulum-v1 has 3"):
        load(f"{folder}?env=Pendulum-v1")


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "demo+",
        "+",
        "Demo",
        "no/such/folder",
        "file.npz",
        "x:demo",
        "~nobody/x",
        "a\0b",
        "~a\0b",
        "d4rl:\0",
        "x" * 5000,
        "x" * 300 + "/main_data.hdf5",
    ],
)
def test_unknown_specs_say_what_kinds_exist(spec: str) -> None:
    with pytest.raises(InputError, match="'demo' .bundled., a folder in Minari's format, the id"):
        load(spec)


def test_files_of_no_known_kind(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(InputError, match="a.txt: is no .npz, HDF5 or Parquet file: a data set is 'demo'"):
        load(str(tmp_path / "a.txt"))
    for name in ("a.h5", "a.npz"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(InputError, match=f"{name}: not readable as"):
            load(str(tmp_path / name))
    with pytest.raises(InputError, match="not a Minari data set; the folder must hold"):
        load(str(tmp_path))
