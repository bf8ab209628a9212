"""A process that has imported `tiltrl` once and forks a child for each command: a real process without the start-up.

    with Zygote() as zygote:
        child = zygote.start(["run", "demo"], cwd=folder, out=folder / "out", err=folder / "err")
        child.kill(signal.SIGKILL)
        assert child.wait(60) == -signal.SIGKILL

The child runs `tiltrl.main.main` as the console script does. No JAX backend exists before the fork, because its threads
would not survive it. Whatever was started ends with the test: the server kills its children when its standard input
closes, and the kernel kills them when the server dies.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# Imported where they are used, which in a child would cost its start-up again.
LATE = (
    "diffrax",
    "matplotlib.backends.backend_agg",
    "matplotlib.patheffects",
    "mujoco",
    "scipy.stats",
    "sklearn.datasets",
)
PR_SET_PDEATHSIG = 1


class Child:
    """A command that was started."""

    def __init__(self, zygote: Zygote, pid: int) -> None:
        self.pid = pid
        self._zygote = zygote

    def kill(self, signum: int) -> None:
        """Send the signal; nothing happens when the child has ended."""
        self._zygote._ask({"kill": self.pid, "signum": int(signum)})

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        try:
            return self.wait(0)
        except TimeoutError:
            return None

    def wait(self, timeout: float) -> int:
        """The exit status once the child has ended: the number of the signal that ended it, negative, if one did.

        Raises:
            TimeoutError: it still runs.
        """
        return self._zygote._result(self.pid, timeout)


class Zygote:
    """The server, as its users see it; a context. Not for several threads at once."""

    def __init__(self, env: Mapping[str, str] | None = None) -> None:
        """Start importing; `env` is added to this process's environment for what is read at import."""
        environment = {**os.environ, "MPLBACKEND": "Agg", **(env or {})}
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C in a terminal is for the tests, who then close the server
        )
        self._unread = b""
        self._started: list[int] = []
        self._ended: dict[int, int] = {}

    def __enter__(self) -> Zygote:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill whatever runs, and end."""
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.close()
        try:
            self._server.wait(30)
        finally:
            self._server.kill()
            self._server.stdout.close()

    def start(
        self,
        argv: Sequence[str],
        *,
        cwd: str | os.PathLike[str],
        out: str | os.PathLike[str],
        err: str | os.PathLike[str],
        env: Mapping[str, str] | None = None,
        before: str = "",
    ) -> Child:
        """Run `tiltrl *argv` in a child, with stdout and stderr in files.

        Args:
            argv: the command line after `tiltrl`.
            cwd: the child's working folder.
            out: receives its stdout.
            err: receives its stderr.
            env: added to the server's environment.
            before: Python statements to run in the child first, such as to make a function fail.
        """
        paths = {"cwd": os.path.abspath(cwd), "out": os.path.abspath(out), "err": os.path.abspath(err)}
        self._ask({"argv": list(argv), "env": dict(env or {}), "before": before, **paths})
        while not self._started:
            self._read(120.0)
        return Child(self, self._started.pop())

    def _ask(self, request: dict[str, Any]) -> None:
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(request).encode() + b"\n")
        self._server.stdin.flush()

    def _result(self, pid: int, timeout: float) -> int:
        deadline = time.monotonic() + timeout
        while pid not in self._ended:
            self._read(max(0.0, deadline - time.monotonic()))
        return self._ended[pid]

    def _read(self, timeout: float) -> None:
        """Take in what the server says next."""
        assert self._server.stdout is not None
        if not select.select([self._server.stdout], [], [], timeout)[0]:
            raise TimeoutError(f"nothing from the server of processes within {timeout:.1f} s")
        found = os.read(self._server.stdout.fileno(), 1 << 16)
        if not found:
            raise RuntimeError(f"the server of processes has ended with status {self._server.wait(10)}")
        *lines, self._unread = (self._unread + found).split(b"\n")
        for line in lines:
            said = json.loads(line)
            if "started" in said:
                self._started.append(said["started"])
            else:
                self._ended[said["ended"]] = said["status"]


# --- The server's process ---------------------------------------------------------------------------------------------


def _import_everything() -> None:
    import tiltrl

    for module in pkgutil.walk_packages(tiltrl.__path__, "tiltrl."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in LATE:
        importlib.import_module(name)
    from jax._src import xla_bridge

    assert not xla_bridge.backends_are_initialized(), "some module makes arrays of JAX while it is imported"


def _serve() -> dict[str, Any] | None:
    """Fork a child for each request; returns in each child what it is to run, and None in the server at the end."""
    waking, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: set[int] = set()
    unread = b""
    while True:
        ready = select.select([0, waking], [], [])[0]
        if waking in ready:
            os.read(waking, 1 << 10)
        for pid, status in _reaped(running):
            _say({"ended": pid, "status": status})
        if 0 not in ready:
            continue
        found = os.read(0, 1 << 16)
        if not found:
            for pid in running:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            return None
        *lines, unread = (unread + found).split(b"\n")
        for request in map(json.loads, lines):
            if "kill" in request:
                if request["kill"] in running:  # not reaped, so the number is still the child's
                    os.kill(request["kill"], request["signum"])
                continue
            server = os.getpid()
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                os.close(waking)
                os.close(woken)
                _die_with(server)
                return request
            running.add(pid)
            _say({"started": pid})


def _reaped(running: set[int]) -> Iterator[tuple[int, int]]:
    """The children that have ended, and their statuses."""
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        running.remove(pid)
        yield pid, os.waitstatus_to_exitcode(status)


def _say(said: dict[str, int]) -> None:
    os.write(1, json.dumps(said).encode() + b"\n")


def _die_with(server: int) -> None:
    """Have the kernel kill this process when the server dies."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != server:  # it died before the call
            os._exit(1)


def _become(request: dict[str, Any]) -> None:
    """Take on the request's folder, environment and streams."""
    os.chdir(request["cwd"])
    os.environ.update(request["env"])
    sys.argv = ["tiltrl", *request["argv"]]
    for number, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, request["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        (2, request["err"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    ):
        opened = os.open(path, flags, 0o644)
        os.dup2(opened, number)
        os.close(opened)


def _main() -> None:
    warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)  # of NumPy's idle threads
    _import_everything()
    gc.freeze()  # a collection in a child would copy what it shares with the server
    request = _serve()
    if request is None:
        return
    _become(request)
    exec(request["before"], {})
    from tiltrl.main import main

    status = 1
    try:
        main()
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        # All that Python does at exit except to take every imported module apart, which is slow after a fork.
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    _main()
