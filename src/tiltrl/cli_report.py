"""`tiltrl report`: runs and experiments as one page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

console = Console(markup=False, emoji=False)  # what is in brackets or colons is the user's text


@dataclass(frozen=True)
class ReportOptions:
    """What to report on, and where to."""

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of `tiltrl run`, `tiltrl baseline` and `tiltrl experiment`; each gets a section of the page."""
    out: Path | None = None
    """The page. Default: report.html in the folder, where one is given. Its tables as CSV and its pictures as PNG come
    to stand beside it, in a folder of the page's name with -files behind."""


def report(options: Annotated[ReportOptions, tyro.conf.arg(name="")]) -> None:
    """One HTML page with all that folders tell: scores, curves, critics' trust, settings, times; opens offline.

    Example: tiltrl report runs/demo-fast

    Of work that goes on it tells what is there, and says so at the top.
    """
    from tiltrl.report import write_report  # here, because no other command needs it

    target = write_report(options.folders, options.out)
    files = target.with_name(f"{target.stem}-files")
    console.print(f"page     {target}\nfiles    {files}", highlight=False, soft_wrap=True)
