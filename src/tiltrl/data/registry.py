"""What the name of an environment or data set says: D4RL's reference returns, horizon, and the usual rewards.

The references are those of D4RL (`d4rl/infos.py`). A score on a newer version of an environment, or on regenerated
data, uses the same scale but is not a D4RL score.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from tiltrl.types import Task

RewardsName = Literal["locomotion", "antmaze", "kitchen", "normalize", "none"]
"""The reward transforms; `transforms.scale_rewards` says what they do."""
RewardsOption = Literal["auto", RewardsName]
"""Likewise, or the usual one of the task."""


@dataclass(frozen=True)
class Reference:
    """One family of environments and of D4RL's data sets in them."""

    pattern: str  # what its names look like, in lower case: D4RL's environments, data sets and files, and Gymnasium's
    ref_min: float | None  # raw return that counts as 0; None: no reference
    ref_max: float | None  # raw return that counts as 100
    horizon: int | None = None  # steps after which an episode of D4RL's is cut
    reward_transform: RewardsName = "none"


# Patterns fit whole names, so that neither OGBench's antmaze-large-navigate-v0 nor a dense-reward variant gets the
# references of a namesake. At most one row fits a name.
REFERENCES = (
    Reference(r"halfcheetah(-[a-z-]+)?-v\d+", -280.178953, 12135.0, 1000, "locomotion"),
    Reference(r"hopper(-[a-z-]+)?-v\d+", -20.272305, 3234.3, 1000, "locomotion"),
    Reference(r"walker2d(-[a-z-]+)?-v\d+", 1.629008, 4592.3, 1000, "locomotion"),
    Reference(r"ant(-[a-z-]+)?-v\d+", -325.6, 3879.7, 1000, "locomotion"),
    Reference(r"antmaze-umaze(-diverse)?-v\d+|antmaze_umaze-v\d+|ant_maze_u-maze_[a-z_]+", 0.0, 1.0, 700, "antmaze"),
    Reference(
        r"antmaze-(medium|large)-(play|diverse)-v\d+|ant_maze_(big|hardest)-maze_[a-z_]+", 0.0, 1.0, 1000, "antmaze"
    ),
    Reference(r"antmaze_(open|medium|large)(_diverse_gr?)?-v\d+", 0.0, 1.0, 1000, "antmaze"),
    Reference(r"(kitchen(-[a-z-]+)?|frankakitchen)-v\d+", 0.0, 4.0, 280, "kitchen"),
    Reference(r"(pen(-[a-z]+)?|adroithandpen)-v\d+", 96.262799, 3076.8331017826877, 100),
    Reference(r"(hammer(-[a-z]+)?|adroithandhammer)-v\d+", -274.856578, 12794.134825156867, 200),
    Reference(r"(door(-[a-z]+)?|adroithanddoor)-v\d+", -56.512833, 2880.5693087298737, 200),
    Reference(r"(relocate(-[a-z]+)?|adroithandrelocate)-v\d+", -6.425911, 4233.877797728884, 200),
    Reference(r"maze2d-umaze-v\d+", 23.85, 161.86, 300),
    Reference(r"maze2d-umaze-dense-v\d+", 68.537689, 193.66285642381482, 300),
    Reference(r"maze2d-medium-v\d+", 13.13, 277.39, 600),
    Reference(r"maze2d-medium-dense-v\d+", 44.264742, 297.4552547777125, 600),
    Reference(r"maze2d-large-v\d+", 6.7, 273.99, 800),
    Reference(r"maze2d-large-dense-v\d+", 30.569041, 303.4857382709002, 800),
)

UNKNOWN = Reference("", None, None)


def reference(name: str | None) -> Reference:
    """The row for an environment's id such as "Hopper-v5" or a D4RL data set's such as "hopper-medium-v2".

    `UNKNOWN`, with no reference and no horizon, for one not in the table.
    """
    found = (name or "").lower()
    return next((row for row in REFERENCES if re.fullmatch(row.pattern, found)), UNKNOWN)


def reference_of(task: Task) -> Reference:
    """The row for the task's environment, or else for its (first) data set, by D4RL's name of it or of its file."""
    by_environment = reference(env_id(task))
    if by_environment is not UNKNOWN:
        return by_environment
    first = re.split(r"[+?\[]", task.dataset)[0]
    name = PurePath(first.removeprefix("d4rl:")).stem
    by_name = reference(name)
    return by_name if by_name is not UNKNOWN else reference(name.replace("_", "-"))


def env_id(task: Task) -> str | None:
    """The id of the environment the data was recorded in, such as "Hopper-v5"; None where the data names none."""
    return None if task.env_spec is None else json.loads(task.env_spec)["id"]
