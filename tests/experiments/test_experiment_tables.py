"""Where scores belong in tables, and what the tables say, by hand."""

from dataclasses import replace

import pytest

from tiltrl.experiments.cell import BANDIT, Cell
from tiltrl.experiments.figure import draw
from tiltrl.experiments.places import Place, gather, place
from tiltrl.experiments.record import PolicyScores, Record, of_same_data
from tiltrl.experiments.tables import Results, markdown, number

CELL = Cell("demo", beta=(0.5, 2.0), episodes=2)
PAPER = replace(CELL, preset="paper")  # whose policies act by single actions


def record(cell: Cell, rows: dict[str, list[list[float]]], **changes) -> Record:
    found = tuple(PolicyScores(name, name == "data", tuple(map(tuple, table))) for name, table in rows.items())
    return replace(Record(cell, "done", (), 1.0, rows=found, scores_are="normalized score, Hopper-v5"), **changes)


def results(name, *records: Record, cells=()) -> Results:
    return Results(name, (*(one.cell for one in records), *cells), {one.cell.key: one for one in records})


@pytest.mark.parametrize(
    ("name", "cell", "policy", "at"),
    [
        ("scores", CELL, "aligned, beta 0.5", Place("EDA")),
        ("scores", CELL, "aligned, beta 0.5, best of 4", Place("EDA, best of 4")),
        ("scores", CELL, "behavior, best of 4", Place("behavior, best of 4")),
        ("scores", Cell("demo", "qgpo"), "qgpo", Place("qgpo")),
        ("scores", Cell("demo", "idql"), "idql, best of 64", Place("idql, best of 64")),
        ("scores", CELL, "aligned, beta 0.5, mean of 8", Place("EDA, mean of 8")),
        ("scores", Cell("demo", critic="iql"), "aligned, beta 1, mean of 8", Place("EDA, mean of 8, on iql")),
        ("scores", Cell("demo", critic="iql"), "behavior, mean of 8", Place("behavior, mean of 8", reference=True)),
        ("scores", Cell("demo", critic="iql"), "aligned, beta 1", Place("EDA, on iql")),
        ("scores", Cell("demo", critic="iql"), "aligned, beta 1, best of 4", Place("EDA, best of 4, on iql")),
        ("scores", Cell("demo", critic="iql"), "behavior, best of 4", Place("behavior, best of 4, on iql")),
        ("scores", Cell("demo", critic="iql"), "behavior", Place("behavior", reference=True)),
        ("scores", CELL, "behavior", Place("behavior", reference=True)),
        ("beta", CELL, "aligned, beta 2", Place("2", "EDA")),
        ("beta", CELL, "aligned, beta 2, best of 16", Place("2", "EDA, best of 16")),
        ("beta", CELL, "behavior, best of 4", Place("behavior, best of 4", reference=True)),
        ("critics", Cell("demo", critic="iql"), "behavior, best of 4", Place("iql", "behavior, best of 4")),
        ("critics", Cell("demo", critic="iql"), "aligned, beta 1", Place("iql", "EDA")),
        ("k", Cell("demo", k=4, objective="value"), "aligned, beta 1, best of 4", Place("4", "value, best of 4")),
        ("k", Cell("demo", k=4, objective="value"), "aligned, beta 1, mean of 8", Place("4", "value, mean of 8")),
        ("label-fraction", Cell("demo", label_fraction=0.1), "aligned, beta 1", Place("0.1", "EDA")),
        ("training-curve", Cell("demo", align_steps=300), "aligned, beta 1", Place("300", "EDA")),
    ],
)
def test_each_policy_has_its_place(name, cell, policy, at):
    assert place(name, cell, policy) == at


def test_seeds_of_a_place_come_together_in_order_and_common_rows_count_once():
    second = record(replace(CELL, seed=1), {"behavior": [[3.0, 5.0]]})
    first = record(CELL, {"behavior": [[1.0, 2.0]], "data": [[7.0, 8.0, 9.0]]})
    again = record(replace(CELL, method="iql"), {"behavior": [[90.0, 90.0]], "data": [[7.0, 8.0, 9.0]]})
    found = gather("scores", [second, first, again])
    behavior = found["demo", Place("behavior", reference=True)]
    assert behavior.seeds == (0, 1)
    assert behavior.values.tolist() == [[1, 2], [3, 5]]
    assert found["demo", Place("data", reference=True)].values.tolist() == [[7, 8, 9]]


def test_a_sweep_is_a_row_a_policy_with_its_values_in_order():
    rows = {"aligned, beta 2": [[2.0, 2.0]], "aligned, beta 0.5": [[1.0, 1.0]], "behavior": [[0.0, 0.0]]}
    text = markdown(results("beta", record(CELL, rows)), "out")
    assert "| data set | policy | behavior | beta 0.5 | beta 2 |" in text
    assert "| demo | EDA | 0.0 | 1.0 | 2.0 |" in text


def test_one_seed_says_that_its_interval_is_over_episodes_and_several_over_seeds():
    one = record(CELL, {"aligned, beta 0.5": [[1.0, 3.0]]})
    two = record(replace(CELL, seed=1), {"aligned, beta 0.5": [[1.0, 4.0]]})
    assert "intervals over episodes of one seed: another training may differ by more" in markdown(
        results("scores", one), "out"
    )
    assert "intervals over 2 seeds" in markdown(results("scores", one, two), "out")


def test_eda_is_compared_with_each_rival():
    ours = record(CELL, {"aligned, beta 0.5": [[0.0, 0.0]], "aligned, beta 0.5, mean of 8": [[3.0, 4.0]]})
    theirs = record(Cell("demo", "iql", episodes=2), {"iql": [[1.0, 2.0]]})
    text = markdown(results("scores", ours, theirs), "out")
    assert "| policy | mean | interquartile mean | probability that EDA, mean of 8 is better |" in text
    (line,) = [line for line in text.splitlines() if line.startswith("| iql |")]
    assert line.endswith("| 1.00 (1.00 to 1.00) |")


def test_cells_of_several_versions_are_told():
    ours = record(CELL, {"aligned, beta 0.5": [[3.0, 4.0]]}, versions={"tiltrl": "1.0"})
    theirs = record(Cell("demo", "iql", episodes=2), {"iql": [[1.0, 2.0]]}, versions={"tiltrl": "1.1"})
    assert "cells are of TiltRL 1.0, 1.1" in markdown(results("scores", ours, theirs), "out")
    assert "cells are of" not in markdown(results("scores", ours), "out")


def test_a_cell_on_changed_data_has_failed():
    cell = Cell("own.npz", "iql", seed=1)
    one, other = ({"data": {"fingerprint": mark}} for mark in ("aa", "bb"))
    first = record(replace(cell, seed=0), {"iql": [[1.0]]}, **one)
    assert of_same_data(record(cell, {"iql": [[1.0]]}, **one), [first]).state == "done"
    assert of_same_data(record(replace(cell, data="x.npz"), {"iql": [[1.0]]}, **other), [first]).state == "done"
    changed = of_same_data(record(cell, {"iql": [[1.0]]}, **other), [first])
    assert changed.state == "failed" and changed.rows == ()
    assert "fingerprint bb) is not that of own.npz: iql, seed 0 (aa)" in str(changed.error)


def of_seeds(data: str, method: str, scores: dict[int, list[float]], policy: str) -> list[Record]:
    return [
        record(replace(PAPER, data=data, method=method, seed=seed, beta=()), {policy: [found]})
        for seed, found in scores.items()
    ]


def test_methods_are_compared_on_the_seeds_that_all_have():
    ours = of_seeds("demo", "eda", {0: [0.0, 10.0], 1: [1.0, 11.0]}, "aligned, beta 1")
    theirs = of_seeds("demo", "iql", {1: [5.0, 7.0]}, "iql")
    text = markdown(results("scores", *ours, *theirs), "out")
    lines = dict(
        line.strip("| ").split(" | ", 1) for line in text.split("## Over data sets")[1].splitlines() if "| " in line
    )
    assert lines["EDA"].startswith("6.0 (")  # the mean of seed 1, over its episodes as the rival's
    assert lines["iql"].startswith("6.0 (")


def test_failures_that_leave_no_common_seed_leave_the_tables():
    ours = of_seeds("a-v0", "eda", {1: [1.0, 2.0]}, "aligned, beta 1") + of_seeds(
        "b-v0", "eda", {0: [3.0, 4.0]}, "aligned, beta 1"
    )
    text = markdown(results("scores", *ours), "out")
    assert "1.5 (" in text and "3.5 (" in text
    assert "no seed is there of all methods and data sets" in text


def test_returns_of_different_units_are_not_averaged():
    raw = {"scores_are": "raw return, Own-v0"}
    one = record(PAPER, {"aligned, beta 0.5": [[3.0, 4.0]]}, **raw)
    other = record(replace(PAPER, data="own.npz"), {"aligned, beta 0.5": [[300.0, 400.0]]}, **raw)
    assert "Over data sets" in markdown(results("scores", one), "out")
    assert "Over data sets" not in markdown(results("scores", one, other), "out")


def test_what_failed_and_what_is_not_there_yet_is_told():
    done = record(PAPER, {"aligned, beta 0.5": [[3.0, 4.0]]})
    broken = Record(Cell("demo", "iql", episodes=2), "failed", (), 1.0, error="no | memory")
    text = markdown(results("scores", done, broken, cells=(Cell("demo", "bc"),)), "out")
    assert "| data set | EDA | iql | bc |" in text
    assert "| demo | 3.5 (3.0 to 4.0) | failed | - |" in text
    assert f"no \\| memory | `out/cells/{broken.cell.key}.log`" in text
    assert "1 of 3 cells are still to run" in text


def test_the_last_checkpoint_is_told_beside_the_best():
    steps = {10: 1.0, 100: 5.0, 1000: 4.0}
    curve = [record(Cell("demo", align_steps=n), {"aligned, beta 1": [[v, v]]}) for n, v in steps.items()]
    text = markdown(results("training-curve", *curve), "out")
    assert "| demo | EDA | 4.0 | 1000 | 5.0 | 100 |" in text


def test_published_scores_stand_beside_ours():
    data = "d4rl:hopper-medium-v2"
    ours = record(Cell(data), {"aligned, beta 1": [[1.0, 1.0]], "aligned, beta 1, best of 4": [[2.0, 2.0]]})
    theirs = record(Cell(data, "iql"), {"iql": [[3.0, 3.0]]})
    text = markdown(results("scores", ours, theirs), "out")
    assert "| data set | eda, here | eda, published | iql, here | iql, published |" in text
    assert f"| {data} | 2.0 | 98.4 ± 3.9 | 3.0 | 66.3 |" in text


def test_bandits_are_told_in_three_digits_by_what_they_agree_with():
    cell = Cell("moons", BANDIT, objective="value", episodes=0)
    text = markdown(results("bandit", record(cell, {"mu": [[0.2]], "pi": [[0.031]]})), "out")
    assert "| moons | agreeing with the value | 0.200 | 0.031 |" in text


@pytest.mark.parametrize(("value", "text"), [(-0.01, "0.0"), (12.34, "12.3"), (-5.0, "-5.0"), (1234.5, "1,234")])
def test_numbers_are_short(value, text):
    assert number(value) == text


@pytest.mark.parametrize("name", ["scores", "critics", "beta", "bandit"])
def test_a_picture_is_drawn_of_dots_or_curves(tmp_path, name):
    cell = {"critics": Cell("demo", critic="iql"), "bandit": Cell("moons", BANDIT, objective="value")}.get(name, CELL)
    rows = {"pi": [[0.1]]} if name == "bandit" else {"aligned, beta 0.5": [[3.0, 4.0]], "behavior": [[1.0, 2.0]]}
    draw(results(name, record(cell, rows)), tmp_path / "it.png")
    assert (tmp_path / "it.png").read_bytes().startswith(b"\x89PNG")
