"""The shell loop that docs/reliability.md gives does what it says."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "reliability.md").read_text()
(LOOP,) = re.findall(r"^```sh\n(while .*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
# A `tiltrl` that ends as it is told, and says by a dot that it ran; a `sleep` that ends at once.
STUBS = "tiltrl() { printf .; status=${ends%% *}; ends=${ends#* }; return $status; }; sleep() { return $nap; }\n"


@pytest.mark.parametrize("shell", ["sh", "bash"])
@pytest.mark.parametrize(
    ("ends", "nap", "runs"),
    [
        ("0 ", 0, 1),
        ("1 0 ", 0, 1),
        ("2 0 ", 0, 1),
        ("3 3 0 ", 0, 3),
        ("137 143 3 2 0 ", 0, 4),
        ("128 0 ", 0, 1),
        ("3 3 3 0 ", 130, 1),  # Ctrl-C during the pause
    ],
)
def test_the_loop_repeats_what_was_interrupted_and_nothing_else(shell: str, ends: str, nap: int, runs: int) -> None:
    program = f"ends='{ends}'; nap={nap}\n{STUBS}{LOOP}"
    done = subprocess.run([shell, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout, done.stderr) == ("." * runs, "")
