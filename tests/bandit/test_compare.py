"""`tiltrl bandit --compare`: every model of the paper's Figure 7, measured by the same yardsticks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_experiment import Silent

from tiltrl.bandit.compare import run_comparison
from tiltrl.bandit.experiment import BanditOptions


@pytest.mark.slow
def test_a_comparison_measures_and_draws_every_model(tmp_path: Path) -> None:
    options = BanditOptions(dataset=("moons",), compare=True, calls=5, samples=200, budget=0.002, out=tmp_path / "run")
    (rows,) = run_comparison(options, Silent()).values()
    assert [row["model"] for row in rows] == [
        "data", "BDM, 5 calls", "Gaussian", "VAE", "EBM, 100 steps", "EBM, 1000 steps"
    ]  # fmt: skip
    assert [row["network_calls"] for row in rows] == [0, 5, 0, 1, 100, 1000]
    data, *models = rows
    # The Gaussian needs no training: its distance is its own. Nothing beats another sample of the data.
    assert all(row["distance"] > data["distance"] for row in models)
    assert data["off_data"] < 0.03 and 0.05 < models[1]["off_data"] < 0.6
    assert (options.out / "moons-comparison.png").read_bytes().startswith(b"\x89PNG")
    assert len(json.loads((options.out / "comparison.json").read_text())["sets"]["moons"]) == 6
