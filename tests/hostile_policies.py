"""Builders of policy folders that would do harm, each with what is said of it.

`HOSTILE` to load, `ENVIRONMENTS` to act in, `WRITES` to evaluate.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import socket
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from safetensors.numpy import load, save

from tiltrl.diffusion.energy import EnergyConfig
from tiltrl.policy import PolicyConfig
from tiltrl.stages.annotate import SamplerConfig
from tiltrl.stages.critics.networks import CriticShape
from tiltrl.types import Scaling, Task

NETWORK = EnergyConfig(action_width=8, time_width=4, obs_width=4, blocks=1, expansion=1, time_features=4)
SHAPE = CriticShape(width=8, depth=1, layer_norm=False, q_ensemble=2, v_ensemble=1, dueling=False)
LOW, HIGH = (-1.0,) * 3, (1.0,) * 3
CONFIG = PolicyConfig(
    task=Task("hopper", gymnasium.spec("Hopper-v5").to_json(), LOW, HIGH, 11),
    scaling=Scaling((0.0,) * 11, (1.0,) * 11, LOW, HIGH),
    energy=NETWORK,
    sampler=SamplerConfig(calls=3),
    critic=SHAPE,
)

Change = Callable[[Path], Any]


def text(content: str | bytes) -> Change:
    """Another policy.json."""
    return lambda folder: (folder / "policy.json").write_bytes(
        content.encode() if isinstance(content, str) else content
    )


def field(place: str, value: Any) -> Change:
    """Another value in policy.json, in a field such as "task.obs_dim"; `...` removes it."""

    def change(folder: Path) -> None:
        path = folder / "policy.json"
        whole = json.loads(path.read_text())
        *above, last = place.split(".")
        inner = whole
        for name in above:
            inner = inner[name]
        if value is ...:
            del inner[last]
        else:
            inner[last] = value
        path.write_text(json.dumps(whole))

    return change


def spec(**fields: Any) -> Change:
    """Another environment."""
    return field("task.env_spec", json.dumps(json.loads(CONFIG.task.env_spec or "") | fields))


def every(*changes: Change) -> Change:
    return lambda folder: [change(folder) for change in changes]


def forged(content: bytes | Callable[[dict[str, np.ndarray]], bytes], name: str = "policy.safetensors") -> Change:
    """Another file of arrays, or one made of those that were there, with its SHA-256 put into policy.json."""

    def change(folder: Path) -> None:
        path = folder / name
        found = content if isinstance(content, bytes) else content(load(path.read_bytes()))
        path.write_bytes(found)
        whole = json.loads((folder / "policy.json").read_text())
        whole["sha256"][name] = hashlib.sha256(found).hexdigest()
        (folder / "policy.json").write_text(json.dumps(whole))

    return change


def instead(name: str, make: Callable[[Path], Any]) -> Change:
    """Something else in a file's place."""

    def change(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return change


def link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def listening(path: Path) -> None:
    """A socket; its path must be short."""
    here = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def moved_out(path: Path) -> None:
    """A link to a file beside the folder."""
    outside = path.parent.parent / "outside"
    outside.write_text("{}")
    path.symlink_to(outside)


def sparse(size: int) -> Callable[[Path], None]:
    """A file of that many bytes, none of which is on the disk."""

    def make(path: Path) -> None:
        path.touch()
        os.truncate(path, size)

    return make


def changed(**arrays: Any) -> Callable[[dict[str, np.ndarray]], bytes]:
    """Arrays with some of them changed by a function, or removed by None."""

    def content(found: dict[str, np.ndarray]) -> bytes:
        for name, change in arrays.items():
            name = name.replace("__", ".")
            before = found.pop(name, None)
            if change is not None:
                found[name] = change(before)
        return save(found)

    return content


def filled(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array.flat[-1] = value
        return array

    return change


def wider(array: np.ndarray) -> np.ndarray:
    return np.zeros(array.size + 9, array.dtype)


class Trap:
    """Imports and runs when it is unpickled."""

    def __reduce__(self) -> Any:
        return (eval, ("__import__('trap').spring()",))


def pickled(size: int = 6000) -> bytes:
    return pickle.dumps([Trap(), b"." * size])


def zipped(folder: Path) -> None:
    """A pickle in a zip, as PyTorch writes."""
    path = folder / "policy.safetensors"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickled())
    forged(path.read_bytes())(folder)


def header(value: Any, room: int = 6000) -> bytes:
    """A safetensors file with that header."""
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return struct.pack("<Q", len(text)) + text + bytes(room)


def array(begin: int, end: int, shape: tuple[int, ...] = (1,), dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


WIDE = {"action_width": 8192, "time_width": 8192, "obs_width": 8192, "blocks": 64, "expansion": 64}
HUGE = {"width": 8192, "depth": 32, "q_ensemble": 256, "v_ensemble": 256, "layer_norm": True, "dueling": True}
JSON, ARRAYS, CRITIC = "policy.json", "policy.safetensors", "critic.safetensors"
OTHERS = {ARRAYS: "0" * 64, CRITIC: "0" * 64}

HOSTILE: dict[str, tuple[Change, str]] = {
    # policy.json as a text
    "nothing": (text(""), "policy.json: not readable as JSON"),
    "no JSON": (text("import trap"), "policy.json: not readable as JSON"),
    "a pickle as description": (text(pickled()), "policy.json: not readable as JSON"),
    "YAML that runs": (text("!!python/object/apply:trap.spring []"), "policy.json: not readable as JSON"),
    "a list": (text("[]"), "holds no JSON object"),
    "null": (text("null"), "holds no JSON object"),
    "UTF-16": (text('{"format": 2}'.encode("utf-16")), "policy.json: not readable as JSON"),
    "no UTF-8": (text(b'{"a": "\xff"}'), "policy.json: not readable as JSON"),
    "null characters": (text("\0" * 1000), "policy.json: not readable as JSON"),
    "NaN": (text('{"format": NaN}'), "NaN is no number of JSON"),
    "infinity": (text('{"format": -Infinity}'), "-Infinity is no number of JSON"),
    "beyond floats": (text('{"format": 1e999}'), "1e999 is beyond the floats"),
    "beyond integers": (text('{"format": ' + "9" * 1_000_000 + "}"), "beyond the integers of 64 bits"),
    "lists without end": (text("[" * 5_000_000), "policy.json: not readable as JSON"),
    "objects without end": (text('{"a":' * 1_000_000), "policy.json: not readable as JSON"),
    "deep provenance": (field("provenance", json.loads('{"a":' * 60 + "1" + "}" * 60)), "nested more than 32 deep"),
    "millions of values": (text('{"provenance": [' + "[]," * 2_000_000 + "0]}"), "200000 values or more"),
    "more text than allowed": (text('{"a": "' + "a" * 8_000_000 + '"}'), "more than the 8000000 allowed"),
    "a terabyte of text": (instead(JSON, sparse(1 << 40)), "more than the 8000000 allowed"),
    "a key twice": (text('{"format": 2, "format": 1}'), "key 'format' is there twice"),
    "more after the end": (text("{} {}"), "policy.json: not readable as JSON"),
    # the fields of policy.json
    "no format": (field("format", ...), "format None is not known here"),
    "a format to come": (field("format", 6), "format 6 is not known here; this version reads formats 1, 2, 3, 4, 5"),
    "no network": (field("energy", None), "energy, one_step, actor: exactly one of the three"),
    "two networks": (field("one_step", {"width": 8}), "energy, one_step, actor: exactly one of the three"),
    "a student that fills the memory": (
        every(field("energy", None), field("one_step", {"width": 8192, "blocks": 64, "expansion": 64})),
        "describes networks of 2199164388792 bytes; at most",
    ),
    "a student too wide": (
        every(field("energy", None), field("one_step", {"width": 1 << 40})),
        "field one_step: width = 1099511627776; it must lie in 1 to 8192",
    ),
    "a student in a diffusion policy's place": (
        every(field("energy", None), field("one_step", {"width": 8})),
        "the file does not belong to the configuration beside it",
    ),
    "a baseline of no known kind": (
        every(field("energy", None), field("actor", {"kind": "oracle"})),
        "field actor: Input tag 'oracle' found using 'kind' does not match any of the expected tags",
    ),
    "a baseline that fills the memory": (
        every(field("energy", None), field("actor", {"kind": "flow", "layers": 256, "width": 8192, "depth": 32})),
        "bytes; at most",
    ),
    "a baseline whose chain never ends": (
        every(field("energy", None), field("actor", {"kind": "denoising", "steps": 1 << 40})),
        "steps = 1099511627776; it must lie in 1 to 100",
    ),
    "a baseline in a diffusion policy's place": (
        every(field("energy", None), field("actor", {"kind": "gaussian", "width": 8})),
        "the file does not belong to the configuration beside it",
    ),
    "a format in quotes": (field("format", "2"), "format '2' is not known"),
    "a format that is true": (field("format", True), "format True is not known"),
    "a field that nobody knows": (field("entry_point", "trap:spring"), "field 'entry_point' is unknown"),
    "another one inside": (field("energy.activation", "trap.spring"), "field 'energy.activation' is unknown"),
    "a class to make": (field("__reduce__", ["trap.spring", []]), "field '__reduce__' is unknown"),
    "an object of jsonpickle": (field("energy.py/object", "trap.spring"), "field 'energy.py/object' is unknown"),
    "an endless key": (field("x" * 1_000_000, 1), "is unknown"),
    "a task that is a list": (field("task", []), "field task"),
    "no scaling": (field("scaling", ...), "field scaling"),
    "provenance that is a list": (field("provenance", ["a"]), "field provenance"),
    "a number in quotes": (field("task.obs_dim", "11"), "field task.obs_dim"),
    "a number that is true": (field("energy.blocks", True), "field energy.blocks"),
    "half an observation": (field("task.obs_dim", 11.5), "field task.obs_dim"),
    "no observation": (field("task.obs_dim", 0), "field task: obs_dim = 0; it must lie in 1 to 65536"),
    "too few observations": (field("task.obs_dim", -11), "obs_dim = -11"),
    "too many observations": (field("task.obs_dim", 10**12), "obs_dim = 1000000000000; it must lie in 1 to 65536"),
    "no action": (field("task.action_low", []), "act_dim = 0; it must lie in 1 to 4096"),
    "too many actions": (field("task.action_low", [0] * 100_000), "act_dim = 100000; it must lie in 1 to 4096"),
    "bounds of several sizes": (field("task.action_high", [1, 1]), "field scaling: has sizes"),
    "bounds that are one": (field("task.action_low", [1, 1, 1]), "low < high is needed"),
    "bounds beyond floats": (field("task.action_high", [1e300, 1, 1]), "low < high is needed"),
    "a scaling of another size": (field("scaling.obs_mean", [0] * 100_000), "field scaling: has sizes (100000, 11"),
    "a mean beyond floats": (field("scaling.obs_mean", [1e200] + [0] * 10), "field scaling.obs_mean.0: is 1e+200"),
    "a deviation of zero": (field("scaling.obs_std", [1] * 10 + [0]), "field scaling.obs_std.10: is 0.0"),
    "a negative deviation": (field("scaling.obs_std", [1] * 10 + [-1]), "field scaling.obs_std.10: is -1.0"),
    "a scaling upside down": (field("scaling.action_low", [2, -1, -1]), "field scaling.action_low.0: is 2.0"),
    "a scaling without numbers": (field("scaling.obs_std", [None] * 11), "field scaling.obs_std.0"),
    "references upside down": (every(field("task.ref_min", 2), field("task.ref_max", 1)), "min < max"),
    "half a reference": (field("task.ref_min", 2), "two finite numbers are needed"),
    "a name that clears the screen": (field("task.dataset", "\x1b[2J"), "a name that can be printed is needed"),
    "a name without end": (field("task.dataset", "a" * 1_000_000), "a name that can be printed is needed"),
    "half a character": (field("task.dataset", "\ud800"), "policy.json: field"),
    "keys that clear the screen": (field("task.obs_keys", ["\x1b[2J"]), "a name that can be printed is needed"),
    "keys without a name": (field("task.obs_keys", ["a//b"]), "names are needed"),
    # networks that do not fit, or are none
    "no width": (field("energy.action_width", 0), "field energy: action_width = 0"),
    "a negative width": (field("energy.obs_width", -4), "field energy: obs_width = -4"),
    "an endless width": (field("energy.time_width", 10**15), "field energy: time_width = 1000000000000000"),
    "a million blocks": (field("energy.blocks", 10**6), "field energy: blocks = 1000000; it must lie in 0 to 64"),
    "blocks of a million": (field("energy.expansion", 10**6), "field energy: expansion = 1000000"),
    "odd features": (field("energy.time_features", 7), "field energy: time_features = 7; half are sines"),
    "too many features": (field("energy.time_features", 10**9), "field energy: time_features = 1000000000"),
    "all is dropped": (field("energy.dropout", 1.0), "field energy: dropout = 1.0"),
    "an endless scale": (field("energy.time_scale", 1e300), "field energy: time_scale = 1e+300"),
    "no scale of actions": (field("energy.action_scale", 0.0), "field energy: action_scale = 0.0"),
    "an input that is code": (field("energy.time_input", "__import__('trap')"), "field energy.time_input"),
    "terabytes of network": (field("energy", WIDE), "bytes; at most 2147483648 are loaded"),
    "more than is there": (field("energy.blocks", 64), "policy.safetensors: has"),
    "less than is there": (field("energy.blocks", 0), "policy.safetensors: array 'blocks.0"),
    "no critic's width": (field("critic.width", 0), "width = 0; it must lie in 1 to 8192"),
    "a critic of a million layers": (field("critic.depth", 10**6), "depth = 1000000; it must lie in 1 to 32"),
    "a billion critics": (field("critic.q_ensemble", 10**9), "q_ensemble = 1000000000; it must lie in 1 to 256"),
    "terabytes of critic": (field("critic", HUGE), "bytes; at most 2147483648 are loaded"),
    "no call": (field("sampler.calls", 0), "calls = 0; it must lie in 1 to 1000"),
    "a billion calls": (field("sampler.calls", 10**9), "calls = 1000000000; it must lie in 1 to 1000"),
    "a solver that is code": (field("sampler.solver", "os.system"), "field sampler.solver"),
    "no candidate": (field("candidates", 0), "candidates = 0; it must lie in 1 to 4096"),
    "a billion candidates": (field("candidates", 10**9), "candidates = 1000000000"),
    "gigabytes of noise a decision": (
        every(
            field("energy", None),
            field("actor", {"kind": "denoising", "width": 8, "depth": 1, "steps": 100}),
            field("candidates", 4096),
        ),
        "numbers a decision; at most 1048576 are drawn",
    ),
    "endless pessimism": (field("pessimism", 1e300), "pessimism = 1e+300"),
    "a choice that is code": (field("choice", "os.system"), "field choice"),
    "a choice without critic": (every(field("critic", None), field("candidates", 3)), "there is no critic to choose"),
    # the environment
    "an environment that is imported": (spec(id="trap:Hopper-v5"), "id is 'trap:Hopper-v5'"),
    "an environment without id": (field("task.env_spec", "{}"), "is no object with an id"),
    "an environment that is no text": (field("task.env_spec", {"id": "Hopper-v5"}), "field task.env_spec"),
    "an environment that is code": (field("task.env_spec", "__import__('trap')"), "not readable as JSON"),
    "an environment without end": (field("task.env_spec", "[" * 99_999), "not readable as JSON"),
    "too much environment": (field("task.env_spec", " " * 1_000_000), "more than the 100000 of any environment"),
    "a horizon without end": (spec(max_episode_steps=10**18), "max_episode_steps"),
    # checksums and what they are of
    "no checksums": (field("sha256", ...), "field sha256: must hold 64 hexadecimal digits"),
    "half the checksums": (field("sha256", {ARRAYS: "0" * 64}), "field sha256: must hold"),
    "a checksum that is none": (field("sha256", {ARRAYS: "0", CRITIC: "0" * 64}), "field sha256: must hold"),
    "a checksum of a file elsewhere": (
        field("sha256", {"../x": "0" * 64, CRITIC: "0" * 64}),
        "field sha256: must hold",
    ),
    "other checksums": (field("sha256", OTHERS), "is damaged or another policy's"),
    # the arrays
    "a pickle": (forged(pickled()), "policy.safetensors: is damaged: its header takes"),
    "a pickle in a zip": (zipped, "policy.safetensors: is damaged: its header takes"),
    "no arrays": (forged(b""), "policy.safetensors: has 0 bytes"),
    "a header without end": (forged(struct.pack("<Q", 2**63) + bytes(6000)), "is damaged: its header takes"),
    "a header of zeros": (forged(bytes(6000)), "not a readable safetensors file"),
    "a header that is a list": (forged(header([])), "not a readable safetensors file"),
    "a deep header": (forged(header(b'{"a":' * 20_000)), "not a readable safetensors file"),
    "arrays beyond the end": (
        forged(header({"out.bias": array(0, 1 << 40, (1 << 38,))})),
        "not a readable safetensors",
    ),
    "arrays before the beginning": (forged(header({"out.bias": array(-4, 0)})), "not a readable safetensors file"),
    "arrays in one place": (forged(header({"a": array(0, 4), "b": array(0, 4)}, 4)), "policy.safetensors: "),
    "sizes that overflow": (forged(header({"a": array(0, 0, (1 << 62, 1 << 62, 4))})), "policy.safetensors: "),
    "a type that nobody knows": (forged(header({"a": array(0, 4, (1,), "OBJ")}, 4000)), "policy.safetensors: "),
    "arrays elsewhere": (forged(changed(**{"../../x": lambda _: np.zeros(3)})), "array '../../x' is unexpected"),
    "an array too few": (forged(changed(out__bias=None, join__bias=wider)), "array 'out.bias' is missing"),
    "twice the precision": (
        forged(changed(out__bias=lambda a: a.astype(np.float64))),
        "array 'out.bias' is float64[3]",
    ),
    "numbers as integers": (forged(changed(out__bias=lambda a: a.astype(np.int32))), "array 'out.bias' is int32[3]"),
    "another shape": (forged(changed(out__bias=lambda a: a.reshape(1, 3))), "array 'out.bias' is float32[1, 3]"),
    "a weight that is NaN": (forged(changed(out__bias=filled(np.nan))), "array 'out.bias' holds NaN or infinite"),
    "an infinite weight": (forged(changed(join__weight=filled(np.inf))), "array 'join.weight' holds NaN or infinite"),
    "an infinite critic": (forged(changed(v__layers__0__bias=filled(-np.inf)), CRITIC), "'v.layers.0.bias' holds NaN"),
    "gigabytes of arrays": (instead(ARRAYS, sparse(1 << 33)), "policy.safetensors: cannot be read: it has 8589934592"),
    # what is no file, or lies elsewhere
    "no critic": (lambda folder: (folder / CRITIC).unlink(), "critic.safetensors: cannot be read: No such file"),
    "a pipe": (instead(JSON, os.mkfifo), "policy.json: cannot be read"),
    "a pipe of arrays": (instead(ARRAYS, os.mkfifo), "policy.safetensors: cannot be read"),
    "a pipe of a critic": (instead(CRITIC, os.mkfifo), "critic.safetensors: cannot be read"),
    "a pipe beside": (
        every(
            lambda folder: os.mkfifo(folder / "policy.new.safetensors"),
            field("sha256", OTHERS),
        ),
        "policy.safetensors: is damaged or another policy's",
    ),
    "a folder": (instead(JSON, Path.mkdir), "policy.json: cannot be read"),
    "a folder of arrays": (instead(ARRAYS, Path.mkdir), "policy.safetensors: cannot be read"),
    "a socket": (instead(JSON, listening), "policy.json: cannot be read"),
    "a link out": (instead(JSON, moved_out), "policy.json: is a link that leads out of the folder"),
    "a link to a password": (instead(JSON, link("/etc/passwd")), "policy.json: is a link that leads out of the folder"),
    "a link upwards": (instead(ARRAYS, link("../outside")), "policy.safetensors: is a link that leads out"),
    "arrays of zeros without end": (instead(ARRAYS, link("/dev/zero")), "policy.safetensors: is a link that leads out"),
    "a terminal": (instead(ARRAYS, link("/dev/stdin")), "policy.safetensors: is a link that leads out"),
    "memory of this process": (instead(CRITIC, link("/proc/self/mem")), "critic.safetensors: is a link that leads out"),
    "a link to itself": (instead(JSON, link("policy.json")), "policy.json: cannot be read"),
    "a link to nothing": (instead(ARRAYS, link("nothing")), "policy.safetensors: cannot be read"),
    "a link to a pipe inside": (
        every(lambda folder: os.mkfifo(folder / "pipe"), instead(ARRAYS, link("pipe"))),
        "policy.safetensors: cannot be read",
    ),
}


ENVIRONMENTS: dict[str, tuple[Change, str]] = {
    "code to run": (spec(id="Trap-v0", entry_point="trap:spring"), "Trap-v0: is unknown to Gymnasium"),
    "wrappers": (
        spec(additional_wrappers=[{"name": "Trap", "entry_point": "trap:spring", "kwargs": {}}]),
        "was recorded through the wrappers Trap",
    ),
    "a file": (spec(kwargs={"xml_file": "/etc/passwd"}), "argument 'xml_file' is '/etc/passwd'"),
    "a module by way of an old Gym": (
        spec(id="GymV21Environment-v0", kwargs={"env_id": "trap:Trap-v0"}),
        "argument 'env_id' is 'trap:Trap-v0'",
    ),
}


def led_out(name: str, target: str = "../outside") -> Change:
    """A link where a result would be written; the folder itself is loaded well."""
    return lambda folder: (folder / name).symlink_to(target)


EVALUATION = "evaluation-seed0.json"
WRITES: dict[str, tuple[Change, str]] = {
    "a result that is somebody's file": (led_out(EVALUATION), f"{EVALUATION}: is a link, and what is written to it"),
    "a result that is nothing yet": (led_out(EVALUATION, "../new"), f"{EVALUATION}: is a link, and what is written"),
    "a result that is the policy": (led_out(EVALUATION, JSON), f"{EVALUATION}: is a link, and what is written to it"),
    "a result that is elsewhere": (led_out(EVALUATION, "/dev/full"), f"{EVALUATION}: is a link, and what is written"),
    "a result that is itself": (led_out(EVALUATION, EVALUATION), f"{EVALUATION}: is a link, and what is written to"),
}
