"""How long data sets take to load, from the second time on: files are then in the page cache.

    python benchmarks/loading.py [DATASET ...]       # one minute; 200 MB in the temporary folder

Loads each data set named (any name that `tiltrl run` takes) and a made-up D4RL file of a million rows, gzip and all.
Writes `benchmarks/results/loading.json` and the table `loading.md`.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

import tiltrl
from tiltrl.files import write_atomically, write_json
from tiltrl.policy import versions

ROWS, OBS, ACT, LENGTH = 1_000_000, 17, 6, 1000
ROUNDS = 5
RESULTS = Path(__file__).parent / "results"


def made_up(path: Path) -> Path:
    """A D4RL file of halfcheetah's sizes; smooth, so that gzip packs it about as well as real motion."""
    rng = np.random.default_rng(0)
    obs = np.cumsum(rng.normal(size=(ROWS, OBS)).astype(np.float32) * 0.05, axis=0, dtype=np.float32)
    last = np.arange(ROWS) % LENGTH == LENGTH - 1
    arrays = {
        "observations": obs,
        "actions": rng.uniform(-1, 1, (ROWS, ACT)).astype(np.float32),
        "rewards": rng.normal(size=ROWS).astype(np.float32),
        "next_observations": np.roll(obs, -1, axis=0),
        "terminals": np.zeros(ROWS, bool),
        "timeouts": last,
    }
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, compression="gzip", chunks=True)
    return path


def seconds(spec: str) -> tuple[int, list[float]]:
    """Steps of the set, and how long each of several loads took after a first one."""
    times = []
    steps = len(tiltrl.load(spec))
    for _ in range(ROUNDS):
        began = time.perf_counter()
        tiltrl.load(spec)
        times.append(time.perf_counter() - began)
    return steps, times


def main(specs: list[str]) -> None:
    """Measure, write, print."""
    with tempfile.TemporaryDirectory() as folder:
        file = made_up(Path(folder) / "halfcheetah_medium-v2.hdf5")
        size = file.stat().st_size
        found = {"a made-up D4RL file": seconds(str(file))} | {spec: seconds(spec) for spec in specs}
    facts = {"seconds": found, "d4rl_bytes": size, "versions": versions(), "cores": os.cpu_count()}
    write_json(RESULTS / "loading.json", facts)
    lines = [
        "# How long data sets take to load",
        "",
        f"Command: `python benchmarks/loading.py {' '.join(specs)}`; files in the page cache, {ROUNDS} loads after a "
        f"first one each, {os.cpu_count()} cores. The made-up file has {size / 1e6:.0f} MB, gzip.",
        "",
        "| data set | steps | seconds, median | most |",
        "|---|---|---|---|",
        *(f"| {name} | {n:,} | {statistics.median(t):.2f} | {max(t):.2f} |" for name, (n, t) in found.items()),
    ]
    write_atomically(RESULTS / "loading.md", ("\n".join(lines) + "\n").encode())
    print("\n".join(lines))


if __name__ == "__main__":
    main(sys.argv[1:])
