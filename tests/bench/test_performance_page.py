"""The counts in docs/performance.md are those of the presets."""

from __future__ import annotations

import re
from pathlib import Path

from tiltrl.bench.work import STAGES, candidates_work, work_of
from tiltrl.presets import PRESETS

PAGE = (Path(__file__).parents[2] / "docs" / "performance.md").read_text()


def table() -> str:
    """As it has to stand there."""
    lines = ["| preset | stage | rows | GFLOP | MB | FLOPs a byte |", "|---|---|---:|---:|---:|---:|"]
    for preset in PRESETS:
        for stage in STAGES:
            # Of candidates, as many as on a processor, wherever this test runs.
            work = candidates_work(preset, 64) if stage == "candidates" else work_of(stage, preset)
            flops, moved = work.cost.flops, work.cost.bytes
            numbers = f"{work.rows:,} | {flops / 1e9:.3g} | {moved / 1e6:,.0f} | {flops / moved:.0f}"
            lines.append(f"| {preset} | {stage} | {numbers} |")
    return "\n".join(lines)


def test_the_table_of_counts() -> None:
    (found,) = re.findall(r"<!-- counts -->\n(.*?)\n<!-- /counts -->", PAGE, re.DOTALL)
    assert found == table(), f"it should be:\n{table()}"
