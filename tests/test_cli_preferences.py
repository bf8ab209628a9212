"""Questions made, answered by a script and aligned with, all through the command line, on data without rewards."""

from __future__ import annotations

import csv
import io
import re
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest

import tiltrl
from tiltrl import cli
from tiltrl.data.questions import write_questions
from tiltrl.data.write import write_npz
from tiltrl.errors import InputError

OF_THE_RUN = ("--budget", "0.01")


def call(*arguments: str) -> str:
    """What the command prints; it runs in this process, and raises what it raises."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said):
        patch.setattr(sys, "argv", ["tiltrl", *arguments])
        cli.main()
    return said.getvalue()


def write_log(folder: Path) -> tiltrl.Transitions:
    """Twenty episodes of actions in a square, without rewards."""
    rng, steps = np.random.default_rng(0), np.arange(1000)
    data = tiltrl.from_arrays(rng.normal(size=(1000, 3)), rng.uniform(-1, 1, (1000, 2)), episode=steps // 50)
    write_npz(data, folder / "log.npz")
    return data


def answer(folder: Path) -> None:
    """questions.csv to answers.csv: of each two actions the smaller one, but of the first question neither."""
    with (folder / "questions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows[2:]:
        size = {letter: sum(float(row[f"{letter}.{i}"]) ** 2 for i in range(2)) for letter in "ab"}
        row["choice"] = min(size, key=lambda letter: size[letter])
    rows[0]["choice"] = "tie"
    with (folder / "answers.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """With log.npz, questions that were made of it, and answers."""
    folder = tmp_path_factory.mktemp("preferences")
    write_log(folder)
    made = call(
        *("preferences", "make", str(folder / "log.npz"), "--out", str(folder / "questions.csv"), "--pairs", "400"),
        *("--run", str(folder / "run"), *OF_THE_RUN),
    )
    assert "400 questions of 2 actions" in made and "drawn again, 0 dropped" in made
    assert f"--preferences {folder / 'questions.csv'} --out {folder / 'run'} --budget 0.01" in made
    answer(folder)
    return folder


@pytest.fixture(scope="module")
def untrained(tmp_path_factory) -> Path:
    """The same files, of questions that no behavior was trained for."""
    folder = tmp_path_factory.mktemp("untrained")
    data, rows = write_log(folder), np.arange(40)
    action = np.stack([data.action[rows], data.action[rows + 40]], axis=1)
    write_questions(folder / "questions.csv", rows, data.obs[rows], action)
    answer(folder)
    return folder


def align(folder: Path, *more: str) -> str:
    given = str(folder / "answers.csv")
    run = ("--out", str(folder / "run"), *OF_THE_RUN)
    return call("align", str(folder / "log.npz"), "--preferences", given, *run, *more)


@pytest.fixture(scope="module")
def aligned(folder) -> str:
    return align(folder, "--beta", "0.1")


def test_the_questions_are_the_datas_states_with_actions_that_differ(folder):
    with (folder / "questions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    data = tiltrl.load(folder / "log.npz")
    for row in rows:
        seen = np.array([row[f"obs.{i}"] for i in range(3)], np.float32)
        np.testing.assert_array_equal(seen, data.obs[int(row["step"])])
        assert max(abs(float(row[f"a.{i}"]) - float(row[f"b.{i}"])) for i in range(2)) > 0.05
        assert row["choice"] == ""


def saved(folder: Path, tilt: str) -> Path:
    """The policy's folder, whose name tells by which answers it was tilted."""
    (place,) = (folder / "run" / "policies").glob(f"{tilt}-preferences-*-seed0")
    return place


def test_the_policy_prefers_what_people_did(folder, aligned):
    assert "398 answered questions" in aligned and "1 unanswered and 1 ties left out" in aligned
    assert "behavior: unchanged, reused" in aligned
    assert "held-out accuracy, beta 0.1: " in aligned and "of 19 questions" in aligned
    obs = np.random.default_rng(1).normal(size=(2000, 3)).astype(np.float32)
    before, after = (
        np.square(tiltrl.load_policy(place).sample(obs)).sum(axis=1).mean()
        for place in (folder / "run" / "policies" / "behavior-seed0", saved(folder, "beta0.1"))
    )
    assert after < 0.9 * before


def test_the_policy_says_what_it_learned_from(folder, aligned):
    provenance = tiltrl.load_policy(saved(folder, "beta0.1")).config.provenance
    task = tiltrl.load(folder / "log.npz").task
    assert provenance["preferences"] == tiltrl.read_preferences(folder / "answers.csv", task).digest
    assert (provenance["objective"], provenance["answers"]) == ("preference", 398)
    assert "rewards" not in provenance


def test_nothing_of_a_critic_is_made(folder, aligned):
    assert not list((folder / "run").glob("critic-*"))
    assert not list((folder / "run" / "policies").glob("*/critic.safetensors"))


@pytest.mark.slow
def test_to_a_divergence(folder):
    assert "held-out accuracy, KL 0.1: " in align(folder, "--kl", "0.1", "--objective", "dpo")
    policy = tiltrl.load_policy(saved(folder, "kl0.1"))
    assert policy.config.provenance["kl"] == 0.1


def test_the_same_answers_in_python(folder, aligned):
    behavior = tiltrl.load_policy(folder / "run" / "policies" / "behavior-seed0")
    given = tiltrl.read_preferences(folder / "answers.csv", behavior.config.task)
    policy = tiltrl.align_preferences(behavior, given, beta=0.1, preset=tiltrl.FAST.scaled(0.01))
    theirs = tiltrl.load_policy(saved(folder, "beta0.1"))
    assert policy.config.provenance["preferences"] == theirs.config.provenance["preferences"]
    obs, action = given.obs[:5], given.chosen[:5]
    np.testing.assert_allclose(policy.energy(obs, action), theirs.energy(obs, action), rtol=1e-3, atol=1e-3)


def test_checked_without_training(untrained):
    said = call("preferences", "check", str(untrained / "log.npz"), str(untrained / "answers.csv"))
    assert "38 answered questions" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("align", "{log}", "--preferences", "{questions}"), "none of its 40 questions is answered"),
        (("run", "{log}", "--preferences", "no-such.csv"), "no-such.csv: cannot be read"),
        (("align", "{log}", "--preferences", "{log}"), "holds no column 'obs'"),
        (("align", "{log}", "--preferences", "{answers}", "--objective", "value"), "objective = value: preferences"),
        (("align", "{log}", "--preferences", "{answers}", "--k", "4"), "k = 4: preferences have no values"),
        (("critic", "train", "{log}", "--preferences", "{answers}"), "no critic is made of these"),
        (("align", "demo", "--preferences", "{answers}"), "a has rows of shape (2,); the behavior's data needs (3,)"),
        (("preferences", "make", "{log}", "--out", "{answers}"), "exists already, perhaps with answers"),
        (
            ("preferences", "make", "{log}", "--out", "new.csv", "--pairs", "2000"),
            "pairs = 2000; the data has 980 states",
        ),
        (("preferences", "make", "{log}", "--out", "new.csv", "--k", "1"), "k = 1; a question has 2 to 26 actions"),
        (("preferences", "make", "{log}", "--out", "new.csv", "--differ", "0"), "differ = 0.0"),
        (("preferences", "make", "{log}", "--out", "new.txt"), "must end in .csv or .parquet"),
    ],
)
def test_bad_input_is_refused_before_anything_is_trained(untrained, tmp_path, arguments, message):
    files = {"log": "log.npz", "questions": "questions.csv", "answers": "answers.csv"}
    typed = [text.format(**{name: untrained / file for name, file in files.items()}) for text in arguments]
    with pytest.raises(InputError, match=re.escape(message)):
        call(*typed, "--run" if arguments[0] == "preferences" else "--out", str(tmp_path / "run"))
    assert not list(tmp_path.glob("run/behavior-*"))
