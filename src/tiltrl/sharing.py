"""Share a policy on the Hugging Face hub."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from tiltrl.files import read_file
from tiltrl.hub import SCHEME, Shared, checked, fetched, upload
from tiltrl.model_card import CARD, MOST_CARD, card, own_card
from tiltrl.policy import load_policy
from tiltrl.policy_folder import inside


def push(
    folder: str | os.PathLike[str],
    repository: str,
    *,
    private: bool = False,
    message: str = "Upload a policy of TiltRL",
) -> Shared:
    """Upload a policy that loads, with its model card, and nothing else that lies in its folder.

    A card that somebody has edited goes as it is; else it tells how to load the policy from the repository.

    Args:
        folder: the policy's.
        repository: owner/name; made if it is not there. Files in it that are not a policy's stay.
        private: refuse to upload where others could see it.
        message: of the commit.

    Raises:
        InputError: the policy cannot be loaded, or its README.md is a link that leads out of the folder; the
            repository's name is none; or as `tiltrl.hub.upload`.
    """
    checked(repository, message)
    policy = load_policy(folder)
    with TemporaryDirectory(prefix="tiltrl-") as made, fetched(folder) as given:
        policy.save(made)  # as it was loaded, whatever else is there
        path = inside(given, CARD)
        if path.exists() and own_card(path) is None:
            text = read_file(path, MOST_CARD)
        else:
            text = card(policy.config, f"{SCHEME}{repository}").encode()
        Path(made, CARD).write_bytes(text)
        return upload(Path(made), repository, private=private, message=message)
