"""Every shell and Python block of the pages is run with small settings, in order, each page in a folder of its own."""

from __future__ import annotations

import csv
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_blocks import PAGES, Block, blocks_of, steps, words
from page_rules import NAMES, NEEDS_RUN, SLOW, reason_not_to_run, small
from tiny import TINY, small_presets

import tiltrl
from tiltrl import api, cli, data, presets
from tiltrl.data.write import write_d4rl, write_minari
from tiltrl.runtime.__main__ import main as runtime

RUNNABLE = ("sh", "python")
RUNTIME = ["python", "-m", "tiltrl.runtime"]


@pytest.fixture(scope="module", autouse=True)
def small_settings(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The preset and the bundled data set, small, for the command line and Python alike."""
    folder = tmp_path_factory.mktemp("demo")
    write_minari(tiltrl.load("demo[:0.02]"), folder / "demo", "demo-v0")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "_DEMO", folder / "demo" / "data")
        patch.setattr(tiltrl, "FAST", TINY)
        small_presets(patch)
        for function in (api.fit_behavior, api.fit_critic, api.align, api.align_preferences):
            usual = function.__defaults__ or ()
            patch.setattr(function, "__defaults__", tuple(TINY if value is presets.FAST else value for value in usual))
        patch.setattr(api.evaluate, "__defaults__", (1, *(api.evaluate.__defaults__ or ())[1:]))
        yield


@pytest.fixture(scope="module")
def finished_run(small_settings: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `runs` after `tiltrl run demo`."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        call(["tiltrl", "run", "demo"])
    return folder / "runs"


def call(command: list[str]) -> None:
    """The command line itself, in this process."""
    if command[:3] == RUNTIME:
        assert runtime(small(command)[3:]) == 0
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", small(command))
        cli.main()


def write_given_files(folder: Path) -> None:
    """What the pages take for the reader's own: logs with columns of unusual names, a Minari folder, D4RL files."""
    found = tiltrl.load("demo")
    np.savez(
        folder / "log.npz",
        observations=found.obs,
        next_observations=found.next_obs,
        actions=found.action,
        terminals=found.terminal,
        state=found.obs[:, :5],
        velocity=found.obs[:, 5:],
        u=found.action,
        r=found.reward,
        e=np.repeat(np.arange(len(found.ends)), np.diff(found.ends, prepend=-1)),
    )
    write_minari(found, folder / "path/to/minari/folder", "me/robot-v0")
    write_d4rl(tiltrl.load("demo[:0.5]"), folder / "big.h5")
    write_d4rl(tiltrl.load("demo[0.5:]"), folder / "more.h5")


def answer_questions(folder: Path) -> None:
    """As people would: the column `choice` is filled."""
    for path in folder.glob("questions*.csv"):
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        for number, row in enumerate(rows):
            row["choice"] = row["choice"] or "ab"[number % 2]
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


AFTER: dict[str, Callable[[Path], None]] = {"tiltrl preferences make": answer_questions}
"""What the reader does by hand after a command."""


def run_shell(block: Block, folder: Path) -> None:
    for step in steps(block):
        if reason_not_to_run(step):
            continue
        for command in words(step):
            known = command[0] == "tiltrl" or command[:3] == RUNTIME
            assert known, f"{block}: {step!r}: say in page_rules.py how it is run, or why not"
            call(command)
            AFTER.get(" ".join(command[:3]), lambda _: None)(folder)


def run_python(block: Block, names: dict[str, Any]) -> None:
    text = block.text
    for name, smaller in NAMES.items():
        text = text.replace(name, smaller)
    if block.title:  # a file that the reader is to save
        Path(block.title).write_text(text)
        return
    # Empty lines in front, so that a traceback has the page's line numbers.
    exec(compile("\n" * (block.line - 1) + text, str(PAGES[block.page]), "exec"), names)


@pytest.mark.parametrize("page", [pytest.param(page, marks=pytest.mark.slow if page in SLOW else ()) for page in PAGES])
def test_the_blocks_of_a_page_run(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    blocks = [block for block in blocks_of(page) if block.language in RUNNABLE]
    if not blocks:
        return
    if page in NEEDS_RUN:
        shutil.copytree(request.getfixturevalue("finished_run"), tmp_path / "runs")
    write_given_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # as of a script that lies there
    names: dict[str, Any] = {"__name__": "__page__"}
    for block in blocks:
        if block.language == "sh":
            run_shell(block, tmp_path)
        else:
            run_python(block, names)


def test_a_worked_example_is_short() -> None:
    lengths = {str(block): block.text.count("\n") for block in blocks_of("extend")}
    assert len(lengths) > 8 and [block for block, length in lengths.items() if length >= 60] == []
