"""The card in a policy's folder: what it says, and that a person's is let be."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hostile_policies import CONFIG

from tiltrl.errors import InputError
from tiltrl.model_card import card, own_card, write_card

TOLD = {
    "data": "0123456789abcdef",
    "stage": "align",
    "beta": 0.5,
    "kl": None,
    "seed": 3,
    "versions": {"tiltrl": "0.1.0", "jax": "0.10"},
}
ALIGNED = replace(CONFIG, provenance=TOLD)


def front_of(text: str) -> dict[str, str | list[str]]:
    """What the YAML at the top says, of the little of YAML that stands there."""
    found: dict[str, str | list[str]] = {}
    _, front, _ = text.split("---\n", 2)
    for line in front.splitlines():
        if line.startswith("- "):
            *_, last = found.values()
            assert isinstance(last, list)
            last.append(line[2:].strip('"'))
        else:
            name, _, value = line.partition(":")
            found[name] = value.strip() or []
    return found


def test_the_front_is_what_the_hub_looks_for() -> None:
    front = front_of(card(ALIGNED))
    assert front.keys() == {"library_name", "pipeline_tag", "license", "tags"}
    assert front["library_name"] == "tiltrl" and front["pipeline_tag"] == "reinforcement-learning"
    assert {"reinforcement-learning", "offline-reinforcement-learning", "Hopper-v5"} <= set(front["tags"])


def test_it_tells_what_the_policy_is_and_what_it_is_not_for() -> None:
    text = card(ALIGNED, "hf:owner/hopper")
    for said in (
        'policy = tiltrl.load_policy("hf:owner/hopper")',
        "environment `Hopper-v5`; 11 observations, 3 actions",
        f"data set: `{CONFIG.task.dataset}`",
        "fingerprint of the data: `0123456789abcdef`",
        "stage: `align`",
        "beta: `0.5`",
        "seed: `3`",
        "versions: `jax 0.10, tiltrl 0.1.0`",
        "scores on regenerated data are not",
        "energies are log-densities up to a constant of the state",
    ):
        assert said in text
    assert "kl:" not in text
    assert card(ALIGNED, "hf:owner/hopper") == text
    assert "- acts by a single action\n" in text
    assert "- acts by the mean of 8 sampled actions\n" in card(replace(ALIGNED, candidates=8, choice="mean"))


def test_without_an_environment_or_provenance() -> None:
    text = card(replace(CONFIG, provenance={}, task=replace(CONFIG.task, env_spec=None)))
    assert (
        "no environment is named" in text and "- not recorded" in text and "fingerprint of the data: `not rec" in text
    )


def test_names_cannot_break_out_of_the_text() -> None:
    hostile = "x`\n---\nlicense: mit\n<script>[a](http://b)\x1b[2J`" + "y" * 1000
    text = card(replace(ALIGNED, task=replace(CONFIG.task, dataset=hostile), provenance=TOLD | {"stage": hostile}))
    assert front_of(text)["license"] == "unknown" and "\x1b" not in text and text.count("---\n") == 2
    for line in re.findall(".*<script>.*", text):
        assert line.count("`") == 2 and line.index("`") < line.index("<script>") < line.rindex("`") and len(line) < 400


def test_it_is_rewritten_until_somebody_edits_it(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    write_card(tmp_path, CONFIG)
    assert own_card(path) == card(CONFIG).encode()
    write_card(tmp_path, ALIGNED)
    assert path.read_text() == card(ALIGNED)
    before = path.stat().st_mtime_ns
    write_card(tmp_path, ALIGNED)
    assert path.stat().st_mtime_ns == before, "what is there already is not written again"
    for edited in (
        card(ALIGNED).replace("license: unknown", "license: mit"),
        card(ALIGNED) + "One line more.\n",
        card(ALIGNED).rstrip(),
        "mine",
        "",
    ):
        path.write_text(edited)
        write_card(tmp_path, CONFIG)
        assert path.read_text() == edited and own_card(path) is None


def test_nothing_is_written_through_a_link_or_over_a_folder(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "policy"
    folder.mkdir()
    outside.write_text(card(CONFIG))
    (folder / "README.md").symlink_to(outside)
    write_card(folder, ALIGNED)
    assert outside.read_text() == card(CONFIG)
    for make in (Path.mkdir, os.mkfifo):
        (folder / "README.md").unlink()
        make(folder / "README.md")
        write_card(folder, ALIGNED)
        if make is Path.mkdir:
            (folder / "README.md").rmdir()
            (folder / "README.md").touch()
    assert (folder / "README.md").is_fifo()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"README\.md: cannot be written"):
        write_card(tmp_path / "file", CONFIG)
