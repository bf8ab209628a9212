"""Environments by id, and the order in which their observations are joined."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from gymnasium.spaces import Box, Dict, Discrete

from tiltrl.environments import described_spec, in_order, known_spec, leaves, make
from tiltrl.errors import InputError


def test_goal_environments_come_in_their_usual_order() -> None:
    assert in_order(["zoom", "desired_goal", "observation", "a", "achieved_goal"]) == [
        "observation",
        "achieved_goal",
        "desired_goal",
        "a",
        "zoom",
    ]


@pytest.mark.parametrize(
    ("space", "sizes"),
    [
        (Box(0, 1, (3,)), {"": 3}),
        (Dict({"b": Box(0, 1, (2,)), "observation": Box(0, 1, (4,))}), {"observation": 4, "b": 2}),
        (Dict({"a": Dict({"c": Box(0, 1, (2,)), "b": Box(0, 1, (1,))})}), {"a/b": 1, "a/c": 2}),
        (Dict({}), None),
        (Dict({"a": Discrete(3)}), None),
        (Dict({"a": Dict({"image": Box(0, 1, (3, 3))})}), None),
        (Box(0, 1, (3, 3)), None),
        (Discrete(3), None),
    ],
)
def test_leaves_of_a_space(space: gymnasium.Space, sizes: dict[str, int] | None) -> None:
    found = leaves(space)
    assert found == sizes
    assert found is None or list(found) == list(sizes or ())  # the order, too


def test_an_unknown_id_says_what_would_be_known() -> None:
    assert known_spec("Hopper-v5", "log").id == "Hopper-v5"
    with pytest.raises(InputError, match="log: environment 'Hopper-v99' is unknown to Gymnasium .*such as Hopper-v5"):
        known_spec("Hopper-v99", "log")


def spec(**fields: Any) -> str:
    """A specification as JSON, in which the rest is as a recorder would have left it."""
    recorded = json.loads(gymnasium.spec("Hopper-v5").to_json())
    return json.dumps(recorded | fields)


def test_of_a_specification_only_what_is_used_is_taken() -> None:
    text = spec(
        kwargs={"healthy_z_range": (0.5, math.inf)}, max_episode_steps=7, entry_point="evil:Env", to_come={"any": 1}
    )
    found = described_spec(text, "x")
    assert (found.id, found.kwargs, found.max_episode_steps) == ("Hopper-v5", {"healthy_z_range": [0.5, math.inf]}, 7)
    env = make(found, "x")
    assert env.spec is not None and (env.spec.id, env.spec.max_episode_steps) == ("Hopper-v5", 7)
    assert env.spec.entry_point == gymnasium.spec("Hopper-v5").entry_point  # Gymnasium's own
    env.close()
    assert described_spec('{"id": "Hopper-v5", "kwargs": null, "additional_wrappers": null}', "x").kwargs == {}


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module `trap` that can be imported, and a file that is there once it was."""
    sprung = tmp_path / "sprung"
    (tmp_path / "trap.py").write_text(f"open({str(sprung)!r}, 'w')\nimport gymnasium\nEnv = gymnasium.Env\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield sprung
    assert not sprung.exists() and "trap" not in sys.modules


HOSTILE = {
    "a module to import": ({"id": "trap:Hopper-v5"}, "id is 'trap:Hopper-v5'; an id such as Hopper-v5 is needed"),
    "a path as id": ({"id": "../Hopper-v5"}, "id is '../Hopper-v5'"),
    "an endless id": ({"id": "a" * 5000}, "id is 'aaa"),
    "an id of another kind": ({"id": ["Hopper-v5"]}, "field id"),
    "code to run": ({"id": "New-v0", "entry_point": "trap:Env"}, "is unknown to Gymnasium"),
    "code as a callable": ({"entry_point": {"trap": "Env"}}, "field entry_point"),
    "a wrapper": ({"additional_wrappers": [{"name": "W", "entry_point": "trap:Env", "kwargs": {}}]}, None),
    "a wrapper's name with escapes": ({"additional_wrappers": [{"name": "\x1b[2J"}]}, "additional_wrappers.0.name"),
    "wrappers that are none": ({"additional_wrappers": ["trap:Env"]}, "field additional_wrappers.0"),
    "a vector entry point": ({"vector_entry_point": "trap:Env"}, None),
    "an absolute path": ({"kwargs": {"xml_file": "/etc/passwd"}}, "argument 'xml_file' is '/etc/passwd'"),
    "a path from home": ({"kwargs": {"xml_file": "~/robot.xml"}}, "argument 'xml_file' is '~/robot.xml'"),
    "a path upwards": ({"kwargs": {"xml_file": "../../robot.xml"}}, "argument 'xml_file' is"),
    "a name that leads upwards": ({"kwargs": {"xml_file": "a..b"}}, "argument 'xml_file' is"),
    "a hidden file": ({"kwargs": {"xml_file": ".robot.xml"}}, "argument 'xml_file' is"),
    "a path of Windows": ({"kwargs": {"xml_file": "C:\\robot.xml"}}, "argument 'xml_file' is"),
    "a null character": ({"kwargs": {"xml_file": "a\0b"}}, "argument 'xml_file' is"),
    "a path in a list": ({"kwargs": {"files": [["a", "/etc/passwd"]]}}, "argument 'files' is '/etc/passwd'"),
    "an object": ({"kwargs": {"default_camera_config": {"trackbodyid": 1}}}, "only numbers, names and lists of them"),
    "a module by way of an old Gym": (
        {"id": "GymV26Environment-v0", "kwargs": {"env_id": "trap:Env-v0"}},
        "argument 'env_id' is 'trap:Env-v0', which may name a file or a module",
    ),
    "a million cells": ({"kwargs": {"maze_map": [[0] * 20_000]}}, "argument 'maze_map' has more than 10000 items"),
    "an argument of `make`": ({"kwargs": {"id": "Ant-v5"}}, "cannot be made"),
    "arguments that are none": ({"kwargs": [1]}, "field kwargs"),
    "no end": ({"max_episode_steps": -1}, "field max_episode_steps"),
    "an end that never comes": ({"max_episode_steps": 10**15}, "field max_episode_steps"),
    "steps as a truth": ({"max_episode_steps": True}, "field max_episode_steps"),
}


@pytest.mark.parametrize(("fields", "message"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_specification_runs_nothing(trap: Path, fields: dict[str, Any], message: str | None) -> None:
    if message is None:  # nothing in it is used, beside the wrappers' names
        found = described_spec(spec(**fields), "x")
        assert found.vector_entry_point is None
        assert all(wrapper.entry_point == "" for wrapper in found.additional_wrappers)
        return
    with pytest.raises(InputError, match="^x") as caught:
        make(described_spec(spec(**fields), "x"), "x")
    assert message in str(caught.value) and len(str(caught.value)) < 1000 and str(caught.value).isprintable()


TEXTS = {
    "nothing": ("", "not readable as JSON"),
    "a list": ("[]", "is no object with an id"),
    "an id twice": ('{"id": "Hopper-v5", "id": "Ant-v5"}', "key 'id' is there twice"),
    "a number that is none": ('{"id": "Hopper-v5", "kwargs": {"x": NaN}}', "NaN is no number of JSON"),
    "an endless number": ('{"id": "Hopper-v5", "kwargs": {"x": 1e999}}', "1e999 is beyond the floats"),
    "an endless depth": ('{"id": ' + "[" * 50_000, "not readable as JSON"),
    "an endless text": ('{"id": "' + "a" * 100_000 + '"}', "characters, more than the 100000 of any"),
}


@pytest.mark.parametrize(("text", "message"), TEXTS.values(), ids=TEXTS)
def test_texts_that_are_no_specification(text: str, message: str) -> None:
    with pytest.raises(InputError, match="^x: ") as caught:
        described_spec(text, "x")
    assert message in str(caught.value)


def test_arguments_that_the_environment_is_registered_with_may_be_anything(tmp_path: Path) -> None:
    model = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / "hopper.xml"
    entry_point = gymnasium.spec("Hopper-v5").entry_point
    gymnasium.register("Own-v0", entry_point, max_episode_steps=5, kwargs={"xml_file": str(model)})
    try:
        text = gymnasium.spec("Own-v0").to_json()
        make(described_spec(text, "x"), "x").close()
        with pytest.raises(InputError, match="argument 'xml_file' is"):
            make(described_spec(text.replace("hopper.xml", "ant.xml"), "x"), "x")
    finally:
        del gymnasium.registry["Own-v0"]
    make(described_spec(spec(kwargs={"xml_file": "hopper.xml", "render_mode": "human"}), "x"), "x").close()


@pytest.mark.parametrize("env_id", ["trap:Hopper-v5", "trap:Env", "../x", "", "a/b/c"])
def test_an_id_from_a_data_sets_name_imports_no_module(trap: Path, env_id: str) -> None:
    with pytest.raises(InputError, match="is unknown to Gymnasium"):
        known_spec(env_id, "log")
