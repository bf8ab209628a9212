"""Every write of a run fails once, and files are torn as a power cut would: one clear line, and nothing is lost."""

from __future__ import annotations

import errno
import itertools
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from artefacts import differences, fingerprint, finished_prints, finished_stages, steps_of
from kills import LONGEST, SHORT_RUN, WARM
from zygote import Zygote

ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS)
RUN = (*SHORT_RUN.argv, "--out", "out")
BEHAVIOR = ("behavior", *RUN[1:])
EVERY = bool(os.environ.get("TILTRL_EVERY_FAULT"))
"""Whether each place meets each error (many minutes), or each line that wants something written meets one of them."""


ARRAYS = "behavior-*/networks.safetensors", "critic-*/networks.safetensors", "candidates-*/*.safetensors"
HOWS = "empty", "cut", "zeros", "flipped"
DESCRIPTIONS = "run.json", "align-*/stage.json", "critic-*/stage.json", "evaluation-*/*seed0.json"


def some(cases: Iterable[Any], of: int) -> list[Any]:
    """All cases as parameters, those that are not every so many-th marked slow."""
    marks = ([] if i % of == 0 else [pytest.mark.slow] for i in itertools.count())
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=mark)
        for case, mark in zip(cases, marks, strict=False)
    ]


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote(env=WARM) as zygote:
        yield zygote


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def command(zygote: Zygote) -> Command:
    """Runs a command in a folder; its exit status, and what it wrote to stdout and stderr."""

    def call(argv: tuple[str, ...], place: Path, before: str = "") -> tuple[int, str, str]:
        out, err = place / "stdout", place / "stderr"
        status = zygote.start(argv, cwd=place, out=out, err=err, before=before).wait(LONGEST)
        return status, out.read_text(), err.read_text()

    return call


@pytest.fixture(scope="module")
def whole(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that met no fault."""
    place = tmp_path_factory.mktemp("whole")
    status, _, said = command(RUN, place)
    assert status == 0, said
    return place / "out"


@pytest.fixture(scope="module")
def broken_off(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that died in its behavior's training, with two checkpoints."""
    place = tmp_path_factory.mktemp("broken-off")
    status, _, said = command(BEHAVIOR, place, before=DIE_AFTER_THREE)
    assert status == 9, said
    assert len(checkpoints(place / "out")) == 2
    return place / "out"


DIE_AFTER_THREE = """
import os
from tiltrl.training.checkpoint import Checkpoints
save, saved = Checkpoints.save, []
def dying(self, step, *what):
    save(self, step, *what)
    saved.append(step)
    if len(saved) == 3:
        os._exit(9)
Checkpoints.save = dying
"""


def checkpoints(out: Path) -> list[Path]:
    return sorted(out.glob("behavior-*/checkpoints/step-*.safetensors"))


def one_clear_line(said: str) -> str:
    """What the command says of its end, which is all that it says."""
    lines = [line for line in said.splitlines() if not line.startswith("WARNING")]
    assert "Traceback" not in said and len(lines) == 1 and lines[0].startswith("tiltrl: error: "), said
    return lines[0]


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(len(ERRORS) if EVERY else 1))
def test_each_write_may_fail(command: Command, whole: Path, tmp_path: Path, turn: int) -> None:
    """One folder meets a fault at every place in turn, each time resumed by the same command, and ends up whole."""
    wanted, folder, told = fingerprint(whole), tmp_path / "out", tmp_path / "told"
    places: list[str] = []
    while True:
        assert len(places) < 300, places[-5:]
        code = ERRORS[(len(places) + turn) % len(ERRORS)]
        before = (
            f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import inject\n"
            f"inject.install({str(folder)!r}, {places!r}, {code}, {str(told)!r}, every={EVERY})"
        )
        told.unlink(missing_ok=True)
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        if folder.exists():
            shutil.copytree(folder, copy)
        status, _, said = command(RUN, tmp_path, before=before)
        if not told.exists():
            break
        place, path = told.read_text().splitlines()
        places.append(place)
        happened = f"{errno.errorcode[code]}: {place}, {path}: status {status}, {said}"
        print(happened)
        if status == 0:  # it could do without, and lost nothing; the places after this one are still to be met
            assert not differences(fingerprint(folder), wanted), happened
            shutil.rmtree(folder)
            if copy.exists():
                shutil.copytree(copy, folder)
            continue
        assert status == 2, happened
        line = one_clear_line(said)
        assert os.strerror(code) in line and "out" in line, happened
        if folder.exists():
            finished = set(finished_stages(folder))
            believed = {name: digest for name, digest in wanted.items() if name.split("/")[0] in finished}
            assert not differences(finished_prints(folder), believed), happened
    assert status == 0, said
    assert len(places) > (50 if EVERY else 12), places
    assert not differences(fingerprint(folder), wanted)


def damaged(content: bytes, how: str, rng: random.Random) -> bytes:
    if how == "empty":
        return b""
    if how == "cut":
        return content[: rng.randrange(1, len(content))]
    if how == "zeros":  # of the right length, as some file systems leave what was not yet flushed
        return content[: len(content) // 2].ljust(len(content), b"\0")
    flipped = bytearray(content)
    for _ in range(3):
        flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
    return bytes(flipped)


@pytest.mark.parametrize(("how", "count"), some(itertools.product(HOWS, [1, 2]), of=3))
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    command: Command, whole: Path, broken_off: Path, tmp_path: Path, how: str, count: int
) -> None:
    shutil.copytree(broken_off, tmp_path / "out")
    rng = random.Random(how)
    hurt = checkpoints(tmp_path / "out")[-count:]
    for path in hurt:
        path.write_bytes(damaged(path.read_bytes(), how, rng))
    (log,) = (tmp_path / "out").glob("behavior-*/metrics.jsonl")
    with log.open("a") as file:
        file.write('{"step": 60, "denoi')  # a line that was being written
    status, out, said = command(BEHAVIOR, tmp_path)
    assert status == 0, said
    for path in hurt:
        assert path.name in out + said
    (folder,) = (tmp_path / "out").glob("behavior-*")
    assert not differences(fingerprint(folder), fingerprint(whole / folder.name))
    assert steps_of(log) == sorted(set(steps_of(log)))


@pytest.mark.parametrize(("how", "pattern"), some(itertools.product(HOWS, ARRAYS), of=5))
def test_damage_to_a_finished_stage_is_named_with_what_to_do(
    command: Command, whole: Path, tmp_path: Path, pattern: str, how: str
) -> None:
    shutil.copytree(whole, tmp_path / "out")
    (path,) = (tmp_path / "out").glob(pattern)
    path.write_bytes(damaged(path.read_bytes(), how, random.Random(how)))
    status, _, said = command(RUN, tmp_path)
    assert status == 2, said
    line = one_clear_line(said)
    assert path.name in line and "delete" in line
    if how == "cut":
        shutil.rmtree(path.parent)
        status, _, said = command(RUN, tmp_path)
        assert status == 0, said
        assert not differences(fingerprint(tmp_path / "out"), fingerprint(whole))


@pytest.mark.parametrize(("how", "pattern"), some(itertools.product(["empty", "cut"], DESCRIPTIONS), of=3))
def test_a_torn_description_is_named(command: Command, whole: Path, tmp_path: Path, pattern: str, how: str) -> None:
    shutil.copytree(whole, tmp_path / "out")
    path = sorted((tmp_path / "out").glob(pattern))[0]
    path.write_bytes(damaged(path.read_bytes(), how, random.Random(how)))
    status, _, said = command(RUN, tmp_path)
    assert status == 2, said
    assert path.name in one_clear_line(said)


@pytest.mark.parametrize("size", some([20_000, 3000], of=2))
def test_a_limit_on_the_size_of_files_is_told_and_can_be_lifted(
    command: Command, whole: Path, tmp_path: Path, size: int
) -> None:
    # No file of JAX's cache may be written under the limit, as JAX warns of that.
    before = (
        f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, resource.RLIM_INFINITY))\n"
        "import os; os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '1e9'"
    )
    status, _, said = command(BEHAVIOR, tmp_path, before=before)
    assert status == 2, said
    assert os.strerror(errno.EFBIG) in one_clear_line(said)
    assert command(BEHAVIOR, tmp_path)[0] == 0
    (folder,) = (tmp_path / "out").glob("behavior-*")
    assert not differences(fingerprint(folder), fingerprint(whole / folder.name))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a file system on which nobody can write")
def test_a_folder_that_nobody_can_make_is_named(command: Command, tmp_path: Path) -> None:
    status, _, said = command((*BEHAVIOR[:-1], "/sys/tiltrl-run"), tmp_path)
    assert status == 2
    assert "/sys/tiltrl-run" in one_clear_line(said)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_named_and_goes_on_once_it_is_given(
    command: Command, whole: Path, broken_off: Path, tmp_path: Path
) -> None:
    shutil.copytree(broken_off, tmp_path / "out")
    (folder,) = (tmp_path / "out").glob("behavior-*")
    folder.chmod(0o555)
    try:
        status, _, said = command(BEHAVIOR, tmp_path)
    finally:
        folder.chmod(0o755)
    assert status == 2
    assert folder.name in one_clear_line(said)
    assert command(BEHAVIOR, tmp_path)[0] == 0
    assert not differences(fingerprint(folder), fingerprint(whole / folder.name))
