"""Progress as it is printed: what is in brackets or colons is a user's text, and stays as it is."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tiltrl.progress import LiveProgress


@pytest.mark.parametrize("terminal", [False, True])
def test_text_in_brackets_is_printed_as_it_is(terminal: bool) -> None:
    printed = io.StringIO()
    console = Console(file=printed, force_terminal=terminal, width=200, color_system=None)
    with LiveProgress(console) as progress:
        progress.say("policies in runs/x[/b]:smile:")
        progress.start("a[/b]", 2)
        progress.update(2, 2, {"[/c]": 1.0})
    shown = printed.getvalue()
    assert "policies in runs/x[/b]:smile:\n" in shown.replace("\r", "")
    assert "a[/b]" in shown and "2/2" in shown and "[/c] 1" in shown
