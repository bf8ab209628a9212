"""Files that are either the old one or the new one, never half of one."""

from __future__ import annotations

import json
import math
import os
import re
import secrets
from pathlib import Path
from typing import Any

from tiltrl.errors import InputError
from tiltrl.types import as_json


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Write aside, flush to disk, then rename: whoever reads `path` sees the old content or the new, never a part.

    Missing parent folders are made. A link is kept and the file behind it replaced. Nothing is left aside on failure.

    Raises:
        InputError: the operating system refuses (disk full, no permission, a folder in the way); names the path.
    """
    # In the same folder, because a rename is atomic only within one file system.
    target = Path(os.path.realpath(path))
    aside = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(aside, "xb") as file:
            try:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                os.replace(aside, target)
            except BaseException:  # an interrupt, too, leaves nothing aside
                aside.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise InputError(f"{os.fspath(path)}: cannot be written: {error.strerror or error}") from error


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write a value (dataclasses, tuples and NumPy scalars included) as indented JSON, atomically.

    Raises:
        InputError: a number is NaN or infinite, which JSON cannot say; or the file cannot be written.
    """
    plain = as_json(value)
    if (bad := _not_finite(plain)) is not None:
        raise InputError(f"{os.fspath(path)}: cannot be written: {bad}; JSON holds finite numbers only")
    write_atomically(path, (json.dumps(plain, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        InputError: the file is missing, damaged, or holds anything but an object.
    """
    try:
        value = json.loads(Path(path).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{os.fspath(path)}: not a readable JSON file: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{os.fspath(path)}: not a readable description: it holds no JSON object")
    return value


def slug(name: str, keep: str = ".-") -> str:
    """A name as a part of a path: each run of other characters than ASCII letters, digits and `keep` is one hyphen.

    Of a long name the end is kept, as the name of a file has one.
    """
    return re.sub(rf"[^A-Za-z0-9{re.escape(keep)}]+", "-", name).strip("-.")[-100:].lstrip("-.")


def _not_finite(value: Any, where: str = "value") -> str | None:
    """Where the first NaN or infinite number is, as in "value.scores[3] is nan"; None when there is none."""
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{where} is {value}"
    if isinstance(value, dict):
        inside = ((f"{where}.{key}", item) for key, item in value.items())
    elif isinstance(value, list):
        inside = ((f"{where}[{i}]", item) for i, item in enumerate(value))
    else:
        return None
    return next((bad for place, item in inside if (bad := _not_finite(item, place))), None)
