"""What `benchmarks/latency.py` makes of the times it takes."""

from __future__ import annotations

import numpy as np
from benchmark_scripts import load_script
from rich.console import Console

from tiltrl.progress import LiveProgress

latency = load_script("latency")


def test_contestants_take_turns_and_the_first_calls_do_not_count() -> None:
    seen: list[tuple[str, float]] = []
    acts = {
        ("policy", "JAX"): lambda obs: seen.append(("JAX", obs[0])),
        ("policy", "ONNX"): lambda obs: seen.append(("ONNX", obs[0])),
    }
    with LiveProgress(Console(quiet=True)) as progress:
        spent = latency.in_turns(acts, np.arange(4.0)[:, None], 6, progress)
    assert {key: len(values) for key, values in spent.items()} == {key: 6 for key in acts}
    assert len(seen) == 2 * (6 + latency.WARM)
    assert seen[-12:] == [(by, float(call % 4)) for call in range(6) for by in ("JAX", "ONNX")]


def test_the_report_says_what_was_measured_where() -> None:
    versions = {"tiltrl": "1", "jax": "2", "onnxruntime": "3", "numpy": "4"}
    row = {"policy": "policy", "by": "ONNX", "p50": 0.1234, "p99": 1.0, "p99.9": 2.0}
    found = {"command": "python x", "calls": 7, "load": 0.25, "rows": [row], "machine": {"processor": "P"}}
    found["machine"]["versions"] = versions
    text = latency.report(found)
    assert "`python x`" in text and "7 calls each in turns" in text
    assert "| policy | ONNX | 0.123 | 1.000 | 2.000 |" in text
    assert "One core of P, load 0.2 before it began; tiltrl 1, jax 2, onnxruntime 3, numpy 4." in text
