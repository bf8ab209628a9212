"""A page tells what folders tell, all of it and no more, whoever wrote them."""

import base64
import csv
import json

import pytest
from report_folders import (
    LABEL,
    TRUST,
    losses,
    write_experiment,
    write_finished_run,
    write_results,
    write_run,
    write_stage,
)
from report_reading import read

from tiltrl.errors import InputError
from tiltrl.evaluation.scores import interval
from tiltrl.report import MOST_FOLDERS, write_report

HOSTILE = '<script>alert("1")</script>$x_{$ & =1+1'


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_finished_run(tmp_path_factory.mktemp("runs") / "toy-fast")


@pytest.fixture(scope="module")
def page(run):
    return read(write_report([run], run.parent / "page.html"))


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    folder = write_experiment(tmp_path_factory.mktemp("experiments") / "scores")
    return read(write_report([folder]))


# --- A run ------------------------------------------------------------------------------------------------------------


def test_scores_have_mean_interval_and_episodes_and_each_policy_once(page):
    table = page.table(LABEL)
    assert table.headings == ["policy", "mean", "95 % interval", "median", "seeds", "episodes a seed"]
    assert [row[0] for row in table.rows] == ["data", "behavior", "aligned, beta 1", "iql"]
    known = interval([30.0, 40.0, 50.0])
    assert table.row("aligned, beta 1") == ["40.0", f"{known.low:.1f} to {known.high:.1f}", "40.0", "1", "3"]
    assert table.row("data")[3:] == ["-", "3"]


def test_scores_are_said_to_be_of_the_last_checkpoint_and_no_d4rl_scores(page):
    (text,) = [text for text in page.said["p"] if "last checkpoint" in text]
    assert "no D4RL scores" in text


def test_raw_returns_may_be_said_to_be_what_they_are(tmp_path):
    write_results(write_run(tmp_path / "a") / "results.json", label="raw return, Hopper-v5")
    text = write_report([tmp_path / "a"]).read_text()
    assert "raw return, Hopper-v5" in text and "no D4RL scores" not in text


def test_a_policy_that_was_evaluated_again_is_told_with_its_file(tmp_path):
    folder = write_finished_run(tmp_path / "a")
    write_results(folder / "baseline-bc.json", {"behavior": (1.0, 2.0, 3.0)})
    table = read(write_report([folder])).table(LABEL)
    assert [row[0] for row in table.rows] == [
        "data",
        "behavior",
        "aligned, beta 1",
        "behavior (baseline-bc.json)",
        "iql",
    ]


def test_pictures_are_in_the_page_and_tell_in_words_what_they_show(page, run):
    assert [picture["alt"].partition(":")[0] for picture in page.pictures] == [
        "Scores by policy, normalized score, Hopper-v5 (0 = -20, 100 = 3234; not a D4RL score). Means",
        "denoising loss of behavior-0a0a0a0a",
        "v loss of critic-0b0b0b0b",
        "accuracy of align-0c0c0c0c",
        "kl of align-0c0c0c0c",
    ]
    files = {path.read_bytes() for path in (run.parent / "page-files").glob("*.png")}
    held = [base64.b64decode(picture["src"].removeprefix("data:image/png;base64,")) for picture in page.pictures]
    assert set(held) == files and all(png.startswith(b"\x89PNG") for png in held)


def test_the_page_needs_nothing_from_outside_and_runs_nothing(page):
    assert not {tag for tag, _ in page.tags} & {"script", "iframe", "object", "embed", "form", "base"}
    addresses = [attrs[name] for _, attrs in page.tags for name in ("src", "href", "srcset") if name in attrs]
    assert all(address.startswith(("data:", "#")) for address in addresses)
    policies = [attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_trust_stages_settings_and_machine_are_there(page):
    trust = page.table("On held-out episodes").row("critic-0b0b0b0b")
    assert trust[:4] == ["0", "good", "0.250 (0.125 to 0.375)", "0.800"] and TRUST.rank == 0.25
    stages = page.table("Stages in this folder")
    assert stages.row("behavior-0a0a0a0a") == ["finished", "12,000", "1 min 15 s"]
    assert stages.row("all together")[-1] == "3 min 45 s"
    assert page.table("Configuration, of results.json").row("preset.behavior.learning_rate") == ["0.003"]
    assert page.table("Versions and hardware").row("versions.jax") == ["0.10.2"]
    assert page.table("Versions and hardware").row("hardware.devices") == ["cpu:0"]
    assert {"f00d", "300 steps in 3 episodes", "Hopper-v5"} <= set(page.said["dd"])


def test_a_finished_run_is_not_called_unfinished(page):
    assert "warning" not in page.said


def test_csv_files_hold_every_table_unrounded(page, run):
    folder = run.parent / "page-files"
    assert len(list(folder.glob("*.csv"))) == len(page.tables)
    with (folder / "scores.csv").open() as file:
        found = {row["policy"]: row for row in csv.DictReader(file)}
    known = interval([10.0, 20.0, 60.0])
    assert (found["data"]["mean"], found["data"]["95 % interval: low"]) == ("30.0", str(known.low))
    with (folder / "episodes.csv").open() as file:
        assert [row["return"] for row in csv.DictReader(file)] == ["370.5", "435.25", "500.0"]


def test_equal_folders_give_equal_bytes(run, tmp_path):
    first, second = (write_report([run], tmp_path / name / "a.html") for name in ("one", "two"))
    files = [
        {path.name: path.read_bytes() for path in page.parent.rglob("*.*") if path.is_file()}
        for page in (first, second)
    ]
    assert files[0] == files[1] and len(files[0]) > 5


# --- Work that goes on ------------------------------------------------------------------------------------------------


def test_a_run_that_is_not_finished_says_so_at_the_top(tmp_path):
    folder = write_run(tmp_path / "a")
    write_stage(folder / "behavior-0a0a0a0a", losses(6000), done=False)
    page = read(write_report([folder]))
    assert page.said["warning"] == ["unfinished: behavior 6000 of 12000 steps; no policy has been evaluated yet"]
    assert page.table("Stages in this folder").row("behavior-0a0a0a0a") == ["unfinished", "6,000", "-"]


def test_the_newest_of_log_and_checkpoint_tells_how_far_a_stage_is(tmp_path):
    folder = write_run(tmp_path / "a")
    write_stage(folder / "critic-0a0a0a0a", losses(500), done=False)
    (folder / "critic-0a0a0a0a" / "checkpoints").mkdir()
    (folder / "critic-0a0a0a0a" / "checkpoints" / "step-0000000612.safetensors").touch()
    page = read(write_report([folder]))
    assert page.said["warning"] == ["unfinished: critic 612 steps; no policy has been evaluated yet"]


def test_a_stage_that_was_begun_after_the_scores_is_told(tmp_path):
    folder = write_finished_run(tmp_path / "a")
    write_stage(folder / "baseline-srpo-0d0d0d0d", [], done=False)
    page = read(write_report([folder]))
    assert page.said["warning"] == ["unfinished: baseline-srpo begun; the scores are of what was finished before"]


def test_a_run_of_which_nothing_is_there_yet_has_a_page(tmp_path):
    assert read(write_report([write_run(tmp_path / "a")])).said["warning"] == ["unfinished: no stage has begun"]


def test_a_run_without_an_environment_is_finished_without_scores(tmp_path):
    folder = write_run(tmp_path / "a", env_spec=None)
    write_stage(folder / "behavior-0a0a0a0a", losses(500))
    assert "warning" not in read(write_report([folder])).said


def test_the_line_that_is_being_written_is_left_out(tmp_path):
    folder = write_run(tmp_path / "a")
    write_stage(folder / "behavior-0a0a0a0a", losses(500), done=False)
    with (folder / "behavior-0a0a0a0a" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 750, "denois')
    assert "behavior 500 of 12000" in read(write_report([folder])).said["warning"][0]


# --- An experiment ----------------------------------------------------------------------------------------------------


def test_an_experiment_says_what_is_missing_and_what_failed(experiment):
    assert experiment.said["warning"] == [
        "unfinished: 1 of 4 cells are still to run",
        "1 of 4 cells failed; their errors are below",
    ]
    cells = experiment.table("The grid")
    assert [row[4] for row in cells.rows] == ["done", "done", "failed", "to run"]
    assert cells.rows[1][5:] == ["1 min 01 s", "tiltrl baseline iql toy"]


def test_a_failed_cell_is_there_with_its_error_and_the_end_of_its_log(experiment):
    assert "Failed: toy: qgpo, seed 0" in experiment.said["h3"]
    assert "diverged at step 7 <of 9>" in experiment.said["p"]
    (log,) = experiment.said["pre"]
    assert log.splitlines()[-1] == "tiltrl: diverged at step 7 <of 9>"
    assert log.splitlines()[-2] == "line 999" and "line 900" not in log


def test_an_experiments_own_tables_and_figure_are_there(experiment):
    table = experiment.table("Scores")
    (row,) = table.rows
    found = dict(zip(table.headings, row, strict=True))
    assert found["EDA"].startswith("40.0 (") and found["iql"].startswith("21.0 (")
    assert any(value == "failed" for value in found.values())
    assert len(experiment.pictures) == 1
    assert LABEL in experiment.said["p"]
    assert experiment.table("On held-out episodes").rows[0][1:] == ["0", "good", "0.250", "0.800", "0.900"]


def test_an_experiment_tells_the_stages_of_its_runs(experiment):
    stages = experiment.table("Stages of the cells' runs")
    assert stages.rows == [["toy-seed0", "behavior-0a0a0a0a", "finished", "500", "1 min 15 s"]]


# --- Several folders --------------------------------------------------------------------------------------------------


def test_several_folders_are_compared_on_top(run, tmp_path):
    other = write_finished_run(tmp_path / "toy-fast")
    begun = write_run(tmp_path / "begun")
    page = read(write_report([run, other, begun, write_experiment(tmp_path / "exp")], tmp_path / "all.html"))
    first = page.tables[0]
    assert first.caption == LABEL
    assert first.headings == ["run", "data set", "data", "behavior", "aligned, beta 1", "iql"]
    assert len(first.rows) == 2 and all(row[4].startswith("40.0 (") for row in first.rows)
    assert len({row[0] for row in first.rows}) == 2, "folders of one name are told apart"
    assert len(page.said["h2"]) == 4 and "unfinished: no stage has begun" in page.said["warning"]
    assert (tmp_path / "all-files" / "comparison.png").is_file()


# --- Anybody's text ---------------------------------------------------------------------------------------------------


def test_text_from_files_stays_text(tmp_path):
    folder = write_run(tmp_path / "a", dataset=HOSTILE)
    write_results(folder / "results.json", {HOSTILE: (1.0, 2.0)}, label=HOSTILE, config={HOSTILE: HOSTILE})
    write_stage(folder / "behavior-0a0a0a0a", losses(500, name="<img src=x onerror=alert(1)>"))
    page = read(write_report([folder]))
    assert not any(tag == "script" for tag, _ in page.tags)
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    words = " ".join(HOSTILE.split())
    assert words in page.said["dd"]
    assert page.table(words).rows[0][0] == words
    assert page.table("Configuration, of results.json").row(f"config.{words}") == [words]


def test_text_of_an_experiment_stays_text(tmp_path):
    words = "<b>|$x_{$"
    page = read(write_report([write_experiment(tmp_path / "a", dataset=words)]))
    assert page.table("Scores").rows[0][0] == page.table("The grid").rows[0][0] == words
    assert not any(tag == "b" for tag, _ in page.tags)


def test_a_name_is_no_formula_in_a_spreadsheet_and_no_path(tmp_path):
    folder = write_run(tmp_path / "a")
    write_results(folder / "results.json", {"=1+1": (1.0, 2.0)})
    write_stage(folder / "behavior-0a0a0a0a", losses(500, name="../../up"))
    target = write_report([folder])
    assert "\n'=1+1," in (folder / "report-files" / "scores.csv").read_text()
    assert {path.parent for path in folder.rglob("*.png")} == {target.parent / "report-files"}


def test_letters_that_the_font_of_pictures_lacks_are_no_obstacle(tmp_path):
    folder = write_run(tmp_path / "a", dataset="数据\x00\u202e")
    write_results(folder / "results.json", {"策略": (1.0, 2.0)})
    assert read(write_report([folder])).table(LABEL).rows[0][0] == "策略"


def test_long_curves_are_thinned_to_their_ends(tmp_path):
    folder = write_run(tmp_path / "a")
    write_stage(folder / "behavior-0a0a0a0a", losses(20000, every=1))
    target = write_report([folder])
    assert target.stat().st_size < 200_000
    assert "at step 1," in target.read_text() and "at step 20000" in target.read_text()


# --- Bad input --------------------------------------------------------------------------------------------------------


def test_a_folder_that_is_none_of_these_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"is neither a run's folder \(no run.json in it\) nor an experiment's"):
        write_report([tmp_path])
    with pytest.raises(InputError, match="gone: is no folder"):
        write_report([tmp_path / "gone"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("run.json", "{", "run.json: not a readable JSON file"),
        ("run.json", '{"format": 9}', "run.json: format = 9, this TiltRL reads 2"),
        ("run.json", '{"format": 2, "task": {"dataset": 1}}', "run.json: task: field"),
        ("results.json", "[]", "results.json: not a readable description"),
        ("results.json", "{}", "results.json: scores_are = None"),
        ("results.json", '{"scores_are": "x", "rows": {}}', "results.json: rows = {}"),
        ("baseline-iql.json", '{"scores_are": "x", "rows": [{"policy": "a"}]}', r"baseline-iql.json: rows\[0\]: field"),
        ("behavior-0a0a0a0a/stage.json", "{}", "stage.json: summary = None"),
        ("behavior-0a0a0a0a/metrics.jsonl", '{"step"\n{}\n', "metrics.jsonl: line 1 is damaged"),
        ("behavior-0a0a0a0a/metrics.jsonl", '{"step": 1, "a": "b"}\n', "metrics.jsonl: a: is not as many numbers"),
        ("critic-check.json", '{"checks": [1]}', r"critic-check.json: checks\[0\]"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, file, text, message):
    folder = write_finished_run(tmp_path / "a")
    (folder / file).write_text(text)
    with pytest.raises(InputError, match=message):
        write_report([folder])
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize("scores", ["[[1, 2], [3]]", "[[]]", "[]", "[[NaN]]", "[[1e999]]"])
def test_scores_that_are_none_are_refused(tmp_path, scores):
    folder = write_run(tmp_path / "a")
    row = f'{{"policy": "a", "logged": false, "scores": {scores}}}'
    (folder / "results.json").write_text(f'{{"scores_are": "x", "rows": [{row}]}}')
    with pytest.raises(InputError, match=r"results.json: rows\[0\]"):
        write_report([folder])


def test_a_damaged_experiment_is_named(tmp_path):
    folder = write_experiment(tmp_path / "a")
    damaged = next((folder / "cells").glob("*.json"))
    damaged.write_text(json.dumps({"cell": 1}))
    with pytest.raises(InputError, match=damaged.name):
        write_report([folder])
    (folder / "experiment.json").write_text('{"format": 1}')
    with pytest.raises(InputError, match="experiment.json"):
        write_report([folder])


def test_a_page_that_cannot_be_put_there_is_refused_before_anything_is_read(tmp_path):
    folder = write_run(tmp_path / "a")
    (folder / "run.json").write_text("damaged")
    for out, message in (
        (tmp_path / "a.txt", "has to end in .html"),
        (tmp_path / "a" / "run.json" / "a.html", "cannot be written"),
    ):
        with pytest.raises(InputError, match=message):
            write_report([folder], out)


def test_several_folders_need_a_place_and_none_is_given_twice(tmp_path):
    folders = [write_run(tmp_path / name) for name in ("a", "b")]
    with pytest.raises(InputError, match="--out has to say where the page goes"):
        write_report(folders)
    with pytest.raises(InputError, match="a: is given twice"):
        write_report([folders[0], tmp_path / "b" / ".." / "a"], tmp_path / "c.html")
    with pytest.raises(InputError, match=f"give 1 to {MOST_FOLDERS}"):
        write_report([], tmp_path / "c.html")
