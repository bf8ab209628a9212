"""Tasks that files bring along: what is taken, and what each kind of nonsense says."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tiltrl.data.recorded import described_task, recorded_task
from tiltrl.data.tables import Table
from tiltrl.errors import InputError
from tiltrl.types import Task, as_json

TASK = Task("set", json.dumps({"id": "Hopper-v5"}), (-1.0, -2.0), (1.0, 2.0), 3, 0.0, 10.0, ("a", "b/c"))


def test_a_text_of_another_program_is_no_task() -> None:
    def table(**texts: str) -> Table:
        return Table("file", (), lambda name: np.zeros(0), lambda name: texts.get(name.replace("/", "_")))

    for text in ("pick up the cube", "{", "[]", '{"dataset": "theirs"}', "[" * 100_000):
        assert described_task(table(meta=text, metadata_task=text)) is None
    ours = json.dumps(as_json(TASK))
    assert described_task(table(meta="theirs", metadata_task=ours)) == described_task(table(meta=ours)) == TASK
    with pytest.raises(InputError, match="file: metadata/task: action_low"):
        described_task(table(metadata_task=json.dumps(as_json(TASK) | {"action_low": [3.0, 3.0]})))


def test_what_was_written_is_read() -> None:
    assert recorded_task(json.loads(json.dumps(as_json(TASK))), "file") == TASK


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action_low": [-1.0]}, "low < high is needed"),
        ({"action_low": [], "action_high": []}, "low < high is needed"),
        ({"action_high": [1.0, -2.0]}, "low < high is needed"),
        ({"action_low": [-1.0, float("nan")]}, "low < high is needed"),
        ({"action_high": [1.0, float("inf")]}, "low < high is needed"),
        ({"action_high": [1.0, 1e300]}, "low < high is needed"),
        ({"obs_dim": 0}, "obs_dim = 0; at least 1"),
        ({"ref_min": None}, "two finite numbers are needed, min < max, or neither"),
        ({"ref_max": 0.0}, "two finite numbers are needed"),
        ({"ref_max": float("inf")}, "two finite numbers are needed"),
        ({"obs_keys": ["a", ""]}, "obs_keys = .*names are needed"),
        ({"obs_keys": ["a//b"]}, "obs_keys = .*names are needed"),
        ({"env_spec": "Hopper-v5"}, "env_spec is 'Hopper-v5'; it must be"),
        ({"env_spec": '{"id": 3}'}, "env_spec is .*; it must be"),
        ({"env_spec": "[" * 100_000}, "env_spec is .*; it must be"),
        ({"extra": 1}, "field 'extra' is unknown"),
        ({"obs_dim": "x"}, "field obs_dim"),
    ],
)
def test_nonsense_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^file: .*{message}"):
        recorded_task(as_json(TASK) | change, "file")
