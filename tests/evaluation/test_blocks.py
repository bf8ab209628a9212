"""Episodes some at a time: kept ones are not run again, and are the same to the last bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tiltrl.errors import InputError
from tiltrl.evaluation.blocks import anew, joined, kept_in
from tiltrl.evaluation.rollout import Episodes


def episodes(count: int, first: int = 0) -> Episodes:
    seeds = first + np.arange(count)
    return Episodes(np.sqrt(2.0 + seeds) / 3.0, 10 + seeds, seeds)


def test_a_kept_block_is_not_run_again_and_loses_no_bit(tmp_path: Path) -> None:
    calls: list[int] = []

    def run() -> Episodes:
        calls.append(1)
        return episodes(3)

    first, again = kept_in(tmp_path)(0, run), kept_in(tmp_path)(0, run)
    assert len(calls) == 1
    for found in (first, again):
        np.testing.assert_array_equal(found.returns, episodes(3).returns)
        np.testing.assert_array_equal(found.lengths, episodes(3).lengths)
    kept_in(tmp_path)(1, run)
    assert len(calls) == 2


def test_blocks_are_joined_in_order() -> None:
    whole = joined([anew(0, lambda: episodes(2)), anew(1, lambda: episodes(3, first=2))])
    for part in ("returns", "lengths", "seeds"):
        np.testing.assert_array_equal(getattr(whole, part), getattr(episodes(5), part))


@pytest.mark.parametrize("content", ['{"returns": [1.0', "{}", '{"returns": [1.0], "lengths": [], "seeds": [3]}'])
def test_a_damaged_block_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "block0.json").write_text(content)
    with pytest.raises(InputError, match="block0.json"):
        kept_in(tmp_path)(0, lambda: episodes(1))
