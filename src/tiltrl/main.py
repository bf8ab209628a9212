"""Entry point of `tiltrl`: however a command ends, it ends with one line and one of four exit statuses.

0: done. 2: the input cannot be used, or the machine refuses (disk full, no permission, too little memory). 3:
interrupted; the same command goes on from what is saved. 1: a bug of ours, whose traceback is saved.

Signals are taken care of before anything else is imported, so this module imports next to nothing itself.
"""

from __future__ import annotations

import atexit
import errno
import os
import shlex
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from tiltrl.errors import InputError
from tiltrl.signals import STOPS

DONE, BUG, BAD_INPUT, INTERRUPTED = 0, 1, 2, 3

# What a disk, a file system or the limits of a process say no with. Other errors of files are our bugs.
REFUSALS = {
    getattr(errno, name)
    for name in "EACCES EDQUOT EFBIG EIO EMFILE ENAMETOOLONG ENFILE ENOLCK ENOMEM ENOSPC EPERM EROFS ESTALE".split()
    if hasattr(errno, name)
}
PACKAGES = ("tiltrl", "jax", "jaxlib", "equinox", "optax", "numpy", "gymnasium", "minari", "safetensors")


def main() -> NoReturn:
    """Run the command line in `sys.argv`, and end the process."""
    status = DONE

    @atexit.register  # as the first, so it is called as the last
    def end() -> None:
        if status == INTERRUPTED:
            os._exit(status)  # native threads may be at work still, and crash while the interpreter is taken down

    _on_stop(_leave_at_once)
    try:
        from tiltrl.cli import main as command_line
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "tiltrl":
            raise
        sys.exit(
            _end(
                BAD_INPUT,
                f"error: {error.name} is not installed: run exported policies by `python -m tiltrl.runtime FILE`, or "
                "install everything with `pip install tiltrl`",
            )
        )

    # Python drops what is raised in a destructor or a callback of the garbage collector; an interrupt must not be lost.
    sys.unraisablehook = _again_if_interrupt
    try:
        _on_stop(_interrupt)
        status = answer(command_line)
        _heed_no_more()
    except KeyboardInterrupt:  # in the moment before `answer` begins, or when it has caught what ended the command
        status = _interrupted()
    _on_stop(lambda *_: os._exit(status))  # another signal while the interpreter shuts down changes nothing
    if status in (BUG, BAD_INPUT) and _trains_along():
        os._exit(status)  # at exit JAX would wait for the other processes, who do not know, and then abort
    sys.exit(status)


def answer(command: Callable[[], object]) -> int:
    """Run the command; say in one line on stderr how it ended, unless well, and return the exit status.

    From then on further signals change nothing.
    """
    try:
        command()
        sys.stdout.flush()
    except SystemExit as end:  # of --help
        _heed_no_more()
        if end.code is None or isinstance(end.code, int):
            return end.code or DONE
        return _end(BUG, _one_line(end.code))
    except KeyboardInterrupt:
        return _interrupted()
    except Exception as error:
        _heed_no_more()
        if isinstance(error, BrokenPipeError) or (isinstance(error, OSError) and _output_is_lost()):
            return _interrupted(": nobody reads its output any more")
        if (reason := _refusal(error)) is None:
            return _end(BUG, _report(error))
        if _stopped(error):
            return _interrupted(f", and while it stopped: {reason}")
        return _end(BAD_INPUT, f"error: {reason}")
    return DONE


def _interrupted(how: str = "") -> int:
    _heed_no_more()
    return _end(INTERRUPTED, f"interrupted{how}; the same command goes on from what is saved, if anything is")


def _stopped(error: BaseException | None) -> bool:
    """Whether it was raised while an interrupted command ended."""
    if error is None or isinstance(error, KeyboardInterrupt):
        return error is not None
    return _stopped(error.__cause__) or _stopped(error.__context__)


def _refusal(error: Exception) -> str | None:
    """What the user can change, in one line; None of a bug."""
    if isinstance(error, InputError):
        return _one_line(error)
    if isinstance(error, OSError) and error.errno in REFUSALS:
        return f"{_one_line(error.filename or 'a file could not be read or written')}: {error.strerror}"
    # JAX's class has had several names; importing it here would cost more than the message tells.
    if isinstance(error, MemoryError) or str(error).startswith("RESOURCE_EXHAUSTED"):
        return (
            f"not enough memory ({_one_line(str(error)[:200]) or 'none is left'}): lower --seeds or --episodes, or "
            "give fewer --beta at a time; data larger than memory is read from disk once it is converted with "
            "`tiltrl data convert DATASET --to shards --out FOLDER`"
        )
    if "Gloo" in str(error):  # JAX's connection between processes on CPUs
        return (
            "another process that trained along has ended, and says itself why; start all of them again with the same "
            "commands: they go on from what is saved"
        )
    return None


def _trains_along() -> bool:
    """Whether this is one of several processes (`tiltrl.training.hosts`)."""
    return "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized()


def _report(error: Exception) -> str:
    """Save what we need to know of a bug; returns the line for the user."""
    versions = (f"{name} {_version(name)}" for name in PACKAGES)
    text = (
        f"command: {shlex.join(sys.argv)}\n"
        f"versions: python {sys.version.split()[0]} on {sys.platform}, {', '.join(versions)}\n\n"
        + "".join(traceback.format_exception(error))
    )
    name = f"tiltrl-error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    for path in (Path(name), Path(tempfile.gettempdir(), name)):
        try:
            path.write_text(text, errors="backslashreplace")
        except OSError:
            continue
        return f"bug: {_describe(error)}; please report it with {path}"
    print(text, file=sys.stderr)  # nowhere to save it
    return f"bug: {_describe(error)}; please report it with the lines above"


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {_one_line(str(error)[:200])}"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _one_line(value: Any) -> str:
    """Without line breaks and other control characters, which a name from outside may hold."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())


def _end(status: int, line: str) -> int:
    with suppress(OSError):  # the terminal is gone
        print(f"tiltrl: {line}", file=sys.stderr, flush=True)
    _output_is_lost()
    return status


def _output_is_lost() -> bool:
    """Whether nobody reads it; what is still to be printed then goes nowhere, instead of failing again at exit."""
    lost = False
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            lost |= error.errno in (errno.EPIPE, errno.EIO)  # a pipe's reader has ended, a terminal was closed
    return lost


# --- Signals ----------------------------------------------------------------------------------------------------------


def _on_stop(handler: Callable[[int, FrameType | None], object]) -> None:
    for number in STOPS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup and shells ask for
            signal.signal(number, handler)


def _leave_at_once(*_: object) -> NoReturn:
    """While modules are imported an exception could be caught by one of them, and there is nothing to save yet."""
    os.write(2, b"tiltrl: interrupted before it began; nothing was changed\n")
    os._exit(INTERRUPTED)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _heed_no_more() -> None:
    """Let signals that come while a command's end is told change nothing."""
    for number in [*STOPS, *([signal.SIGALRM] if hasattr(signal, "SIGALRM") else [])]:
        if signal.getsignal(number) is _interrupt:  # and not a handler of whoever called `answer`
            signal.signal(number, _nothing)


def _nothing(*_: object) -> None: ...


def _again_if_interrupt(lost: Any) -> None:
    if issubclass(lost.exc_type, KeyboardInterrupt) and hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, _interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.01)  # once this function and the destructor have returned
    else:
        sys.__unraisablehook__(lost)
