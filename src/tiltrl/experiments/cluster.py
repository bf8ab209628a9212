"""Commands as tasks of a Ray cluster: each reserves what it needs, and is tried elsewhere when its worker is lost."""

from __future__ import annotations

import logging
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from tiltrl.errors import InputError
from tiltrl.experiments.cell import Job
from tiltrl.experiments.local import Local, Program, child_of
from tiltrl.experiments.record import Record, failed
from tiltrl.experiments.schedule import PAUSE
from tiltrl.signals import STOPS

RETRIES = 3
"""How often a job is started again that was lost with its worker; an error of its own is not tried again."""
STOP_SECONDS = 120.0
"""How long a job may take to save its work."""
_ANSWER_SECONDS = 10.0
_STORE_BYTES = 100_000_000  # of a cluster of our own, where all that is passed on are tables of scores


def ray_library() -> ModuleType:
    """Ray.

    Raises:
        InputError: it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise InputError("a cluster is reached by Ray, which is not here: `pip install 'tiltrl[ray]'`") from error
    return ray


def run_job(job: Job, threads: int, program: Program, place: Path) -> Record:
    """The task: a child process of whichever worker got it, which is interrupted when the task is."""
    here = Local(threads, program, place=place)
    try:
        here.start(job)
        while not (found := here.ended()):
            time.sleep(PAUSE)
        return found[0]
    finally:
        here.stop()


class Cluster:
    """Runs jobs on a Ray cluster; use as a context manager."""

    def __init__(self, address: str, cpus: float, gpus: float, program: Program = child_of):
        """Join the cluster, or start one.

        Args:
            address: of the cluster as Ray takes it; `local`: of one that is started here and ends with this object.
            cpus: that a job reserves.
            gpus: likewise.
            program: what starts a job's process.

        Raises:
            InputError: Ray is not installed, there is no such cluster, or no machine of it could ever run a job.
        """
        self._ray = ray = ray_library()
        _refuse_silent(address)
        where: dict[str, Any] = {"address": address}
        if address == "local":
            where |= {"include_dashboard": False, "object_store_memory": _STORE_BYTES}
        try:
            with _own_signals():
                ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError(f"ray = {address}: no cluster there: {' '.join(str(error).split())[:300]}") from error
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        fits = [min(_times(node, "CPU", cpus), _times(node, "GPU", gpus)) for node in nodes]
        self.at_once = int(sum(fits))
        if not self.at_once:
            ray.shutdown()
            raise InputError(f"ray = {address}: none of its {len(nodes)} machines has {cpus:g} cores and {gpus:g} GPUs")
        self._task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES)(run_job)
        self._threads, self._program = max(1, int(cpus)), program
        self._running: dict[Any, tuple[Job, float]] = {}

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self._ray.shutdown()

    def start(self, job: Job) -> None:
        """Hand it to the cluster, which starts it where and when there is room."""
        task = self._task.remote(job, self._threads, self._program, Path.cwd())
        self._running[task] = job, time.monotonic()

    def ended(self) -> list[Record]:
        """What came of the jobs that have ended since this was last asked."""
        if not self._running:
            return []
        over, _ = self._ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
        return [self._outcome(task) for task in over]

    def stop(self) -> list[Record]:
        """Interrupt what is running, and wait until it has saved its work; what came of jobs that were done by then."""
        tasks = list(self._running)
        for task in tasks:
            self._ray.cancel(task)
        if tasks:
            self._ray.wait(tasks, num_returns=len(tasks), timeout=STOP_SECONDS)
        return [record for record in self.ended() if record.state == "done"]

    def _outcome(self, task: Any) -> Record:
        job, began = self._running.pop(task)
        try:
            return self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            told = " ".join(str(error).split())[:300]
            return failed(job, time.monotonic() - began, f"Ray: {type(error).__name__}: {told}")


def _refuse_silent(address: str) -> None:
    """Ask whether anybody listens there, since Ray itself would for many minutes.

    Raises:
        InputError: nobody does, or the host is unknown.
    """
    if not (found := re.fullmatch(r"(?:ray://)?\[?([^/]+?)\]?:(\d{1,5})", address)):
        return  # `auto`, `local`: answered by Ray at once
    try:
        socket.create_connection((found[1], int(found[2])), timeout=_ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"ray = {address}: no cluster there: {' '.join(str(error).split())}") from error


def _times(node: dict[str, float], resource: str, amount: float) -> float:
    """How many jobs a machine has enough of a resource for."""
    return node.get(resource, 0.0) // amount if amount > 0 else float("inf") if node.get("CPU") else 0.0


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep the handlers of signals that are there; Ray puts its own, which ends the process on the spot."""
    handlers = {number: signal.getsignal(number) for number in STOPS}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():  # Ray, too, could not have changed them elsewhere
            for number, handler in handlers.items():
                signal.signal(number, handler)
