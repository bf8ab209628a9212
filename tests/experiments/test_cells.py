"""Commands and names of cells."""

from dataclasses import replace
from pathlib import Path

from tiltrl.experiments.cell import BANDIT, BANDIT_COMPARE, Cell, job_of

OUT = Path("out")


def test_the_command_of_eda_has_every_setting_of_its_cell():
    cell = Cell("demo", "eda", 3, 2, "paper", 0.5, 7, (0.2, 1.0), "iql", "preference", 8, 100, 0.01)
    job = job_of(cell, OUT)
    assert " ".join(job.command) == (
        "tiltrl run demo --preset paper --seeds 2 --seed 3 --budget 0.5 --episodes 7 --critic iql "
        f"--objective preference --k 8 --align-steps 100 --label-fraction 0.01 --out {job.folder} --beta 0.2 1"
    )
    assert job.result == job.folder / "results.json"
    assert job.log == OUT / "cells" / f"{cell.key}.log"


def test_numbers_of_a_command_are_not_rounded():
    job = job_of(Cell("demo", budget=1 / 3, beta=(0.123456789,), label_fraction=1e-7), OUT)
    assert {"0.3333333333333333", "0.123456789", "1e-07"} <= set(job.words)


def test_the_command_of_a_rival_names_it_and_leaves_a_file_of_its_own():
    job = job_of(Cell("demo", "qgpo"), OUT)
    assert job.words[:3] == ("baseline", "qgpo", "demo")
    assert "--critic" not in job.words and "--beta" not in job.words
    assert job.result == job.folder / "baseline-qgpo.json"


def test_commands_of_bandits_keep_their_pictures():
    tilt = job_of(Cell("moons", BANDIT, objective="value", seed=1), OUT)
    compare = job_of(Cell("moons", BANDIT_COMPARE), OUT)
    assert tilt.words[:3] == ("bandit", "--dataset", "moons") and "--compare" not in tilt.words
    assert tilt.pictures == ((tilt.folder / "moons.png", OUT / "pictures/moons-value-seed1.png"),)
    assert compare.words[-1] == "--compare" and compare.result.name == "comparison.json"


def test_cells_share_a_folder_where_they_can_share_a_behavior():
    cell = Cell("a/b-v0")
    for same in ({"method": "iql"}, {"critic": "iql"}, {"k": 4}, {"beta": (2.0,)}, {"episodes": 3}):
        assert replace(cell, **same).folder == cell.folder
        assert replace(cell, **same).key != cell.key
    for other in ({"data": "a/b+v0"}, {"preset": "paper"}, {"budget": 0.1}, {"seed": 1}, {"seeds": 2}):
        assert replace(cell, **other).folder != cell.folder


def test_a_cell_is_told_in_words():
    assert str(Cell("demo")) == "demo: eda, seed 0"
    cell = Cell("demo", seeds=3, k=4, objective="preference", label_fraction=0.01)
    assert str(cell) == "demo: eda, preference, K 4, labels 0.01, seeds 0 to 2"
