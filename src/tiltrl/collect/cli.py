"""`tiltrl data collect`: what it is asked for, and the collection from the first episode to the finished data set."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import gymnasium
import tyro
from rich.console import Console

from tiltrl.collect.base import Source, describe, open_env, record
from tiltrl.collect.parts import Parts, concatenate, refuse_other_settings, remove_leftovers
from tiltrl.collect.pointmaze import Walker, open_maze
from tiltrl.collect.policy import Saved, open_policy
from tiltrl.collect.random import Uniform
from tiltrl.data.write import is_minari_id, write_minari
from tiltrl.errors import InputError
from tiltrl.files import read_json, slug
from tiltrl.progress import LiveProgress, Reporter
from tiltrl.types import Task, Transitions

_EVERY = 5.0  # seconds between two saves of finished episodes: what a power cut costs at most
_SOURCES = "waypoints, cube, random or policy:FOLDER"
_NOISE = {"waypoints": 0.5, "cube": 0.3, "random": 0.0, "policy": 0.0}
_WANDER = 0.75
_EPISODES = 500
console = Console(markup=False, emoji=False)  # what is in brackets or colons is the user's text


@dataclass(frozen=True)
class CollectOptions:
    """What to record. Episode i is reset with `seed` + i and depends on nothing else: equal options, equal data."""

    source: tyro.conf.Positional[str]
    """Who acts: `waypoints` (a ball in a maze), `cube` (OGBench's scripted arm), `policy:FOLDER` (saved), `random`."""
    env: str | None = None
    """Gymnasium's id. Default: PointMaze_UMaze-v3 for waypoints, cube-single-singletask-v0 for cube, a policy's own."""
    episodes: int | None = None
    """How many episodes. Default: 500."""
    steps: int | None = None
    """Instead of a number of episodes: whole episodes until there are this many steps."""
    seed: int = 0
    """The first episode's seed."""
    noise: float | None = None
    """Standard deviation of the noise added to actions. Default: 0.5 for waypoints, 0.3 for cube, 0 for a policy."""
    wander: float | None = None
    """Chance that `waypoints` makes a detour, at first and after each, before it goes to the goal. Default: 0.75."""
    out: Path | None = None
    """The data set's folder. After an interruption the same command goes on. Default: runs/SOURCE-ENV."""
    id: str | None = None
    """The data set's Minari id, which ends with a version. Default: ENV/SOURCE-v0."""


@dataclass(frozen=True)
class _Plan:
    """A collection as it was asked for, checked and with its defaults filled in."""

    env: gymnasium.Env
    source: Source
    task: Task
    obs_sizes: tuple[int, ...]
    noise: float
    target: Path
    settings: dict[str, Any]  # all that the data depends on, beside versions


def collect(options: Annotated[CollectOptions, tyro.conf.arg(name="")]) -> None:
    """Make a data set: a scripted controller, a saved policy or random actions, recorded in Minari's format.

    Example: tiltrl data collect waypoints --out runs/maze && tiltrl run runs/maze

    A collection that was interrupted continues where it was, and ends in the same data set as one that was not.
    """
    with LiveProgress(console) as progress:
        data = collect_data(options, progress)
    if data is not None:
        returns = data.returns
        console.print(
            f"{len(returns)} episodes, {len(data)} steps, mean return {returns.mean():.4g} "
            f"({returns.min():.4g} to {returns.max():.4g})\n\n"
            f"Improve on it:  tiltrl run {data.task.dataset}",
            highlight=False,
            soft_wrap=True,
        )


def collect_data(options: CollectOptions, progress: Reporter) -> Transitions | None:
    """Record the episodes and write them; None where that was done before.

    Raises:
        InputError: the options are not possible, a package is missing, or the target is something else already.
    """
    plan = _plan(options)
    try:
        parts = None if _finished(plan) else Parts(plan.target, plan.settings | {"versions": _versions()})
        if parts is None or _finished(plan):  # asked twice, as another process may have been done until we had the lock
            progress.say(f"{plan.target}: is there already, collected by this command; nothing to do")
            remove_leftovers(plan.target, plan.settings)
            return None
        data = _record_all(plan, options, parts, progress)
    finally:
        plan.env.close()
    name = options.source.partition(":")[0]
    write_minari(
        data,
        plan.target,
        plan.settings["id"],
        seed=options.seed,
        obs_sizes=plan.obs_sizes if plan.task.obs_keys else None,
        about={
            "algorithm_name": name,
            "description": f"{name} in {plan.settings['env']}, collected by TiltRL",
            "collected": json.dumps(plan.settings),
            "requirements": [f"{package}=={version}" for package, version in _versions().items()],
        },
    )
    parts.remove()
    return data


def _record_all(plan: _Plan, options: CollectOptions, parts: Parts, progress: Reporter) -> Transitions:
    """All episodes, those of earlier sessions first; whatever ends this session, its finished episodes are kept."""
    blocks, kept = parts.load(plan.task)
    steps = sum(map(len, blocks))
    unsaved: list[Transitions] = []
    goal = plan.settings["steps"] or plan.settings["episodes"]
    reached = lambda: steps if plan.settings["steps"] else kept + len(unsaved)  # noqa: E731
    if kept:
        progress.say(f"continuing after {kept} episodes")
    progress.start("collect", goal)
    saved = time.monotonic()
    try:
        while reached() < goal:
            episode = record(plan.env, plan.source, plan.task, plan.noise, options.seed + kept + len(unsaved))
            unsaved.append(episode)
            steps += len(episode)
            progress.update(min(reached(), goal), goal, {"return": episode.returns[0]})
            if time.monotonic() - saved > _EVERY:
                parts.save(kept, unsaved)
                blocks, kept, unsaved, saved = [*blocks, *unsaved], kept + len(unsaved), [], time.monotonic()
    finally:
        if unsaved:
            parts.save(kept, unsaved)
    return concatenate([*blocks, *unsaved])


# --- What was asked for -----------------------------------------------------------------------------------------------


def _plan(options: CollectOptions) -> _Plan:
    """Check everything before any work starts."""
    name, _, folder = options.source.partition(":")
    if name not in _NOISE or (name == "policy") != bool(folder):
        raise InputError(f"source {options.source!r} is unknown; choose one of {_SOURCES}")
    _check_values(options, name)
    wander = None
    if name == "waypoints":
        env = open_maze(options.env or "PointMaze_UMaze-v3")
        wander = _WANDER if options.wander is None else options.wander
        source: Source = Walker(wander)
    elif name == "cube":
        from tiltrl.collect.cube import open_cube  # here, because MuJoCo is slow to import and only the cube needs it

        env, source = open_cube(options.env or "cube-single-singletask-v0")
    elif name == "policy":
        env, source = open_policy(Path(folder), options.env)
    elif options.env is None:
        raise InputError("--env: random needs an environment, such as Hopper-v5")
    else:
        env, source = open_env(options.env), Uniform()
    assert env.spec is not None, "all of these were made from one"
    target = (options.out or Path("runs") / slug(f"{name}-{env.spec.id}", keep="_-")).expanduser()
    if target.name in ("", ".."):  # what lies beside it has a name of its own
        target = Path(os.path.abspath(target))
    dataset_id = options.id or f"{slug(env.spec.id, keep='_-')}/{name}-v0"
    try:
        task, sizes = describe(env, str(target))
    except InputError:
        env.close()
        raise
    noise = _NOISE[name] if options.noise is None else options.noise
    episodes = options.episodes or (None if options.steps else _EPISODES)
    settings = {
        "source": name,
        "policy": source.digest if isinstance(source, Saved) else None,
        "env": env.spec.id,
        "env_spec": task.env_spec,
        "episodes": episodes,
        "steps": options.steps,
        "seed": options.seed,
        "noise": noise,
        "wander": wander,
        "id": dataset_id,
    }
    return _Plan(env, source, task, sizes, noise, target, settings)


def _check_values(options: CollectOptions, source: str) -> None:
    if options.episodes is not None and options.steps is not None:
        raise InputError(f"--episodes {options.episodes} --steps {options.steps}: give one of the two")
    for name, value, least in (
        ("episodes", options.episodes, 1),
        ("steps", options.steps, 1),
        ("seed", options.seed, 0),
    ):
        if value is not None and value < least:
            raise InputError(f"--{name} {value}: must be {least} or more")
    if options.noise is not None and not 0 <= options.noise < float("inf"):
        raise InputError(f"--noise {options.noise}: is a standard deviation, 0 or more")
    if options.noise and source == "random":
        raise InputError(f"--noise {options.noise}: random actions have none; leave it out")
    if options.wander is not None and source != "waypoints":
        raise InputError(f"--wander {options.wander}: is for waypoints; leave it out for {source}")
    if options.wander is not None and not 0 <= options.wander <= 1:
        raise InputError(f"--wander {options.wander}: is a share, 0 to 1")
    if options.id is not None and not is_minari_id(options.id):
        raise InputError(f"--id {options.id}: is no Minari id; it must look like name-v0 or group/name-v0")


def _finished(plan: _Plan) -> bool:
    """Whether the target holds the very data that is asked for.

    Raises:
        InputError: it holds anything else.
    """
    target = plan.target
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    metadata = target / "data" / "metadata.json"
    collected = read_json(metadata).get("collected") if metadata.is_file() else None
    try:
        found = json.loads(collected) if isinstance(collected, str) else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{target}: exists and is not a data set collected by TiltRL; give a new folder as --out")
    refuse_other_settings(target, found, plan.settings)
    return True


def _versions() -> dict[str, str]:
    """Versions of what simulates: with others, the same seed may give other numbers."""
    found = {}
    for package in ("tiltrl", "numpy", "gymnasium", "mujoco", "gymnasium-robotics", "ogbench"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
