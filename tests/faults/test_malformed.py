"""Whatever is typed, and whatever lies in the folders that are named: one line, status 2, nothing written, no wait.

Each case is a process that runs the real entry point. On a quiet core each ends within 2 seconds, start-up included;
`LIMIT` is that with slack for machines that do a lot at once.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refuse import ANY_TEXT, HUGE, Refuse, refuse, replaced_by, zygote
from safetensors.numpy import load as load_tensors
from zygote import Zygote

from tiltrl.serialization import pack

__all__ = ["refuse", "zygote"]

# --- What is typed ----------------------------------------------------------------------------------------------------

OF_A_RUN = {
    "--seeds": ("0", "-1", "1001", HUGE, "x", "", "nan", "1.5", "1e3", "0x10"),
    "--seed": ("-1", "99000", HUGE, "x", "", "2.0", "inf"),
    "--episodes": ("0", "-5", "10001", HUGE, "inf", ""),
    "--label-fraction": ("0", "-0.1", "1.1", "nan", "inf", "-inf", "x", "", "1/2"),
    "--budget": ("0", "-1", "1.01", "nan", "inf", "1e999", "x", ""),
    "--beta": ("0", "-1", "nan", "inf", "1e-9", "1e9", "x", "", "1,2"),
    "--save-every": ("-1", "nan", "inf", "1e9", "x", ""),
    "--recover": ("-1", "21", HUGE, "x", "0.5"),
    "--preset": ("", "FAST", "huge", "None"),
    "--rewards": ("", "mean", "1"),
}
OF_BANDITS = {
    "--dataset": ("nosuch", "", "moons2"),
    "--objective": ("", "ranking"),
    "--k": ("0", "-1", "1", HUGE, "x"),
    "--beta": ("0", "-1", "nan", "inf", "x"),
    "--calls": ("0", "-1", HUGE, "x"),
    "--times": ("-0.1", "1.1", "nan", "inf", "x"),
    "--samples": ("0", "-1", "99", HUGE, "nan"),
    "--seed": ("-1", HUGE, "x"),
    "--budget": ("0", "-1", "2", "nan", "x"),
}
OF_COLLECTIONS = {
    "--episodes": ("0", "-1", "x", "1.5"),
    "--steps": ("0", "-1", "nan"),
    "--seed": ("-1", "x"),
    "--noise": ("-1", "nan", "inf", "x"),
    "--wander": ("-0.1", "1.1", "nan", "x"),
    "--id": ("", "robot", "a b-v0", "../x-v0"),
    "--env": ("", "NoSuch-v0", "nosuchmodule:NoSuch-v0", "Hopper"),
}

TYPED: list[tuple[list[str], str]] = [
    ([], "Expected one of"),
    (["nosuch"], "nosuch"),
    (["--nosuch"], "--nosuch"),
    ([""], ""),
    (["run"], "Missing"),
    (["run", "demo", "extra"], "extra"),
    (["run", "demo", "--sedes", "3"], "did you mean --seeds?"),
    (["run", "demo", "--seeds"], "--seeds"),
    (["run", "demo", "--beta", "1", "1"], "beta"),
    (["run", "demo", "--beta", "1", "0"], "beta"),
    (["run", "demo", "--out", "/dev/null"], "/dev/null"),
    (["run", "demo", "--out", "/dev/null/x"], "/dev/null"),
    (["run", "demo", "--out", "/proc/nosuch/x"], "/proc"),
    (["run", "demo", "--out", "x" * 300], "x"),
    (["data"], "Expected one of"),
    (["data", "nosuch"], "nosuch"),
    (["data", "info"], "Missing"),
    (["data", "convert", "demo"], "--out"),
    (["data", "convert", "demo", "--out", "x", "--to", "csv"], "csv"),
    (["data", "convert", "demo[:1]", "--to", "npz", "--out", "x.h5"], "x.h5"),
    (["data", "convert", "demo[:1]", "--to", "d4rl", "--out", "x.npz"], "x.npz"),
    (["data", "convert", "demo[:1]", "--out", "x.npz", "--id", "a-v0"], "--id"),
    (["data", "convert", "demo[:1]", "--to", "shards", "--out", "x", "--overwrite"], "--overwrite"),
    (["data", "convert", "demo[:1]", "--out", "x", "--id", "robot"], "robot"),
    (["data", "convert", "demo[:1]", "--out", "/dev/null/x.npz"], "/dev/null"),
    (["data", "merge", "--out", "x"], ""),
    (["data", "merge", "demo", "--out", "x"], "two or more"),
    (["data", "merge", "demo[:1]", "nosuch", "--out", "x"], "nosuch"),
    (["data", "collect"], "Missing"),
    (["data", "collect", "nosuch"], "nosuch"),
    (["data", "collect", "random"], "--env"),
    (["data", "collect", "policy"], "policy"),
    (["data", "collect", "policy:"], "policy:"),
    (["data", "collect", "policy:nosuch"], "nosuch"),
    (["data", "collect", "random:x"], "random:x"),
    (["data", "collect", "random", "--env", "Hopper-v5", "--wander", "0.5"], "--wander"),
    (["data", "collect", "random", "--env", "Hopper-v5", "--noise", "0.5"], "--noise"),
    (["data", "collect", "random", "--env", "Hopper-v5", "--episodes", "1", "--steps", "1"], "one of the two"),
    (["evaluate"], "Missing"),
    (["evaluate", "nosuch"], "nosuch"),
    (["evaluate", "/dev/null"], "/dev/null"),
    (["evaluate", "."], "policy.json"),
    (["bandit", "extra"], "extra"),
    (["bandit", "--dataset"], "dataset"),
    (["bandit", "--dataset", "moons", "moons"], "at most once"),
    (["bandit", "--out", "/dev/null"], "/dev/null"),
]
TYPED += [(["run", "demo", option, value], "") for option, values in OF_A_RUN.items() for value in values]
TYPED += [
    ([*command.split(), "demo", option, values[0]], "")
    for command in ("behavior", "critic train", "annotate", "align")
    for option, values in OF_A_RUN.items()
]
TYPED += [(["bandit", option, value], "") for option, values in OF_BANDITS.items() for value in values]
TYPED += [
    (["data", "collect", "random" if option == "--env" else "waypoints", option, value], "")
    for option, values in OF_COLLECTIONS.items()
    for value in values
]

NAMES = (
    *("", " ", "nosuch", "nosuch.npz", "nosuch.hdf5", "nosuch.parquet", "nosuch/", "no/such-v0", "../..", "/", "."),
    *("/dev/null", "/dev/zero", "/dev/zero?obs=a&action=b", "/proc/self/mem", "x" * 5000, "a/" * 3000),
    *("demo[", "demo[]", "demo[:0]", "demo[:1.5]", "demo[nan:]", "demo[5:2]", "demo[:-1]", f"demo[{HUGE}:]", "demo]"),
    *("+", "demo+", "+demo", "demo+nosuch", "demo?obs=x", "d4rl:", "d4rl:nosuch-v9", "ogbench:", "ogbench:nosuch"),
    *("a\nb", "\x1b[31mred", "\udcff", "nul\0l", "none.npz?obs=", "none.npz?nosuch=1", "none.npz?env=NoSuch-v0"),
    *("http://127.0.0.1:1/x.npz", "file:///etc/passwd", "~nosuchuser/x.npz", "$HOME", "demo\u202e"),
)


@pytest.mark.parametrize(("argv", "says"), TYPED, ids=lambda value: " ".join(value)[:60] if type(value) is list else "")
def test_what_is_typed(refuse: Refuse, argv: list[str], says: str) -> None:
    refuse(*argv, says=says)


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:40])
def test_names_of_data(refuse: Refuse, name: str) -> None:
    if "\0" in name:
        pytest.skip("no process can be given such a name")
    refuse("run", name, "--out", "x")


@settings(derandomize=True, deadline=None, max_examples=60, database=None)
@given(words=st.lists(st.one_of(st.sampled_from([*OF_A_RUN, "--out", "1", "nan", "=", "--"]), ANY_TEXT), max_size=6))
def test_any_words_after_a_name_of_nothing(zygote: Zygote, tmp_path_factory, words: list[str]) -> None:
    if any(word.startswith("-h") or word.startswith(("--h", "--tyro")) for word in words):
        return  # help, which is no error
    folders = [tmp_path_factory.mktemp(name) for name in ("cwd", "aside")]
    Refuse(zygote, *folders)("run", "nosuch.npz", *words)


# --- Runs and checkpoints ---------------------------------------------------------------------------------------------

BEHAVIOR = ("behavior", "demo", "--out", "r")


@pytest.fixture(scope="module")
def begun(zygote: Zygote, tmp_path_factory) -> Path:
    """A run that was stopped in its first stage, with a checkpoint."""
    cwd, aside = (tmp_path_factory.mktemp(name) for name in ("begun", "aside"))
    child = zygote.start([*BEHAVIOR, "--save-every", "0"], cwd=cwd, out=aside / "out", err=aside / "err")
    deadline = time.monotonic() + 600
    while not list(cwd.glob("r/behavior-*/checkpoints/step-*.safetensors")):
        assert time.monotonic() < deadline and child.poll() is None, (aside / "err").read_text()
        time.sleep(0.1)
    child.kill(signal.SIGTERM)
    assert child.wait(60) == 3, (aside / "err").read_text()
    said = "tiltrl: interrupted; the same command goes on from what is saved, if anything is\n"
    assert (aside / "err").read_text() == said
    return cwd / "r"


def run_json(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps(change(content) or content))

    return damage


def stage_json(content: str) -> Callable[[Path], None]:
    return lambda folder: (only(folder, "behavior-*") / "stage.json").write_text(content)  # type: ignore[return-value]


def checkpoints(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        for file in folder.glob("behavior-*/checkpoints/*.safetensors"):
            file.write_bytes(change(file.read_bytes()))

    return damage


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def resaved(facts: dict[str, str], shape: tuple[int, ...] = ()) -> Callable[[bytes], bytes]:
    """A whole, healthy file of arrays; of the right names, and zeros of another shape where one is given."""

    def change(content: bytes) -> bytes:
        found = load_tensors(content)
        if shape:
            found = {name: np.zeros(shape, value.dtype) for name, value in found.items()}
        return pack(found, facts)

    return change


RUNS: dict[str, tuple[Callable[[Path], None], str]] = {
    "run.json is empty": (lambda folder: (folder / "run.json").write_text("") and None, "run.json"),
    "run.json is no JSON": (lambda folder: os.truncate(folder / "run.json", 30), "run.json"),
    "run.json is a list": (run_json(lambda _: [1]), "run.json"),
    "run.json is nested deeply": (
        lambda folder: (folder / "run.json").write_text("[" * 100_000 + "]" * 100_000) and None,
        "run.json",
    ),
    "run.json is a pipe": (replaced_by(os.mkfifo, "run.json"), "run.json"),
    "run.json is a folder": (replaced_by(Path.mkdir, "run.json"), "run.json"),
    "run.json is missing": (lambda folder: (folder / "run.json").unlink(), "not a run's folder"),
    "a later format": (run_json(lambda found: found.update(format=99)), "later"),
    "an earlier format": (run_json(lambda found: found.update(format=1)), "earlier"),
    "a format in words": (run_json(lambda found: found.update(format="two")), "format"),
    "no format": (run_json(lambda found: found.pop("format") and None), "format"),
    "another run": (run_json(lambda found: found.update(seeds=7)), "seeds"),
    "another seed": (run_json(lambda found: found.update(seed=None)), "seed"),
    "other data": (run_json(lambda found: found.update(fingerprint="0" * 16)), "data has changed"),
    "a budget too large": (run_json(lambda found: found.update(budget=10**400)), "budget"),
    "an empty stage.json": (stage_json(""), "stage.json"),
    "a stage.json that is no JSON": (stage_json("{"), "stage.json"),
    "a stage.json that is a list": (stage_json("[]"), "stage.json"),
    "a stage.json of nothing": (stage_json("{}"), "stage.json"),
    "a stage.json of other types": (stage_json('{"summary": 1, "files": 2}'), "stage.json"),
    "a stage.json of files that are not there": (
        stage_json('{"summary": {}, "files": {"networks.safetensors": 5}, "seconds_in_last_session": 1}'),
        "networks.safetensors",
    ),
    "a checkpoint of another format": (checkpoints(resaved({"format": "99", "step": "1"})), "format"),
    "a checkpoint of no format": (checkpoints(resaved({})), "format"),
    "a checkpoint of other shapes": (checkpoints(resaved({"format": "1", "step": "1"}, (2, 2))), "checkpoint"),
}


@pytest.mark.parametrize("case", RUNS)
def test_runs(refuse: Refuse, begun: Path, case: str) -> None:
    damage, says = RUNS[case]
    shutil.copytree(begun, refuse.cwd / "r")
    damage(refuse.cwd / "r")
    refuse(*BEHAVIOR, says=says)


# --- Files of data ----------------------------------------------------------------------------------------------------

GARBAGE = np.random.default_rng(0).bytes(3000)
DATA: dict[str, tuple[str, Callable[[Path], object]]] = {
    f"{what} in {ending}": (f"x{ending}", make)
    for ending in (".npz", ".hdf5", ".h5", ".parquet")
    for what, make in {
        "nothing": Path.touch,
        "garbage": lambda path: path.write_bytes(GARBAGE),
        "the beginning of a ZIP": lambda path: path.write_bytes(b"PK\x03\x04" + GARBAGE[:40]),
        "the beginning of HDF5": lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + GARBAGE[:100]),
        "the ends of Parquet": lambda path: path.write_bytes(b"PAR1" + GARBAGE[:100] + b"\xff\xff\xff\x7fPAR1"),
        "a folder": Path.mkdir,
        "a pipe": os.mkfifo,
        "a link to itself": lambda path: path.symlink_to(path),
    }.items()
}


@pytest.mark.parametrize("case", DATA)
def test_files_of_data(refuse: Refuse, case: str) -> None:
    name, make = DATA[case]
    make(refuse.cwd / name)
    refuse("run", name, "--out", "r", says=name)


# --- The count, and the clock -----------------------------------------------------------------------------------------


def test_there_are_enough() -> None:
    assert len(TYPED) + len(NAMES) + len(RUNS) + len(DATA) >= 280


def test_bad_input_ends_soon_from_a_cold_start(tmp_path: Path) -> None:
    began = time.monotonic()
    command = [sys.executable, "-m", "tiltrl", "run", "nosuch"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    took = time.monotonic() - began
    assert done.returncode == 2
    assert done.stderr.startswith("tiltrl: error: data set 'nosuch'") and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    assert took < 5 * 2.0, "five times what a quiet core may take"
