"""Cuts the bundled demo data set from a full one: as many evenly spaced episodes as fit the size limit.

    python scripts/make_demo_data.py [SOURCE]

SOURCE is a Minari folder; the result replaces src/tiltrl/data/demo. The choice is deterministic, and evenly spaced
because the source's behavior changes with time. Arrays are float32 and compressed, `infos` are dropped, and the result
remains a Minari data set.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import h5py
import numpy as np

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "src" / "tiltrl" / "data" / "demo" / "data"
DATASET_ID = "tiltrl/hopper/demo-v0"
MAX_BYTES = 6_000_000
DTYPES = {
    "observations": np.float32,
    "actions": np.float32,
    "rewards": np.float32,
    "terminations": np.bool_,
    "truncations": np.bool_,
}


def write_evenly(count: int, source: h5py.File, path: Path) -> int:
    """Writes `count` evenly spaced episodes of `source` to `path`; returns the number of steps."""
    steps = 0
    chosen = np.linspace(0, len(source) - 1, count).round().astype(int)
    with h5py.File(path, "w", libver="v110") as target:  # the newer format: less overhead for each small array
        for new, old in enumerate(chosen):
            episode, copy = source[f"episode_{old}"], target.create_group(f"episode_{new}")
            for name, dtype in DTYPES.items():
                data = episode[name][()].astype(dtype)
                copy.create_dataset(name, data=data, chunks=data.shape, compression=9, shuffle=True)
            length = len(episode["rewards"])
            copy.attrs.update({"id": new, "seed": episode.attrs["seed"], "total_steps": length})
            steps += length
    return steps


def demo_metadata(source: dict[str, object], episodes: int, steps: int, size: int) -> dict[str, object]:
    """The source's metadata, for the part of it that was kept."""
    space = json.loads(str(source["observation_space"]))
    return source | {
        "total_episodes": episodes,
        "total_steps": steps,
        "observation_space": json.dumps(space | {"dtype": "float32"}),
        "dataset_id": DATASET_ID,
        "description": f"Evenly spaced episodes of {source['dataset_id']}, float32. Regenerated data, recorded in "
        "Hopper-v5 with public SAC and TQC agents and falling noise: not D4RL data, though on D4RL's reference scale.",
        "dataset_size": round(size / 1e6, 1),
    }


def main() -> None:
    """Parses the arguments and writes the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = ROOT.parent / "shared" / "data" / "tiltrl" / "hopper" / "mixed-v0"
    parser.add_argument("source", nargs="?", type=Path, default=default, help="Minari folder to cut from")
    source = parser.parse_args().source / "data"

    TARGET.mkdir(parents=True, exist_ok=True)
    path = TARGET / "main_data.hdf5"
    with h5py.File(source / "main_data.hdf5", "r") as file:
        episodes = len(file)
        while True:
            steps = write_evenly(episodes, file, path)
            size = path.stat().st_size
            print(f"{episodes} episodes, {steps} steps, {size / 1e6:.2f} MB")
            if size <= MAX_BYTES:
                break
            episodes = int(episodes * MAX_BYTES / size)
    metadata = demo_metadata(json.loads((source / "metadata.json").read_text()), episodes, steps, size)
    (TARGET / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n")


if __name__ == "__main__":
    main()
