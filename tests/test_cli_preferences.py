"""Questions made, answered by a script and aligned with, all through the command line, on data without rewards."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tiltrl
from tiltrl.data.write import write_npz

OF_THE_RUN = ("--budget", "0.01")


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tiltrl", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """With log.npz, questions.csv made of it, and answers.csv, where the smaller action is preferred."""
    folder = tmp_path_factory.mktemp("preferences")
    rng, steps = np.random.default_rng(0), np.arange(1000)
    data = tiltrl.from_arrays(rng.normal(size=(1000, 3)), rng.uniform(-1, 1, (1000, 2)), episode=steps // 50)
    write_npz(data, folder / "log.npz")
    made = call(
        *("preferences", "make", str(folder / "log.npz"), "--out", str(folder / "questions.csv"), "--pairs", "400"),
        *("--run", str(folder / "run"), *OF_THE_RUN),
    )
    assert made.returncode == 0, made.stderr
    assert "400 questions of 2 actions" in made.stdout
    assert "drawn again, 0 dropped" in made.stdout
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
    return folder


def align(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    given = str(folder / "answers.csv")
    run = ("--out", str(folder / "run"), *OF_THE_RUN)
    return call("align", str(folder / "log.npz"), "--preferences", given, *run, *more)


@pytest.fixture(scope="module")
def aligned(folder) -> str:
    done = align(folder, "--beta", "0.1")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_questions_are_the_datas_states_with_actions_that_differ(folder):
    with (folder / "questions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    data = tiltrl.load(folder / "log.npz")
    for row in rows:
        seen = np.array([row[f"obs.{i}"] for i in range(3)], np.float32)
        np.testing.assert_array_equal(seen, data.obs[int(row["step"])])
        assert max(abs(float(row[f"a.{i}"]) - float(row[f"b.{i}"])) for i in range(2)) > 0.05
        assert row["choice"] == ""


def test_the_policy_prefers_what_people_did(folder, aligned):
    assert "398 answered questions" in aligned and "1 unanswered and 1 ties left out" in aligned
    assert "behavior: unchanged, reused" in aligned
    assert "held-out accuracy, beta 0.1: " in aligned and "of 19 questions" in aligned
    policies = folder / "run" / "policies"
    obs = np.random.default_rng(1).normal(size=(2000, 3)).astype(np.float32)
    before, after = (
        np.square(tiltrl.load_policy(policies / name).sample(obs)).sum(axis=1).mean()
        for name in ("behavior-seed0", "beta0.1-preferences-seed0")
    )
    assert after < 0.9 * before


def test_the_policy_says_what_it_learned_from(folder, aligned):
    provenance = tiltrl.load_policy(folder / "run" / "policies" / "beta0.1-preferences-seed0").config.provenance
    task = tiltrl.load(folder / "log.npz").task
    assert provenance["preferences"] == tiltrl.read_preferences(folder / "answers.csv", task).digest
    assert (provenance["objective"], provenance["answers"]) == ("preference", 398)
    assert "rewards" not in provenance


def test_nothing_of_a_critic_is_made(folder, aligned):
    assert not list((folder / "run").glob("critic-*"))
    assert not list((folder / "run" / "policies").glob("*/critic.safetensors"))


def test_to_a_divergence(folder):
    done = align(folder, "--kl", "0.1", "--objective", "dpo")
    assert done.returncode == 0, done.stderr
    assert "held-out accuracy, KL 0.1: " in done.stdout
    policy = tiltrl.load_policy(folder / "run" / "policies" / "kl0.1-preferences-dpo-seed0")
    assert policy.config.provenance["kl"] == 0.1


def test_the_same_answers_in_python(folder, aligned):
    behavior = tiltrl.load_policy(folder / "run" / "policies" / "behavior-seed0")
    given = tiltrl.read_preferences(folder / "answers.csv", behavior.config.task)
    policy = tiltrl.align_preferences(behavior, given, beta=0.1, preset=tiltrl.FAST.scaled(0.01))
    theirs = tiltrl.load_policy(folder / "run" / "policies" / "beta0.1-preferences-seed0")
    assert policy.config.provenance["preferences"] == theirs.config.provenance["preferences"]
    obs, action = given.obs[:5], given.chosen[:5]
    np.testing.assert_allclose(policy.energy(obs, action), theirs.energy(obs, action), rtol=1e-3, atol=1e-3)


def test_checked_without_training(folder):
    done = call("preferences", "check", str(folder / "log.npz"), str(folder / "answers.csv"))
    assert done.returncode == 0, done.stderr
    assert "398 answered questions" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("align", "{log}", "--preferences", "{questions}"), "none of its 400 questions is answered"),
        (("run", "{log}", "--preferences", "no-such.csv"), "no-such.csv: cannot be read"),
        (("align", "{log}", "--preferences", "{log}"), "holds no column 'obs'"),
        (("align", "{log}", "--preferences", "{answers}", "--objective", "value"), "objective = value: preferences"),
        (("align", "{log}", "--preferences", "{answers}", "--k", "4"), "k = 4: preferences have no values"),
        (("critic", "train", "{log}", "--preferences", "{answers}"), "no critic is made of these"),
        (("align", "demo", "--preferences", "{answers}"), "the behavior's data needs (11,)"),
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
def test_bad_input_is_one_line_and_status_2(folder, tmp_path, arguments, message):
    files = {"log": "log.npz", "questions": "questions.csv", "answers": "answers.csv"}
    typed = [text.format(**{name: folder / file for name, file in files.items()}) for text in arguments]
    done = call(*typed, "--run" if arguments[0] == "preferences" else "--out", str(tmp_path / "run"))
    assert done.returncode == 2, done.stdout
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.glob("run/behavior-*"))
