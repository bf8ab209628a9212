"""`tiltrl data ...`: look at data sets, convert and join them, and make new ones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tiltrl.cli_parse import later
from tiltrl.collect.cli import collect
from tiltrl.data import load, load_each
from tiltrl.data.describe import Spread, Summary, describe, warnings
from tiltrl.data.shards import write_shards
from tiltrl.data.transforms import join
from tiltrl.data.write import is_minari_id, write_d4rl, write_minari, write_npz
from tiltrl.environments import leaves, make
from tiltrl.errors import InputError
from tiltrl.evaluation.rollout import read_spec
from tiltrl.files import slug, write_json
from tiltrl.progress import LiveProgress
from tiltrl.types import Task, Transitions, as_json

console = Console(markup=False, emoji=False)  # what is in brackets or colons is the user's text


@dataclass(frozen=True)
class InfoOptions:
    """Which data set to look at."""

    dataset: tyro.conf.Positional[str]
    """Any name that `tiltrl run` takes: `demo`, a folder, a file such as log.npz, a Minari id, d4rl:hopper-medium-v2,
    a slice of it such as demo[:0.1]."""
    out: Path | None = None
    """Where info.json and info.png go. Default: runs/data/DATASET."""


def info(options: Annotated[InfoOptions, tyro.conf.arg(name="")]) -> None:
    """What a data set holds, and what in it is likely to go wrong: a table, warnings, a picture.

    Example: tiltrl data info demo

    Look before you train: rewards that are all zero, time-outs marked as terminals and episodes that run into each
    other spoil a critic without any error.
    """
    with console.status(Text(f"reading {options.dataset}")):
        data = load(options.dataset)
        summary, found = describe(data), warnings(data)
    from tiltrl.data.figure import draw  # here, because it is slow to import and no other command draws data

    _print(summary, found)
    folder = options.out or Path("runs") / "data" / (slug(options.dataset) or "data")
    draw(data, folder / "info.png")
    write_json(folder / "info.json", as_json(summary) | {"warnings": found})
    console.print(f"\npicture  {folder / 'info.png'}\nnumbers  {folder / 'info.json'}", highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class ConvertOptions:
    """Which data set to write where, and how."""

    dataset: tyro.conf.Positional[str]
    """Any name that `tiltrl run` takes, slices and joined sets too."""
    out: Path
    """What to write: a new folder for `minari` and `shards`, a file that ends in .npz for `npz`, in .hdf5 or .h5 for
    `d4rl`."""
    to: Literal["minari", "npz", "d4rl", "shards"] | None = None
    """The format. `minari`: a folder that minari.load_dataset reads. `npz`: NumPy's arrays in one file. `d4rl`: D4RL's
    flat HDF5. `shards`: a folder to train from that may be larger than memory; sets joined by + are read one at a time.
    Default: by the ending of --out."""
    id: str | None = None
    """Of `minari`: the id in it, such as me/robot/play-v0. Default: the path below MINARI_DATASETS_PATH, or the
    folder's name."""
    overwrite: bool = False
    """Replace what is there."""


def convert(options: Annotated[ConvertOptions, tyro.conf.arg(name="")]) -> None:
    """Write a data set in another format, for other programs to read; `tiltrl` reads all of them.

    Example: tiltrl data convert "log.npz?obs=state&action=u&env=Hopper-v5" --to minari --out runs/robot/play-v0
    """
    kind = options.to or {".npz": "npz", ".hdf5": "d4rl", ".h5": "d4rl"}.get(options.out.suffix, "minari")
    if options.id is not None and kind != "minari":
        raise InputError(f"--id {options.id}: only Minari data sets have one; leave it out for {kind}")
    if kind == "minari":
        dataset_id = _minari_id(options.id, options.out)
        _write_minari(_read(options.dataset), options.out, dataset_id, overwrite=options.overwrite)
        return
    if kind == "shards":
        _write_shards(options)
        return
    data = _read(options.dataset)
    with console.status(Text(f"writing {options.out}")):
        (write_npz if kind == "npz" else write_d4rl)(data, options.out, overwrite=options.overwrite)
    _say_written(data, options.out)


@dataclass(frozen=True)
class MergeOptions:
    """Which data sets to join."""

    datasets: tyro.conf.Positional[tuple[str, ...]]
    """Two or more, recorded in the same task; any names that `tiltrl run` takes, slices too."""
    out: Path
    """The folder of the new data set, in Minari's format."""
    id: str | None = None
    """The Minari id in it, such as me/robot/all-v0. Default: the path below MINARI_DATASETS_PATH, or the folder's
    name."""
    overwrite: bool = False
    """Replace what is there."""


def merge(options: Annotated[MergeOptions, tyro.conf.arg(name="")]) -> None:
    """Join data sets of one task to a new one, in Minari's format: the first one's episodes, then the second one's.

    Example: tiltrl data merge 'demo[:0.5]' runs/collected --out runs/both-v0

    Without a copy on disk: tiltrl run A+B.
    """
    if len(options.datasets) < 2:
        raise InputError(f"merge: {len(options.datasets)} data sets; give two or more to join")
    dataset_id = _minari_id(options.id, options.out)
    data = reduce(join, map(_read, options.datasets))
    _write_minari(data, options.out, dataset_id, overwrite=options.overwrite)


COMMANDS = {"info": info, "convert": convert, "merge": merge, "collect": collect}
_Command = Union[  # noqa: UP007 (of a tuple made here)
    tuple(Annotated[Any, tyro.conf.subcommand(name=name, constructor=later(call))] for name, call in COMMANDS.items())
]


def data(command: Annotated[_Command, tyro.conf.arg(name="")]) -> None:  # pyright: ignore[reportInvalidTypeForm]
    """Data sets: look at them (info), convert, join (merge) and make them (collect).

    Example: tiltrl data info demo
    """
    command()


# --- Reading and writing ----------------------------------------------------------------------------------------------


def _read(dataset: str) -> Transitions:
    with console.status(Text(f"reading {dataset}")):
        return load(dataset)


def _write_minari(data: Transitions, out: Path, dataset_id: str, *, overwrite: bool) -> None:
    sizes = _obs_sizes(data.task)
    with LiveProgress(console) as progress:
        if data.task.obs_keys and sizes is None:
            progress.say(
                f"the sizes of {', '.join(data.task.obs_keys)} are known to the environment only, which cannot be made "
                "here: observations are written as one flat vector, and the environment, which would not take it, is "
                "left out: policies can be trained on the new set, not evaluated"
            )
        progress.start("write", len(data.ends))
        write_minari(
            data,
            out,
            dataset_id,
            obs_sizes=sizes,
            overwrite=overwrite,
            on_progress=lambda done, total: progress.update(done, total, {}),
        )
    _say_written(data, out, f"\nMinari id {dataset_id}")


def _write_shards(options: ConvertOptions) -> None:
    if options.overwrite:
        raise InputError("--overwrite: shards are written to a new folder only; remove the old one, or give another")

    def each() -> Iterator[Transitions]:
        for part in load_each(options.dataset):
            progress.say(f"{part.task.dataset}: {len(part)} steps")
            yield replace(part, task=replace(part.task, dataset=options.out.name))

    with LiveProgress(console) as progress:
        write_shards(each(), options.out)
    _say_written(load(options.out), options.out)


def _obs_sizes(task: Task) -> tuple[int, ...] | None:
    """Sizes of the leaves of Dict observations, which the environment knows; None where it does not, or has none."""
    if not task.obs_keys or task.env_spec is None:
        return None
    try:
        with closing(make(read_spec(task), task.dataset)) as env:
            sizes = leaves(env.observation_space)
    except InputError:
        return None  # not installed here, say; then `_write_minari` says what follows
    if sizes is None or not set(task.obs_keys) <= sizes.keys():
        return None
    found = tuple(sizes[key] for key in task.obs_keys)
    return found if sum(found) == task.obs_dim else None


def _minari_id(asked: str | None, out: Path) -> str:
    """The id that was asked for, or else what Minari would call the folder, or a name made of the folder's."""
    if asked is not None:
        return asked
    root = Path(os.environ.get("MINARI_DATASETS_PATH") or "~/.minari/datasets").expanduser().resolve()
    folder = out.expanduser().resolve()
    below = folder.relative_to(root).as_posix() if folder.is_relative_to(root) else ""
    name = slug(folder.name, keep="_-") or "data"
    return next(id for id in (below, name, f"{name}-v0") if is_minari_id(id))


def _say_written(data: Transitions, out: Path, more: str = "") -> None:
    console.print(
        f"{len(data.ends)} episodes, {len(data)} steps in {out}{more}\n\nTrain on it:  tiltrl run {out}",
        highlight=False,
        soft_wrap=True,
    )


# --- Printing ---------------------------------------------------------------------------------------------------------


def _print(summary: Summary, found: list[str]) -> None:
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in _facts(summary).items():
        facts.add_row(name, Text(value))  # brackets in a name are no markup
    console.print(facts)
    console.print()
    numbers = Table(box=None, pad_edge=False)
    numbers.add_column("of an episode")
    for heading in ("min", "mean", "median", "max"):
        numbers.add_column(heading, justify="right", no_wrap=True)
    rows = {"steps": summary.lengths, "return": summary.returns, "score": summary.scores}
    for name, spread in rows.items():
        if spread is not None:
            numbers.add_row(name, *_numbers(spread))
    console.print(numbers)
    console.print()
    for sentence in found:
        console.print(Text("warning  ", "bold yellow").append(Text(sentence, "default")), soft_wrap=True)
    if not found:
        console.print("no warnings", style="dim")


def _facts(summary: Summary) -> dict[str, str]:
    bounds = sorted(set(zip(summary.action_low, summary.action_high, strict=True)))
    spans = ", ".join(f"[{low:g}, {high:g}]" for low, high in bounds[:4]) + (", ..." if len(bounds) > 4 else "")
    of = f" ({', '.join(summary.obs_keys)})" if summary.obs_keys else ""
    ends = (
        f"{summary.timeout_ends:,} by a time-out or a cut"
        if summary.horizon is None
        else f"{summary.timeout_ends:,} by a time-out, {summary.cut_ends:,} cut before one"
    )
    return {
        "data set": summary.dataset,
        "environment": summary.environment or "none named: policies can be trained, not evaluated",
        "steps": f"{summary.steps:,}",
        "episodes": f"{summary.episodes:,}: {summary.terminal_ends:,} end terminally, {ends}",
        "observations": f"{summary.obs_dim} a step, read as float32{of}",
        "actions": f"{summary.act_dim} a step, read as float32, in {spans}",
        "rewards": f"other than 0 in {summary.rewarded:.3g} of the steps".replace("in 1 of", "in all of"),
        "score": "no reference returns known"
        if summary.scores is None
        else f"0 = return {summary.ref_min:.6g}, 100 = return {summary.ref_max:.6g}; not a D4RL score",
        "fingerprint": summary.fingerprint,
    }


def _numbers(spread: Spread) -> list[str]:
    return [f"{value:,.1f}" for value in (spread.min, spread.mean, spread.median, spread.max)]
