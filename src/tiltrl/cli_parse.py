"""What is typed, parsed before anything runs; a mistake in it is bad input like any other, said in one line."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from functools import partial, wraps
from typing import Any

import tyro

from tiltrl.errors import InputError

Command = Callable[..., None]
Job = Callable[[], None]


def later(command: Command) -> Callable[..., Job]:
    """The same command to the parser; called, it returns the job instead of doing it."""

    @wraps(command)
    def bound(**options: Any) -> Job:
        return partial(command, **options)

    return bound


def parse(commands: Mapping[str, Command], prog: str, description: str) -> Job:
    """The job that `sys.argv` asks for.

    Raises:
        InputError: there is no such command or option, or a value is missing or of another kind.
        SystemExit: only help was asked for, and printed.
    """
    said = io.StringIO()
    jobs = {name: later(command) for name, command in commands.items()}
    try:
        with redirect_stderr(said):
            return tyro.extras.subcommand_cli_from_dict(jobs, prog=prog, description=description)
    except SystemExit as end:
        if end.code != 2:
            raise
        raise InputError(_mistake(said.getvalue())) from None


def _mistake(box: str) -> str:
    """What tyro's box of text says is wrong, and what was probably meant, without the help between them."""
    parts: list[list[str]] = [[]]
    for line in box.splitlines()[1:]:  # the first is the box's title
        text = line.strip(" │|")
        if set(text) <= set("─-╰╯+"):  # a rule, or the lower edge
            parts.append([])
        else:
            parts[-1].extend(text.split())
    parts = [part for part in parts if part]  # where the terminal knows ASCII only, a rule is below the title too
    told = [" ".join(parts[0]).rstrip(".")]
    told += [" ".join(words) for words in parts[1:] if words[:2] == ["Available", "subcommands:"]]
    told += [f"did you mean {words[3]}?" for words in parts[1:] if words[:3] == ["Perhaps", "you", "meant:"]]
    return "; ".join(told)
