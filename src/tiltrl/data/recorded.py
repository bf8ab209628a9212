"""The task that a file of ours brings along as JSON, checked before anything trusts it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from tiltrl.config_io import from_json
from tiltrl.data.tables import Table
from tiltrl.errors import InputError
from tiltrl.types import Task

_TEXTS = ("meta", "metadata/task")  # where our own writers put the task


def described_task(table: Table) -> Task | None:
    """The task that a file of ours was written with; None for other programs' files, whatever they call so.

    Raises:
        InputError: as `recorded_task`.
    """
    for name in _TEXTS:
        text = table.text(name)
        try:
            value = None if text is None else json.loads(text)
        except (ValueError, RecursionError):
            continue  # another program's text of that name
        if isinstance(value, dict) and {"dataset", "action_low", "action_high"} <= value.keys():
            return recorded_task(value, f"{table.where}: {name}")
    return None


def recorded_task(value: Any, where: str) -> Task:
    """A task from plain JSON values.

    Raises:
        InputError: a field is missing, unknown or of another type, or holds what no task can have.
    """
    task = from_json(Task, value, where)
    check_task(task, where)
    return task


def check_task(task: Task, where: str) -> None:
    """Refuse bounds, sizes, references and environments that cannot be.

    Raises:
        InputError: as said.
    """
    low, high = np.array(task.action_low), np.array(task.action_high)
    most = np.finfo(np.float32).max  # nor is any bound NaN, of which no comparison is true
    if not 0 < len(low) == len(high) or not ((-most <= low) & (low < high) & (high <= most)).all():
        raise InputError(
            f"{where}: action_low {task.action_low!s:.300}, action_high {task.action_high!s:.300}; low < high is needed"
        )
    if task.obs_dim < 1:
        raise InputError(f"{where}: obs_dim = {task.obs_dim}; at least 1 is needed")
    references = [score for score in (task.ref_min, task.ref_max) if score is not None]
    if references and not (len(references) == 2 and np.isfinite(references).all() and references[0] < references[1]):
        raise InputError(
            f"{where}: ref_min = {task.ref_min}, ref_max = {task.ref_max}; two finite numbers are needed, min < max, "
            "or neither"
        )
    if not all(part for key in task.obs_keys for part in key.split("/")):
        raise InputError(
            f"{where}: obs_keys = {task.obs_keys!s:.300}; names are needed, with / between those of nested ones"
        )
    if task.env_spec is not None:
        try:
            spec = json.loads(task.env_spec)
        except (ValueError, RecursionError):
            spec = None
        if not isinstance(spec, dict) or not isinstance(spec.get("id"), str):
            raise InputError(
                f"{where}: env_spec is {task.env_spec!r:.80}; it must be Gymnasium's EnvSpec as JSON, with an id"
            )
