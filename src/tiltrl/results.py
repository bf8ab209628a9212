"""What a run has to say at its end and on the way: the critic's check in a sentence, all numbers in one JSON."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from tiltrl.evaluation.report import Row
from tiltrl.files import write_json
from tiltrl.policy import versions
from tiltrl.stages.critics.check import TrustCheck

_MEANING = {
    "good": "it ranks held-out actions better than chance",
    "weak": "it was not seen to rank held-out actions better than chance",
    "harmful": "it ranks held-out actions worse than chance",
}


@dataclass(frozen=True)
class PolicyEpisodes:
    """What came of one policy of one seed, as it is kept."""

    policy: str
    seed: int
    returns: tuple[float, ...]  # raw
    lengths: tuple[int, ...]
    environment_seeds: tuple[int, ...]


def describe_trust(seed: int, check: TrustCheck, *, shrinks: bool) -> str:
    """The check in one line, with what follows from it.

    Args:
        seed: of the critic.
        check: what was found.
        shrinks: whether the tilt is shrunk by the critic's trust.
    """
    follows = (
        f"; as far as it is trusted, {check.trust:.0%} of the tilt is made"
        if shrinks
        else "; the tilt is as asked for all the same"
    )
    warning = "" if check.verdict == "good" else "WARNING: "
    return (
        f"{warning}critic of seed {seed}: {check.verdict}: {_MEANING[check.verdict]}{follows} (rank correlation "
        f"{check.rank:.3f}, 95 % {check.rank_low:.3f} to {check.rank_high:.3f}; spread among candidates "
        f"{check.spread:.3g}, disagreement {check.disagreement:.3g}; random above logged action in "
        f"{check.random_above_data:.0%} of states)"
    )


def write_results(path: Path, rows: list[Row], **facts: Any) -> None:
    """Everything a reader of the numbers needs: the rows' scores, and whatever facts are given, with versions.

    Raises:
        InputError: the file cannot be written.
    """
    hardware = {"devices": [str(d) for d in jax.devices()], "cores": os.cpu_count(), "machine": platform.machine()}
    scores = [{"policy": row.name, "logged": row.logged, "scores": row.scores.tolist()} for row in rows]
    write_json(path, facts | {"versions": versions(), "hardware": hardware, "rows": scores})
