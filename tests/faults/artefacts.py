"""What a finished run leaves, in a form in which two runs can be compared bit by bit.

Wall-clock times are left out, and the names of TensorBoard's files, which hold the time and the host; of those files
the records are compared.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tensorboardX.proto.event_pb2 import Event

from tiltrl.runs import UNFINISHED

OF_THE_PROCESS = {".lock", ".owner.json"}
"""Files about who works in a folder, not about what comes of it."""
TIMES = {"seconds", "seconds_in_last_session"}
"""Fields of JSON files that hold wall-clock times."""


def fingerprint(folder: Path) -> dict[str, str]:
    """Every file below the folder by its path, with a digest of what it says; all event files of a folder are one.

    Raises:
        ValueError: a JSON or event file is no whole one.
    """
    found: dict[str, str] = {}
    events: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name in OF_THE_PROCESS:
            continue
        name = path.relative_to(folder).as_posix()
        if path.name.startswith("events.out.tfevents"):
            events.setdefault(path.parent.relative_to(folder).as_posix(), []).append(path)
        elif path.suffix == ".json":
            found[name] = _digest(json.dumps(_timeless(json.loads(path.read_text()))).encode())
        else:
            found[name] = _digest(path.read_bytes())
    for name, files in events.items():
        said = sorted(scalar for file in files for scalar in scalars(file))
        found[f"{name} (events)"] = _digest(json.dumps(said).encode())
    return found


def finished_stages(folder: Path) -> list[str]:
    """Names of the folders of stages that say they are finished, in the order in which they became so."""
    said = sorted(folder.glob("*/stage.json"), key=lambda path: path.stat().st_mtime_ns)
    return [path.parent.name for path in said]


def finished_prints(folder: Path) -> dict[str, str]:
    """The part of the fingerprint that is of finished stages: what a resumed run believes."""
    return {
        f"{stage}/{name}": digest
        for stage in finished_stages(folder)
        for name, digest in fingerprint(folder / stage).items()
        if name.partition("/")[0] not in UNFINISHED  # deleted only after the stage is said to be finished
    }


def differences(found: dict[str, str], wanted: dict[str, str]) -> list[str]:
    """One line for each file that is missing, too many, or different."""
    lines = [f"missing: {name}" for name in sorted(wanted.keys() - found.keys())]
    lines += [f"too many: {name}" for name in sorted(found.keys() - wanted.keys())]
    lines += [f"different: {name}" for name in sorted(wanted.keys() & found.keys()) if found[name] != wanted[name]]
    return lines


def steps_of(metrics: Path) -> list[int]:
    """The step of each line of a `metrics.jsonl`."""
    return [json.loads(line)["step"] for line in metrics.read_text().splitlines()]


def scalars(path: Path) -> list[tuple[str, int, float]]:
    """Tag, step and value of every scalar in a TensorBoard file.

    Raises:
        ValueError: its last record is cut.
    """
    found = []
    for record in _records(path):
        event = Event()
        event.ParseFromString(record)
        found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
    return found


def _records(path: Path) -> Iterator[bytes]:
    """The records of a TFRecord file: length (8 bytes), its checksum (4), the record, its checksum (4)."""
    content, at = path.read_bytes(), 0
    while at < len(content):
        (length,) = struct.unpack_from("<Q", content.ljust(at + 8, b"\0"), at)
        if len(content) < at + 16 + length:
            raise ValueError(f"{path}: the record at byte {at} is cut")
        yield content[at + 12 : at + 12 + length]
        at += 16 + length


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key not in TIMES}
    if isinstance(value, list):
        return [_timeless(item) for item in value]
    return value


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
