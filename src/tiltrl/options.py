"""What a run can be asked to do: the options of the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from tiltrl import losses
from tiltrl.data.preferences import Contradictions
from tiltrl.data.registry import RewardsOption
from tiltrl.errors import InputError
from tiltrl.files import slug
from tiltrl.presets import PresetName
from tiltrl.training.session import Saving


@dataclass(frozen=True)
class RunConfig:
    """What a run is asked to do. Each field is an option of the command line, and its docstring the help."""

    dataset: tyro.conf.Positional[str]
    """Logged data: a Minari id or folder, d4rl:NAME, ogbench:NAME, a LeRobot folder, a .npz, .hdf5 or .parquet file of
    arrays such as log.npz?obs=state&action=u, or `demo`, the bundled Hopper data; `a+b` joins two, `a[:0.1]` takes the
    first tenth of the episodes."""
    preset: PresetName = "fast"
    """`fast` trains in minutes on a laptop; `paper` is the paper's networks and schedules (hours on a GPU)."""
    beta: tuple[float, ...] = ()
    """Temperatures: the smaller, the further from the behavior. Several are trained at once. Default: the preset's."""
    kl: tuple[float, ...] = ()
    """Instead of --beta: how far to go from the behavior, in nats of KL(pi || mu) a state. The run finds the beta."""
    critic: str | None = None
    """What values the actions (docs/critics.md): `advantage`, `iql`, `softmax`, `online` or `ensemble` are trained; a
    function of yours, file.py:function or package.module:function, is imported and called with rows of obs and action;
    of a policy's folder the critic is taken. Default: the preset's."""
    force: bool = False
    """Take a policy's critic although it was trained on other data."""
    objective: losses.Objective | None = None
    """What the policy agrees with: the candidates' values (`value`), only which is best (`preference`), or that in
    pairs (`dpo`). Default: `value`, or `preference` where --preferences are given."""
    preferences: Path | None = None
    """Instead of a critic: a .csv, .parquet or .npz file of which actions people preferred (docs/preferences.md)."""
    contradictions: Contradictions = "keep"
    """What becomes of answers in it that another one contradicts."""
    k: int | None = None
    """Candidate actions a state. Default: the preset's."""
    align_steps: int | None = None
    """Steps of the alignment, whatever the budget. Default: the preset's."""
    seeds: int = 1
    """How many independent runs to train at once, with seeds `seed`, `seed` + 1, ..."""
    seed: int = 0
    """The first seed."""
    label_fraction: float = 1.0
    """Share of the data's states whose candidates get values (the paper reaches 95 % of the score with 0.01)."""
    rewards: RewardsOption = "auto"
    """How rewards are transformed for the critic: `locomotion` (1000 over the range of returns), `antmaze` (minus 1),
    `kitchen` or `none` (as recorded), `normalize` (over their deviation). `auto`: as is usual for the environment."""
    episodes: int = 20
    """Episodes that each policy is evaluated on."""
    best_of: int | None = None
    """How many actions the best by Q is taken of in the rows that say so. Default: the preset's."""
    budget: float = 1.0
    """Share of the preset's training steps to take: 0.01 is a quick look whether everything works."""
    save_every: float = 60.0
    """Seconds between checkpoints: a kill costs at most so much. Ctrl-C and SIGTERM save at once."""
    recover: int = 0
    """Should training diverge: how often to go back to the last checkpoint with half the learning rate."""
    out: Path | None = None
    """The run's folder. The same command on the same folder continues it. Default: runs/DATASET-PRESET."""

    @property
    def saving(self) -> Saving:
        """How the run guards against its own end.

        Raises:
            InputError: a number is out of range.
        """
        if not 0 <= self.save_every <= 86_400:
            raise InputError(f"save_every = {self.save_every}; it is a number of seconds, 0 to 86400")
        if not 0 <= self.recover <= 20:
            raise InputError(f"recover = {self.recover}; it must lie in 0 to 20")
        return Saving(self.save_every, self.recover)

    @property
    def agreed(self) -> losses.Objective:
        """What the policy agrees with.

        Raises:
            InputError: preferences are given, and an option that only values have a use for; or the other way round.
        """
        if self.preferences is None:
            if self.contradictions != "keep":
                raise InputError(
                    f"contradictions = {self.contradictions}: only preferences contradict each other; leave it out, or "
                    "give --preferences"
                )
            return self.objective or "value"
        of_values = {
            "objective": self.objective if self.objective == "value" else None,
            "critic": self.critic,
            "k": self.k,
            "rewards": self.rewards if self.rewards != "auto" else None,
            "best_of": self.best_of,
            "label_fraction": self.label_fraction if self.label_fraction != 1.0 else None,
        }
        for name, value in of_values.items():
            if value is not None:
                raise InputError(
                    f"{name} = {value}: preferences have no values, and bring their own states and actions; leave it "
                    "out, or --preferences"
                )
        return self.objective or "preference"

    @property
    def folder(self) -> Path:
        """Where the run goes: `out`, or a folder named after the data set and preset."""
        return self.out or Path("runs") / f"{slug(self.dataset)}-{self.preset}"
