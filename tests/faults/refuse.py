"""Commands that must be refused: one line, status 2, nothing written, no wait."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import strategies as st
from zygote import Zygote

LIMIT = 20.0
HUGE = "9" * 30
ANY_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote() as server:
        yield server


class Refuse:
    """Runs commands that must be refused, in a folder that must stay as it is."""

    def __init__(self, zygote: Zygote, cwd: Path, aside: Path) -> None:
        self.zygote, self.cwd, self.aside = zygote, cwd, aside

    def __call__(self, *argv: str, says: str = "", before: str = "") -> None:
        there = files(self.cwd)
        # Whatever a library would leave in the user's own folders, it leaves in this one.
        homes = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"), str(self.cwd))
        status, error = call(self.zygote, argv, self.cwd, self.aside, homes, before)
        assert status == 2, error
        assert error.startswith("tiltrl: error: ") and error.endswith("\n") and error.count("\n") == 1, error
        assert "Traceback" not in error and len(error) < 4000, error
        assert says in error
        assert files(self.cwd) == there


def call(
    zygote: Zygote, argv: tuple[str, ...], cwd: Path, aside: Path, env: dict[str, str], before: str = ""
) -> tuple[int, str]:
    """Exit status and stderr."""
    child = zygote.start(argv, cwd=cwd, out=aside / "out", err=aside / "err", env=env, before=before)
    try:
        status = child.wait(LIMIT)
    finally:
        child.kill(signal.SIGKILL)
    return status, (aside / "err").read_text()


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """What lies below the folder: kinds, and sizes of files."""
    found = {str(path.relative_to(folder)): path.lstat() for path in folder.rglob("*")}
    return {
        name: (stat.st_mode, stat.st_size if path_is_file(stat.st_mode) else 0) for name, stat in sorted(found.items())
    }


def path_is_file(mode: int) -> bool:
    return mode & 0o170000 == 0o100000


@pytest.fixture
def refuse(zygote: Zygote, tmp_path: Path) -> Refuse:
    for name in ("cwd", "aside"):
        (tmp_path / name).mkdir()
    return Refuse(zygote, tmp_path / "cwd", tmp_path / "aside")


def replaced_by(make: Callable[[Path], object], name: str = "policy.safetensors") -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return damage
