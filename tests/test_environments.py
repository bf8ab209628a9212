"""Environments by id, and the order in which their observations are joined."""

from __future__ import annotations

import gymnasium
import pytest
from gymnasium.spaces import Box, Dict, Discrete

from tiltrl.environments import in_order, known_spec, leaves
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
