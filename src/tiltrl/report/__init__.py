"""`tiltrl report`: folders of runs and experiments as one page that opens anywhere, with the files behind it."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Sequence
from pathlib import Path

from tiltrl.errors import InputError
from tiltrl.files import slug, writable, write_atomically
from tiltrl.report.experiment_section import experiment_section, read_experiment
from tiltrl.report.page import page
from tiltrl.report.parts import Picture, Section, Table, as_csv
from tiltrl.report.run import RunRecord, read_run
from tiltrl.report.run_section import run_section
from tiltrl.report.scores import comparison_pictures, comparisons

MOST_FOLDERS = 50
"""On one page."""


def write_report(folders: Sequence[Path], out: Path | None = None) -> Path:
    """Write the page, and beside it a folder with its tables as CSV and its pictures as PNG.

    The same folders give the same bytes.

    Args:
        folders: of runs and experiments; each gets a section.
        out: the page; None: `report.html` in the folder, where that is one.

    Returns:
        The page.

    Raises:
        InputError: a folder is neither, or its files are damaged; or the page cannot be written.
    """
    target = _target(folders, out)
    titles = _titles(folders)
    runs: list[RunRecord] = []
    sections: list[Section] = []
    for folder, title in zip(folders, titles, strict=True):
        if (folder / "run.json").is_file():
            runs.append(read_run(folder, title))
            sections.append(run_section(runs[-1]))
        else:
            sections.append(experiment_section(read_experiment(folder, title)))
    compared = comparisons(runs) if len(runs) > 1 else []
    pictures = comparison_pictures(runs) if len(runs) > 1 else []
    text = page(sections, compared, pictures, importlib.metadata.version("tiltrl"))
    files = target.with_name(f"{target.stem}-files")
    _write_files(files, compared, pictures)
    for title, section in zip(titles, sections, strict=True):
        _write_files(files / slug(title) if len(sections) > 1 else files, section.tables, section.pictures)
    write_atomically(target, text.encode())  # last, when all that it speaks of is there
    return target


def _target(folders: Sequence[Path], out: Path | None) -> Path:
    """Where the page goes, once all folders are known to be such.

    Raises:
        InputError: a folder is none of a run or an experiment, or the page cannot be put there.
    """
    if not 1 <= len(folders) <= MOST_FOLDERS:
        raise InputError(f"report: {len(folders)} folders were given; give 1 to {MOST_FOLDERS}")
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: is no folder; give that of a run or an experiment")
        if not any((folder / name).is_file() for name in ("run.json", "experiment.json")):
            raise InputError(
                f"{folder}: is neither a run's folder (no run.json in it) nor an experiment's (no experiment.json); "
                "give one that `tiltrl run`, `tiltrl baseline` or `tiltrl experiment` made"
            )
    if out is None and len(folders) > 1:
        raise InputError(f"report: of {len(folders)} folders, --out has to say where the page goes, as in --out a.html")
    return writable(folders[0] / "report.html" if out is None else out, ".html")


def _titles(folders: Sequence[Path]) -> list[str]:
    """The folders' names; as much of their paths as tells them apart.

    Raises:
        InputError: one is there twice.
    """
    paths = [Path(os.path.realpath(folder)) for folder in folders]
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise InputError(f"{twice}: is given twice; give each folder once")
    most = max(len(path.parts) for path in paths)
    for length in range(1, most + 1):
        names = ["/".join(path.parts[-length:]) for path in paths]
        if len({slug(name) for name in names}) == len(names):
            return names
    return [f"{path.name} {i + 1}" for i, path in enumerate(paths)]


def _write_files(folder: Path, tables: Sequence[Table], pictures: Sequence[Picture]) -> None:
    for table in tables:
        write_atomically(folder / f"{slug(table.name)}.csv", as_csv(table).encode())
    for picture in pictures:
        write_atomically(folder / f"{slug(picture.name, keep='.-_')}.png", picture.png)
