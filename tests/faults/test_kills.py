"""Commands are killed at random moments and resumed; what comes of it is what comes of an undisturbed one, bit by bit.

The long form, with hundreds of kills and bandits too, is `make kills`.
"""

from __future__ import annotations

import collections
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from artefacts import steps_of
from kills import COLLECT, SHORT_RUN, WARM, Job, disturbed, undisturbed
from zygote import Zygote

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs fork and its signals")


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote(env=WARM) as zygote:
        yield zygote


@pytest.mark.parametrize(
    ("job", "lives", "least"), [pytest.param(SHORT_RUN, 2, 8, marks=pytest.mark.slow), (COLLECT, 2, 3)]
)
def test_a_killed_command_ends_as_an_undisturbed_one(
    zygote: Zygote, tmp_path: Path, job: Job, lives: int, least: int
) -> None:
    reference = undisturbed(zygote, job, tmp_path, times=1)
    for metrics in tmp_path.glob(f"{job.name}-0/out/*/metrics.jsonl"):
        steps = steps_of(metrics)
        assert steps == sorted(set(steps))
    counts = collections.Counter[str]()
    kills = []
    for number in range(lives):
        folder = tmp_path / f"life-{number}" / "out"
        folder.parent.mkdir()
        life = disturbed(zygote, job, reference, folder, random.Random(f"{job.name}-{number}"), counts)
        assert not life.wrong, life
        assert not any(kill.wrong for kill in life.kills), life
        kills += life.kills
    assert len(kills) >= least, counts
    assert len(counts) >= len(job.stages) // 2, counts
