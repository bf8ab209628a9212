"""Small synthetic Minari data sets, and transitions without a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tiltrl.types import Task, Transitions

OBS, ACT = 2, 1
ENV_SPEC = json.dumps({"id": "Hopper-v5", "max_episode_steps": 1000, "additional_wrappers": []})


def box(shape: list[int], low: Any, high: Any, dtype: str = "float32") -> str:
    """A Box space as Minari writes it."""
    return json.dumps({"type": "Box", "dtype": dtype, "shape": shape, "low": low, "high": high})


def episode(steps: int, start: float = 0.0, terminal: bool = True, **overrides: Any) -> dict[str, Any]:
    """One episode whose observations count up from `start`; an override of None drops the array."""
    last = np.arange(steps) == steps - 1
    arrays = {
        "observations": start + np.arange((steps + 1) * OBS, dtype=np.float32).reshape(-1, OBS),
        "actions": np.linspace(-1, 1, steps * ACT, dtype=np.float32).reshape(-1, ACT),
        "rewards": np.arange(steps, dtype=np.float32),
        "terminations": last & terminal,
        "truncations": last & (not terminal),
    } | overrides
    return {name: value for name, value in arrays.items() if value is not None}


def write_minari(folder: Path, episodes: list[dict[str, Any]] | None = None, **overrides: Any) -> Path:
    """Writes a data set to `folder`; an override of None drops the metadata's key."""
    episodes = [episode(3), episode(2, 100.0, terminal=False)] if episodes is None else episodes
    metadata = {
        "total_episodes": len(episodes),
        "total_steps": sum(np.size(arrays.get("rewards", ())) for arrays in episodes),
        "data_format": "hdf5",
        "observation_space": box([OBS], [float("-inf")] * OBS, [float("inf")] * OBS),
        "action_space": box([ACT], [-1.0] * ACT, [1.0] * ACT),
        "env_spec": ENV_SPEC,
        "dataset_id": "test/set-v0",
        "minari_version": "0.5.4",
    } | overrides
    data = folder / "data"
    data.mkdir(parents=True)
    (data / "metadata.json").write_text(json.dumps({k: v for k, v in metadata.items() if v is not None}))
    with h5py.File(data / "main_data.hdf5", "w") as file:
        for index, arrays in enumerate(episodes):
            group = file.create_group(f"episode_{index}")
            _write(group, arrays)
    return folder


def _write(group: h5py.Group, tree: dict[str, Any]) -> None:
    for name, value in tree.items():
        if isinstance(value, dict):
            _write(group.create_group(name), value)
        else:
            group[name] = value


def transitions(lengths: list[int], reward: Any = None, terminal: bool = True, **task: Any) -> Transitions:
    """Episodes of the given lengths; each observation is its step's index."""
    steps = sum(lengths)
    ends = np.isin(np.arange(steps), np.cumsum(lengths) - 1)
    obs = np.arange(steps, dtype=np.float32)[:, None]
    defaults = {"dataset": "set", "env_spec": ENV_SPEC, "action_low": (-1.0,), "action_high": (1.0,), "obs_dim": 1}
    return Transitions(
        obs=obs,
        action=np.zeros((steps, 1), np.float32),
        reward=np.asarray(np.ones(steps) if reward is None else reward, np.float32),
        next_obs=obs + 1,
        terminal=ends & terminal,
        timeout=ends & (not terminal),
        task=Task(**(defaults | task)),
    )
