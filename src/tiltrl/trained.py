"""A trained stage on disk: read if it is finished, else trained from its last checkpoint and written."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from tiltrl.errors import InputError
from tiltrl.progress import Reporter
from tiltrl.runs import Stage
from tiltrl.serialization import load_arrays, save_arrays
from tiltrl.training.loop import Session
from tiltrl.training.session import FolderSession, Saving

Networks = TypeVar("Networks")
Tree = TypeVar("Tree")


def trained(
    stage: Stage,
    like: Networks,
    steps: int,
    train: Callable[[Session], Networks],
    reporter: Reporter,
    check: Callable[[Networks], dict[str, Any]] | None = None,
    saving: Saving | None = None,
) -> Networks:
    """The stage's networks.

    Args:
        stage: where they live.
        like: their shapes.
        steps: of training, for the progress bar.
        train: makes them, resuming from and reporting to the session it is given.
        reporter: hears of progress.
        check: what there is to say of them once trained, kept with the stage.
        saving: how training guards against its own end; as usual if not given.

    Raises:
        InputError: what is on disk is damaged, or cannot be written.
    """
    path = stage.folder / "networks.safetensors"
    if stage.done:
        reporter.say(f"{stage.name}: unchanged, reused from {stage.folder}")
        return arrays_of(stage, path.name, like)
    reporter.start(stage.name, steps)
    began = time.monotonic()
    with FolderSession(stage.folder, reporter.update, reporter.say, saving) as session:
        networks = train(session)
    save_arrays(path, networks)
    summary = {} if check is None else check(networks)
    if session.rate_scale != 1.0:
        summary |= {"learning_rate_multiplied_by": session.rate_scale}
    stage.finish(summary, began)
    return networks


def arrays_of(stage: Stage, name: str, like: Tree) -> Tree:
    """What a finished stage has written.

    Raises:
        InputError: the file is damaged or missing; says how to have it again.
    """
    try:
        return load_arrays(stage.folder / name, like)
    except InputError as error:
        raise InputError(f"{error}; {stage.redo}") from error
