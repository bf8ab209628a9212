"""Targets survive whatever ends the process that writes them: full disks, limits and kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from test_write import logged

from tiltrl.data import aside
from tiltrl.data.aside import data_set_aside, replaced
from tiltrl.data.sink import writing_hdf5
from tiltrl.data.write import write_minari
from tiltrl.errors import InputError

WRITE = """
import resource, signal, sys
import numpy as np
from tiltrl.data.shards import write_shards
from tiltrl.data.write import write_d4rl, write_minari, write_npz
from tiltrl.errors import InputError
from tiltrl.types import Task, Transitions
steps = 20_000
rng = np.random.default_rng(0)
obs = rng.normal(size=(steps + 1, 4)).astype(np.float32)
ends = np.arange(steps) % 100 == 99
data = Transitions(
    obs=obs[:-1], action=np.zeros((steps, 1), np.float32), reward=np.zeros(steps, np.float32),
    terminal=ends, timeout=np.zeros(steps, bool), next_obs=obs[1:],
    task=Task("noise", None, (-1.0,), (1.0,), 4),
)
kind, path = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    {"npz": lambda: write_npz(data, path, overwrite=True), "hdf5": lambda: write_d4rl(data, path, overwrite=True),
     "minari": lambda: write_minari(data, path, "set-v0", overwrite=True),
     "shards": lambda: write_shards([data], path)}[kind]()
except InputError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("kind", "name"), [("npz", "set.npz"), ("hdf5", "set.hdf5"), ("minari", "set"), ("shards", "s")]
)
def test_a_file_that_grows_too_large_is_one_sentence(tmp_path: Path, kind: str, name: str) -> None:
    command = [sys.executable, "-c", WRITE, kind, str(tmp_path / name)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout == f"{tmp_path / name}: cannot be written: File too large\n"
    assert not list(tmp_path.iterdir())


def test_hdf5_files_are_what_h5py_would_have_written(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).normal(size=(3000, 7))
    with writing_hdf5(tmp_path / "ours") as (file, _):
        file.create_dataset("packed", data=numbers, compression="gzip", shuffle=True)
        for index in range(50):
            file[f"group/{index}"] = numbers[index]
    with h5py.File(tmp_path / "ours") as file:
        np.testing.assert_array_equal(file["packed"][:], numbers)
        assert len(file["group"]) == 50
        np.testing.assert_array_equal(file["group/49"][:], numbers[49])


def killed_while_replacing(tmp_path: Path, rename: int) -> None:
    """A process that overwrites a data set and is killed right before that one of its renames."""
    program = f"""
import os, signal, sys
from pathlib import Path
from tiltrl.data.aside import data_set_aside
renames, replace = [], os.replace
def kill_before(source, target):
    renames.append(source)
    if len(renames) == {rename}:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = kill_before
with data_set_aside(Path(sys.argv[1]), True) as aside:
    (aside / "data").mkdir()
    for name in ("main_data.hdf5", "metadata.json"):
        (aside / "data" / name).write_text("new")
"""
    found = subprocess.run([sys.executable, "-c", program, str(tmp_path / "set-v0")], timeout=120)
    assert found.returncode == -signal.SIGKILL


@pytest.mark.parametrize("rename", [1, 2])
def test_a_data_set_outlasts_a_kill_while_it_is_replaced(tmp_path: Path, rename: int) -> None:
    write_minari(logged(), tmp_path / "set-v0", "set-v0")
    before = (tmp_path / "set-v0" / "data" / "main_data.hdf5").read_bytes()
    killed_while_replacing(tmp_path, rename)
    with pytest.raises(InputError, match="set-v0: exists already"):
        write_minari(logged(), tmp_path / "set-v0", "set-v0")
    assert (tmp_path / "set-v0" / "data" / "main_data.hdf5").read_bytes() == before
    write_minari(logged(), tmp_path / "set-v0", "set-v0", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["set-v0"]  # what was left aside is gone, too


def test_what_was_replaced_is_dropped_once_the_new_one_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_minari(logged(), tmp_path / "set-v0", "set-v0")
    with monkeypatch.context() as patch:
        patch.setattr(aside, "put_back", lambda target: None)  # as if killed right after the second rename
        write_minari(logged(), tmp_path / "set-v0", "set-v0", overwrite=True)
    assert replaced(tmp_path / "set-v0").is_dir()
    write_minari(logged(), tmp_path / "set-v0", "set-v0", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["set-v0"]


def test_a_second_rename_that_fails_puts_the_old_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_minari(logged(), tmp_path / "set-v0", "set-v0")
    replace = os.replace

    def refuse(source: Path, target: Path) -> None:
        if source != tmp_path / "set-v0" and source != replaced(tmp_path / "set-v0"):
            raise OSError(5, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(InputError, match="set-v0: cannot be written: Input/output error"):
        with data_set_aside(tmp_path / "set-v0", True):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["set-v0"]
    assert (tmp_path / "set-v0" / "data" / "metadata.json").is_file()
