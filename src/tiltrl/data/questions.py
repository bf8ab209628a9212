"""Questions for people: which of these actions is better at this state? Chosen to differ, and written as a table."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from tiltrl.data.aside import file_aside, reported
from tiltrl.data.preferences import CHOICE, LETTERS
from tiltrl.errors import InputError

FORMATS = (".csv", ".parquet")


def check_target(path: str | os.PathLike[str], overwrite: bool) -> Path:
    """Refuse what could not be written, before the questions are made.

    Returns:
        The path, with `~` replaced by the home folder.

    Raises:
        InputError: the name has another ending, the file is there, answers in it perhaps, it is a folder, or nothing
            can be written where it is to be.
    """
    target = Path(os.path.expanduser(path))
    if target.suffix.lower() not in FORMATS:
        raise InputError(f"{target}: the file's name must end in {' or '.join(FORMATS)}")
    with reported(target):
        if target.is_dir():
            raise InputError(f"{target}: is a folder; give the path of a file")
        if target.exists() and not overwrite:
            raise InputError(f"{target}: exists already, perhaps with answers; give another --out, or --overwrite")
        parent = next(folder for folder in target.absolute().parents if folder.exists())  # missing ones will be made
        if not parent.is_dir():
            raise InputError(f"{target}: cannot be written: {parent} is no folder")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise InputError(f"{target}: cannot be written: no permission to write in {parent}")
    return target


def least_difference(unit: Float[np.ndarray, "states k act"]) -> Float[np.ndarray, " states"]:
    """How far the two most alike actions of each question are apart: where they differ most, as a share of the range.

    Args:
        unit: actions in the unit box, whose side is 2.
    """
    apart = np.abs(unit[:, :, None] - unit[:, None]).max(axis=3) / 2.0
    k = unit.shape[1]
    return apart[:, ~np.eye(k, dtype=bool)].min(axis=1)


def redrawn(
    unit: Float[np.ndarray, "states k act"], again: Float[np.ndarray, "some k act"], alike: Bool[np.ndarray, " states"]
) -> Float[np.ndarray, "states k act"]:
    """The same questions, those that were too alike with new actions."""
    found = unit.copy()
    found[alike] = again
    return found


def spread_rows(total: int, count: int, seed: int) -> Int[np.ndarray, " count"]:
    """Rows evenly spread over the data, shuffled: answers to the first few questions are of all of it, too.

    Raises:
        InputError: there are fewer rows than questions, or none is asked for.
    """
    if not 1 <= count <= total:
        raise InputError(f"pairs = {count}; the data has {total} states, each of which can be asked about once")
    return np.random.default_rng(seed).permutation(np.arange(count) * total // count)


def write_questions(
    path: str | os.PathLike[str],
    step: Int[np.ndarray, " states"],
    obs: Float[np.ndarray, "states obs"],
    action: Float[np.ndarray, "states k act"],
    *,
    overwrite: bool = False,
) -> None:
    """Write a table with one question a row and an empty column `choice`.

    Args:
        path: ends in .csv or .parquet.
        step: which row of the data each state is, for whoever shows it to people.
        obs: the states.
        action: what to choose among, in the environment's units: columns a, b, ...
        overwrite: replace a file that is there.

    Raises:
        InputError: the file is there, or cannot be written.
    """
    target = check_target(path, overwrite)
    columns: dict[str, np.ndarray] = {"step": step}
    columns |= {f"obs.{i}": obs[:, i] for i in range(obs.shape[1])}
    for number in range(action.shape[1]):
        columns |= {f"{LETTERS[number]}.{i}": action[:, number, i] for i in range(action.shape[2])}
    with file_aside(target, overwrite) as aside:
        (_write_csv if target.suffix.lower() == ".csv" else _write_parquet)(aside, columns)


def _write_csv(path: Path, columns: dict[str, np.ndarray]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow([*columns, CHOICE])
        # The shortest digits that are this very float32 when read back.
        table.writerows([*map(str, row), ""] for row in zip(*columns.values(), strict=True))


def _write_parquet(path: Path, columns: dict[str, np.ndarray]) -> None:
    import pyarrow as pa  # takes a while, and few need it
    from pyarrow import parquet

    arrays = {name: pa.array(column) for name, column in columns.items()}
    rows = len(next(iter(columns.values())))
    parquet.write_table(pa.table(arrays | {CHOICE: pa.array([None] * rows, pa.string())}), path)
