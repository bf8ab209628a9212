"""What an environment's id says about its data: D4RL's reference returns and the usual reward transform.

The references are those of D4RL (`d4rl/infos.py`). A score on a newer version of an environment, or on regenerated
data, uses the same scale but is not a D4RL score.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from tiltrl.types import Task


@dataclass(frozen=True)
class Reference:
    """One family of environments."""

    prefix: str  # how its environment ids begin, in lower case
    ref_min: float | None  # raw return that counts as 0; None: no reference
    ref_max: float | None  # raw return that counts as 100
    reward_transform: str = "none"  # a key of `transforms.REWARD_TRANSFORMS`


# No prefix begins another, so at most one row fits an id. Both naming schemes are here: D4RL's and Gymnasium's.
REFERENCES = (
    Reference("halfcheetah-", -280.178953, 12135.0, "locomotion"),
    Reference("hopper-", -20.272305, 3234.3, "locomotion"),
    Reference("walker2d-", 1.629008, 4592.3, "locomotion"),
    Reference("ant-", -325.6, 3879.7, "locomotion"),
    Reference("antmaze", 0.0, 1.0, "antmaze"),
    Reference("kitchen-", 0.0, 4.0),
    Reference("frankakitchen-", 0.0, 4.0),
    Reference("pen-", 96.262799, 3076.8331017826877),
    Reference("adroithandpen-", 96.262799, 3076.8331017826877),
    Reference("hammer-", -274.856578, 12794.134825156867),
    Reference("adroithandhammer-", -274.856578, 12794.134825156867),
    Reference("door-", -56.512833, 2880.5693087298737),
    Reference("adroithanddoor-", -56.512833, 2880.5693087298737),
    Reference("relocate-", -6.425911, 4233.877797728884),
    Reference("adroithandrelocate-", -6.425911, 4233.877797728884),
    Reference("maze2d-umaze-v", 23.85, 161.86),
    Reference("maze2d-umaze-dense-v", 68.537689, 193.66285642381482),
    Reference("maze2d-medium-v", 13.13, 277.39),
    Reference("maze2d-medium-dense-v", 44.264742, 297.4552547777125),
    Reference("maze2d-large-v", 6.7, 273.99),
    Reference("maze2d-large-dense-v", 30.569041, 303.4857382709002),
)

UNKNOWN = Reference("", None, None)


def reference(env_id: str | None) -> Reference:
    """The row for an environment id such as "Hopper-v5"; `UNKNOWN`, with no reference, for one not in the table."""
    name = (env_id or "").lower()
    return next((row for row in REFERENCES if name.startswith(row.prefix)), UNKNOWN)


def env_id(task: Task) -> str | None:
    """The id of the environment the data was recorded in, such as "Hopper-v5"; None where the data names none."""
    return None if task.env_spec is None else json.loads(task.env_spec)["id"]
