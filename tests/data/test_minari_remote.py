"""Minari's public data sets: downloaded whole, where Minari finds them, or not at all."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import h5py
import minari
import numpy as np
import pytest
from server import Answer, Site, serve
from synthetic import write_minari

from tiltrl.data.minari import read_folder
from tiltrl.data.minari_remote import download_minari
from tiltrl.errors import InputError

ID = "D4RL/door/human-v2"
AT = "/D4RL/resolve/main/door/human-v2/data/"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    data = write_minari(tmp_path / "made", dataset_id=ID) / "data"
    files = {AT + name: Answer((data / name).read_bytes()) for name in ("metadata.json", "main_data.hdf5")}
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve(files) as site:
        monkeypatch.setenv("TILTRL_MINARI_URL", site.url + "/")
        yield site


def test_a_set_is_downloaded_once_and_minari_reads_it(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, seen = tmp_path / "root", []
    for _ in range(2):
        assert download_minari(ID, root, lambda size, total: seen.append((size, total))) == root / ID
    assert site.asked == [AT + "metadata.json", AT + "main_data.hdf5"]
    size = (root / ID / "data" / "main_data.hdf5").stat().st_size
    assert seen[-1] == (size, size)
    assert [path.name for path in (root / "D4RL" / "door").iterdir()] == ["human-v2"]
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    theirs, ours = minari.load_dataset(ID), read_folder(root / ID / "data", ID)
    assert (len(ours.ends), len(ours)) == (theirs.total_episodes, theirs.total_steps)
    np.testing.assert_array_equal(ours.reward[:3], theirs[0].rewards)


def test_an_id_without_a_namespace_is_a_repository_of_its_own(site: Site, tmp_path: Path) -> None:
    for name in ("metadata.json", "main_data.hdf5"):
        site.answers[f"/door-v0/resolve/main/data/{name}"] = site.answers[AT + name]
    assert (download_minari("door-v0", tmp_path / "root") / "data" / "main_data.hdf5").is_file()


def test_what_is_there_is_left_alone(site: Site, tmp_path: Path) -> None:
    folder = write_minari(tmp_path / "root" / ID)
    assert download_minari(ID, tmp_path / "root") == folder
    assert site.asked == []


def _foreign() -> bytes:
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        file["rewards"] = np.arange(9.0)
    return memory.getvalue()


FOREIGN = _foreign()
PAGE = Answer(b"<!doctype html><html>Log in</html>", kind="text/html")
BAD = {
    "no metadata": ("metadata.json", Answer(b"", 404), "the server answers 404"),
    "login": ("metadata.json", Answer(b"", 401), "the server answers 401"),
    "page for metadata": ("metadata.json", PAGE, "what came is a web page"),
    "garbage for metadata": ("metadata.json", Answer(b"garbage"), "what came is no JSON"),
    "list for metadata": ("metadata.json", Answer(b"[]"), "what came is no JSON object"),
    "other metadata": ("metadata.json", Answer(b"{}"), "what came has no action_space"),
    "other data": ("main_data.hdf5", Answer(FOREIGN), "what came is an HDF5 file without episode_0"),
    "no data": ("main_data.hdf5", Answer(b"", 404), "main_data.hdf5: cannot be downloaded: the server answers 404"),
    "page for data": ("main_data.hdf5", PAGE, "what came is a web page"),
    "garbage for data": ("main_data.hdf5", Answer(b"garbage"), "what came is no whole HDF5 file"),
    "truncated data": ("main_data.hdf5", Answer(b"\x89HDF\r\n\x1a\n", length=99), "only 8 of 99 bytes came"),
    "stalling data": ("main_data.hdf5", Answer(b"\x89", length=99, stalls=True), "has stopped answering"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_answers_leave_nothing_behind(case: str, site: Site, tmp_path: Path) -> None:
    name, answer, message = BAD[case]
    site.answers[AT + name], root = answer, tmp_path / "root"
    with pytest.raises(InputError, match=message) as caught:
        download_minari(ID, root, timeout=0.3)
    assert str(caught.value).startswith(f"{ID}: {site.url}{AT}{name}: ")
    assert f"run `minari download {ID}`" in str(caught.value)
    assert str(caught.value).endswith(f"put its folder at {root / ID}")
    assert not root.exists()


@pytest.mark.parametrize(
    ("metadata", "message"),
    [({"data_format": "arrow"}, "is of data_format 'arrow'"), ({"combined_datasets": ["a-v0"]}, "is a combination")],
)
def test_kinds_that_are_not_supported(metadata: dict[str, object], message: str, site: Site, tmp_path: Path) -> None:
    site.answers[AT + "metadata.json"] = Answer(json.dumps(metadata).encode())
    with pytest.raises(InputError, match=message):
        download_minari(ID, tmp_path / "root")
    assert site.asked == [AT + "metadata.json"]
    assert not (tmp_path / "root").exists()


def test_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("TILTRL_MINARI_URL", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=f"minari download {ID}"):
        download_minari(ID, tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_an_interrupt_leaves_nothing_behind(site: Site, tmp_path: Path) -> None:
    def stop(size: int, total: int | None) -> None:
        raise KeyboardInterrupt

    (tmp_path / "root" / "D4RL").mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt):
        download_minari(ID, tmp_path / "root", stop)
    assert list((tmp_path / "root").rglob("*")) == [tmp_path / "root" / "D4RL"]


@pytest.mark.parametrize("name", ["", "hopper", "../up-v0", "a/../../b-v0", "/etc/x-v0", "a//b-v0", "ü-v0", "x-v0\n"])
def test_what_is_no_id(name: str, site: Site, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no Minari id"):
        download_minari(name, tmp_path / "root")
    assert site.asked == []
