"""Rows kept as they come."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tiltrl.training.rows import KeptRows

ROWS = np.arange(24, dtype=np.float32).reshape(12, 2)


def compute(folder: Path, until: int = 12, every: float = 0.0, said: list[str] | None = None) -> tuple[int, np.ndarray]:
    """Three rows at a time from where the folder ends; killed at row `until`. Where it began, and what it has then."""
    said = [] if said is None else said
    with KeptRows(folder, said.append, every) as kept:
        found = [kept.restore((2,))]
        begun = len(found[0])
        for start in range(begun, 12, 3):
            if start >= until:
                raise KeyboardInterrupt
            kept.add(ROWS[start : start + 3])
            found.append(ROWS[start : start + 3])
    return begun, np.concatenate(found)


@pytest.mark.parametrize("every", [0.0, 60.0])  # an interrupt saves whether or not it was time
def test_interrupted_rows_go_on_after_the_last_one(tmp_path: Path, every: float) -> None:
    with pytest.raises(KeyboardInterrupt):
        compute(tmp_path, until=6, every=every)
    begun, found = compute(tmp_path, every=every)
    assert begun == 6
    np.testing.assert_array_equal(found, ROWS)
    assert compute(tmp_path)[0] == 12


def test_a_damaged_file_is_named_and_its_rows_computed_again(tmp_path: Path) -> None:
    compute(tmp_path)
    damaged = sorted(tmp_path.iterdir())[1]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    said: list[str] = []
    begun, found = compute(tmp_path, said=said)
    assert begun == 3 and len(said) == 1 and damaged.name in said[0]
    np.testing.assert_array_equal(found, ROWS)
    assert compute(tmp_path)[0] == 12


def test_rows_from_before_a_gap_do_not_get_in_the_way(tmp_path: Path) -> None:
    compute(tmp_path)  # 0-3, 3-6, 6-9, 9-12
    damaged = sorted(tmp_path.iterdir())[1]
    damaged.write_bytes(b"")
    compute(tmp_path, every=60.0)  # fills the gap and goes on to the end in one file
    begun, found = compute(tmp_path)
    assert begun == 12
    np.testing.assert_array_equal(found, ROWS)


def test_an_error_writes_no_more(tmp_path: Path) -> None:
    with pytest.raises(OSError), KeptRows(tmp_path / "rows", print, 60.0) as kept:
        kept.add(ROWS)
        raise OSError
    assert not (tmp_path / "rows").exists()
