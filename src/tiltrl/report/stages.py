"""The stages of a run's folder as they lie there: finished or not, how far, how long, and what was logged."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from tiltrl.config_io import from_json
from tiltrl.errors import InputError
from tiltrl.files import read_file, read_json
from tiltrl.stages.critics.check import TrustCheck
from tiltrl.training.checkpoint import Checkpoints

MOST_POINTS = 300
"""Of a curve: more than a picture has room for."""
_MOST_LOG = 64_000_000
_NAME = re.compile(r"(.+)-([0-9a-f]{8})")


@dataclass(frozen=True)
class Curve:
    """One logged metric, against the step."""

    metric: str
    steps: Float[np.ndarray, " points"]
    values: Float[np.ndarray, "points members"]  # or members times temperatures


@dataclass(frozen=True)
class StageRecord:
    """What a stage's folder tells."""

    folder: str
    name: str
    done: bool
    steps: int | None  # taken, as far as the folder tells; None: of a stage that takes none
    seconds: float | None
    summary: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)
    curves: tuple[Curve, ...] = ()
    trust: list[TrustCheck] = field(default_factory=list)  # of a critic, one a seed


def read_stages(run: Path) -> list[StageRecord]:
    """All stages of a run's folder, in the order they depend on one another, as far as names tell.

    Raises:
        InputError: a file of one is damaged.
    """
    found = [path for path in run.iterdir() if path.is_dir() and _NAME.fullmatch(path.name)]
    order = ("behavior", "critic", "candidates", "align", "pairs", "distill", "baseline", "evaluation")

    def place(path: Path) -> tuple[int, str]:
        first = path.name.partition("-")[0]
        return (order.index(first) if first in order else len(order), path.name)

    return [_stage(path) for path in sorted(found, key=place)]


def _stage(folder: Path) -> StageRecord:
    matched = _NAME.fullmatch(folder.name)
    assert matched, "only such folders are asked for"
    curves = read_curves(folder / "metrics.jsonl")
    logged = int(curves[0].steps[-1]) if curves else 0
    saved = Checkpoints(folder / "checkpoints", lambda _: None).steps()
    steps = max([logged, *saved]) if curves or saved else None
    path = folder / "stage.json"
    if not path.is_file():
        return StageRecord(folder.name, matched[1], False, steps, None, curves=curves)
    found = read_json(path)
    summary, inputs = _object(found, "summary", path), _object(found, "inputs", path)
    seconds = found.get("seconds_in_last_session")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not math.isfinite(seconds):
        raise InputError(f"{path}: seconds_in_last_session = {seconds!r:.100}; it must be a number")
    trust = summary.pop("trust", [])
    if not isinstance(trust, list):
        raise InputError(f"{path}: summary.trust = {trust!r:.100}; it must be a list")
    checks = [from_json(TrustCheck, one, f"{path}: summary.trust[{i}]") for i, one in enumerate(trust)]
    return StageRecord(folder.name, matched[1], True, steps, float(seconds), summary, inputs, curves, checks)


def _object(found: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    if not isinstance(value := found.get(name), dict):
        raise InputError(f"{path}: {name} = {value!r:.100}; it must be an object")
    return value


def read_curves(path: Path) -> tuple[Curve, ...]:
    """What a stage has logged, at most `MOST_POINTS` of it; none where there is no log yet.

    Raises:
        InputError: a line is damaged, other than the last, which may be half written.
    """
    if not path.is_file():
        return ()
    lines = read_file(path, _MOST_LOG).splitlines()
    found: list[dict[str, Any]] = []
    for i, line in enumerate(lines):
        try:
            value = json.loads(line)
            if not isinstance(value, dict) or type(value.get("step")) is not int:
                raise ValueError("it is no object with a whole number as step")
        except (ValueError, RecursionError) as error:
            if i == len(lines) - 1:
                break
            raise InputError(f"{path}: line {i + 1} is damaged: {error}") from error
        found.append(value)
    kept = [found[i] for i in thinned(len(found))]
    names = dict.fromkeys(name for line in kept for name in line if name != "step")
    return tuple(_curve(name, kept, path) for name in names)


def thinned(count: int) -> list[int]:
    """Indices of at most `MOST_POINTS` of so many points, evenly, the first and the last among them."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(count, MOST_POINTS))}) if count else []


def _curve(name: str, lines: list[dict[str, Any]], path: Path) -> Curve:
    """Raises InputError where the metric is not as many numbers in each line."""
    there = [line for line in lines if name in line]
    try:
        values = np.array([np.ravel(np.asarray(line[name], dtype=np.float64)) for line in there], dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: {name:.100}: is not as many numbers in each line") from error
    return Curve(name, np.array([line["step"] for line in there], dtype=np.float64), values)
