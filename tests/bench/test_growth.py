"""benchmarks/growth.py: what is timed, and that all three curves are measured, drawn and told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from benchmark_scripts import load_script

from tiltrl.diffusion.energy import EnergyConfig
from tiltrl.errors import InputError
from tiltrl.presets import FAST

growth = load_script("growth")
TINY = EnergyConfig(action_width=4, time_width=4, obs_width=4, blocks=1, expansion=1, time_features=4)


def test_the_clock_times_the_steps_after_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([100.0, 100.1, 100.5, 101.0, 101.6])  # compiled, warming up, marked, too soon, done
    monkeypatch.setattr(growth.time, "perf_counter", lambda: next(times))
    clock = growth.Clock(seconds=1.0)
    for step in (1, 2, 10, 15):
        clock.record(step, 1000, None, None)
    with pytest.raises(growth.Enough):
        clock.record(21, 1000, None, None)
    assert clock.seconds_a_step == pytest.approx(1.1 / 11)


@pytest.mark.slow
def test_it_measures_draws_and_tells(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small = {"SIZES": (50,), "ROWS": 50, "SEEDS": (1, 2), "BETAS": (1, 2), "LABELED": 16}
    for name, value in (small | {"ROUNDS": 1, "SECONDS": 0.01, "WARM_SECONDS": 0.0}).items():
        monkeypatch.setattr(growth, name, value)
    tiny = replace(FAST, behavior=replace(FAST.behavior, network=TINY, batch=8), align=replace(FAST.align, batch=4))
    monkeypatch.setattr(growth, "preset_named", lambda _: tiny)
    growth.main(["fast"], tmp_path)
    curves = json.loads((tmp_path / "cpu" / "growth-fast.json").read_text())["curves"]
    assert [curve["by_count_of_flops"] for curve in curves] == [[1.0], [1.0, 2.0], [1.0, pytest.approx(7 / 4)]]
    assert all(found["least"] > 0 for curve in curves for found in curve["seconds_a_step"])
    assert "| fast: alignment, temperatures |" in (tmp_path / "cpu" / "growth-fast.md").read_text()
    assert (tmp_path / "cpu" / "growth-fast.png").read_bytes().startswith(b"\x89PNG")


def test_a_preset_that_is_unknown_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="preset 'slow' is unknown"):
        growth.main(["slow"], tmp_path)
