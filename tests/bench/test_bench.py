"""`tiltrl bench`: what is asked for is measured, written, read again, and compared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tiltrl import cli
from tiltrl.bench import run
from tiltrl.bench.measure import Answer, Request
from tiltrl.bench.options import BenchOptions
from tiltrl.bench.report import changes, print_bench, print_changes
from tiltrl.bench.results import ActingResult, BenchResult, Spread, StageResult, read_result, spread
from tiltrl.errors import InputError
from tiltrl.files import write_json

MACHINE = {"processor": "abacus", "cores": 2, "device": "beads", "versions": {"jax": "1"}}
STAGE = StageResult(
    stage="behavior",
    preset="paper",
    flops=2_000_000_000,
    bytes=1_000_000,
    rows=10,
    steps_per_second=Spread(5.0, 4.0, 6.0),
    peak=40e9,
    compile_seconds=1.5,
    memory=3_000_000,
)
ACTING = ActingResult("fast", 16, 1, 100, Spread(0.002, 0.001, 0.003), 0.005)
RESULT = BenchResult("tiltrl bench 1", MACHINE, 3.0, (STAGE,), (ACTING,))


class Quiet:
    """A reporter that counts."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, int]] = []

    def start(self, stage: str, total: int) -> None: ...

    def update(self, done: int, total: int, metrics: dict[str, Any]) -> None:
        self.heard.append((done, total))

    def say(self, message: str) -> None: ...


def printed(show: Any, *args: Any) -> str:
    console = Console(record=True, width=120, markup=False)
    show(*args, console)
    return console.export_text()


def now(**changed: Any) -> BenchResult:
    return replace(RESULT, stages=(replace(STAGE, **changed),))


def test_rates_and_shares() -> None:
    assert STAGE.flops_per_second == 10e9
    assert STAGE.share == 0.25
    assert spread([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)


def test_all_is_asked_for_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(request: Request) -> Answer:
        if request.stage is None:
            return Answer(MACHINE, acting=(replace(ACTING, preset=request.preset, cores=request.cores or 2),))
        return Answer(MACHINE, stage=replace(STAGE, stage=request.stage, preset=request.preset))

    monkeypatch.setattr(run, "asked", fake)
    monkeypatch.setattr(run, "available_cores", lambda: [0, 1])
    monkeypatch.setattr(run, "can_pin", lambda: True)
    progress, out = Quiet(), tmp_path / "bench.json"
    found = run.run_bench(BenchOptions(), progress)
    stages = {(one.stage, one.preset) for one in found.stages}
    assert len(stages) == len(found.stages) == 8
    assert {(one.preset, one.cores) for one in found.acting} == {("fast", 1), ("fast", 2), ("paper", 1), ("paper", 2)}
    assert progress.heard[-1] == (12, 12)
    cli.bench(BenchOptions(out=out))
    assert read_result(out) == found


@pytest.mark.parametrize(("failure", "ends"), [(MemoryError, InputError), (RuntimeError, RuntimeError)])
def test_what_fails_keeps_nothing_else_from_being_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: type[Exception], ends: type[Exception]
) -> None:
    """And a bug ends as one."""

    def fake(request: Request) -> Answer:
        if request.stage == "candidates":
            raise failure("told")
        return Answer(MACHINE, stage=replace(STAGE, stage=request.stage or "behavior", preset=request.preset))

    monkeypatch.setattr(run, "asked", fake)
    out = tmp_path / "bench.json"
    both = BenchOptions(preset=("fast",), stage=("candidates", "alignment"), out=out)
    with pytest.raises(ends, match="1 could not be measured, such as fast candidates: told"):
        cli.bench(both)
    assert [one.stage for one in read_result(out).stages] == ["alignment"]
    with pytest.raises(ends, match="nothing could be measured; fast candidates: told"):
        cli.bench(replace(both, stage=("candidates",)))


@pytest.mark.parametrize("name", ["bench.txt", "none.json/bench.json"])
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path: Path, name: str) -> None:
    (tmp_path / "none.json").touch()
    with pytest.raises(InputError, match="bench"):
        BenchOptions(out=tmp_path / name).check()


def test_a_part_is_asked_for() -> None:
    todo = run.requests(BenchOptions(preset=("fast",), stage=("alignment", "behavior"), seconds=1.0))
    assert todo == [Request("behavior", "fast", 1.0), Request("alignment", "fast", 1.0)]


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"rows": []}', json.dumps({"kind": "tiltrl bench 2"}), "\x00\x01"], ids=range(6)
)
def test_a_file_that_is_no_result_is_refused_before_anything_is_measured(tmp_path: Path, content: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"other\.json.*tiltrl bench --out"):
        BenchOptions(compare=path).check()


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.json.*tiltrl bench --out"):
        BenchOptions(compare=tmp_path / "no.json").check()


@pytest.mark.parametrize(
    "wrong", [{"seconds": 0.0}, {"seconds": float("nan")}, {"preset": ()}, {"stage": ("acting", "acting")}], ids=str
)
def test_options_that_cannot_be_used(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        BenchOptions(**wrong).check()


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({"steps_per_second": Spread(5.5, 5.0, 7.0)}, "within noise"),
        ({"steps_per_second": Spread(8.0, 7.0, 9.0)}, "faster"),
        ({"steps_per_second": Spread(2.0, 1.0, 3.0)}, "SLOWER"),
        ({"steps_per_second": Spread(8.0, 7.0, 9.0), "flops": 1}, "another amount of work"),
    ],
)
def test_a_change_counts_beyond_noise_only(changed: dict[str, Any], verdict: str) -> None:
    rate, latency = changes(RESULT, now(**changed))
    assert rate.verdict == verdict
    assert rate.faster == changed["steps_per_second"].median / 5.0
    assert latency.verdict == "within noise" and latency.faster == 1.0
    assert verdict in printed(print_changes, RESULT, now(**changed))


def test_a_shorter_latency_is_faster() -> None:
    quick = replace(RESULT, acting=(replace(ACTING, p50=Spread(0.0005, 0.0004, 0.0006)),))
    change = list(changes(RESULT, quick))[1]
    assert change.faster == 4.0 and change.verdict == "faster"


def test_tables() -> None:
    text = printed(print_bench, RESULT)
    for part in ("abacus", "behavior", "25%", "2 ", "50", "16", "5"):
        assert part in text


def test_another_machine_is_told() -> None:
    other = replace(RESULT, machine=MACHINE | {"processor": "slide rule"})
    assert "WARNING: another processor: abacus then, slide rule now" in printed(print_changes, RESULT, other)


def test_nothing_in_common() -> None:
    assert "none of what was measured" in printed(print_changes, replace(RESULT, stages=(), acting=()), RESULT)


def test_numbers_outlive_a_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", RESULT)
    assert read_result(tmp_path / "a.json") == RESULT
