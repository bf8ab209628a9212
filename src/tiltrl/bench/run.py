"""`tiltrl bench`: one measurement after the other, each in a process of its own."""

from __future__ import annotations

from tiltrl.bench.machine import available_cores, can_pin
from tiltrl.bench.measure import Answer, Request, asked
from tiltrl.bench.options import BenchOptions
from tiltrl.bench.results import BenchResult, Failure
from tiltrl.bench.work import STAGES, StageName
from tiltrl.errors import InputError
from tiltrl.progress import Reporter


def requests(options: BenchOptions) -> list[Request]:
    """What there is to measure. Acting: on one core where a process can be kept on it, and on all."""
    stages: list[StageName] = [stage for stage in STAGES if stage in options.stage]
    found = [Request(stage, preset, options.seconds) for stage in stages for preset in options.preset]
    if "acting" in options.stage:
        cores = (1, None) if can_pin() and len(available_cores()) > 1 else (None,)
        found += [Request(None, preset, options.seconds, count) for preset in options.preset for count in cores]
    return found


def run_bench(options: BenchOptions, progress: Reporter) -> BenchResult:
    """Measure all that is asked for. What fails is told and keeps nothing else from being measured.

    Raises:
        InputError: nothing could be measured.
        RuntimeError: the same, by a bug.
    """
    todo = requests(options)
    progress.start("bench", len(todo))
    answers: list[Answer] = []
    failures: list[Failure] = []
    for done, request in enumerate(todo, 1):
        try:
            answers.append(asked(request))
        except (InputError, MemoryError, RuntimeError) as error:
            what = f"{request.preset} {request.stage or 'acting'}"
            failures.append(Failure(what, str(error), isinstance(error, RuntimeError)))
            progress.say(f"failed: {failures[-1]}")
        progress.update(done, len(todo), {})
    if not answers:
        raise failures[0].error(f"nothing could be measured; {failures[0]}")
    return BenchResult(
        kind="tiltrl bench 1",
        # Of the last: the first may have been kept on one core.
        machine=answers[-1].machine,
        seconds=options.seconds,
        stages=tuple(answer.stage for answer in answers if answer.stage is not None),
        acting=tuple(found for answer in answers for found in answer.acting),
        failures=tuple(failures),
    )
