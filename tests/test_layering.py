"""Rooms import only from rooms above them, and stay small."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "tiltrl"
FILES = sorted(ROOT.rglob("*.py"))

# Outermost first: a module imports from its own row or from rows above it.
ROWS = (
    ("errors", "signals"),
    ("runtime",),
    ("types",),
    ("files", "config_io", "serialization", "environments"),
    ("diffusion.schedule",),
    ("diffusion.energy",),
    ("diffusion.samplers",),
    ("diffusion",),
    ("losses",),
    ("data",),
    ("training",),
    ("stages",),
    ("acting", "policy", "policy_folder", "model_card", "hub", "progress", "runs", "locks"),
    ("trained", "sharing"),
    ("evaluation",),
    ("collect", "play"),
    ("presets", "results"),
    ("methods",),
    ("bandit",),
    ("bench",),
    ("given",),
    ("options",),
    ("pipeline", "api"),
    ("scoring",),
    ("distillation", "trust", "trust_rollouts", "export", "baseline"),
    ("experiments",),
    ("report",),
    ("cli_parse",),
    (
        "cli_baseline",
        "cli_data",
        "cli_critic",
        "cli_experiment",
        "cli_export",
        "cli_preferences",
        "cli_report",
        "cli_share",
    ),
    ("cli",),
    ("main",),
    ("__main__", "experiments.child"),
)
LEVEL = {room: level for level, row in enumerate(ROWS) for room in row}
WITHOUT_JAX = ("data", "evaluation", "environments")
ALLOWED = {
    "runtime": {"errors", "signals", "runtime"},
    "data": {"errors", "types", "files", "config_io", "environments", "data"},
    "evaluation": {"errors", "types", "files", "config_io", "environments", "evaluation"},
}
ON_A_ROBOT = {"numpy", "onnxruntime", "gymnasium"}  # the last for environments only, in a function
FORBIDDEN = {"pickle", "cloudpickle", "dill", "torch"}
OF_EXTRAS = {"onnx", "onnxruntime", "huggingface_hub", "imageio_ffmpeg", "PIL", "ray", "rliable", "jinja2"}


def name_of(file: Path) -> str:
    """The module's dotted name below tiltrl; "" for the package itself."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(file) for file in FILES}


def room_of(module: str) -> str:
    """The longest room name that the module's name begins with."""
    rooms = [room for room in LEVEL if module == room or module.startswith(room + ".")]
    assert rooms, f"{module} belongs to no room: give it a row in ROWS"
    return max(rooms, key=len)


@cache
def imports(file: Path) -> frozenset[str]:
    """Every module that the file imports, wherever in it, by its full name."""
    return imported(ast.walk(ast.parse(file.read_text())), file)


def imports_at_once(file: Path) -> frozenset[str]:
    """Those that are imported as soon as the file is, and not in a function of it."""
    return imported(ast.parse(file.read_text()).body, file)


def imported(nodes: Iterable[ast.AST], file: Path) -> frozenset[str]:
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{file}:{node.lineno}: import by full name"
            for alias in node.names:  # `from tiltrl import losses` imports tiltrl.losses
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner.removeprefix("tiltrl.") in MODULES else node.module)
    return frozenset(found)


def inside(file: Path) -> set[str]:
    """What it imports from tiltrl, as names below tiltrl."""
    return {name.removeprefix("tiltrl.") for name in imports(file) if name.startswith("tiltrl.")}


each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: name_of(file) or "tiltrl")


@each_file
def test_a_module_imports_only_from_rooms_above_it(file: Path) -> None:
    module = name_of(file)
    if not module:  # the package itself may offer any of its parts
        return
    room = room_of(module)
    used = {room_of(name) for name in inside(file)}
    below = {name for name in used if LEVEL[name] > LEVEL[room]}
    assert not below, f"{module} imports from {below}, which lie below {room}"
    assert used <= ALLOWED.get(room, used), f"{room} may import from {ALLOWED[room]} only"


@each_file
def test_nothing_pickles_or_needs_torch(file: Path) -> None:
    assert not {name.partition(".")[0] for name in imports(file)} & FORBIDDEN


@each_file
def test_a_file_stays_short(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 400


@pytest.mark.parametrize("room", WITHOUT_JAX)
def test_rooms_that_do_without_jax(room: str) -> None:
    todo, seen = [file for file in FILES if room_of(name_of(file) or "cli") == room], set()
    while todo:  # and all that they import, in turn
        file = todo.pop()
        seen.add(file)
        assert not {name.partition(".")[0] for name in imports(file)} & {"jax", "equinox", "optax", "orbax"}, file
        todo += [other for other in FILES if name_of(other) in inside(file) and other not in seen]
    assert seen


@pytest.mark.parametrize("file", [file for file in FILES if (name_of(file) + ".").startswith("runtime.")], ids=name_of)
def test_the_runtime_needs_next_to_nothing(file: Path) -> None:
    used = {name.partition(".")[0] for name in imports(file)} - {"tiltrl"}
    assert used <= sys.stdlib_module_names | ON_A_ROBOT
    assert not {name.partition(".")[0] for name in imports_at_once(file)} & (ON_A_ROBOT - {"numpy"})


def test_commands_start_without_what_an_extra_brings() -> None:
    todo, seen = [ROOT / "cli.py"], set()
    while todo:
        file = todo.pop()
        seen.add(file)
        used = imports_at_once(file)
        assert not {name.partition(".")[0] for name in used} & OF_EXTRAS, file
        todo += [other for other in FILES if f"tiltrl.{name_of(other)}" in used and other not in seen]
    assert ROOT / "cli_share.py" in seen
