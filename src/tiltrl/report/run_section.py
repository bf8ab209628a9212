"""What a page tells of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from tiltrl.environments import described_spec
from tiltrl.errors import InputError
from tiltrl.evaluation.ranking import Estimate
from tiltrl.evaluation.scores import Interval
from tiltrl.evaluation.trust_picture import checks_picture
from tiltrl.presets import PresetName, preset_named, shortened
from tiltrl.report.parts import Cell, Duration, Part, Picture, Section, Span, Table
from tiltrl.report.pictures import COLOR_NAMES, curve_pictures, printable, scores_picture
from tiltrl.report.run import FACTS, Results, RunRecord
from tiltrl.report.scores import about_scores, rows_by_label, scores_table
from tiltrl.report.stages import StageRecord
from tiltrl.stages.critics.check import TrustCheck
from tiltrl.trust import CriticCheck, measured

MOST_FIELDS = 400
"""Of a configuration's table."""
WALL_CLOCK = "Wall-clock is that of the session that finished the stage; one that was interrupted took longer."
_LEARNED = {
    "align": "On states that alignment does not learn from (alignment_loss excepted).",
    "behavior": "The denoising error of what it is trained on.",
}


def run_section(run: RunRecord) -> Section:
    """All parts of a run's section."""
    parts = [*_scores(run), *_trust(run), *_curves(run), _stages(run), *_configs(run), *_machines(run.results)]
    return Section(run.title, "run", _unfinished(run), tuple(_facts(run)), tuple(parts))


# --- Is it finished? --------------------------------------------------------------------------------------------------


def _unfinished(run: RunRecord) -> tuple[str, ...]:
    """What is missing, as far as the folder tells."""
    open_stages = ", ".join(_progress(stage, run) for stage in run.stages if not stage.done)
    if run.results:
        return (f"unfinished: {open_stages}; the scores are of what was finished before",) if open_stages else ()
    if open_stages:
        return (f"unfinished: {open_stages}; no policy has been evaluated yet",)
    if not run.stages:
        return ("unfinished: no stage has begun",)
    if run.task is not None and run.task.env_spec is not None:
        return ("unfinished: no policy has been evaluated yet",)
    return ()


def _progress(stage: StageRecord, run: RunRecord) -> str:
    if stage.steps is None:
        return f"{stage.name} begun"
    total = _steps_asked(stage, run)
    of = "" if total is None else f" of {total}"
    return f"{stage.name} {stage.steps}{of} steps"


def _steps_asked(stage: StageRecord, run: RunRecord) -> int | None:
    """How many steps the stage was to take; None where the folder does not tell, as other options may change it."""
    preset, budget = run.identity.get("preset"), run.identity.get("budget")
    if not isinstance(preset, str) or isinstance(budget, bool) or not isinstance(budget, int | float):
        return None
    try:
        if stage.name == "behavior":
            return preset_named(preset).scaled(budget).behavior.steps
        if stage.name.startswith("baseline-"):
            from tiltrl.methods import method_named  # here, as it brings every baseline along

            return shortened(
                method_named(stage.name.removeprefix("baseline-")).configs[cast(PresetName, preset)], budget
            ).steps
    except (InputError, KeyError):  # of a preset or a method that this version does not know
        return None
    return None


# --- Parts ------------------------------------------------------------------------------------------------------------


def _facts(run: RunRecord) -> Iterator[tuple[str, str]]:
    told = run.identity
    yield "data set", str(told.get("dataset", "not recorded"))
    data = next((one.facts["data"] for one in run.results if isinstance(one.facts.get("data"), dict)), {})
    if "steps" in data and "episodes" in data:
        yield "logged", f"{data['steps']} steps in {data['episodes']} episodes"
    yield "fingerprint of the data", str(told.get("fingerprint", "not recorded"))
    if run.task is not None:
        spec = run.task.env_spec
        yield "environment", "none is named" if spec is None else described_spec(spec, "env_spec").id
    for name, value in told.items():
        if name not in ("format", "dataset", "fingerprint"):
            yield name, str(value)


def _scores(run: RunRecord) -> Iterator[Part]:
    by_label = rows_by_label(run.results)
    tables, pictures = [], []
    for i, (label, rows) in enumerate(by_label.items()):
        name = "scores" if i == 0 else f"scores-{i + 1}"
        tables.append(scores_table(rows, label, name))
        pictures.append(scores_picture(rows, label, run.title, name))
    if tables:
        returns = tuple(
            (one.policy, one.seed, number, value, length, seed)
            for one in dict.fromkeys(episodes for found in run.results for episodes in found.episodes)
            for number, (value, length, seed) in enumerate(
                zip(one.returns, one.lengths, one.environment_seeds, strict=True)
            )
        )
        yield Part("Scores", about_scores(list(by_label)), tuple(tables), tuple(pictures))
        headings = ("policy", "seed", "episode", "return", "length", "environment seed")
        yield Part("Raw returns", tables=(Table("episodes", "Every episode", headings, returns),), folded=True)


def _trust(run: RunRecord) -> Iterator[Part]:
    rows: list[tuple[Cell, ...]] = []
    first = run.identity.get("seed")
    first = first if type(first) is int else 0
    for name, checks in _trust_checks(run).items():
        for i, one in enumerate(checks):
            bounds = Interval(one.rank, one.rank_low, one.rank_high)
            rest = one.spread, one.disagreement, one.reliability, one.random_above_data
            rows.append((name, first + i, one.verdict, bounds, one.trust, *rest))
    if rows:
        headings = (
            *("critic", "seed", "verdict", "rank correlation", "trust", "spread", "disagreement"),
            *("networks agree", "random above logged"),
        )
        note = (
            "Rank correlation on held-out episodes: above 0, it ranks actions better than chance. Trust: the share of "
            "the tilt that is made where the preset shrinks it. docs/trust.md tells what the numbers mean."
        )
        yield Part(
            "Can the critic be trusted?", tables=(Table("trust", "On held-out episodes", headings, tuple(rows), note),)
        )
    files = dict.fromkeys(file for file, _ in run.checks)
    for i, file in enumerate(files):
        yield _check_part(file, [check for name, check in run.checks if name == file], i)


def _trust_checks(run: RunRecord) -> dict[str, list[TrustCheck]]:
    """By the critic's folder; those of a critic that has none by the file that tells them."""
    found = {stage.folder: stage.trust for stage in run.stages if stage.trust}
    for one in run.results:
        if one.trust and list(one.trust) not in found.values():
            found[one.file] = list(one.trust)
    return found


def _check_part(file: str, checks: Sequence[CriticCheck], number: int) -> Part:
    """Of `tiltrl critic check`."""
    rows: list[tuple[Cell, ...]] = []
    for one in checks:
        for name, found, right in measured(one):
            if isinstance(found, Estimate):
                rows.append((name, one.seed, found.value, Span(found.low, found.high), right))
            else:
                rows.append((name, one.seed, found, None, right))
    name = "critic-check" if number == 0 else f"critic-check-{number + 1}"
    headings = ("measured", "seed", "found", "95 % interval", "would be right")
    verdicts = "; ".join(f"seed {one.seed}: {one.verdict}: {one.reason}" for one in checks)
    titled = [(f"seed {one.seed}: {one.verdict}", one.held_out, one.rollouts) for one in checks]
    picture = Picture(
        name, f"Predictions of the critic beside what came of them. {verdicts}", checks_picture(titled, printable(file))
    )
    return Part("The critic checked", verdicts, (Table(name, file, headings, tuple(rows)),), (picture,))


def _curves(run: RunRecord) -> Iterator[Part]:
    for stage in run.stages:
        if pictures := tuple(curve_pictures(stage)):
            about = [_LEARNED.get(stage.name, ""), _lines(stage, run)]
            state = "" if stage.done else ", unfinished"
            yield Part(
                f"Training of {stage.folder}{state}",
                " ".join(text for text in about if text),
                pictures=pictures,
            )


def _lines(stage: StageRecord, run: RunRecord) -> str:
    """Which line is whose, where there are several."""
    members = max(curve.values.shape[1] for curve in stage.curves)
    if members == 1:
        return ""
    if members > len(COLOR_NAMES):
        return f"Gray: {members} members (seeds, and temperatures of each); blue: their mean."
    tilts = stage.inputs.get("tilts")
    tilts = [_tilt(one) for one in tilts] if isinstance(tilts, list) else [""]
    first, seeds = run.identity.get("seed"), members // len(tilts)
    if not isinstance(first, int) or seeds * len(tilts) != members:
        return f"Lines: {members} members, in {', '.join(COLOR_NAMES[:members])}."
    names = [f"seed {first + i}{tilt}" for i in range(seeds) for tilt in tilts]
    return f"Lines: {', '.join(f'{name} {color}' for name, color in zip(names, COLOR_NAMES, strict=False))}."


def _tilt(told: object) -> str:
    given = told if isinstance(told, dict) else {}
    name = "beta" if given.get("kl") is None else "kl"
    return f" at {name} {given.get(name)}"


def _stages(run: RunRecord) -> Part:
    rows: list[tuple[Cell, ...]] = [
        (
            stage.folder,
            "finished" if stage.done else "unfinished",
            stage.steps,
            took(stage),
        )
        for stage in run.stages
    ]
    seconds = sum(stage.seconds or 0.0 for stage in run.stages)
    if len(rows) > 1:
        rows.append(("all together", "", None, Duration(seconds)))
    headings = ("stage", "state", "steps taken", "wall-clock")
    return Part(
        "Stages and wall-clock", tables=(Table("stages", "Stages in this folder", headings, tuple(rows), WALL_CLOCK),)
    )


def took(stage: StageRecord) -> Duration | None:
    """Its wall-clock, where it has one."""
    return None if stage.seconds is None else Duration(stage.seconds)


def _configs(run: RunRecord) -> Iterator[Part]:
    for i, one in enumerate(run.results):
        told = {name: one.facts[name] for name in FACTS if name in one.facts}
        table = settings_table(told, f"Configuration, of {one.file}", f"config-{i + 1}")
        yield Part(f"Configuration of {one.file}", tables=(table,), folded=True)
    tables = tuple(
        settings_table({"inputs": stage.inputs, "summary": stage.summary}, stage.folder, f"stage-{stage.folder}")
        for stage in run.stages
        if stage.done
    )
    if tables:
        yield Part("What each stage was made from, and what it reported", tables=tables, folded=True)


def _machines(results: Sequence[Results]) -> Iterator[Part]:
    told: dict[str, tuple[Table, list[str]]] = {}
    for one in results:
        table = machine_table(one.facts, f"machine-{len(told) + 1}")
        told.setdefault(repr(table.rows), (table, []))[1].append(one.file)
    for table, files in told.values():
        yield Part(f"Versions and hardware of {', '.join(files)}", tables=(table,))


# --- Tables of whatever is told ---------------------------------------------------------------------------------------


def machine_table(facts: Mapping[str, Any], name: str) -> Table:
    """Versions and hardware."""
    told = {key: facts[key] for key in ("versions", "hardware") if key in facts}
    return settings_table(told, "Versions and hardware", name)


def settings_table(told: Mapping[str, Any], caption: str, name: str) -> Table:
    """Nested settings, a row for each."""
    rows = list(_flat(told))
    note = f"{len(rows) - MOST_FIELDS} more are left out." if len(rows) > MOST_FIELDS else ""
    return Table(name, caption, ("setting", "value"), tuple(rows[:MOST_FIELDS]), note)


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and any(isinstance(inner, Mapping | list) for inner in value):
        for i, inner in enumerate(value):
            yield from _flat(inner, f"{name}[{i}]")
    elif isinstance(value, list):
        yield name, ", ".join(map(_said, value)) or "none"
    else:
        yield name, _said(value)


def _said(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    names = {None: "none", True: "yes", False: "no"}
    return names[value] if value is None or isinstance(value, bool) else str(value)[:1000] or '""'
