"""How `tiltrl` ends: with one line and the right status, whatever happened."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tiltrl
from tiltrl import main
from tiltrl.errors import InputError


def raising(error: BaseException):
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (InputError("x.npz: is\nbad"), 2, "error: x.npz: is bad"),
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), 2, "error: a/b: No space left on device"),
        (OSError(errno.EIO, "Input/output error", "a\nb"), 2, "error: a b: Input/output error"),
        (PermissionError(errno.EACCES, "Permission denied", "a"), 2, "error: a: Permission denied"),
        (OSError(errno.EMFILE, "Too many open files"), 2, "error: a file could not be read or written: Too many"),
        (MemoryError("Unable to allocate 9 TiB"), 2, "error: not enough memory (Unable to allocate 9 TiB): lower"),
        (MemoryError(), 2, "error: not enough memory (none is left): lower"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory\nallocating"), 2, "error: not enough memory (RESOURCE_EXH"),
        (KeyboardInterrupt(), 3, "interrupted; the same command goes on from what is saved"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_no_bug_is_one_line(error, status, line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main.answer(raising(error)) == status
    printed, said = capsys.readouterr()
    assert said.startswith(f"tiltrl: {line}") and said.count("\n") == 1 and not printed
    assert not list(tmp_path.iterdir())


def test_where_only_the_runtime_is_installed_one_line_says_so():
    code = "import sys; sys.modules['tyro'] = None; from tiltrl.main import main; main()"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 2 and found.stderr.count("\n") == 1
    assert found.stderr.startswith("tiltrl: error: tyro is not installed: run exported policies by `python -m tiltrl.")


def test_done_and_help_are_silent(capsys):
    assert main.answer(lambda: None) == 0
    assert main.answer(raising(SystemExit(0))) == 0
    assert main.answer(raising(SystemExit())) == 0
    assert capsys.readouterr() == ("", "")


def test_an_exit_with_a_text_is_a_failure_that_says_it(capsys):
    assert main.answer(raising(SystemExit("no\nway"))) == 1
    assert capsys.readouterr() == ("", "tiltrl: no way\n")


def test_what_fails_while_an_interrupted_command_ends_does_not_replace_the_interruption(capsys):
    def command() -> None:
        try:
            raise KeyboardInterrupt
        finally:
            try:
                raise OSError(errno.ENOSPC, "No space left on device", "a")
            except OSError as error:
                raise InputError("a: cannot be written: No space left on device") from error

    assert main.answer(command) == 3
    said = capsys.readouterr().err
    assert said.startswith("tiltrl: interrupted, and while it stopped: a: cannot be written: No space left on device; ")


@pytest.mark.parametrize("error", [KeyError("x"), FileNotFoundError(errno.ENOENT, "No such file", "a"), ValueError()])
def test_a_bug_is_a_hint_and_a_saved_traceback(error, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["tiltrl", "run", "a b"])
    assert main.answer(raising(error)) == 1
    said = capsys.readouterr().err
    (file,) = tmp_path.iterdir()
    assert re.fullmatch(rf"tiltrl: bug: {type(error).__name__}: .*; please report it with {file.name}\n", said)
    report = file.read_text()
    assert "command: tiltrl run 'a b'\n" in report
    assert re.search(r"versions: python 3\.\d+.*, tiltrl \d.*, jax \d", report)
    assert "Traceback" in report and type(error).__name__ in report


def test_a_report_that_the_working_folder_does_not_take_goes_to_the_temporary_one(capsys, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert main.answer(raising(KeyError())) == 1
    (file,) = tmp_path.iterdir()
    assert f"report it with {file}" in capsys.readouterr().err


def start(*code: str, **options) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", "\n".join(code)], stderr=subprocess.PIPE, text=True, start_new_session=True, **options
    )


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_while_modules_are_imported_ends_it_in_one_line(signum, tmp_path):
    # A command line whose import swallows every exception, as some packages do, and takes forever.
    slow = (
        "import time\nprint('importing', flush=True)\nwhile True:\n try: time.sleep(9)\n except BaseException: pass\n"
    )
    (tmp_path / "slow.py").write_text(slow)
    process = start(
        "import sys, importlib",
        "from tiltrl.main import main",
        f"sys.path.insert(0, {str(tmp_path)!r})",
        "class Finder:",
        "    def find_spec(self, name, path=None, target=None):",
        "        if name == 'tiltrl.cli': import slow",
        "sys.meta_path.insert(0, Finder())",
        "main()",
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stdout.readline() == "importing\n"
    process.send_signal(signum)
    _, said = process.communicate(timeout=300)
    assert (process.returncode, said) == (3, "tiltrl: interrupted before it began; nothing was changed\n")


@pytest.mark.parametrize("where", ["time.sleep(60)", "lose(); time.sleep(60)"], ids=["anywhere", "in a destructor"])
def test_a_signal_while_the_command_runs_is_an_interruption(where):
    process = start(
        "import time, tiltrl.cli, tiltrl.main",
        "class Slow:",
        "    def __del__(self): print('running', flush=True); time.sleep(60)",
        "def lose(): Slow()",
        "def command():",
        f"    {'' if 'lose' in where else 'print(chr(114) + chr(117), flush=True);'} {where}",
        "tiltrl.cli.main = command",
        "tiltrl.main.main()",
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stdout.readline().startswith("ru")
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=300)
    assert (process.returncode, said) == (
        3,
        "tiltrl: interrupted; the same command goes on from what is saved, if anything is\n",
    )


@pytest.mark.parametrize(
    ("first", "status", "line"),
    [
        ("KeyboardInterrupt", 3, "interrupted; the same command goes on from what is saved, if anything is"),
        ("tiltrl.errors.InputError('x: is bad')", 2, "error: x: is bad"),
    ],
)
@pytest.mark.parametrize("second", ["SIGTERM", "SIGINT", "SIGHUP", "SIGALRM"])
def test_a_second_signal_while_the_end_is_told_changes_nothing(first, status, line, second):
    process = start(
        "import os, signal, sys, tiltrl.cli, tiltrl.errors, tiltrl.main",
        "class Told:",
        "    def __getattr__(self, name): return getattr(sys.__stderr__, name)",
        f"    def write(self, text): os.kill(os.getpid(), signal.{second}); sys.__stderr__.write(text)",
        "def command():",
        # As a destructor's lost interrupt asks for.
        "    signal.signal(signal.SIGALRM, tiltrl.main._interrupt)",
        "    sys.stderr = Told()",
        f"    raise {first}",
        "tiltrl.cli.main = command",
        "tiltrl.main.main()",
    )
    _, said = process.communicate(timeout=300)
    assert (process.returncode, said) == (status, f"tiltrl: {line}\n")


def test_a_signal_just_before_the_command_is_an_interruption():
    process = start(
        "import os, signal, tiltrl.cli, tiltrl.main",
        "tiltrl.main.answer = lambda command: os.kill(os.getpid(), signal.SIGTERM)",
        "tiltrl.main.main()",
    )
    _, said = process.communicate(timeout=300)
    assert (process.returncode, said) == (
        3,
        "tiltrl: interrupted; the same command goes on from what is saved, if anything is\n",
    )


def test_what_would_crash_while_the_interpreter_is_taken_down_does_not_after_an_interrupt():
    process = start(
        "import atexit, ctypes, tiltrl.cli, tiltrl.main",
        "def command():",
        "    libc = ctypes.CDLL(None)",
        "    libc.__cxa_atexit(libc.abort, None, None)",
        "    atexit.register(print, 'locks are let go', flush=True)",
        "    raise KeyboardInterrupt",
        "tiltrl.cli.main = command",
        "tiltrl.main.main()",
        stdout=subprocess.PIPE,
    )
    printed, _ = process.communicate(timeout=300)
    assert (process.returncode, printed) == (3, "locks are let go\n")


@pytest.mark.parametrize("say", ["", "progress.say('x')"], ids=["the bars alone", "a line too"])
def test_a_closed_terminal_is_an_interruption(say, tmp_path):
    control, terminal = os.openpty()
    process = start(
        "import fcntl, os, sys, termios, time, tiltrl.cli, tiltrl.main",
        "fcntl.ioctl(0, termios.TIOCSCTTY, 0)",
        "from tiltrl.progress import LiveProgress",
        "from rich.console import Console",
        "def command():",
        "    with LiveProgress(Console(force_terminal=True)) as progress:",
        "        progress.start('a stage', 10)",
        "        os.write(1, b'running')",
        "        try: time.sleep(60)",
        "        except KeyboardInterrupt:",
        f"            {say or 'pass'}",
        "            raise",
        "tiltrl.cli.main = command",
        "tiltrl.main.main()",
        stdin=terminal,
        stdout=terminal,
        cwd=tmp_path,
    )
    os.close(terminal)
    shown = b""
    while b"running" not in shown:
        shown += os.read(control, 4096)
    os.close(control)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 3, said
    assert said.startswith("tiltrl: interrupted") and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_output_that_nobody_reads_is_no_bug(tmp_path):
    read, write = os.pipe()
    os.close(read)
    command = "import tiltrl.main as m, sys; sys.exit(m.answer(lambda: print('x' * 100)))"
    process = start(command, stdout=write, cwd=tmp_path)
    os.close(write)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 3
    assert said.startswith("tiltrl: interrupted: nobody reads its output") and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_entry_point_imports_next_to_nothing():
    code = "import sys, tiltrl.main; print(sorted({name.partition('.')[0] for name in sys.modules}))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {name for name in ("jax", "numpy", "tyro", "rich", "gymnasium") if f"'{name}'" in found}


def test_the_package_offers_its_names_before_they_are_imported():
    assert set(tiltrl.__all__) <= set(dir(tiltrl))
    assert all(hasattr(tiltrl, name) for name in tiltrl.__all__)
    assert tiltrl._HOMES.keys() == set(tiltrl.__all__)
    with pytest.raises(AttributeError, match="nosuch"):
        _ = tiltrl.nosuch  # pyright: ignore[reportAttributeAccessIssue]


def test_help_is_quick(tmp_path: Path):
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "tiltrl", "--help"], capture_output=True, text=True, check=True)
    assert "usage: tiltrl" in done.stdout and not done.stderr
    assert time.monotonic() - began < 5 * 2.0, "five times what a quiet core may take"


def test_the_version_is_told_with_those_its_numbers_depend_on():
    done = subprocess.run([sys.executable, "-m", "tiltrl", "--version"], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"tiltrl \d\S+ jax \d\S+ equinox \d\S+ gymnasium \d\S+ mujoco \d\S+\n", done.stdout)
