"""What the README names exists, and what it links to is there."""

import re
from pathlib import Path

import pytest

import tiltrl
from tiltrl import cli, cli_data

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
DATA_PAGE = (ROOT / "docs" / "data.md").read_text()


def test_every_name_in_the_python_block_exists():
    names = set(re.findall(r"\btiltrl\.([a-z_]+)", README))
    assert {"load", "fit_behavior", "fit_critic", "align", "evaluate", "load_policy"} <= names
    assert [name for name in names if not hasattr(tiltrl, name)] == []


def test_every_command_exists():
    commands = set(re.findall(r"^tiltrl ([a-z]+)", README, re.MULTILINE))
    assert "run" in commands
    assert [name for name in commands if not hasattr(cli, name)] == []


@pytest.mark.parametrize("page", [README, DATA_PAGE], ids=["README", "data"])
def test_every_data_command_exists(page):
    commands = re.findall(r"^tiltrl data ([a-z]+)", page, re.MULTILINE)
    assert commands and [name for name in commands if name not in cli_data.COMMANDS] == []


def test_every_make_target_exists():
    targets = set(re.findall(r"^make ([a-z]+)", README, re.MULTILINE))
    assert targets == {"demo", "test"}
    makefile = (ROOT / "Makefile").read_text()
    assert [target for target in targets if f"\n{target}:" not in makefile] == []


@pytest.mark.parametrize("link", re.findall(r"\]\(((?!http)[^)#]+)\)", README))
def test_every_link_leads_somewhere(link):
    assert (ROOT / link).exists()
