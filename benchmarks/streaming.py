"""A data set larger than memory: resident memory while training on 20 million transitions, and the rate of the steps.

    python benchmarks/streaming.py           # Linux; half an hour on two cores; 4 GB in the temporary folder

Writes `benchmarks/results/streaming.json` and the table `streaming.md`. The set is made up: 17 observation and 6 action
dimensions, episodes of 1000 steps. Each measurement is a process of its own:

- memory: behavior, critic and trust check through the Python interface, on all of the set and on a thousandth of it,
  which is kept on the device whole. What the first needs more at its peak is what the large set costs.
- rates: on a part that the device would be given whole, the same steps from there and from a stream of the files, in
  turns. By the clock, and by the processor's time, in which the cost of reading shows however busy the machine is.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

import tiltrl
from tiltrl.api import split_for_critic
from tiltrl.data.shards import write_shards
from tiltrl.errors import InputError
from tiltrl.files import write_json
from tiltrl.policy import versions
from tiltrl.presets import FAST
from tiltrl.stages.behavior import train_behavior
from tiltrl.stages.critics.iql import IQLConfig
from tiltrl.stages.critics.train import train_critic
from tiltrl.stages.keys import stage_key
from tiltrl.stages.prepare import behavior_data, scaling_of
from tiltrl.training import stream
from tiltrl.types import Task, Transitions

OBS, ACT, LENGTH, EPISODES = 17, 6, 1000, 20_000
FITS = 0.1  # of the set: 496 MB as the advantage critic sees it
SMALL = 0.001
STEPS = 500
ROUNDS, CHUNKS = 4, 3
RESULTS = Path(__file__).parent / "results"


def not_asked(obs: np.ndarray, k: int) -> np.ndarray:
    """In the place of the behavior, of which the critics here ask for no action."""
    raise AssertionError("these critics ask for no action of the behavior")


def made_up(episodes: int, seed: int) -> Transitions:
    """Random actions that move a random linear system; the reward is how far it moves along its first coordinate."""
    rng = np.random.default_rng(seed)
    push = np.random.default_rng(0).normal(size=(ACT, OBS)).astype(np.float32)
    action = rng.uniform(-1, 1, (episodes, LENGTH, ACT)).astype(np.float32)
    obs = rng.standard_normal((episodes, LENGTH + 1, OBS), np.float32)
    obs[:, 1:] += action @ push
    last = np.tile(np.arange(LENGTH) == LENGTH - 1, episodes)
    return Transitions(
        obs=obs[:, :-1].reshape(-1, OBS),
        action=action.reshape(-1, ACT),
        reward=(obs[:, 1:, 0] - obs[:, :-1, 0]).reshape(-1),
        next_obs=obs[:, 1:].reshape(-1, OBS),
        terminal=np.zeros_like(last),
        timeout=last,
        task=Task("made up", None, (-1.0,) * ACT, (1.0,) * ACT, OBS),
    )


class Times:
    """A session that takes the times from the first chunk of steps, in which they are compiled, to the last."""

    def __init__(self) -> None:
        self._marks: list[tuple[int, float, float]] = []

    def restore(self, state: Any) -> tuple[Any, int]:
        """Start at the beginning."""
        return state, 0

    def record(self, step: int, steps: int, metrics: dict[str, Any], state: Any) -> None:
        """Note the time."""
        self._marks.append((step, time.perf_counter(), time.process_time()))

    @property
    def seconds_a_step(self) -> tuple[float, float]:
        """By the clock and of the processor, all threads together."""
        (first, began, began_cpu), (last, ended, ended_cpu) = self._marks[0], self._marks[-1]
        return (ended - began) / (last - first), (ended_cpu - began_cpu) / (last - first)


def memory(name: str) -> dict[str, Any]:
    """Peak of this process's resident memory over loading, behavior, critic and check."""
    data = tiltrl.load(name)
    loaded = time.perf_counter()
    preset = dataclasses.replace(
        FAST,
        behavior=dataclasses.replace(FAST.behavior, steps=STEPS),
        critic=dataclasses.replace(FAST.critic, steps=STEPS),
    )
    behavior = tiltrl.fit_behavior(data, preset)
    score = tiltrl.fit_critic(data, behavior, preset)
    whole, rows, _ = split_for_critic(data, preset)
    train_critic(whole, rows, score.scaling, IQLConfig(steps=STEPS), not_asked, stage_key(0, "critic")[None])
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak = {name: int(status[name].split()[0]) * 1024 for name in ("VmHWM", "RssAnon", "RssFile")}
    return {"transitions": len(data), "seconds": time.perf_counter() - loaded} | peak


def rates(name: str) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Seconds a step, by the clock and of the processor, for each kind of training and either way, a round each."""
    on_disk = tiltrl.load(f"{name}[:{FITS}]")
    in_memory = on_disk.take(np.arange(len(on_disk)))
    scaling = scaling_of(in_memory, normalize=True)
    steps = 250 * (CHUNKS + 1)
    key = stage_key(0, "behavior")[None]

    def behavior(data: Transitions, session: Times) -> None:
        train_behavior(behavior_data(data, scaling), dataclasses.replace(FAST.behavior, steps=steps), key, session)

    def critic(config: Any) -> Callable[[Transitions, Times], None]:
        def train(data: Transitions, session: Times) -> None:
            whole, rows, _ = split_for_critic(data, FAST)
            train_critic(whole, rows, scaling, dataclasses.replace(config, steps=steps), not_asked, key, session)

        return train

    whole_bytes = stream.DEVICE_BYTES
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    kinds = {"behavior": behavior, "advantage critic": critic(FAST.critic), "IQL critic": critic(IQLConfig())}
    for kind, train in kinds.items():
        found[kind] = {"on the device": [], "streamed": []}
        for _ in range(ROUNDS):
            for path, data, limit in (("on the device", in_memory, whole_bytes), ("streamed", on_disk, 0)):
                stream.DEVICE_BYTES, session = limit, Times()
                train(data, session)
                found[kind][path].append(session.seconds_a_step)
    return found


def measured(kind: str, name: str) -> dict[str, Any]:
    """What a process of its own finds."""
    done = subprocess.run([sys.executable, __file__, kind, name], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def make(folder: Path) -> Path:
    """The made-up set, as shards.

    Raises:
        InputError: there is not enough space.
    """
    needed, free = EPISODES * LENGTH * (4 * (2 * OBS + ACT + 1) + 2), shutil.disk_usage(folder).free
    if free < 1.1 * needed:
        raise InputError(f"{folder}: {free / 1e9:.1f} GB free; {1.1 * needed / 1e9:.1f} GB are needed; set TMPDIR")
    parts: Iterator[Transitions] = (made_up(100, seed) for seed in range(EPISODES // 100))
    return write_shards(parts, folder / "shards")


def main() -> None:
    """Measure, write, print."""
    with tempfile.TemporaryDirectory() as folder:
        name = str(make(Path(folder)))
        large, small = measured("memory", name), measured("memory", f"{name}[:{SMALL}]")
        found = measured("rates", name)
    beyond = large["VmHWM"] - small["VmHWM"]
    hardware = {"cores": os.cpu_count()}
    facts = {"large": large, "small": small, "beyond_the_program_bytes": beyond, "seconds_a_step": found}
    write_json(RESULTS / "streaming.json", facts | {"versions": versions(), "hardware": hardware})
    size = EPISODES * LENGTH * (2 * OBS + ACT + 1) * 4
    lines = [
        "# A data set larger than memory",
        "",
        f"{large['transitions']:,} made-up transitions of {OBS} + {ACT} dimensions ({size / 1e9:.1f} GB on disk); "
        f"{os.cpu_count()} cores, JAX on {jax.default_backend()}.",
        "Command: `python benchmarks/streaming.py`; all numbers: `streaming.json`.",
        "",
        "| peak of resident memory: fast preset's behavior, critic and check, then IQL | GB |",
        "|---|---|",
        f"| all {large['transitions']:,} transitions | {large['VmHWM'] / 1e9:.2f} |",
        f"| the program's own: {small['transitions']:,} transitions | {small['VmHWM'] / 1e9:.2f} |",
        f"| **beyond the program's own** | **{beyond / 1e9:.2f}** |",
        "",
        f"Rate of the steps from a stream of the files, over that from the device: {int(FITS * EPISODES * LENGTH):,} "
        f"transitions, {ROUNDS} rounds in turns of {250 * CHUNKS} steps each. Files in the page cache.",
        "By the clock it depends on what else the machine does; the processor's time counts all threads, reading too.",
        "",
        "| | by the clock: median | least | most | by the processor's time: median |",
        "|---|---|---|---|---|",
    ]
    for kind, seconds in found.items():
        clock, cpu = (np.array(seconds["on the device"]) / np.array(seconds["streamed"])).T
        lines.append(
            f"| {kind} | {np.median(clock):.2f} | {clock.min():.2f} | {clock.max():.2f} | {np.median(cpu):.2f} |"
        )
    (RESULTS / "streaming.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps({"memory": memory, "rates": rates}[sys.argv[1]](sys.argv[2])))
    else:
        main()
