"""Experiments from options to tables, with commands that take no time: reuse, failures, interrupts, locks."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from stand_in import FAKE, calls, options, run

from tiltrl.errors import InputError


def wait_for(condition, seconds: float = 300.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_an_experiment_leaves_table_numbers_picture_and_a_file_a_cell(tmp_path):
    found, said = run(options(tmp_path / "out", seeds=2), tmp_path / "switches")
    assert (found.failed, found.cells) == (0, 4)
    assert "| demo | 20.0" in found.text  # mean of 10, 20 and 30
    assert "| EDA |" in found.text and "iql" in found.text
    assert "4 of 4 done" in said
    assert found.picture is not None and found.picture.read_bytes().startswith(b"\x89PNG")
    cells = sorted((tmp_path / "out/cells").glob("*.json"))
    assert len(cells) == 4
    assert {json.loads(cell.read_text())["state"] for cell in cells} == {"done"}


def test_every_raw_score_is_in_the_csv_with_its_seed_and_return(tmp_path):
    found, _ = run(options(tmp_path / "out", seeds=2, methods=("eda",)), tmp_path / "switches")
    lines = list(csv.DictReader(found.numbers.read_text().splitlines()))
    ours = [line for line in lines if line["policy"] == "aligned, beta 1"]
    assert [(line["train_seed"], float(line["score"]), float(line["return"])) for line in ours] == [
        (str(seed), 50.0 + seed + episode, 10 * (50.0 + seed + episode)) for seed in (0, 1) for episode in range(3)
    ]
    assert sum(line["logged"] == "True" for line in lines) == 3  # once, not once a seed


def test_the_same_command_runs_nothing_again(tmp_path):
    run(options(tmp_path / "out"), tmp_path / "switches")
    before = calls(tmp_path / "switches")
    found, _ = run(options(tmp_path / "out"), tmp_path / "switches")
    assert calls(tmp_path / "switches") == before == ["eda 0", "iql 0"]
    assert found.failed == 0


def test_more_seeds_and_methods_extend_what_is_there(tmp_path):
    run(options(tmp_path / "out", methods=("eda",)), tmp_path / "switches")
    found, _ = run(options(tmp_path / "out", methods=("bc",), seeds=2), tmp_path / "switches")
    assert calls(tmp_path / "switches") == ["bc 0", "bc 1", "eda 0"]
    assert "| EDA |" in found.text and "| bc |" in found.text


@pytest.mark.parametrize("change", [{"episodes": 5}, {"budget": 0.5}, {"preset": "paper"}])
def test_what_cannot_be_compared_is_refused_in_one_folder(tmp_path, change):
    run(options(tmp_path / "out"), tmp_path / "switches")
    with pytest.raises(InputError, match=f"with {next(iter(change))} = .*give another --out"):
        run(options(tmp_path / "out", **change), tmp_path / "switches")
    with pytest.raises(InputError, match="holds the experiment scores, not critics"):
        run(options(tmp_path / "out", name="critics", methods=()), tmp_path / "switches")


def test_the_same_seed_alone_and_among_others_is_refused(tmp_path):
    run(options(tmp_path / "out"), tmp_path / "switches")
    with pytest.raises(InputError, match="seed 0 is there already"):
        run(options(tmp_path / "out", seeds=2, seeds_together=True), tmp_path / "switches")


def test_a_cell_that_fails_is_told_and_the_rest_goes_on_and_it_is_tried_again(tmp_path):
    switches = tmp_path / "switches"
    switches.mkdir()
    (switches / "fail-iql").touch()
    found, said = run(options(tmp_path / "out", methods=("iql", "eda", "bc")), switches)
    assert (found.failed, found.cells) == (1, 3)
    assert "| rewards: they are all zero |" in found.text
    assert "failed   demo: iql, seed 0  rewards: they are all zero" in said
    (log,) = [word for word in found.text.split("`") if word.endswith(".log")]
    assert "rewards: they are all zero" in Path(log).read_text()
    (line,) = [line for line in csv.DictReader(found.numbers.read_text().splitlines()) if line["state"] == "failed"]
    assert (line["method"], line["error"]) == ("iql", "rewards: they are all zero")
    (switches / "fail-iql").unlink()
    again, _ = run(options(tmp_path / "out", methods=("iql", "eda", "bc")), switches)
    assert again.failed == 0 and "Failed" not in again.text
    assert calls(switches) == ["bc 0", "eda 0", "iql 0", "iql 0"]


def test_a_command_that_leaves_no_scores_has_failed(tmp_path):
    (tmp_path / "switches").mkdir()
    (tmp_path / "switches/silent-eda").touch()
    found, _ = run(options(tmp_path / "out", methods=("eda",)), tmp_path / "switches")
    assert found.failed == 1 and "names no environment to evaluate in" in found.text
    assert found.picture is None


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").touch()
    with pytest.raises(InputError, match="is not an experiment's folder"):
        run(options(tmp_path / "out"), tmp_path / "switches")
    assert not (tmp_path / "switches/calls").exists()


def test_a_damaged_cell_is_named(tmp_path):
    run(options(tmp_path / "out", methods=("eda",)), tmp_path / "switches")
    (cell,) = (tmp_path / "out/cells").glob("*.json")
    cell.write_text("{")
    with pytest.raises(InputError, match=f"{cell.name}.*delete it to run this cell again"):
        run(options(tmp_path / "out", methods=("eda",)), tmp_path / "switches")


DRIVER = """
import signal
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import tiltrl.main
from stand_in import options, run

def command():
    run(options(Path({out!r})), Path({switches!r}))

signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal, wherever the tests run
tiltrl.main._on_stop(tiltrl.main._interrupt)
sys.exit(tiltrl.main.answer(command))
"""


@contextmanager
def driver(tmp_path: Path) -> "Iterator[subprocess.Popen[str]]":
    text = DRIVER.format(tests=str(FAKE.parent), out=str(tmp_path / "out"), switches=str(tmp_path / "switches"))
    with subprocess.Popen([sys.executable, "-c", text], stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("signal_sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_reaches_the_commands_and_the_same_experiment_goes_on(tmp_path, signal_sent):
    switches = tmp_path / "switches"
    switches.mkdir()
    (switches / "hang").touch()
    with driver(tmp_path) as process:
        wait_for(lambda: (switches / "hangs-eda-0").exists())
        with pytest.raises(InputError, match=f"process {process.pid} .*works in it"):
            run(options(tmp_path / "out"), switches)  # two experiments in one folder
        process.send_signal(signal_sent)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 3, said
    assert "the same command goes on from what is saved" in said
    assert (switches / "saved-eda-0").exists()
    assert not list((tmp_path / "out/cells").glob("*.json"))  # nothing has failed
    assert "2 of 2 cells are still to run" in (tmp_path / "out/scores.md").read_text()
    (switches / "hang").unlink()
    found, _ = run(options(tmp_path / "out"), switches)
    assert found.failed == 0


def test_an_interrupt_leaves_the_tables_of_what_is_done(tmp_path):
    switches = tmp_path / "switches"
    run(options(tmp_path / "out", methods=("eda",)), switches)
    (switches / "hang").touch()
    with driver(tmp_path) as process:
        wait_for(lambda: (switches / "hangs-iql-0").exists())
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    text = (tmp_path / "out/scores.md").read_text()
    assert "1 of 2 cells are still to run" in text and "| 51.0 (50.0 to 52.0) |" in text


@pytest.mark.skipif(os.name != "posix", reason="processes are killed by signals")
def test_an_experiment_that_was_killed_goes_on(tmp_path):
    switches = tmp_path / "switches"
    run(options(tmp_path / "out", methods=("eda",)), switches)
    (switches / "hang").touch()
    with driver(tmp_path) as process:
        wait_for(lambda: (switches / "hangs-iql-0").exists())
        process.kill()
    (switches / "hang").unlink()
    found, _ = run(options(tmp_path / "out"), switches)
    assert found.failed == 0
    assert calls(switches) == ["eda 0", "iql 0", "iql 0"]
