"""Questions for people: spread over the data, of actions that differ, written so that they are read back exactly."""

from __future__ import annotations

import csv
import os

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from tiltrl.data.preferences import read_preferences
from tiltrl.data.questions import check_target, least_difference, redrawn, spread_rows, write_questions
from tiltrl.errors import InputError
from tiltrl.types import Task

RNG = np.random.default_rng(0)
OBS = RNG.normal(size=(5, 3)).astype(np.float32)
ACTION = RNG.uniform(-1, 1, size=(5, 3, 2)).astype(np.float32)
TASK = Task("log", None, (-1.0, -1.0), (1.0, 1.0), obs_dim=3)


@pytest.mark.parametrize("name", ["q.csv", "q.parquet"])
def test_what_is_written_is_read_back_once_answered(tmp_path, name):
    path = tmp_path / name
    write_questions(path, np.arange(5), OBS, ACTION)
    with pytest.raises(InputError, match="none of its 5 questions is answered"):
        read_preferences(path, TASK)
    if name == "q.csv":
        lines = list(csv.reader(path.read_text().splitlines()))
        path.write_text("\n".join(",".join(line) + "c" * (i > 0) for i, line in enumerate(lines)))
    else:
        table = parquet.read_table(path)
        parquet.write_table(table.set_column(table.num_columns - 1, "choice", pa.array(["c"] * 5)), path)
    found = read_preferences(path, TASK)
    np.testing.assert_array_equal(found.obs, OBS)
    np.testing.assert_array_equal(found.chosen, ACTION[:, 2])
    np.testing.assert_array_equal(found.rejected, ACTION[:, :2])


def test_answers_are_not_written_over(tmp_path):
    write_questions(tmp_path / "q.csv", np.arange(5), OBS, ACTION)
    with pytest.raises(InputError, match="exists already, perhaps with answers"):
        check_target(tmp_path / "q.csv", overwrite=False)
    check_target(tmp_path / "q.csv", overwrite=True)
    with pytest.raises(InputError, match=r"must end in \.csv or \.parquet"):
        check_target(tmp_path / "q.txt", overwrite=False)


def test_home_is_looked_at_where_it_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert check_target("~/q.csv", overwrite=False) == tmp_path / "q.csv"
    write_questions("~/q.csv", np.arange(5), OBS, ACTION)
    assert (tmp_path / "q.csv").is_file()
    with pytest.raises(InputError, match="exists already, perhaps with answers"):
        check_target("~/q.csv", overwrite=False)


def test_what_cannot_be_written_is_refused_before_questions_are_made(tmp_path, monkeypatch):
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError, match=r"folder\.csv: is a folder; give the path of a file"):
        check_target(tmp_path / "folder.csv", overwrite=True)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        check_target(tmp_path / "file" / "q.csv", overwrite=False)
    with pytest.raises(InputError, match="cannot be written: File name too long"):
        check_target(tmp_path / f"{'long' * 100}.csv", overwrite=False)
    check_target(tmp_path / "new" / "er" / "q.csv", overwrite=False)
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # root may write anywhere
    with pytest.raises(InputError, match=f"cannot be written: no permission to write in {tmp_path}"):
        check_target(tmp_path / "new" / "q.csv", overwrite=False)


def test_the_difference_is_that_of_the_most_alike_where_they_differ_most():
    unit = np.array([[[-1.0, 0.0], [1.0, 0.1], [1.0, 0.3]]])
    np.testing.assert_allclose(least_difference(unit), [0.1])


def test_only_questions_that_were_too_alike_are_drawn_again():
    found = redrawn(ACTION, -ACTION[1:2], np.arange(5) == 1)
    np.testing.assert_array_equal(found[1], -ACTION[1])
    np.testing.assert_array_equal(found[[0, 2, 3, 4]], ACTION[[0, 2, 3, 4]])


def test_rows_are_spread_and_shuffled():
    rows = spread_rows(1000, 10, seed=0)
    assert sorted(rows) == list(range(0, 1000, 100))
    assert list(rows) != sorted(rows)
    for count in (0, 1001):
        with pytest.raises(InputError, match=f"pairs = {count}; the data has 1000 states"):
            spread_rows(1000, count, seed=0)
