"""Which job starts when, how long the rest takes, and how processes end."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tiltrl.experiments.board import duration, seconds_left
from tiltrl.experiments.cell import Cell, Job, job_of
from tiltrl.experiments.child import patient_lock
from tiltrl.experiments.local import Local
from tiltrl.experiments.record import Record
from tiltrl.experiments.schedule import run_jobs, startable
from tiltrl.locks import FolderLock

OUT = Path("out")
A, B = Cell("a.npz"), Cell("b.npz")


def jobs(*cells: Cell) -> list[Job]:
    return [job_of(cell, OUT) for cell in cells]


def test_cells_of_one_folder_run_one_after_the_other():
    waiting = jobs(A, replace(A, method="iql"), B)
    assert [job.cell for job in startable(waiting, [], 3)] == [A, B]
    assert startable(waiting, [waiting[0].folder, waiting[2].folder], 3) == []


def test_no_more_run_than_workers():
    assert [job.cell for job in startable(jobs(A, B), [], 1)] == [A]
    assert startable(jobs(B), [OUT / "busy"], 1) == []


def test_the_time_left_goes_by_what_cells_of_a_method_took():
    ran = {"eda": [10.0, 30.0], "iql": [100.0]}
    assert seconds_left([A, B], ran, [], 1) == 40
    assert seconds_left([A, B], ran, [], 8) == 20  # two folders are two lanes
    assert seconds_left([replace(A, method="iql")], ran, [(A, 15.0)], 4) == 105  # one lane
    assert seconds_left([replace(A, method="bc")], ran, [], 1) == 60  # as is usual
    assert seconds_left([A], {}, [], 1) is None


@pytest.mark.parametrize(("seconds", "text"), [(5.4, "5 s"), (125, "2 min 05 s"), (7384, "2 h 03 min")])
def test_durations_are_told_in_two_units(seconds, text):
    assert duration(seconds) == text


def ended(tmp_path: Path, code: str) -> str:
    """The error of a command that runs this Python."""
    here = Local(program=lambda _: [sys.executable, "-c", code])
    job = job_of(A, tmp_path)
    here.start(job)
    while not (found := here.ended()):
        time.sleep(0.02)
    assert found[0].state == "failed" and found[0].error is not None
    return found[0].error


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed by SIGKILL; perhaps the memory was full"),
        ("print('tiltrl: error: rewards: none'); exit(2)", "rewards: none"),
        ("exit(1)", "ended with status 1 and said nothing"),
        ("print('tiltrl: interrupted'); exit(3)", "interrupted by somebody else"),
        ("pass", "names no environment to evaluate in"),
    ],
)
def test_each_way_to_fail_is_told_in_one_line(tmp_path, code, error):
    assert error in ended(tmp_path, code)


def test_a_command_that_cannot_be_started_has_failed_like_others(tmp_path):
    here = Local(program=lambda _: [str(tmp_path / "no-such-program")])
    here.start(job_of(A, tmp_path))
    (found,) = here.ended()
    assert found.state == "failed" and "cannot be started: " in str(found.error)
    assert here.ended() == []


def test_an_interrupt_while_a_command_starts_is_no_other_error(tmp_path):
    job = job_of(A, tmp_path)
    ended = []

    class Interrupted:
        def start(self, job: Job) -> None:
            raise KeyboardInterrupt

        def ended(self) -> list[Record]:
            return []

        def stop(self) -> list[Record]:
            return [Record(job.cell, "done", (), 1.0)]

    class Board:
        def started(self, job: Job) -> None: ...

        def ended(self, record: Record) -> None:
            ended.append(record)

    with pytest.raises(KeyboardInterrupt):
        run_jobs([job], Interrupted(), 1, Board(), lambda record: None)
    assert len(ended) == 1


def test_commands_are_started_where_they_are_told(tmp_path):
    here = Local(program=lambda _: [sys.executable, "-c", "import os; print(os.getcwd()); exit(1)"], place=tmp_path)
    here.start(job := job_of(A, tmp_path))
    while not here.ended():
        time.sleep(0.02)
    assert job.log.read_text().strip() == str(tmp_path.resolve())


def test_compilations_are_shared_unless_the_user_has_said_where(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)

    def told() -> str:
        code = "import os; print(os.environ['JAX_COMPILATION_CACHE_DIR']); exit(1)"
        here = Local(program=lambda _: [sys.executable, "-c", code], compilations=tmp_path / "shared")
        here.start(job := job_of(A, tmp_path))
        while not here.ended():
            time.sleep(0.02)
        return job.log.read_text().strip()

    assert told() == str(tmp_path / "shared")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "mine")
    assert told() == "mine"


def test_threads_are_shared_out(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    here = Local(3, lambda _: [sys.executable, "-c", "import os; print(os.environ['OMP_NUM_THREADS'])"])
    here.start(job := job_of(A, tmp_path))
    here.stop()
    assert job.log.read_text() in ("3\n", "")  # "": it was stopped before it could say so
    while not job.log.read_text():
        here.start(job)
        while not here.ended():
            time.sleep(0.02)
    assert job.log.read_text() == "3\n"


def test_a_child_waits_for_its_folder(tmp_path):
    held = FolderLock(tmp_path / "run")
    code = (
        f"from tiltrl.experiments.child import patient_lock; patient_lock({str(tmp_path / 'run')!r}, 60); print('in')"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        time.sleep(1.5)
        assert process.poll() is None
        held.close()
        said, _ = process.communicate(timeout=30)
    assert said == "in\n"
    assert patient_lock(str(tmp_path / "run"), 0.0)


def test_a_child_ends_as_interrupted_when_its_parent_is_gone(tmp_path):
    words = [sys.executable, "-m", "tiltrl.experiments.child", str(tmp_path / "run"), "run", "demo"]
    words += ["--out", str(tmp_path / "run"), "--budget", "0.5"]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    _, said = process.communicate(timeout=60)  # closes its standard input, as a parent does that is killed
    assert process.returncode == 3, said
