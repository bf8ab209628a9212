"""A page as a reader, or a reader of screens, finds it: by the standard library's parser."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "link", "img", "br", "hr", "input"}


@dataclass
class FoundTable:
    caption: str = ""
    headings: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)

    def row(self, name: str) -> list[str]:
        """The cells behind the row's name."""
        (found,) = [row[1:] for row in self.rows if row[0] == name]
        return found


class Reader(HTMLParser):
    """Tables, pictures, headings, warnings and logs; every tag that is opened has to be closed."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[FoundTable] = []
        self.said: dict[str, list[str]] = {}  # by tag, or class of a paragraph
        self._open: list[str] = []
        self._names: list[str] = []
        self._texts: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append((tag, found))
        if tag in VOID:
            return
        if tag == "table":
            self.tables.append(FoundTable())
        if tag == "tr" and "tbody" in self._open:
            self.tables[-1].rows.append([])
        if tag == "th":
            assert found["scope"] == ("row" if "tbody" in self._open else "col")
        self._open.append(tag)
        self._names.append(found.get("class") or tag)
        self._texts.append("")

    def handle_endtag(self, tag):
        assert self._open and self._open.pop() == tag, f"{tag} is closed, which is not the one open"
        name, text = self._names.pop(), self._texts.pop()
        words = text if tag == "pre" else " ".join(text.split())
        self.said.setdefault(name if tag == "p" else tag, []).append(words)
        if tag == "caption":
            self.tables[-1].caption = words
        elif tag in ("th", "td"):
            table = self.tables[-1]
            (table.rows[-1] if "tbody" in self._open else table.headings).append(words)
        if self._texts and tag not in ("style", "title"):
            self._texts[-1] += text

    def handle_data(self, data):
        if self._texts:
            self._texts[-1] += data

    def table(self, caption: str) -> FoundTable:
        (found,) = [table for table in self.tables if table.caption == caption]
        return found

    @property
    def pictures(self) -> list[dict[str, str | None]]:
        return [attrs for tag, attrs in self.tags if tag == "img"]


def read(path: Path) -> Reader:
    return Reader(path.read_text())
