"""Tables of vectors, one row each: arrays by name, or flat columns such as `obs.0`, `obs.1`; CSV among the formats."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from tiltrl.data.tables import Table, open_table, reading
from tiltrl.errors import InputError
from tiltrl.files import read_file

_CSV_BYTES = 2**28
_MOST_ANSWERS = 10_000_000
"""More than people give; both are of a file that may be anybody's, and texts take many times their size in memory."""


@dataclass(frozen=True)
class Rows:
    """An open table whose rows can be pointed at."""

    table: Table
    words: Callable[[str], list[str]]  # a column as texts, "" where nothing is written
    place: Callable[[int], str]  # of a row, for messages: "line 3" of a text file, else "row 1"

    @property
    def where(self) -> str:
        """The file, as messages name it."""
        return self.table.where

    def has(self, field: str) -> bool:
        """Whether there is an array or flat columns of that name."""
        return field in self.table.names or bool(self._flat(field))

    def vectors(self, field: str) -> np.ndarray:
        """A field as it is, (rows, ...), or put together of flat columns: `field.0` or, of several a row, `field.1.0`.

        Raises:
            InputError: there is none of that name, or flat columns are missing between others.
        """
        if field in self.table.names:
            return self.table.read(field)
        flat = self._flat(field)
        if not flat:
            raise InputError(
                f"{self.where}: holds no column {field!r} nor {field}.0, {field}.1, ...; it has "
                f"{', '.join(self.table.names) or 'none'}"
            )
        shape = tuple(map(max, zip(*flat, strict=False)))
        shape = tuple(largest + 1 for largest in shape)
        if len({len(index) for index in flat}) > 1 or len(flat) != math.prod(shape):
            raise InputError(
                f"{self.where}: columns {', '.join(flat.values())} are not all of a vector; {field}.0, {field}.1, ... "
                "are needed without a gap"
            )
        columns = [self.table.read(flat[index]) for index in sorted(flat)]
        if len({column.shape for column in columns}) > 1 or columns[0].ndim != 1:
            shapes = ", ".join(
                f"{flat[index]} {column.shape}" for index, column in zip(sorted(flat), columns, strict=True)
            )
            raise InputError(f"{self.where}: of shapes {shapes}; each of these needs one number a row, of as many rows")
        return np.stack(columns, axis=1).reshape(-1, *shape)

    def _flat(self, field: str) -> dict[tuple[int, ...], str]:
        """Flat columns by their indices, one or two."""
        pattern = re.compile(rf"{re.escape(field)}\.(\d{{1,6}})(?:\.(\d{{1,6}}))?", re.ASCII)
        matches = filter(None, map(pattern.fullmatch, self.table.names))
        return {tuple(int(part) for part in match.groups() if part): match[0] for match in matches}


@contextmanager
def open_rows(path: Path) -> Iterator[Rows]:
    """Open a .csv, .parquet, .npz or HDF5 file.

    Raises:
        InputError: it is none of these, is damaged, or holds what cannot be read safely.
    """
    if path.suffix.lower() == ".csv":
        yield _csv(path)
        return
    with open_table(path) as table:
        yield Rows(table, lambda name: _words(path, table, name), lambda row: f"row {row}")


def _csv(path: Path) -> Rows:
    try:
        text = read_file(path, _CSV_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not readable as CSV: {error}; save it as UTF-8") from error
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)  # spreadsheets write any of these, by the country they are used in
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    with reading(str(path), "CSV"):
        names = tuple(name.strip() for name in next(reader, []))
        rows = [(reader.line_num, row) for row in reader if row]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{path}: line 1: column {twice!r} is there twice; name each once")
    if bad := next(((line, row) for line, row in rows if len(row) != len(names)), None):
        raise InputError(f"{path}: line {bad[0]}: {len(bad[1])} values; line 1 names {len(names)} columns")

    def place(row: int) -> str:
        return f"line {rows[row][0]}"

    def words(name: str) -> list[str]:
        column = names.index(name)
        return [row[column].strip() for _, row in rows]

    def numbers(name: str) -> Float[np.ndarray, " rows"]:
        found = np.empty(len(rows))
        for row, word in enumerate(words(name)):
            try:
                found[row] = float(word)
            except ValueError:
                raise InputError(f"{path}: {place(row)}, column {name}: {word!r:.80}; a number is needed") from None
        return found

    return Rows(Table(str(path), names, numbers, lambda _: None), words, place)


def _words(path: Path, table: Table, name: str) -> list[str]:
    """A column of texts or numbers of a file that is no text itself."""
    if path.suffix.lower() == ".parquet":
        from pyarrow import parquet, types  # takes a while, and few need it

        with reading(f"{path}: {name}", "Parquet"):
            # As a dictionary, since a text that is there often takes its room once.
            column = parquet.read_table(path, columns=[name], read_dictionary=[name]).column(name)
            if types.is_nested(column.type):
                raise InputError(f"{path}: {name}: type {column.type}; one text or number a row is needed")
            if len(column) > _MOST_ANSWERS:
                raise InputError(f"{path}: {name}: {len(column)} rows, more than the {_MOST_ANSWERS} that are read")
            read: list[str] = []
            for chunk in column.dictionary_encode().chunks:
                words = [_word(value) for value in chunk.dictionary.to_pylist()]
                read += ["" if index is None else words[index] for index in chunk.indices.to_pylist()]
            return read
    found = np.atleast_1d(table.read(name))
    if found.ndim > 1:
        raise InputError(f"{path}: {name}: shape {found.shape}; one text or number a row is needed")
    return [_word(value) for value in found.tolist()]


def _word(value: Any) -> str:
    """A value as text, a missing one as "": 2.0 as "2", since whole numbers with gaps are kept as floats."""
    if value is None or value != value:
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value).strip()
