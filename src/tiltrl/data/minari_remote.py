"""Downloads public Minari data sets, as `minari download` does, but with h5py's and our requirements alone.

Minari's own remote is an organization of data set repositories, one for each first part of an id: the files of
D4RL/door/human-v2 are `data/metadata.json` and `data/main_data.hdf5` below `door/human-v2` in the repository D4RL.
Descriptions of namespaces are not needed to load a data set, by Minari or by us, and are left out.
"""

from __future__ import annotations

import os
from pathlib import Path

import h5py

from tiltrl.data.download import Check, OnProgress, check_hdf5, check_json, fetch, folder_aside
from tiltrl.data.minari import MINARI_ID
from tiltrl.errors import InputError
from tiltrl.files import DESCRIPTION_BYTES, read_json

_URL = "https://huggingface.co/datasets/farama-minari"


def download_minari(dataset_id: str, root: Path, on_progress: OnProgress | None = None, timeout: float = 30.0) -> Path:
    """Downloads a data set that is not on this machine yet; what is there is left as it is.

    Args:
        dataset_id: such as "mujoco/hopper/medium-v0".
        root: the folder of Minari's data sets, `MINARI_DATASETS_PATH` or `~/.minari/datasets`. `TILTRL_MINARI_URL`
            names a mirror, which has the repositories below it.
        on_progress: see `download.OnProgress`; of the HDF5 file.
        timeout: seconds without a single byte after which the server is given up.

    Returns:
        Its folder, which is whole; `minari.load_dataset` finds it.

    Raises:
        InputError: the id is none, the data set cannot be downloaded, or it is not in HDF5; the root is left as it was.
    """
    if not MINARI_ID.fullmatch(dataset_id):
        raise InputError(f"{dataset_id}: no Minari id; it must look like mujoco/hopper/medium-v0")
    folder = root / dataset_id
    if os.path.isdir(folder / "data"):
        return folder
    repository, _, inside = dataset_id.partition("/")
    base = (os.environ.get("TILTRL_MINARI_URL") or _URL).rstrip("/")
    url = "/".join(filter(None, (base, repository, "resolve/main", inside, "data")))

    def get(name: str, check: Check, tell: OnProgress | None = None) -> Path:
        try:
            return fetch(f"{url}/{name}", data / name, check=check, on_progress=tell, timeout=timeout)
        except InputError as error:
            reason = str(error).partition("; download it by hand")[0]  # and save it in a folder that is gone by then
            raise InputError(
                f"{dataset_id}: {reason}; run `minari download {dataset_id}` where there is a network, and put its "
                f"folder at {folder}"
            ) from error

    with folder_aside(folder) as aside:
        data = aside / "data"
        metadata = read_json(get("metadata.json", check_json), DESCRIPTION_BYTES)
        kind = metadata.get("data_format", "hdf5")
        if kind != "hdf5" or metadata.get("combined_datasets"):
            reason = f"is of data_format {kind!r}" if kind != "hdf5" else "is a combination of others"
            raise InputError(f"{dataset_id}: {reason}; only single data sets in 'hdf5' are supported")
        if missing := [key for key in ("action_space", "observation_space") if key not in metadata]:
            raise InputError(
                f"{dataset_id}: {url}/metadata.json: what came has no {missing[0]}, so it is no Minari data set's; run "
                f"`minari download {dataset_id}` where there is a network, and put its folder at {folder}"
            )
        get("main_data.hdf5", _check_episodes, on_progress)
    return folder


def _check_episodes(path: Path) -> None:
    """A whole HDF5 file with episodes as Minari names them."""
    check_hdf5(path)
    try:
        with h5py.File(path, "r") as file:
            if any(str(name).startswith("episode_") for name in file):
                return
    except (OSError, RuntimeError, ValueError, KeyError) as error:  # h5py raises any, by where the damage is
        raise InputError("a damaged HDF5 file") from error
    raise InputError("an HDF5 file without episode_0, so no Minari data set")
