"""What pages name is there: commands with options, targets, scripts, extras, links; and each block says its kind."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from page_blocks import PAGES, ROOT, blocks_of, steps, tiltrl_commands, words

import tiltrl
from tiltrl import cli, cli_parse

LANGUAGES = {"sh", "python", "text"}
SHELL = [
    (block, step) for page in PAGES for block in blocks_of(page) if block.language == "sh" for step in steps(block)
]
COMMANDS = [(block, command) for block, step in SHELL for command in tiltrl_commands(step)]
LINK = re.compile(r"\]\(((?!http)[^)#]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_it_is(page: str) -> None:
    assert PAGES[page].read_text().count("```") == 2 * len(blocks_of(page))
    assert [str(block) for block in blocks_of(page) if block.language not in LANGUAGES] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_tiltrl_command_can_be_parsed(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def only_parsed(commands: Mapping[str, Callable[..., None]], prog: str, description: str) -> cli_parse.Job:
        job = cli_parse.parse(commands, prog, description)
        assert callable(job)
        return lambda: None

    monkeypatch.setattr(cli, "parse", only_parsed)
    for block, command in COMMANDS:
        if block.page == page:
            monkeypatch.setattr(sys, "argv", command)
            cli.main()  # raises what is wrong with it


def test_a_renamed_option_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["tiltrl", "run", "demo", "--bate", "1"])
    with pytest.raises(tiltrl.InputError, match="--bate"):
        cli.main()


def test_commands_are_seen_in_loops_and_in_other_shells() -> None:
    seen = [" ".join(command) for _, command in COMMANDS]
    assert "tiltrl run demo --out runs/demo" in seen  # docs/reliability.md
    assert any("--processes 1 --process 1" in command for command in seen)  # of srun in docs/scaling.md


def test_every_make_target_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = {command[1] for _, step in SHELL for command in words(step) if command[0] == "make"}
    assert {"demo", "test"} <= targets
    assert [target for target in targets if f"\n{target}:" not in makefile] == []


def test_every_script_exists_and_knows_its_options() -> None:
    calls = [command for _, step in SHELL for command in words(step) if command[0] in ("python", ".venv/bin/python")]
    scripts = [command for command in calls if command[1] != "-m"]  # those are run, or need a browser
    assert scripts
    for _, script, *options in scripts:
        source = (ROOT / script).read_text()
        for option in options:
            if option.startswith("--"):
                assert re.search(rf"\b{option[2:].replace('-', '[-_]')}\b", source), f"{script} has no {option}"


def test_every_extra_exists() -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    text = "".join(path.read_text() for path in PAGES.values())
    named = {extra for extras in re.findall(r"tiltrl\[([a-z,]+)\]", text) for extra in extras.split(",")}
    assert "robotics" in named and named <= set(known)


def test_every_name_of_the_package_exists() -> None:
    text = "".join(block.text for page in PAGES for block in blocks_of(page) if block.language == "python")
    names = set(re.findall(r"\btiltrl\.([a-z_]+)\(", text))
    assert {"load", "fit_behavior", "fit_critic", "align", "evaluate", "load_policy"} <= names
    assert [name for name in names if not hasattr(tiltrl, name)] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    folder: Path = PAGES[page].parent
    assert [link for link in LINK.findall(PAGES[page].read_text()) if not (folder / link).exists()] == []
