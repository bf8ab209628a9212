"""What writers write: Minari's own library reads it, and targets are whole or not there."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from synthetic import transitions

from tiltrl.data.write import write_d4rl, write_minari, write_npz
from tiltrl.errors import InputError
from tiltrl.types import Transitions

LENGTHS = [3, 1, 4]
WRITERS: dict[str, Callable[..., None]] = {
    "set.npz": write_npz,
    "set.hdf5": write_d4rl,
    "set": lambda data, path, **how: write_minari(data, path, "set-v0", **how),
}
every_writer = pytest.mark.parametrize(("name", "write"), WRITERS.items(), ids=WRITERS)


def logged(obs_dim: int = 5, **task: Any) -> Transitions:
    """Random episodes, the second a time-out; those observations are chained."""
    rng = np.random.default_rng(0)
    steps = sum(LENGTHS)
    chain = rng.normal(size=(steps + 1, obs_dim)).astype(np.float32)
    data = transitions(LENGTHS, reward=rng.normal(size=steps), obs_dim=obs_dim, **task)
    timeout = np.arange(steps) == LENGTHS[0] + LENGTHS[1] - 1
    action = rng.uniform(-1, 1, (steps, 1)).astype(np.float32)
    return replace(
        data, obs=chain[:-1], next_obs=chain[1:], action=action, terminal=data.terminal & ~timeout, timeout=timeout
    )


def load_by_minari(root: Path, dataset_id: str, monkeypatch: pytest.MonkeyPatch) -> minari.MinariDataset:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    return minari.load_dataset(dataset_id)


def test_minari_reads_the_same_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = logged(ref_min=1.0, ref_max=2.0)
    progress: list[tuple[int, int]] = []
    about = {"author": ["Ada"], "algorithm_name": "PD"}
    write_minari(
        data, tmp_path / "me" / "set-v1", "me/set-v1", seed=7, about=about, on_progress=lambda *p: progress.append(p)
    )
    theirs = load_by_minari(tmp_path, "me/set-v1", monkeypatch)
    assert (theirs.total_episodes, theirs.total_steps) == (3, 8)
    for index, found in enumerate(theirs):
        rows = slice(data.starts[index], data.ends[index] + 1)
        np.testing.assert_array_equal(found.observations[:-1], data.obs[rows])
        np.testing.assert_array_equal(found.observations[1:], data.next_obs[rows])
        np.testing.assert_array_equal(found.actions, data.action[rows])
        np.testing.assert_array_equal(found.rewards, data.reward[rows])
        np.testing.assert_array_equal(found.terminations, data.terminal[rows])
        np.testing.assert_array_equal(found.truncations, data.timeout[rows])
        assert theirs.observation_space.contains(found.observations[0])
        assert theirs.action_space.contains(found.actions[0])
    assert theirs.action_space == gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    assert theirs.observation_space == gymnasium.spaces.Box(-np.inf, np.inf, (5,), np.float32)
    told = list(theirs.storage.get_episode_metadata(range(3)))
    assert [(e["id"], e["seed"], e["total_steps"]) for e in told] == [(0, 7, 3), (1, 8, 1), (2, 9, 4)]
    assert theirs.env_spec is not None and theirs.env_spec.id == "Hopper-v5"
    assert (theirs.spec.dataset_name, theirs.spec.version) == ("set", 1)
    metadata = theirs.storage.metadata
    assert (metadata["author"], metadata["algorithm_name"]) == ({"Ada"}, "PD")
    assert minari.get_normalized_score(theirs, np.array([1.5])) == pytest.approx(0.5)
    assert "me/set-v1" in minari.list_local_datasets()
    assert progress == [(1, 3), (2, 3), (3, 3)]


def test_dict_observations_are_written_as_groups_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = logged(obs_keys=("observation", "goal/desired", "goal/achieved"))
    write_minari(data, tmp_path / "set-v0", "set-v0", obs_sizes=(1, 2, 2))
    theirs = load_by_minari(tmp_path, "set-v0", monkeypatch)
    box = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    assert theirs.observation_space["goal"] == gymnasium.spaces.Dict({"desired": box, "achieved": box})
    first = theirs[0].observations
    np.testing.assert_array_equal(data.task.flat_obs(first)[:-1], data.obs[:3])
    np.testing.assert_array_equal(first["goal"]["desired"][:-1], data.obs[:3, 1:3])


def test_dict_observations_of_unknown_sizes_are_written_flat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = logged(obs_keys=("observation", "goal"))  # whose environment would not take what is learned from flat ones
    write_minari(data, tmp_path / "set-v0", "set-v0")
    theirs = load_by_minari(tmp_path, "set-v0", monkeypatch)
    np.testing.assert_array_equal(theirs[0].observations[:-1], data.obs[:3])
    assert theirs.env_spec is None
    assert not any("seed" in found for found in theirs.storage.get_episode_metadata([0]))


def test_other_packages_append_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_minari(logged(), tmp_path / "a-v0", "a-v0")
    write_minari(logged(), tmp_path / "b-v0", "b-v0")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    both = minari.combine_datasets([minari.load_dataset("a-v0"), minari.load_dataset("b-v0")], "both-v0")
    assert (both.total_episodes, both.total_steps) == (6, 16)


def test_d4rl_file_is_flat_and_packed(tmp_path: Path) -> None:
    data = logged()
    write_d4rl(data, tmp_path / "set.hdf5")
    with h5py.File(tmp_path / "set.hdf5") as file:
        assert {key for key in file if key != "metadata"} == {
            "observations", "actions", "rewards", "next_observations", "terminals", "timeouts",
        }  # fmt: skip
        np.testing.assert_array_equal(file["next_observations"], data.next_obs)
        assert (file["timeouts"].dtype, file["actions"].compression) == (np.bool_, "gzip")
        assert json.loads(file["metadata/task"][()])["obs_dim"] == 5


def test_npz_needs_no_pickle(tmp_path: Path) -> None:
    data = logged()
    write_npz(data, tmp_path / "set.npz")
    with np.load(tmp_path / "set.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["terminals"], data.terminal)
        assert file["observations"].dtype == np.float32
        assert json.loads(str(file["meta"]))["action_high"] == [1.0]


@every_writer
def test_what_exists_is_kept_unless_told(tmp_path: Path, name: str, write: Callable[..., None]) -> None:
    path = tmp_path / "deep" / name
    write(logged(), path)
    with pytest.raises(InputError, match="exists already; give another path, or .*--overwrite"):
        write(logged(), path)
    write(replace(logged(), reward=np.full(8, 7.0, np.float32)), path, overwrite=True)
    assert [file.name for file in path.parent.iterdir()] == [name]  # nothing left aside
    if path.is_dir():
        with h5py.File(path / "data" / "main_data.hdf5") as file:
            assert file["episode_0/rewards"][0] == 7


@every_writer
def test_a_failed_write_leaves_what_was_there(
    tmp_path: Path, name: str, write: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(logged(), tmp_path / name)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match=f"{name}: cannot be written: No space left on device"):
        write(logged(), tmp_path / name, overwrite=True)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_a_folder_of_other_things_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "home" / "data").mkdir(parents=True)
    (tmp_path / "home" / "data" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="home: holds other things than a Minari data set, so it is not replaced"):
        write_minari(logged(), tmp_path / "home", "set-v0", overwrite=True)
    assert (tmp_path / "home" / "data" / "thesis.txt").read_text() == "years of work"


def test_an_empty_folder_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / "set-v0").mkdir()
    write_minari(logged(), tmp_path / "set-v0", "set-v0")
    assert (tmp_path / "set-v0" / "data" / "metadata.json").is_file()


def broken(**arrays: Any) -> Transitions:
    return replace(logged(), **arrays)


UNCHAINED = logged().next_obs.copy()
UNCHAINED[5, 2] += 1e-3
NO_END = np.zeros(8, bool)
REFUSED = [
    ("set-v0", broken(next_obs=UNCHAINED), {}, "step 5, next_obs: is not the obs of step 6 of the same episode"),
    ("set-v0", broken(terminal=NO_END), {}, "step 7, the last, ends no episode"),
    ("set-v0", logged().take(np.arange(0)), {}, "holds no steps; at least one episode is needed"),
    ("set", logged(), {}, "dataset id 'set' is no Minari id; it must look like name-v0"),
    ("../set-v0", logged(), {}, "dataset id '../set-v0' is no Minari id"),
    ("a/set-v0", logged(), {}, "dataset id 'a/set-v0' is no Minari id"),
    ("set-v0", logged(), {"seed": [1, 2]}, "2 seeds for 3 episodes; one for each"),
    ("set-v0", logged(obs_keys=("a", "b")), {"obs_sizes": (2, 2)}, r"obs_sizes = \(2, 2\); a, b need.* 5 together"),
]


@pytest.mark.parametrize(("dataset_id", "data", "how", "message"), REFUSED, ids=[row[3][:30] for row in REFUSED])
def test_what_minari_cannot_hold(
    tmp_path: Path, dataset_id: str, data: Transitions, how: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        write_minari(data, tmp_path / "set", dataset_id, **how)
    assert not list(tmp_path.iterdir())


def test_an_episode_may_start_elsewhere_than_the_last_one_ended(tmp_path: Path) -> None:
    apart = logged().next_obs.copy()
    apart[logged().ends] += 1.0
    write_minari(broken(next_obs=apart), tmp_path / "set-v0", "set-v0")
    assert (tmp_path / "set-v0" / "data" / "main_data.hdf5").is_file()


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("set.txt", write_npz, r"name must end in .npz"),
        ("set.npz", write_d4rl, r"name must end in .hdf5 or .h5"),
        ("folder.npz", write_npz, "is a folder; give the path of a file"),
        ("file/set.npz", write_npz, "cannot be written: (Not a directory|File exists)"),
    ],
)
def test_unusable_paths(tmp_path: Path, name: str, write: Callable[..., None], message: str) -> None:
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=message):
        write(logged(), tmp_path / name)
