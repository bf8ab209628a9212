"""Commands as child processes of this one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tiltrl.errors import InputError
from tiltrl.experiments.cell import Job
from tiltrl.experiments.record import Record, failed, finished
from tiltrl.files import make_folder

DONE, INTERRUPTED = 0, 3  # exit statuses of `tiltrl` (tiltrl.main)
TELL_AGAIN = 30.0
"""Seconds after which a child that was asked to stop is asked again."""

Program = Callable[[Job], list[str]]
"""The words that start a job's process."""


def child_of(job: Job) -> list[str]:
    """The job's command, in a process that knows when this one is gone."""
    return [sys.executable, "-m", "tiltrl.experiments.child", str(job.folder), *job.words]


@dataclass(frozen=True)
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    began: float


class Local:
    """Runs jobs on this machine."""

    def __init__(
        self,
        threads: int | None = None,
        program: Program = child_of,
        *,
        place: Path | None = None,
        compilations: Path | None = None,
    ):
        """None are running yet.

        Args:
            threads: that a command may compute with; None: as many as it likes.
            program: what starts a job's process.
            place: the folder that commands are started in, which relative paths of data sets mean; None: this one.
            compilations: a folder through which commands share what they compile, unless the user has said where.
        """
        self._program, self._place = program, place
        self._environment = _environment(threads, compilations)
        self._running: list[_Running] = []
        self._stillborn: list[Record] = []

    def start(self, job: Job) -> None:
        """Start the job's command; what it says goes to its log. One that cannot be started has failed, like others."""
        began = time.monotonic()
        try:
            job.result.unlink(missing_ok=True)  # of the folder's previous cell
            make_folder(job.log.parent)
            with open(job.log, "wb") as log:
                process = subprocess.Popen(
                    self._program(job),
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self._environment,
                    cwd=self._place,
                    start_new_session=True,  # Ctrl-C is for this process, which then stops its children in order
                )
        except (InputError, OSError) as error:
            told = f"the command cannot be started: {' '.join(str(error).split())}"
            self._stillborn.append(failed(job, time.monotonic() - began, told))
            return
        self._running.append(_Running(job, process, began))

    def ended(self) -> list[Record]:
        """What came of the jobs that have ended since this was last asked."""
        over = [running for running in self._running if running.process.poll() is not None]
        self._running = [running for running in self._running if running not in over]
        stillborn, self._stillborn = self._stillborn, []
        return [*stillborn, *map(_outcome, over)]

    def stop(self) -> list[Record]:
        """Interrupt what is running, and wait until it has saved its work; what came of jobs that were done by then."""
        while any(running.process.poll() is None for running in self._running):
            for running in self._running:
                running.process.send_signal(signal.SIGINT)  # nothing where it has ended
            until = time.monotonic() + TELL_AGAIN
            for running in self._running:
                with suppress(subprocess.TimeoutExpired):
                    running.process.wait(max(0.0, until - time.monotonic()))
        return [record for record in self.ended() if record.state == "done"]


def _environment(threads: int | None, compilations: Path | None) -> dict[str, str]:
    """Of a child: its share of the cores and the common compilations, unless the user has said so; lines as they come.

    Cells of one data set's sizes train by the same programs, which take a minute to compile.
    """
    usual = {} if threads is None else {"NPROC": str(threads), "OMP_NUM_THREADS": str(threads)}  # XLA's, and BLAS's
    if compilations is not None:
        usual |= {"JAX_COMPILATION_CACHE_DIR": str(compilations), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5"}
    return usual | os.environ | {"PYTHONUNBUFFERED": "1"}


def _outcome(running: _Running) -> Record:
    job, seconds = running.job, time.monotonic() - running.began
    if running.process.stdin is not None:
        running.process.stdin.close()
    status = running.process.returncode
    try:
        if status != DONE:
            return failed(job, seconds, _why(status, job.log))
        for drawn, kept in job.pictures:
            make_folder(kept.parent)
            shutil.copyfile(drawn, kept)
        return finished(job, seconds)
    except (InputError, OSError) as error:
        return failed(job, seconds, " ".join(str(error).split()))


def _why(status: int, log: Path) -> str:
    """One line on how a command ended."""
    if status < 0:
        name = signal.Signals(-status).name if -status in list(signal.Signals) else f"signal {-status}"
        hint = "; perhaps the memory was full" if -status == signal.SIGKILL else ""
        return f"it was killed by {name}{hint}"
    said = last_line(log).removeprefix("tiltrl: ").removeprefix("error: ")
    if status == INTERRUPTED:
        return f"it was interrupted by somebody else ({said})"
    return said or f"it ended with status {status} and said nothing"


def last_line(log: Path) -> str:
    """The last line that a command has said; "" where it has not said anything."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:500] if lines else ""
