"""Policies on the hub, through its own library and a stand-in for the hub on this machine."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
from hostile_policies import CONFIG, NETWORK, SHAPE
from hub_stand_in import TOKEN, Hub, Repository, stand_in
from huggingface_hub import constants, hf_hub_download

from tiltrl import cli, hub
from tiltrl.cli import EvaluateConfig
from tiltrl.diffusion.energy import Energy
from tiltrl.errors import InputError
from tiltrl.evaluation.rollout import Episodes
from tiltrl.model_card import own_card
from tiltrl.policy import Policy, load_policy
from tiltrl.sharing import push
from tiltrl.stages.critics.networks import init_critic

FILES = {"policy.json", "policy.safetensors", "critic.safetensors", "README.md"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy's folder, in which evaluations and a person's own things lie too."""
    folder = tmp_path_factory.mktemp("saved") / "policy"
    network = eqx.filter_jit(Energy)(11, 3, NETWORK, key=jax.random.key(0))
    Policy(network, CONFIG, eqx.filter_jit(init_critic)(11, 3, SHAPE, key=jax.random.key(1))).save(folder)
    (folder / "evaluation-seed0.json").write_text("{}")
    (folder / "password.txt").write_text("secret")
    return folder


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub, to which whoever uses the library is sent, logged in and with an empty cache."""
    with stand_in() as hub:
        send_to(hub.url, tmp_path, monkeypatch)
        yield hub


def send_to(url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)


def shared(there: Hub, saved: Path) -> Repository:
    """A repository that holds the policy."""
    found = Repository({path.name: path.read_bytes() for path in saved.iterdir()})
    there.repositories["owner/hopper"] = found
    return found


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the library's own, where it sends large files
def test_what_is_pushed_is_the_policy_alone_and_loads_as_it_was(there: Hub, saved: Path) -> None:
    there.large = frozenset({"policy.safetensors"})
    found = push(saved, "owner/hopper", message="The first")
    repository = there.repositories["owner/hopper"]
    assert repository.files.keys() == FILES and not repository.private
    assert repository.messages == ["The first"]
    assert found.name == "hf:owner/hopper" and found.commit.endswith(f"/commit/{repository.commit}")
    for name in FILES - {"README.md"}:
        assert repository.files[name] == (saved / name).read_bytes()
    assert b'tiltrl.load_policy("hf:owner/hopper")' in repository.files["README.md"]
    loaded, policy = load_policy("hf:owner/hopper", seed=3), load_policy(saved, seed=3)
    assert loaded.digest == policy.digest
    np.testing.assert_array_equal(loaded.sample(np.zeros(11)), policy.sample(np.zeros(11)))


def test_a_second_push_replaces_the_policy_and_keeps_what_is_not_its(there: Hub, saved: Path, tmp_path: Path) -> None:
    push(saved, "owner/hopper")
    there.repositories["owner/hopper"].files["notes.md"] = b"mine"
    policy = load_policy(saved)
    Policy(policy.network, policy.replace(critic=None).config).save(tmp_path / "without")
    push(tmp_path / "without", "owner/hopper")
    assert there.repositories["owner/hopper"].files.keys() == FILES - {"critic.safetensors"} | {"notes.md"}
    assert load_policy("hf:owner/hopper").critic is None


def test_an_edited_card_is_pushed_as_it_is(there: Hub, saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "edited"
    shutil.copytree(saved, folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\nMine.\n")
    push(folder, "owner/hopper")
    assert there.repositories["owner/hopper"].files["README.md"] == (folder / "README.md").read_bytes()
    (folder / "README.md").unlink()
    (tmp_path / "elsewhere").write_text("secret")
    (folder / "README.md").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"README\.md: is a link that leads out of the folder"):
        push(folder, "owner/hopper")


def test_only_a_policys_files_are_downloaded_and_once(there: Hub, saved: Path) -> None:
    repository = shared(there, saved)
    load_policy("hf:owner/hopper")
    gotten = [line.rpartition("/")[2] for line in there.asked if line.startswith("GET /owner")]
    assert sorted(gotten) == sorted(FILES)
    there.asked.clear()
    load_policy("hf:owner/hopper@main")
    assert there.asked == ["GET /api/models/owner/hopper/revision/main"]
    there.asked.clear()
    load_policy(f"hf:owner/hopper@{repository.commit}")
    assert there.asked == [], "a commit that is in the cache needs no network"


def test_private_repositories(there: Hub, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push(saved, "owner/hopper", private=True)
    assert there.repositories["owner/hopper"].private
    load_policy("hf:owner/hopper")
    there.repositories["owner/public"] = Repository()
    with pytest.raises(InputError, match="hf:owner/public: is there already and can be seen by everybody"):
        push(saved, "owner/public", private=True)
    assert not there.repositories["owner/public"].files
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(InputError, match="hf:owner/hopper: there is no such repository on the hub, or it is private"):
        load_policy("hf:owner/hopper")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policy.json": None}, "hf:owner/hopper: has no policy.json, so it is no policy of TiltRL"),
        ({"policy.safetensors": None}, "hf:owner/hopper: has no policy.safetensors"),
        ({"policy.json": b"import os"}, "hf:owner/hopper/policy.json: not readable as JSON"),
        ({"policy.safetensors": b"\x80\x04."}, "hf:owner/hopper/policy.safetensors: has 3 bytes where"),
        ({"critic.safetensors": None}, "hf:owner/hopper/critic.safetensors: cannot be read: No such file"),
    ],
)
def test_what_is_no_policy_is_refused(there: Hub, saved: Path, change: dict[str, Any], message: str) -> None:
    files = shared(there, saved).files
    for name, content in change.items():
        files[name] = content
        if content is None:
            del files[name]
    with pytest.raises(InputError) as caught:
        load_policy("hf:owner/hopper")
    assert str(caught.value).startswith(message) and str(caught.value).isprintable()


def test_a_commit_of_which_only_a_part_is_in_the_cache_is_downloaded(there: Hub, saved: Path) -> None:
    repository = shared(there, saved)
    hf_hub_download("owner/hopper", "policy.json", revision=repository.commit)
    load_policy(f"hf:owner/hopper@{repository.commit}")


@pytest.mark.parametrize("content", [b"[]", b"import os", b'{"sha256": [1]}'])
def test_what_is_no_description_is_refused_from_the_cache_too(there: Hub, saved: Path, content: bytes) -> None:
    repository = shared(there, saved)
    repository.files["policy.json"] = content
    for _ in range(2):
        with pytest.raises(InputError, match=r"^hf:owner/hopper@\w+(/policy\.json)?: "):
            load_policy(f"hf:owner/hopper@{repository.commit}")


def test_the_hubs_reason_for_a_refusal_is_told(there: Hub, saved: Path) -> None:
    there.refuses = 422
    with pytest.raises(InputError, match=r"hf:owner/hopper: the hub \(127\.0\.0\.1\) refuses it: .*422") as caught:
        load_policy("hf:owner/hopper")
    assert "try again later" not in str(caught.value) and TOKEN not in str(caught.value)
    there.refuses, there.dislikes = 0, f"license must be one of\n{TOKEN}\x1b[31m"
    with pytest.raises(InputError, match=r"Invalid metadata in README\.md\. - license must be one of \.\.\.") as caught:
        push(saved, "owner/hopper")
    assert str(caught.value).isprintable() and TOKEN not in str(caught.value)
    assert not there.repositories["owner/hopper"].files


def test_a_file_that_is_said_to_be_too_large_is_not_downloaded(there: Hub, saved: Path) -> None:
    shared(there, saved).sizes["policy.json"] = 8_000_001
    with pytest.raises(InputError, match=r"hf:owner/hopper/policy\.json: has 8000001 bytes; at most 8000000"):
        load_policy("hf:owner/hopper")
    there.repositories["owner/hopper"].sizes["policy.json"] = None
    with pytest.raises(InputError, match=r"policy\.json: has a size that the hub does not tell; at most 8000000"):
        load_policy("hf:owner/hopper")
    assert not any("resolve" in line for line in there.asked)


@pytest.mark.parametrize(
    "name",
    [
        "hf:",
        "hf:hopper",
        "hf:owner/hopper/more",
        "hf:owner/../x",
        "hf:owner/a--b",
        "hf:owner/hopper@",
        "hf:owner/hopper@../x",
        "hf:/etc/passwd",
        "hf:ow ner/x",
    ],
)
def test_names_that_are_none(name: str, there: Hub) -> None:
    with pytest.raises(InputError, match="is no policy on the hub; hf:owner/name or hf:owner/name@revision is needed"):
        load_policy(name)
    with pytest.raises(InputError, match="owner/name is needed"):
        push("nosuch", name)
    assert there.asked == []


def test_refusals_are_told_in_a_line(there: Hub, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="hf:owner/nosuch: there is no such repository on the hub, or it is private"):
        load_policy("hf:owner/nosuch")
    shared(there, saved)
    with pytest.raises(InputError, match="hf:owner/hopper@v2: has no such revision"):
        load_policy("hf:owner/hopper@v2")
    with pytest.raises(InputError, match="hf:others/hopper: the access token may not do that"):
        push(saved, "others/hopper")
    there.refuses = 500
    with pytest.raises(InputError, match=r"hf:owner/hopper: the hub \(127\.0\.0\.1\) answers with status 500"):
        load_policy("hf:owner/hopper")
    there.refuses = 0
    with pytest.raises(InputError, match="message: is empty"):
        push("nosuch", "owner/hopper", message=" ")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(InputError, match="hf:owner/hopper: the hub does not take the access token") as caught:
        push(saved, "owner/hopper")
    assert "hf_wrong" not in str(caught.value)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(
        InputError, match="hf:owner/hopper: uploading needs an access token: log in with `hf auth login`"
    ):
        push(saved, "owner/hopper")


@pytest.mark.parametrize("token", ["hf_abc\x07def", "hf_äöü", "hf_abc def"])
def test_a_token_that_cannot_be_sent_is_not_printed(
    token: str, there: Hub, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(InputError) as caught:
        push(saved, "owner/hopper")
    said = str(caught.value)
    assert said.startswith("hf:owner/hopper: ") and said.isprintable()
    assert not any(part in said for part in (token, token[3:], repr(token), ascii(token)[1:-1], "abc"))


def test_without_a_network(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:  # bound and not listening: refuses
        taken.bind(("127.0.0.1", 0))
        send_to(f"http://127.0.0.1:{taken.getsockname()[1]}", tmp_path, monkeypatch)
        for ask in (lambda: load_policy("hf:owner/hopper"), lambda: push(saved, "owner/hopper")):
            with pytest.raises(
                InputError, match=r"hf:owner/hopper: the hub \(127\.0\.0\.1\) cannot be reached"
            ) as caught:
                ask()
            assert "\n" not in str(caught.value)


def test_without_the_library(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for ask in (lambda: load_policy("hf:owner/hopper"), lambda: push(saved, "owner/hopper")):
        with pytest.raises(InputError, match=r"pip install 'tiltrl\[hub\]'"):
            ask()


def test_a_policy_from_the_hub_is_evaluated(
    there: Hub, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared(there, saved)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "evaluate_policy", lambda *_, **__: Episodes(np.ones(2), np.ones(2, int), np.arange(2)))
    cli.evaluate(EvaluateConfig(Path("hf:owner/hopper@main"), episodes=2))
    assert json.loads(Path("runs/hf-owner-hopper-main/evaluation-seed0.json").read_text())["returns"] == [1.0, 1.0]
    assert not Path("hf:owner").exists()


def test_from_the_command_line(there: Hub, saved: Path, tmp_path: Path) -> None:
    """As a user has it: another process, and the hub named by the environment."""
    environment = os.environ | {"HF_ENDPOINT": there.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-m", "tiltrl", "push", str(saved), "owner/hopper", "--private", "--message", "Mine"]
    ended = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert "load it  hf:owner/hopper" in ended.stdout
    repository = there.repositories["owner/hopper"]
    assert repository.private and repository.messages == ["Mine"] and repository.files.keys() == FILES
    assert TOKEN not in ended.stdout + ended.stderr


def test_the_card_that_comes_with_a_policy_is_known_as_unedited(there: Hub, saved: Path, tmp_path: Path) -> None:
    push(saved, "owner/hopper")
    with hub.fetched("hf:owner/hopper") as folder:
        assert own_card(folder / "README.md") is not None
        assert {path.name for path in folder.iterdir()} == FILES and not any(p.is_symlink() for p in folder.iterdir())
    assert not folder.exists()
