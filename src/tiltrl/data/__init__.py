"""Data sets on disk to `Transitions`, whatever their format."""

from __future__ import annotations

import re
from functools import reduce
from pathlib import Path

from tiltrl.data.minari import load_minari, read_folder
from tiltrl.data.transforms import join
from tiltrl.errors import InputError
from tiltrl.types import Transitions

__all__ = ["load"]

_DEMO = Path(__file__).parent / "demo" / "data"
_MINARI_ID = re.compile(r"[\w-]+(/[\w-]+)*-v\d+")
_KINDS = (
    "a data set is 'demo' (bundled), a folder in Minari's format, the id of a local Minari data set such as "
    "mujoco/hopper/medium-v0, or several of these joined by '+'"
)


def load(spec: str) -> Transitions:
    """Loads a data set by name.

    Args:
        spec: "demo", the small Hopper set inside the package; a folder in Minari's format; the id of a Minari data set
            on this machine; or several joined by "+", which must be recorded in the same task.

    Raises:
        InputError: nothing of that name is here, or it cannot be used; the message says what would be right.
    """
    if "+" in spec and not Path(spec).exists():  # a folder may have a plus in its name
        return reduce(join, map(load, spec.split("+")))
    if spec == "demo":
        return read_folder(_DEMO, name=spec)
    if (spec and Path(spec).expanduser().is_dir()) or _MINARI_ID.fullmatch(spec):  # Path("") is the current folder
        return load_minari(spec)
    raise InputError(f"data set {spec!r} is of no known kind, or no such folder exists: {_KINDS}")
