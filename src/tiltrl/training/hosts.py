"""Processes on several machines that train together: how they find each other, and that they are asked for the same.

Whatever is wrong is found here, in a conversation of one line each way over a plain socket, before JAX's own starts on
the same port: that one knows no wrong answers, only an end of the process.
"""

from __future__ import annotations

import json
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from tiltrl.errors import InputError
from tiltrl.files import reason

PATIENCE = 300.0
"""Seconds that processes wait for each other at the start; each has its data loaded by then."""
_LINE_BYTES = 1 << 16
_TO_SPEAK = 5.0  # seconds that a connection may take to say something


@dataclass(frozen=True)
class Hosts:
    """Which processes train together. All are started with the same command, but for `--process`."""

    coordinator: str | None = None
    """Where process 0 listens, as HOST:PORT, an address of its machine that the others reach (docs/scaling.md)."""
    processes: int = 1
    """How many processes train together, such as one a machine."""
    process: int = 0
    """Which of them this is, from 0. Number 0 keeps the run's folder; the others keep nothing."""

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the coordinator.

        Raises:
            InputError: the options contradict each other.
        """
        if self.processes < 1:
            raise InputError(f"processes = {self.processes}; give their number, at least 1")
        if not 0 <= self.process < self.processes:
            raise InputError(
                f"process = {self.process}; of {self.processes} it must lie in 0 to {self.processes - 1} (give "
                "--processes)"
            )
        host, _, port = (self.coordinator or "").rpartition(":")
        if (self.processes > 1 or self.coordinator) and not (host and port.isdecimal() and 0 < int(port) < 65536):
            raise InputError(f"coordinator = {self.coordinator!r}; give HOST:PORT, such as 10.0.0.1:7000")
        return host, int(port or 0)

    @contextmanager
    def folder(self, given: Path) -> Iterator[Path]:
        """Where this process works: the given folder in the first one, else a folder that is thrown away."""
        if self.process == 0:
            yield given
            return
        with tempfile.TemporaryDirectory(prefix="tiltrl-", ignore_cleanup_errors=True) as thrown_away:
            yield Path(thrown_away)


def join(hosts: Hosts, asked: Mapping[str, Any], say: Callable[[str], None], patience: float = PATIENCE) -> None:
    """Have the devices of all processes in this one; to be called before anything is computed. Alone, do nothing.

    Args:
        hosts: the processes.
        asked: all that decides what is computed, by its name; must be the same in each.
        say: hears of whom is waited for.
        patience: seconds to wait.

    Raises:
        InputError: the others do not come, or are asked for something else; in every process that has come.
    """
    host, port = hosts.address
    if hosts.processes == 1:
        return
    asked = {name: str(value) for name, value in asked.items()} | {"processes": str(hosts.processes)}
    asked |= {name: metadata.version(name) for name in ("tiltrl", "jax", "jaxlib")}
    if hosts.process == 0:
        say(f"waiting at {hosts.coordinator} for {hosts.processes - 1} other process(es)")
        _receive(host, port, hosts.processes, asked, patience)
    else:
        say(f"waiting for process 0 at {hosts.coordinator}")
        _introduce(host, port, hosts.process, asked, patience)
    # Signals are the session's to catch: it stops all processes after the same step.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        hosts.coordinator,
        hosts.processes,
        hosts.process,
        coordinator_bind_address=hosts.coordinator,  # and not on every interface, as is usual
        shutdown_timeout_seconds=10,
    )


def _receive(host: str, port: int, processes: int, asked: dict[str, str], patience: float) -> None:
    """Process 0: wait for the others, and tell all whether they belong together."""
    deadline = time.monotonic() + patience
    with ExitStack() as stack:
        try:
            server = stack.enter_context(socket.create_server((host, port)))
        except OSError as error:
            raise InputError(
                f"coordinator = {host}:{port}: cannot listen there: {reason(error)}; give an address of process 0's "
                "machine, and a port that is free"
            ) from error
        peers: dict[int, socket.socket] = {}
        wrong = None
        while len(peers) < processes - 1 and wrong is None:
            server.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                peer = stack.enter_context(server.accept()[0])
            except TimeoutError:
                missing = ", ".join(str(i) for i in range(1, processes) if i not in peers)
                wrong = f"process {missing} of {processes} did not come within {patience:g} seconds"
                break
            match _line(peer, _TO_SPEAK):
                case {"process": int(process), "asked": dict(theirs)}:
                    twice = f"two processes were started with --process {process}" if process in peers else None
                    wrong = twice or _difference(process, theirs, asked)
                    peers[process] = peer
                case _:
                    pass  # somebody else
        for peer in peers.values():
            _say(peer, {"wrong": wrong})
    if wrong is not None:
        raise InputError(wrong)


def _introduce(host: str, port: int, process: int, asked: dict[str, str], patience: float) -> None:
    """Another process: say to the first what it is asked for, and hear whether all belong together."""
    deadline = time.monotonic() + patience
    while True:
        try:
            server = socket.create_connection((host, port), timeout=_TO_SPEAK)
            break
        except OSError as error:
            if time.monotonic() > deadline:
                raise InputError(
                    f"coordinator = {host}:{port}: not reached within {patience:g} seconds: {reason(error)}; start "
                    "process 0 on that machine, and let the port through"
                ) from error
            time.sleep(0.2)
    with server:
        _say(server, {"process": process, "asked": asked})
        answer = _line(server, patience + _TO_SPEAK)  # which comes once all are there
    if answer is None:
        raise InputError(f"coordinator = {host}:{port}: process 0 has ended, or something else listens there")
    if (wrong := answer.get("wrong")) is not None:
        raise InputError(str(wrong))


def _difference(process: int, theirs: dict[str, Any], asked: dict[str, str]) -> str | None:
    """The first thing that two processes were not asked alike."""
    for name, value in asked.items():
        if theirs.get(name) != value:
            return (
                f"{name} = {theirs.get(name)} in process {process}, but {value} in process 0; start all with the same "
                "command, data and versions"
            )
    return None


def _say(peer: socket.socket, words: dict[str, Any]) -> None:
    try:
        peer.sendall(json.dumps(words).encode() + b"\n")
    except OSError as error:
        raise InputError(f"a process ended while the others were waited for: {reason(error)}") from error


def _line(peer: socket.socket, patience: float) -> dict[str, Any] | None:
    """What a peer says, an object in one line; None where it says nothing or something else."""
    peer.settimeout(patience)
    try:
        with peer.makefile("rb") as file:
            words = json.loads(file.readline(_LINE_BYTES))
    except (OSError, ValueError):
        return None
    return words if isinstance(words, dict) else None
