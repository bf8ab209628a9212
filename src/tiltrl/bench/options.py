"""What `tiltrl bench` can be asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tiltrl.bench.results import BenchResult, read_result
from tiltrl.bench.work import STAGES
from tiltrl.errors import InputError
from tiltrl.files import writable
from tiltrl.presets import PRESETS, PresetName

Subject = Literal["behavior", "critic", "candidates", "alignment", "acting"]
SUBJECTS: tuple[Subject, ...] = (*STAGES, "acting")


@dataclass(frozen=True)
class BenchOptions:
    """What `tiltrl bench` is asked to do. Each field is an option of the command line, and its docstring the help."""

    preset: tuple[PresetName, ...] = tuple(PRESETS)
    """Whose sizes: fast, paper. Default: both."""
    stage: tuple[Subject, ...] = SUBJECTS
    """What to measure: behavior, critic, candidates, alignment, acting. Default: all."""
    seconds: float = 2.0
    """How long each measurement takes, beside starting and compiling; a step that takes longer is waited for."""
    out: Path | None = None
    """Where all numbers go, as JSON."""
    compare: Path | None = None
    """An earlier file of --out, to tell what has changed since."""

    def check(self) -> BenchResult | None:
        """What to compare with, if anything.

        Raises:
            InputError: a value cannot be used, nothing can be written to `out`, or the file to compare with is none of
                ours.
        """
        for name, given, known in (("preset", self.preset, PRESETS), ("stage", self.stage, SUBJECTS)):
            if not given or len(set(given)) < len(given) or not set(given) <= set(known):
                raise InputError(f"{name} = {' '.join(given)!r}; name each of {', '.join(known)} at most once")
        if not 0.1 <= self.seconds <= 600.0:
            raise InputError(f"seconds = {self.seconds}; it must lie in 0.1 to 600")
        if self.out is not None:
            writable(self.out, ".json")
        return None if self.compare is None else read_result(self.compare)
