"""A training of the behavior in one of several processes: `along.py FOLDER STOP_AT [PORT PROCESS]`.

Writes the losses and the networks into the folder; ends with status 3 where it stopped.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tiltrl.diffusion.energy import EnergyConfig
from tiltrl.stages.behavior import BehaviorConfig, train_behavior
from tiltrl.training.hosts import Hosts, join
from tiltrl.training.session import FolderSession

CONFIG = BehaviorConfig(
    network=EnergyConfig(action_width=8, time_width=8, obs_width=8, blocks=1, expansion=2), steps=50, batch=64
)


def main(folder: Path, stop_at: int, hosts: Hosts) -> None:
    """Train, and raise SIGTERM once as many steps are done, unless 0."""
    join(hosts, {}, print, patience=120.0)
    rng = np.random.default_rng(0)
    data = rng.normal(size=(1000, 5)).astype(np.float32), rng.uniform(-1, 1, (1000, 3)).astype(np.float32)
    losses = np.zeros((CONFIG.steps, 2))

    def on_progress(done: int, steps: int, metrics: dict[str, Any]) -> None:
        if stop_at and done >= stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    class Session(FolderSession):
        def record(self, step: int, steps: int, metrics: Any, train: Any) -> None:
            losses[:step] = np.asarray(train.recent["denoising_loss"])[:step]
            super().record(step, steps, metrics, train)

    keys = jax.random.split(jax.random.key(0), 2)
    with Session(folder, on_progress, print) as session:
        networks = train_behavior(data, CONFIG, keys, session)
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(networks)])
    np.savez(folder / "found.npz", losses=losses, networks=flat, devices=jax.device_count())


if __name__ == "__main__":
    folder, stop_at, *rest = sys.argv[1:]
    try:
        main(Path(folder), int(stop_at), Hosts(f"127.0.0.1:{rest[0]}", 2, int(rest[1])) if rest else Hosts())
    except KeyboardInterrupt:
        sys.exit(3)
