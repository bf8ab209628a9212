"""Policies on the Hugging Face hub: `hf:owner/name`, downloaded into the hub's cache, and uploaded.

Only a policy's own files are asked for, and none before its size is known to be one that a policy may have. What has
come is read as any folder is: nothing in it is executed (docs/security.md). Where the hub is, and with which token, is
the hub's library's to know (`HF_ENDPOINT`, `HF_TOKEN`, `hf auth login`); a token is in no message.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tiltrl.errors import InputError
from tiltrl.files import read_json
from tiltrl.model_card import CARD, MOST_CARD
from tiltrl.policy_folder import FILES

Answer = TypeVar("Answer")

SCHEME = "hf:"
_REPOSITORY = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_NAME = re.compile(rf"hf:({_REPOSITORY})(?:@([A-Za-z0-9][A-Za-z0-9._/-]{{0,199}}))?")
_COMMIT = re.compile("[0-9a-f]{40}")
_AT_MOST = FILES | {CARD: MOST_CARD}
# The description comes last: where it is in the cache, all of its policy is.
_ORDER = sorted(_AT_MOST, key=lambda name: name.endswith(".json"))
_DESCRIPTION = "policy.json"
_NEEDED = (_DESCRIPTION, "policy.safetensors")  # not every policy has a critic


def on_hub(place: str | os.PathLike[str]) -> bool:
    """Whether it names a repository of the hub, and no folder."""
    return os.fspath(place).startswith(SCHEME)


@contextmanager
def fetched(place: str | os.PathLike[str]) -> Iterator[Path]:
    """A policy's folder: the place itself, or for `hf:...` one with the hub's files, for as long as it is looked at.

    A commit by its full name that has been loaded before needs no network.

    Raises:
        InputError: the name is none, the hub cannot be reached or refuses, there is no policy in the repository, or
            the library is not installed. What is wrong with the files is said of the name.
    """
    if not on_hub(place):
        yield Path(place)
        return
    name = Path(place).as_posix()
    repository, revision = _parsed(name)
    with TemporaryDirectory(prefix="tiltrl-") as folder:
        for file in _downloaded(name, repository, revision):
            shutil.copyfile(file, Path(folder, file.name))  # in the cache it is a link, and those are refused
        try:
            yield Path(folder)
        except InputError as error:
            raise InputError(str(error).replace(folder, name)) from error


@dataclass(frozen=True)
class Shared:
    """An uploaded policy."""

    name: str  # what `load_policy` takes
    commit: str  # address of the commit, for people


def upload(folder: Path, repository: str, *, private: bool, message: str) -> Shared:
    """Make a folder's files the repository's policy, in one commit; other files in the repository stay.

    Args:
        folder: a policy's, with nothing to be kept back in it; its files by their usual names are uploaded.
        repository: owner/name; made if it is not there.
        private: where the repository is there and others can see it, nothing is uploaded.
        message: of the commit.

    Raises:
        InputError: there is no token, the hub cannot be reached or refuses, the repository can be seen by others, or
            the library is not installed.
    """
    name = f"{SCHEME}{repository}"
    checked(repository, message)
    library = _library()
    if library.get_token() is None:
        raise InputError(f"{name}: uploading needs an access token: log in with `hf auth login`, or set HF_TOKEN")
    api = library.HfApi()
    _ask(name, lambda: api.create_repo(repository, private=private or None, exist_ok=True))
    found = _ask(name, lambda: api.model_info(repository))
    if private and not found.private:
        raise InputError(f"{name}: is there already and can be seen by everybody; make it private on the hub first")
    there, ours = {file.rfilename for file in found.siblings or ()}, {file.name for file in folder.iterdir()}
    changes = [library.CommitOperationAdd(file, folder / file) for file in _ORDER if file in ours]
    changes += [library.CommitOperationDelete(file) for file in _ORDER if file in there - ours]
    commit = _ask(name, lambda: api.create_commit(repository, changes, commit_message=message))
    return Shared(name, str(commit.commit_url))


def checked(repository: str, message: str) -> None:
    """Refuse what is no repository's name, or a commit without a message.

    Raises:
        InputError: as said.
    """
    if not message.strip():
        raise InputError("message: is empty; a commit needs one")
    if not re.fullmatch(_REPOSITORY, repository) or "--" in repository or ".." in repository:
        raise InputError(f"repository: is {repository!r:.200}; owner/name is needed, of letters, digits, '.', '_', '-'")


def _parsed(name: str) -> tuple[str, str]:
    found = _NAME.fullmatch(name)
    if found is None or ".." in name or "--" in found[1]:
        raise InputError(f"{name!r:.200}: is no policy on the hub; hf:owner/name or hf:owner/name@revision is needed")
    return found[1], found[2] or "main"


def _downloaded(name: str, repository: str, revision: str) -> list[Path]:
    """The policy's files in the hub's cache."""
    library = _library()
    if _COMMIT.fullmatch(revision):
        cached = [library.try_to_load_from_cache(repository, file, revision=revision) for file in _ORDER]
        paths = {Path(path).name: Path(path) for path in cached if isinstance(path, str)}
        if paths.keys() >= {*_NEEDED} and paths.keys() >= _described(paths[_DESCRIPTION]):
            return list(paths.values())
    api = library.HfApi()
    found = _ask(name, lambda: api.model_info(repository, revision=revision, files_metadata=True))
    sizes = {file.rfilename: file.size for file in found.siblings or () if file.rfilename in _AT_MOST}
    for file in _NEEDED:
        if file not in sizes:
            raise InputError(f"{name}: has no {file}, so it is no policy of TiltRL; name a repository made by its push")
    for file, size in sizes.items():
        if size is None or size > _AT_MOST[file]:
            told = "a size that the hub does not tell" if size is None else f"{size} bytes"
            raise InputError(f"{name}/{file}: has {told}; at most {_AT_MOST[file]} bytes are downloaded")
    get = library.hf_hub_download
    wanted = [file for file in _ORDER if file in sizes]
    return [Path(_ask(name, lambda file=file: get(repository, file, revision=found.sha))) for file in wanted]


def _described(path: Path) -> set[str]:
    """The files of arrays that a description names; what is wrong with it is told when it is loaded."""
    try:
        checksums = read_json(path).get("sha256")
    except InputError:
        return set()
    return set(checksums) if isinstance(checksums, dict) else set()


# --- The library ------------------------------------------------------------------------------------------------------


def _library() -> ModuleType:
    try:
        import huggingface_hub
    except ImportError as error:
        raise InputError("policies on the hub need its library: `pip install 'tiltrl[hub]'`") from error
    return huggingface_hub


def _ask(name: str, question: Callable[[], Answer]) -> Answer:
    """The hub's answer.

    Raises:
        InputError: there is none, or it is a refusal.
    """
    try:
        return question()
    except Exception as error:  # the library's, its transport's or the system's: whatever it is, it is about the hub
        # Nothing is chained to it, as what lies behind may hold the request, token and all.
        raise InputError(f"{name}: {_why(_telling(error), error)}") from None


def _telling(error: BaseException) -> BaseException:
    """Of an error and what it was raised from, the one that says most: the hub's answer, else the first cause."""
    while not hasattr(error, "response") and error.__cause__ is not None:
        error = error.__cause__
    return error


def _why(error: BaseException, outer: BaseException) -> str:
    """In words: of what says most of an error, and of the error itself, which may explain it."""
    from huggingface_hub import constants, errors

    status: Any = getattr(getattr(error, "response", None), "status_code", None)
    log_in = "log in with `hf auth login`, or set HF_TOKEN"
    if isinstance(error, errors.GatedRepoError):
        return f"its owner gives it on request only: ask for it on its page, then {log_in}"
    if isinstance(error, errors.RevisionNotFoundError):
        return "has no such revision; give a branch, a tag or a commit's full name"
    if isinstance(error, errors.RepositoryNotFoundError) or status == 404:
        return f"there is no such repository on the hub, or it is private: look at the name, or {log_in}"
    if status == 401:
        return f"the hub does not take the access token: {log_in} to a valid one"
    if status == 403:
        return "the access token may not do that: make one on the hub that can write to this repository"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set; without the hub only a commit by its full name can be loaded, once it has been"
    at = urlsplit(constants.ENDPOINT).hostname
    if status is not None and 400 <= status < 500 and status != 429:
        return f"the hub ({at}) refuses it: {_said(outer)}"
    if status is not None:
        return f"the hub ({at}) answers with status {status}; try again later"
    return f"the hub ({at}) cannot be reached or used: {_said(error)}"


def _said(error: BaseException) -> str:
    """What an error says, in one line without the token."""
    said = str(error)
    if token := _library().get_token():
        said = said.replace(token, "...")
    return " ".join("".join(c if c.isprintable() else " " for c in said).split())[:300] or type(error).__name__
