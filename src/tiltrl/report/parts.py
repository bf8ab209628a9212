"""What a page is made of: sections of parts, which hold tables and pictures. Plain values, and no HTML."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass

from tiltrl.evaluation.scores import Interval


@dataclass(frozen=True)
class Span:
    """The bounds of an interval; a dash where no spread was seen."""

    low: float
    high: float


@dataclass(frozen=True)
class Duration:
    """Wall-clock."""

    seconds: float


Cell = str | int | float | Span | Interval | Duration | None


@dataclass(frozen=True)
class Table:
    """Rows under headings; the first cell of a row names it."""

    name: str  # of its CSV
    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    digits: int | None = None  # after the point, of all its numbers; None: as many as each needs

    def numeric(self, column: int) -> bool:
        """Whether the column holds no text, and is set to the right."""
        return column > 0 and all(not isinstance(row[column], str) for row in self.rows)


@dataclass(frozen=True)
class Picture:
    """A PNG with what it shows in words."""

    name: str  # of its file
    alt: str
    png: bytes
    small: bool = False  # one of several side by side


@dataclass(frozen=True)
class Part:
    """A heading with what is below it."""

    title: str
    text: str = ""  # paragraphs, with empty lines between
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    log: str = ""  # shown as it is
    folded: bool = False  # behind its title, to be opened


@dataclass(frozen=True)
class Section:
    """Everything of one folder."""

    title: str
    kind: str
    warnings: tuple[str, ...]  # at the top of the page
    facts: tuple[tuple[str, str], ...]
    parts: tuple[Part, ...]

    @property
    def tables(self) -> list[Table]:
        """All of them, in order."""
        return [table for part in self.parts for table in part.tables]

    @property
    def pictures(self) -> list[Picture]:
        """All of them, in order."""
        return [picture for part in self.parts for picture in part.pictures]


def shown(cell: Cell, digits: int | None = None) -> str:
    """A cell's text on the page."""
    match cell:
        case None:
            return "-"
        case Span(low, high):
            return f"{number(low, digits)} to {number(high, digits)}" if low < high else "-"
        case Interval(mean, low, high):
            bounds = f" ({number(low, digits)} to {number(high, digits)})" if low < high else ""
            return f"{number(mean, digits)}{bounds}"
        case Duration(seconds):
            return duration(seconds)
        case float():
            return number(cell, digits)
        case int():
            return f"{cell:,}"
    return cell


def number(value: float, digits: int | None = None) -> str:
    """A number with so many digits after the point, or three significant ones; with a minus sign that is one.

    What stands before the point is never rounded, and what is large has nothing behind it.
    """
    size = abs(value)
    if size >= 1e9 or (digits is None and 0 < size < 1e-3):
        return f"{value:.2e}".replace("-", "\N{MINUS SIGN}")
    needed = 1 if size >= 10 else 2 if size >= 1 else 3
    digits = 0 if size >= 1000 else needed if digits is None else digits
    return f"{round(value, digits) + 0.0:,.{digits}f}".replace("-", "\N{MINUS SIGN}")


def duration(seconds: float) -> str:
    """As in "1 h 07 min", "7 min 41 s" or "9.3 s"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def as_csv(table: Table) -> str:
    """The table with its numbers unrounded: an interval takes a column for each of its numbers."""
    heads: list[str] = []
    for column, heading in enumerate(table.headings):
        kinds = {type(row[column]) for row in table.rows}
        if Interval in kinds:
            heads += [heading, f"{heading}: low", f"{heading}: high"]
        elif Span in kinds:
            heads += [f"{heading}: low", f"{heading}: high"]
        else:
            heads.append(f"{heading} (seconds)" if Duration in kinds else heading)
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow([_plain(head) for head in heads])
    for row in table.rows:
        lines.writerow([value for column, cell in enumerate(row) for value in _values(cell, table, column)])
    return text.getvalue()


def _values(cell: Cell, table: Table, column: int) -> list[str | int | float]:
    match cell:
        case Span(low, high):
            return [low, high]
        case Interval(mean, low, high):
            return [mean, low, high]
        case Duration(seconds):
            return [seconds]
        case None:
            kinds = {type(row[column]) for row in table.rows}
            return [""] * (3 if Interval in kinds else 2 if Span in kinds else 1)
        case str():
            return [_plain(cell)]
    return [cell]


def _plain(text: str) -> str:
    """Text that no spreadsheet takes for a formula: names are anybody's."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
