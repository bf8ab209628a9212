"""Whatever is typed, and whatever lies in the folders that are named: one line, status 2, nothing written, no wait.

Each case is a process that runs the real entry point. On a quiet core each ends within 2 seconds, start-up included;
`LIMIT` is that with slack for machines that do a lot at once.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load as load_tensors
from zygote import Zygote

from tiltrl.data import load
from tiltrl.diffusion.energy import Energy, EnergyConfig
from tiltrl.policy import Policy, PolicyConfig
from tiltrl.serialization import pack
from tiltrl.stages.annotate import SamplerConfig
from tiltrl.stages.critics.networks import CriticShape, init_critic
from tiltrl.types import Scaling

LIMIT = 20.0
HUGE = "9" * 30


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote() as server:
        yield server


class Refuse:
    """Runs commands that must be refused, in a folder that must stay as it is."""

    def __init__(self, zygote: Zygote, cwd: Path, aside: Path) -> None:
        self.zygote, self.cwd, self.aside = zygote, cwd, aside

    def __call__(self, *argv: str, says: str = "", before: str = "") -> None:
        there = files(self.cwd)
        # Whatever a library would leave in the user's own folders, it leaves in this one.
        homes = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"), str(self.cwd))
        status, error = call(self.zygote, argv, self.cwd, self.aside, homes, before)
        assert status == 2, error
        assert error.startswith("tiltrl: error: ") and error.endswith("\n") and error.count("\n") == 1, error
        assert "Traceback" not in error and len(error) < 4000, error
        assert says in error
        assert files(self.cwd) == there


def call(
    zygote: Zygote, argv: tuple[str, ...], cwd: Path, aside: Path, env: dict[str, str], before: str = ""
) -> tuple[int, str]:
    """Exit status and stderr."""
    child = zygote.start(argv, cwd=cwd, out=aside / "out", err=aside / "err", env=env, before=before)
    try:
        status = child.wait(LIMIT)
    finally:
        child.kill(signal.SIGKILL)
    return status, (aside / "err").read_text()


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """What lies below the folder: kinds, and sizes of files."""
    found = {str(path.relative_to(folder)): path.lstat() for path in folder.rglob("*")}
    return {
        name: (stat.st_mode, stat.st_size if path_is_file(stat.st_mode) else 0) for name, stat in sorted(found.items())
    }


def path_is_file(mode: int) -> bool:
    return mode & 0o170000 == 0o100000


@pytest.fixture
def refuse(zygote: Zygote, tmp_path: Path) -> Refuse:
    for name in ("cwd", "aside"):
        (tmp_path / name).mkdir()
    return Refuse(zygote, tmp_path / "cwd", tmp_path / "aside")


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
OF_A_POLICY = {
    "--episodes": ("0", "-1", "10001", HUGE, "x", "1.5", ""),
    "--seed": ("-1", HUGE, "x", "1.0"),
    "--candidates": ("0", "-1", "4097", HUGE, "x"),
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
    ([command, "demo", option, values[0]], "")
    for command in ("behavior", "critic", "annotate", "align")
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


ANY_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)


@settings(derandomize=True, deadline=None, max_examples=60, database=None)
@given(words=st.lists(st.one_of(st.sampled_from([*OF_A_RUN, "--out", "1", "nan", "=", "--"]), ANY_TEXT), max_size=6))
def test_any_words_after_a_name_of_nothing(zygote: Zygote, tmp_path_factory, words: list[str]) -> None:
    if any(word.startswith("-h") or word.startswith(("--h", "--tyro")) for word in words):
        return  # help, which is no error
    folders = [tmp_path_factory.mktemp(name) for name in ("cwd", "aside")]
    Refuse(zygote, *folders)("run", "nosuch.npz", *words)


# --- Policies ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A policy with a critic, for the environment of the bundled data."""
    folder = tmp_path_factory.mktemp("saved") / "policy"
    task = load("demo[:1]").task
    shape = CriticShape(width=8, depth=1, layer_norm=False, q_ensemble=2, v_ensemble=1, dueling=False)
    network = EnergyConfig(action_width=8, time_width=4, obs_width=4, blocks=1, expansion=1, time_features=4)
    config = PolicyConfig(
        task=task,
        scaling=Scaling((0.0,) * task.obs_dim, (1.0,) * task.obs_dim, task.action_low, task.action_high),
        energy=network,
        sampler=SamplerConfig(calls=3),
        critic=shape,
        candidates=2,
    )
    energy = eqx.filter_jit(Energy)(task.obs_dim, task.act_dim, network, key=jax.random.key(0))
    critic = eqx.filter_jit(init_critic)(task.obs_dim, task.act_dim, shape, key=jax.random.key(1))
    Policy(energy, config, critic).save(folder)
    return folder


@pytest.fixture
def policy(saved: Path, refuse: Refuse) -> Path:
    return Path(shutil.copytree(saved, refuse.cwd / "p"))


@pytest.mark.parametrize(
    ("option", "value"), [(option, value) for option, values in OF_A_POLICY.items() for value in values]
)
def test_options_of_evaluate(refuse: Refuse, policy: Path, option: str, value: str) -> None:
    refuse("evaluate", "p", option, value, says=option.strip("-"))


def field(path: str, value: Any) -> Callable[[Path], None]:
    """Sets a field of policy.json, by its dotted path; `...` removes it."""

    def damage(folder: Path) -> None:
        file = folder / "policy.json"
        content = json.loads(file.read_text())
        *parents, last = path.split(".")
        inner = content
        for parent in parents:
            inner = inner[parent]
        if value is ...:
            del inner[last]
        else:
            inner[last] = value
        file.write_text(json.dumps(content))

    return damage


def text(content: str | bytes) -> Callable[[Path], None]:
    """Replaces policy.json."""
    return lambda folder: (folder / "policy.json").write_bytes(
        content.encode() if isinstance(content, str) else content
    )


def arrays(change: Callable[[bytes], bytes], name: str = "policy.safetensors") -> Callable[[Path], None]:
    """Changes a file of arrays; without check sums, as a careful attacker's would be right."""

    def damage(folder: Path) -> None:
        field("format", 1)(folder)
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return damage


def header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Changes what a file of arrays says of itself."""

    def rewrite(content: bytes) -> bytes:
        (size,) = struct.unpack("<Q", content[:8])
        found = json.loads(content[8 : 8 + size])
        changed = json.dumps(change(found) or found).encode()
        return struct.pack("<Q", len(changed)) + changed + content[8 + size :]

    return arrays(rewrite)


def first(facts: dict[str, Any]) -> dict[str, Any]:
    return next(value for name, value in facts.items() if name != "__metadata__")


def replaced_by(make: Callable[[Path], object], name: str = "policy.safetensors") -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return damage


POLICIES: dict[str, Callable[[Path], None]] = {
    "no description": lambda folder: (folder / "policy.json").unlink(),
    "no arrays": lambda folder: (folder / "policy.safetensors").unlink(),
    "no critic": lambda folder: (folder / "critic.safetensors").unlink(),
    "an empty description": text(""),
    "a description that is no JSON": text("{format: 1}"),
    "a truncated description": lambda folder: os.truncate(folder / "policy.json", 100),
    "a list": text("[]"),
    "a number": text("1"),
    "null": text("null"),
    "a string": text('"policy"'),
    "no UTF-8": text(b"\xff\xfe{}"),
    "deep nesting": text("[" * 100_000 + "]" * 100_000),
    "deep objects": text('{"a":' * 50_000 + "1" + "}" * 50_000),
    "a number of a million digits": text('{"format": 1' + "0" * 1_000_000 + "}"),
    "a description of 20 MB": text('{"format": 1, "x": "' + "x" * 20_000_000 + '"}'),
    "a description that is a folder": replaced_by(Path.mkdir, "policy.json"),
    "a description that is a pipe": replaced_by(os.mkfifo, "policy.json"),
    "a description that is a device": replaced_by(lambda path: path.symlink_to("/dev/zero"), "policy.json"),
    "a description elsewhere": replaced_by(lambda path: path.symlink_to("/etc/hostname"), "policy.json"),
    "a description that links to itself": replaced_by(lambda path: path.symlink_to(path), "policy.json"),
    "another format": field("format", 99),
    "a format in words": field("format", "two"),
    "a format of true": field("format", True),
    "no format": field("format", ...),
    "an unknown field": field("nosuch", 1),
    "no task": field("task", ...),
    "a task of null": field("task", None),
    "a task that is a list": field("task", []),
    "an unknown field in the task": field("task.nosuch", 1),
    "no obs_dim": field("task.obs_dim", ...),
    "obs_dim 0": field("task.obs_dim", 0),
    "obs_dim below 0": field("task.obs_dim", -11),
    "obs_dim beyond all memory": field("task.obs_dim", 10**12),
    "obs_dim beyond 64 bits": field("task.obs_dim", 10**30),
    "obs_dim in words": field("task.obs_dim", "eleven"),
    "obs_dim 11.5": field("task.obs_dim", 11.5),
    "another obs_dim": field("task.obs_dim", 12),
    "no action bounds": field("task.action_low", []),
    "bounds of NaN": field("task.action_low", [float("nan")] * 3),
    "an environment to import": field("task.env_spec", '{"id": "os:Hopper-v5", "entry_point": "os:system"}'),
    "an environment that is no JSON": field("task.env_spec", "Hopper-v5"),
    "a mean of NaN": field("scaling.obs_mean", [float("nan")] * 11),
    "a deviation of 0": field("scaling.obs_std", [0.0] * 11),
    "a deviation of infinity": field("scaling.obs_std", [float("inf")] * 11),
    "a mean in words": field("scaling.obs_mean", ["a"] * 11),
    "a mean too short": field("scaling.obs_mean", [0.0]),
    "bounds upside down": field("scaling.action_low", [9.0] * 3),
    "a width below 0": field("energy.action_width", -8),
    "a width of 0": field("energy.action_width", 0),
    "a width beyond all memory": field("energy.action_width", 10**9),
    "another width": field("energy.action_width", 16),
    "a billion blocks": field("energy.blocks", 10**9),
    "no blocks": field("energy.blocks", -1),
    "an energy of null": field("energy", None),
    "no calls": field("sampler.calls", 0),
    "a billion calls": field("sampler.calls", 10**9),
    "an unknown sampler": field("sampler.nosuch", "x"),
    "a critic's width below 0": field("critic.width", -8),
    "a huge ensemble": field("critic.q_ensemble", 10**9),
    "no candidates": field("candidates", 0),
    "a billion candidates": field("candidates", 10**9),
    "pessimism NaN": field("pessimism", float("nan")),
    "pessimism in words": field("pessimism", "much"),
    "no check sums": field("sha256", ...),
    "check sums of another": field("sha256", {"policy.safetensors": "0" * 64, "critic.safetensors": "0" * 64}),
    "check sums elsewhere": field("sha256", {"../policy.safetensors": "0" * 64}),
    "empty arrays": arrays(lambda _: b""),
    "seven bytes of arrays": arrays(lambda content: content[:7]),
    "truncated arrays": arrays(lambda content: content[:-1]),
    "arrays of garbage": arrays(lambda content: b"\x80\x04" * (len(content) // 2)),
    "a byte too many": arrays(lambda content: content + b"\0"),
    "a truncated critic": arrays(lambda content: content[: len(content) // 2], "critic.safetensors"),
    "a header longer than the file": arrays(lambda content: struct.pack("<Q", 1 << 40) + content[8:]),
    "a header of the most bytes": arrays(lambda content: struct.pack("<Q", (1 << 64) - 1) + content[8:]),
    "a header of no bytes": arrays(lambda content: struct.pack("<Q", 0) + content[8:]),
    "a header that is no JSON": arrays(lambda content: content[:8] + b"x" + content[9:]),
    "another shape": header(lambda facts: first(facts).update(shape=[1])),
    "a shape below 0": header(lambda facts: first(facts).update(shape=[-1])),
    "a gigantic shape": header(lambda facts: first(facts).update(shape=[1 << 40, 1 << 40])),
    "another type": header(lambda facts: first(facts).update(dtype="I64")),
    "an unknown type": header(lambda facts: first(facts).update(dtype="OBJ")),
    "offsets behind the end": header(lambda facts: first(facts).update(data_offsets=[0, 1 << 40])),
    "offsets upside down": header(lambda facts: first(facts).update(data_offsets=[8, 0])),
    "no arrays in it": header(lambda _: {"__metadata__": {}}),
    "another name": header(lambda facts: {f"{name}x": value for name, value in facts.items()}),
    "NaN in the arrays": arrays(lambda content: content[:-4] + np.float32("nan").tobytes()),
    "arrays that are a folder": replaced_by(Path.mkdir),
    "arrays that are a pipe": replaced_by(os.mkfifo),
    "arrays that are a device": replaced_by(lambda path: path.symlink_to("/dev/zero")),
    "arrays elsewhere": replaced_by(lambda path: path.symlink_to(sys.executable)),
    "arrays of a terabyte": replaced_by(lambda path: (path.touch(), os.truncate(path, 1 << 40))),
}


@pytest.mark.parametrize("case", POLICIES)
def test_policies(refuse: Refuse, policy: Path, case: str) -> None:
    POLICIES[case](policy)
    refuse("evaluate", "p", "--episodes", "1", says="p")


ANY_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), ANY_TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(ANY_TEXT, inner, max_size=3)),
    max_leaves=5,
)


@settings(
    derandomize=True,
    deadline=None,
    max_examples=40,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_change_of_a_policys_description(
    zygote: Zygote, saved: Path, tmp_path_factory, data: st.DataObject
) -> None:
    folders = [tmp_path_factory.mktemp(name) for name in ("cwd", "aside")]
    shutil.copytree(saved, folders[0] / "p")
    content = json.loads((saved / "policy.json").read_text())
    inner = [content, *(value for value in content.values() if isinstance(value, dict) and value)]
    place = data.draw(st.sampled_from(inner))
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(ANY_JSON)
    (folders[0] / "p" / "policy.json").write_text(json.dumps(content))
    # What happens to be a policy all the same is refused for the number of its episodes.
    Refuse(zygote, *folders)("evaluate", "p", "--episodes", "0")


# --- Runs and checkpoints ---------------------------------------------------------------------------------------------

BEHAVIOR = ("behavior", "demo", "--out", "r")


@pytest.fixture(scope="module")
def begun(zygote: Zygote, tmp_path_factory) -> Path:
    """A run that was stopped in its first stage, with a checkpoint."""
    cwd, aside = (tmp_path_factory.mktemp(name) for name in ("begun", "aside"))
    child = zygote.start([*BEHAVIOR, "--save-every", "0"], cwd=cwd, out=aside / "out", err=aside / "err")
    deadline = time.monotonic() + 120
    while not list(cwd.glob("r/behavior-*/checkpoints/step-*.safetensors")):
        assert time.monotonic() < deadline and child.poll() is None, (aside / "err").read_text()
        time.sleep(0.1)
    child.kill(signal.SIGTERM)
    assert child.wait(60) == 3, (aside / "err").read_text()
    assert (aside / "err").read_text() == "tiltrl: interrupted; the same command goes on from what is saved\n"
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
    evaluated = sum(map(len, OF_A_POLICY.values()))
    assert len(TYPED) + len(NAMES) + evaluated + len(POLICIES) + len(RUNS) + len(DATA) >= 400


def test_bad_input_ends_soon_from_a_cold_start(tmp_path: Path) -> None:
    began = time.monotonic()
    command = [sys.executable, "-m", "tiltrl", "run", "nosuch"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    took = time.monotonic() - began
    assert done.returncode == 2
    assert done.stderr.startswith("tiltrl: error: data set 'nosuch'") and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    assert took < 5 * 2.0, "five times what a quiet core may take"
