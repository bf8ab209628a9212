"""Kills commands at random moments, resumes them, and compares what comes of it with what an undisturbed one leaves.

    python tests/faults/kills.py --kills 200 --workers 2 --out runs/kills

A command is killed a few times, each time resumed by the very same command line, and in the end left alone until it is
done. Then every file that it leaves is compared with the undisturbed one's, bit by bit but for wall-clock times. After
each kill, all that says it is finished must already be what the undisturbed command left.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from artefacts import differences, fingerprint, finished_prints, finished_stages
from zygote import Zygote

SIGNALS = (signal.SIGKILL,) * 4 + (signal.SIGTERM, signal.SIGINT)
MOST_KILLS = 8  # of one command before it is left alone
LONGEST = 900.0  # seconds that a command may take, on a machine that is busy with other things
TICK = 0.01  # seconds between two looks at the folder
STAGES_RUN = ("start", "behavior", "critic", "candidates", "align", "evaluation", "end")


@dataclasses.dataclass(frozen=True)
class Job:
    """A command, and the parts of it in which it can be killed."""

    name: str
    argv: tuple[str, ...]
    stages: tuple[str, ...]  # in order
    stage: Callable[[Path, Sequence[str]], str]  # (folder, names of the finished command's stages) -> where it is
    before: str = ""  # Python statements that the process runs first


@dataclasses.dataclass(frozen=True)
class Reference:
    """What an undisturbed command left, and how long it took in each of its stages."""

    prints: dict[str, str]
    stages: list[str]  # names of the stages' folders, as they were finished
    seconds: dict[str, float]  # as far as is known


def stage_of_run(folder: Path, order: Sequence[str]) -> str:
    """The first stage that does not say it is finished, by its name."""
    if not (folder / "run.json").is_file():
        return "start"
    finished = set(finished_stages(folder))
    name = next((name for name in order if name not in finished), None)
    return "end" if name is None else name.rpartition("-")[0]


def stage_of_collection(folder: Path, _: Sequence[str]) -> str:
    """Before the first episodes are kept, among them, or after the data set is in place."""
    parts = folder.with_name(f"{folder.name}.parts")
    if folder.exists():
        return "end"
    return "episodes" if any(parts.glob("*.npz")) else "start"


RUN = Job(
    "run",
    ("run", "demo[:0.05]", "--budget", "0.01", "--episodes", "1", "--label-fraction", "0.4", "--beta", "0.5", "1")
    + ("--seeds", "2", "--save-every", "0.1"),
    STAGES_RUN,
    stage_of_run,
)
BANDIT = Job(
    "bandit",
    ("bandit", "--dataset", "moons", "--budget", "0.01", "--samples", "500", "--times", "0.1", "0.5"),
    ("start", "moons-mu", "moons-pi", "end"),
    stage_of_run,
)
COLLECT = Job(
    "collect",
    ("data", "collect", "random", "--env", "Hopper-v5", "--episodes", "800"),
    ("start", "episodes", "end"),
    stage_of_collection,
    before="import tiltrl.collect.cli; tiltrl.collect.cli._EVERY = 0.1",
)
SHORT_RUN = dataclasses.replace(
    RUN,
    argv=("run", "demo[:0.05]", "--budget", "0.01", "--episodes", "1", "--label-fraction", "0.1", "--save-every", "0"),
)
"""For tests: one seed and temperature, fewer candidates, and a checkpoint after each burst of steps."""
WARM = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
"""For the environment of processes that are started again and again: every program is compiled once."""
JOBS = {job.name: job for job in (RUN, BANDIT, COLLECT)}


@dataclasses.dataclass(frozen=True)
class Kill:
    """One signal, and what followed."""

    signal: str
    stage: str
    after: float  # seconds from the start of the process
    status: int
    seconds: float  # from the signal to the end of the process
    wrong: tuple[str, ...]  # what must not be: files that claim to be finished and differ, another exit status


@dataclasses.dataclass(frozen=True)
class Life:
    """A command from its first start to its end, with all that happened to it."""

    job: str
    kills: tuple[Kill, ...]
    seconds: float
    wrong: tuple[str, ...]  # differences from the undisturbed command's files, and errors at the end


def undisturbed(zygote: Zygote, job: Job, place: Path, times: int = 2) -> Reference:
    """Run the command in peace; when it is run twice, the second, with everything compiled, is the one that is timed.

    Raises:
        AssertionError: it fails, or does not leave the same each time.
    """
    prints: list[dict[str, str]] = []
    seconds: dict[str, float] = collections.defaultdict(float)
    order: list[str] = []
    for number in range(times):
        folder = place / f"{job.name}-{number}" / "out"  # as some files tell their folder's name
        folder.parent.mkdir(parents=True)
        seconds.clear()
        child = _start(zygote, job, folder)
        began = looked = time.monotonic()
        while child.poll() is None:
            assert looked - began < LONGEST, f"{job.name}: takes more than {LONGEST} s"
            time.sleep(TICK)
            before, looked = looked, time.monotonic()
            seconds[job.stage(folder, ())] += looked - before
        status = child.wait(1)
        assert status == 0, f"{job.name}: status {status}: {_said(folder)}"
        prints.append(fingerprint(folder))
        order = finished_stages(folder)
        for name in order:  # to the looks at the folder above, which knew of no stages, all of them were the end
            took = json.loads((folder / name / "stage.json").read_text())["seconds_in_last_session"]
            seconds[name.rpartition("-")[0]] += took
            seconds["end"] -= took
    seconds["end"] = max(seconds["end"], 0.1)
    if times == 1:  # most of which was compiling
        seconds = {stage: 0.3 * took for stage, took in seconds.items()}
    wrong = differences(prints[-1], prints[0])
    assert not wrong, f"{job.name}: two undisturbed commands differ: {wrong}"
    return Reference(prints[0], order, dict(seconds))


def disturbed(
    zygote: Zygote,
    job: Job,
    reference: Reference,
    folder: Path,
    rng: random.Random,
    counts: collections.Counter[str],
    most: int = MOST_KILLS,
) -> Life:
    """Kill the command up to `most` times, resume it each time, let it end, and compare; `counts` is of its stages."""
    kills: list[Kill] = []
    began = time.monotonic()
    wrong: list[str] = []
    while True:
        enough = len(kills) >= most or (len(kills) > 0 and kills[-1].stage == job.stages[-1])
        aim = None if enough else _aim(job, reference, folder, rng, counts)
        child, started = _start(zygote, job, folder), time.monotonic()
        status = _wait_for(child, job, reference, folder, aim, started)
        if status is not None:
            break  # done, or failed
        signum = rng.choice(SIGNALS)
        stage, sent = job.stage(folder, reference.stages), time.monotonic()
        child.kill(signum)
        status = child.wait(LONGEST)
        ended = time.monotonic()
        found = differences(finished_prints(folder), _known(reference, folder)) if folder.exists() else []
        if status not in ((-signum, 0) if signum == signal.SIGKILL else (3, 0)):
            found.append(f"exit status {status}: {_said(folder)}")
        kills.append(Kill(signal.Signals(signum).name, stage, sent - started, status, ended - sent, tuple(found)))
        counts[stage] += 1
        if status == 0:
            break
    if status != 0:
        wrong.append(f"exit status {status}: {_said(folder)}")
    wrong += differences(fingerprint(folder), reference.prints)
    if folder.with_name(f"{folder.name}.parts").exists():
        wrong.append("too many: the parts of the collection")
    return Life(job.name, tuple(kills), time.monotonic() - began, tuple(wrong))


def _known(reference: Reference, folder: Path) -> dict[str, str]:
    finished = set(finished_stages(folder))
    return {name: digest for name, digest in reference.prints.items() if name.split("/")[0] in finished}


def _aim(
    job: Job, reference: Reference, folder: Path, rng: random.Random, counts: collections.Counter[str]
) -> tuple[str, float]:
    """A stage that is still to come, the one with the fewest kills so far, and how many seconds into it."""
    here = job.stage(folder, reference.stages)
    at = job.stages.index(here)
    ahead = job.stages[at : at + 2]  # not far, so that a life has many deaths
    # Now and then any, so that moments between stages, too, are hit at random.
    stage = rng.choice(ahead) if rng.random() < 0.3 else min(ahead, key=lambda stage: counts[stage])
    # A process that goes on in this stage starts up first.
    start_up = reference.seconds.get("start", 1.0) if stage == here != "start" else 0.0
    return stage, rng.uniform(0.0, start_up + reference.seconds.get(stage, 0.1))


def _wait_for(
    child: Any, job: Job, reference: Reference, folder: Path, aim: tuple[str, float] | None, started: float
) -> int | None:
    """Wait for the moment (then None), or for the end of the command (then its exit status)."""
    entered: float | None = None
    while (status := child.poll()) is None:
        now = time.monotonic()
        if now - started > LONGEST:
            raise TimeoutError(f"{job.name}: takes more than {LONGEST} s: {_said(folder)}")
        if aim is not None:
            stage, delay = aim
            ahead = job.stages.index(job.stage(folder, reference.stages)) - job.stages.index(stage)
            if ahead > 0:  # it was over sooner than expected
                reference.seconds[stage] = 0.5 * reference.seconds.get(stage, 0.1)
                return None
            if entered is None and ahead == 0:
                entered = now
            if entered is not None and now - entered >= delay:
                return None
        time.sleep(TICK)
    return status


def _start(zygote: Zygote, job: Job, folder: Path) -> Any:
    argv = [*job.argv, "--out", folder.name]
    place = folder.parent
    return zygote.start(
        argv, cwd=place, out=place / f"{folder.name}.out", err=place / f"{folder.name}.err", before=job.before
    )


def _said(folder: Path) -> str:
    """The end of what the command wrote to stderr."""
    return folder.with_name(f"{folder.name}.err").read_text(errors="replace")[-2000:]


# --- Many, by several workers -----------------------------------------------------------------------------------------


@contextmanager
def _place(out: Path, name: str) -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=out))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def work(out: Path, worker: int, kills: int, seed: int) -> None:
    """One worker: lives of all jobs in turn until so many kills are in its file, which is continued if it is there."""
    file = out / f"worker-{worker}.jsonl"
    lives = read_lives([file])
    done = sum(len(life["kills"]) for life in lives)
    counts = {name: collections.Counter[str]() for name in JOBS}
    for life in lives:
        counts[life["job"]].update(kill["stage"] for kill in life["kills"])
    # Half the lives are runs, which have the most to lose.
    order = ("run", "bandit", "run", "collect")
    with Zygote(env=WARM) as zygote, _place(out, f"worker-{worker}") as place:
        references = {name: undisturbed(zygote, job, place) for name, job in JOBS.items()}
        number = len(lives)
        while done < kills:
            rng = random.Random(f"{seed}-{worker}-{number}")
            name = order[number % len(order)]
            folder = place / f"life-{number}" / "out"
            folder.parent.mkdir()
            life = disturbed(zygote, JOBS[name], references[name], folder, rng, counts[name])
            with file.open("a") as lines:
                lines.write(json.dumps(dataclasses.asdict(life)) + "\n")
            if life.wrong or any(kill.wrong for kill in life.kills):
                shutil.move(folder.parent, out / f"wrong-{worker}-{number}")
            shutil.rmtree(folder.parent, ignore_errors=True)
            done += len(life.kills)
            number += 1


def read_lives(files: Sequence[Path]) -> list[dict[str, Any]]:
    """What workers have written so far."""
    return [json.loads(line) for file in files if file.exists() for line in file.read_text().splitlines()]


def went_wrong(life: dict[str, Any]) -> bool:
    """Whether anything was not as it must be."""
    return bool(life["wrong"]) or any(kill["wrong"] for kill in life["kills"])


def table(lives: Sequence[dict[str, Any]]) -> str:
    """All of it in Markdown."""
    kills = [(life["job"], kill) for life in lives for kill in life["kills"]]
    names = sorted({kill["signal"] for _, kill in kills})
    rows = [
        f"{len(kills)} kills in {len(lives)} commands; each command was resumed by the same command line until done.",
        "",
        "| command | killed in | " + " | ".join(names) + " |",
        "|---|---|" + "---:|" * len(names),
    ]
    for job in JOBS.values():
        for stage in job.stages:
            hits = collections.Counter(k["signal"] for name, k in kills if (name, k["stage"]) == (job.name, stage))
            rows.append(f"| {job.name} | {stage} | " + " | ".join(str(hits[name]) for name in names) + " |")
    rows.append("| all | | " + " | ".join(str(sum(k["signal"] == name for _, k in kills)) for name in names) + " |")
    equal = sum(not life["wrong"] for life in lives)
    believed = sum(bool(kill["wrong"]) for _, kill in kills)
    asked = sorted(kill["seconds"] for _, kill in kills if kill["signal"] != "SIGKILL")
    rows += [
        "",
        f"- Commands whose files are bit for bit those of an undisturbed one: {equal} of {len(lives)}",
        f"- Kills after which something wrong was called finished, or the exit status was wrong: {believed}",
        f"- Commands started, first starts and resumes together: {len(kills) + equal}",
    ]
    if asked:
        rows.append(
            f"- From SIGTERM or SIGINT to the end of the process: median {asked[len(asked) // 2]:.2f} s, longest "
            f"{asked[-1]:.2f} s"
        )
    wrong = [line for life in lives for line in [*life["wrong"], *(w for k in life["kills"] for w in k["wrong"])]]
    if wrong:
        rows += ["", "What was wrong:", "", *(f"- {line}" for line in wrong)]
    return "\n".join(rows) + "\n"


def main() -> None:
    """Start the workers, say how far they are, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=200, help="in all")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/kills"), help="the same folder again: goes on")
    parser.add_argument("--results", type=Path, help="a Markdown file for the table; its numbers go beside it as JSON")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has its background jobs ignore it, and so theirs
    share = -(-options.kills // options.workers)
    if options.worker is not None:
        work(options.out.resolve(), options.worker, share, options.seed)
        return
    own = {"JAX_COMPILATION_CACHE_DIR": str(options.out.resolve() / "compilations")}
    command = [sys.executable, __file__, *sys.argv[1:]]
    files = [options.out / f"worker-{worker}.jsonl" for worker in range(options.workers)]
    before, began = sum(len(life["kills"]) for life in read_lives(files)), time.monotonic()
    workers = [
        subprocess.Popen([*command, "--worker", str(worker)], env=os.environ | own) for worker in range(options.workers)
    ]
    try:
        while any(worker.poll() is None for worker in workers):
            time.sleep(5)
            lives = read_lives(files)
            kills = sum(len(life["kills"]) for life in lives)
            wrong = sum(map(went_wrong, lives))
            pace = (kills - before) / (time.monotonic() - began)  # kills a second
            left = f"{(options.kills - kills) / pace / 60:.0f} min left" if pace else "time left is not known yet"
            print(f"{kills} of {options.kills} kills, {len(lives)} commands, {wrong} wrong, {left}", flush=True)
    finally:
        for worker in workers:
            worker.terminate()
            worker.wait()
    lives = read_lives(files)
    text = table(lives)
    print("\n" + text)
    if options.results is not None:
        options.results.write_text(f"# Killed and resumed\n\n`{' '.join(['python', *sys.argv])}`\n\n{text}")
        options.results.with_suffix(".json").write_text(json.dumps(lives, indent=1) + "\n")
    sys.exit(any(map(went_wrong, lives)) or any(worker.returncode for worker in workers))


if __name__ == "__main__":
    main()
