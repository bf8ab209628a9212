"""The table of what the trust check predicts, from made-up runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmark_scripts import load_script

from tiltrl.errors import InputError

trust = load_script("trust")


def make_run(folder: Path, rank: float, gain: float, *, checked: bool = True) -> Path:
    folder.mkdir()
    found = {"rank": rank, "rank_low": rank - 0.1, "reliability": 0.5, "trust": 0.3, "verdict": "good"}
    rows = [("data", 9.0), ("behavior", 50.0), ("aligned, beta 1", 50.0 + gain), ("aligned, beta 1, best of 4", 0.0)]
    scores = [{"policy": name, "logged": False, "scores": [[score, score]]} for name, score in rows]
    (folder / "results.json").write_text(json.dumps({"trust": [found], "rows": scores}))
    if checked:
        rollouts = {"ranking": {"slope": {"value": -rank}}, "gain_share": 0.1}
        check = {"seed": 3, "verdict": "weak", "trust": found, "rollouts": rollouts}
        (folder / "critic-check.json").write_text(json.dumps({"checks": [check]}))
    return folder


def test_each_number_is_ranked_against_realized_gains(tmp_path: Path) -> None:
    points = [p for i in range(8) for p in trust.points_of(make_run(tmp_path / f"run{i}", 0.1 * i, 2.0 * i))]
    assert [(point.gain, point.seed) for point in points] == [(2.0 * i, 3) for i in range(8)]
    table = trust.report(points)
    assert "| rank | 8 | 1.00 | " in table
    assert "| rollouts: slope | 8 | -1.00 | " in table
    assert "| reliability | 8 | 0.00 | 0.00 to 0.00 |" in table, "which is the same for all"
    assert "rollouts: gain of following Q" not in table, "which nobody measured"
    assert "| weak | 8 | 7.0 | 0.0 | 14.0 |" in table


def test_a_run_that_was_not_checked_counts_with_what_it_found_itself(tmp_path: Path) -> None:
    (point,) = trust.points_of(make_run(tmp_path / "run", 0.2, 5.0, checked=False))
    assert point.verdict == "good" and point.numbers["rank"] == 0.2 and "rollouts: slope" not in point.numbers


def test_a_check_of_another_critic_is_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, other = make_run(tmp_path / "run", 0.2, 5.0), make_run(tmp_path / "other", 0.7, 1.0)
    for name, source in (("critic-1", other), ("critic-2", run)):
        (run / name).mkdir()
        (run / name / "critic-check.json").write_bytes((source / "critic-check.json").read_bytes())
    (run / "critic-check.json").unlink()
    (point,) = trust.points_of(run)
    assert point.numbers["rank"] == 0.2 and point.numbers["rollouts: slope"] == -0.2
    (run / "critic-2" / "critic-check.json").unlink()
    (point,) = trust.points_of(run)
    assert point.numbers["rank"] == 0.2 and "rollouts: slope" not in point.numbers
    assert "critic-1/critic-check.json: skipped, as results.json is of another critic" in capsys.readouterr().out


def test_a_run_that_is_not_finished_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"results\.json: is missing"):
        trust.points_of(tmp_path)
