"""The fenced blocks of README.md and the pages of docs/, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = {"README": ROOT / "README.md"} | {path.stem: path for path in sorted((ROOT / "docs").glob("*.md"))}
FENCE = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    page: str
    line: int  # of its first line in the page
    language: str  # what stands behind the fence; "" if nothing
    title: str | None  # of a file that the reader is to save it as
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: str) -> list[Block]:
    """The page's blocks, in order."""
    text = PAGES[page].read_text()
    found = []
    for match in FENCE.finditer(text):
        language, _, rest = match[2].partition(" ")
        title = re.fullmatch(r'title="([^"]+)"', rest)
        assert not rest or title, f"{page}: {match[2]!r} says more of a block than its language and title"
        line = text.count("\n", 0, match.start()) + 2
        found.append(Block(page, line, language, title[1] if title else None, match[3]))
    return found


def steps(block: Block) -> list[str]:
    """The commands of a shell block, one after the other; a loop is one of them."""
    text = block.text.replace("\\\n", " ")
    if text.startswith("while "):
        return [text]
    return [line for line in text.splitlines() if shlex.split(line, comments=True)]


def words(step: str) -> list[list[str]]:
    """The simple commands of a step: split at `;`, `&&` and `|`, without comments and settings of the environment."""
    lexer = shlex.shlex(step, posix=True, punctuation_chars=";&|\n")
    lexer.whitespace, lexer.whitespace_split = " \t", True
    found: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set(";&|\n"):
            found.append([])
        elif found[-1] or not re.fullmatch(r"[A-Z_]+=.*", word):
            found[-1].append(word)
    return [command for command in found if command]


def tiltrl_commands(step: str) -> Iterator[list[str]]:
    """What the step calls `tiltrl` with, also within the text of another shell."""
    for command in words(step):
        if command[0] == "tiltrl":
            yield command
        else:
            for word in command:
                if " " in word and "tiltrl " in word:
                    yield from tiltrl_commands(re.sub(r'"?\$\w+"?', "1", word))
