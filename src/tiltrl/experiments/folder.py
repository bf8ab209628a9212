"""An experiment's folder: one owner at a time, and `experiment.json`, which says what it was ever asked for."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tiltrl.config_io import from_json
from tiltrl.errors import InputError
from tiltrl.experiments.cell import Cell
from tiltrl.experiments.options import ExperimentName
from tiltrl.files import read_json, write_json
from tiltrl.locks import FolderLock, is_unused
from tiltrl.policy import versions

FORMAT = 1
FIXED = "preset", "budget", "episodes"
"""Fields that all cells of a folder have in common, so that they can be compared."""


@dataclass(frozen=True)
class Asked:
    """What `experiment.json` holds."""

    format: int
    name: ExperimentName
    cells: tuple[Cell, ...]  # of all commands so far
    versions: dict[str, str]  # of the last command
    machine: dict[str, Any]


def asked_of(folder: Path) -> Asked | None:
    """What the folder's experiment was asked for; None where there is none yet.

    Raises:
        InputError: the folder holds other things, or its description is damaged.
    """
    file = folder / "experiment.json"
    if not file.is_file():
        if folder.exists() and not (folder.is_dir() and is_unused(folder)):
            raise InputError(f"{folder}: exists and is not an experiment's folder; give a new or empty one as --out")
        return None
    found = read_json(file)
    if found.get("format") != FORMAT:
        raise InputError(
            f"{file}: format = {found.get('format')!r}, this TiltRL writes {FORMAT}; give another --out, or use that "
            "version"
        )
    return from_json(Asked, found, str(file))


def open_folder(folder: Path, name: ExperimentName, cells: Sequence[Cell]) -> tuple[FolderLock, list[Cell]]:
    """Take the folder, and add the cells to those that it was asked for before.

    Returns:
        What keeps other experiments out, until it is closed; and all cells of the folder, those of one data set
        together.

    Raises:
        InputError: another process works in it, or it holds another experiment or other things, or cannot be written.
    """
    _merged(folder, name, cells)  # first, so that nothing is written to a folder that is refused
    lock = FolderLock(folder)
    try:
        merged = _merged(folder, name, cells)
        machine = {"cores": os.cpu_count(), "machine": platform.machine(), "system": platform.platform()}
        write_json(folder / "experiment.json", Asked(FORMAT, name, tuple(merged), versions(), machine))
    except BaseException:
        lock.close()
        raise
    return lock, merged


def _merged(folder: Path, name: ExperimentName, cells: Sequence[Cell]) -> list[Cell]:
    before = asked_of(folder)
    if before is None:
        return list(cells)
    if before.name != name:
        raise InputError(f"{folder}: holds the experiment {before.name}, not {name}; give another --out")
    if before.cells and cells:
        there, here = asdict(before.cells[0]), asdict(cells[0])
        for field in FIXED:
            if there[field] != here[field]:
                raise InputError(
                    f"{folder}: holds an experiment with {field} = {there[field]}, not {here[field]}; give another "
                    "--out"
                )
    found = list(dict.fromkeys([*before.cells, *cells]))
    _refuse_overlap(folder, found)
    data = list(dict.fromkeys(cell.data for cell in found))
    return sorted(found, key=lambda cell: data.index(cell.data))


def _refuse_overlap(folder: Path, cells: Sequence[Cell]) -> None:
    """Refuse the same seed of the same thing in two cells: it would count twice.

    Raises:
        InputError: naming the first.
    """
    seen: dict[tuple[Cell, int], Cell] = {}
    for cell in cells:
        for seed in range(cell.seed, cell.seed + cell.seeds):
            other = seen.setdefault((replace(cell, seed=0, seeds=1), seed), cell)
            if other is not cell:
                raise InputError(
                    f"{folder}: seed {seed} is there already, trained together with others ({other}; {cell}); give as "
                    "many --seeds as before and the same --seeds-together, or another --out"
                )
