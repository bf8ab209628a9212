"""`tiltrl distill`: a policy that acts in one step, made in a folder that an interrupted command continues in."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Float

from tiltrl.api import MOST_SEEDS, distilled, states_for
from tiltrl.data import load
from tiltrl.data.minari import MINARI_ID, find_minari
from tiltrl.diffusion.one_step import OneStep
from tiltrl.errors import InputError
from tiltrl.files import slug
from tiltrl.hub import on_hub
from tiltrl.policy import Policy, load_policy
from tiltrl.presets import check_budget
from tiltrl.progress import Reporter
from tiltrl.runs import RunFolder, Stage
from tiltrl.serialization import save_arrays
from tiltrl.stages.distill import (
    Agreement,
    DistillConfig,
    agreement,
    choose_states,
    noise_and_actions,
    train_student,
    triples,
)
from tiltrl.stages.keys import stage_key
from tiltrl.trained import arrays_of, trained
from tiltrl.training.loop import Session
from tiltrl.training.rows import KeptRows
from tiltrl.types import read

CHECKED = 512
"""States at which a student is compared with its teacher."""


@dataclass(frozen=True)
class DistillOptions:
    """Which policy to distill, and at which states. Each field is an option of the command line."""

    policy: tyro.conf.Positional[Path]
    """A policy's folder, such as runs/demo-fast/policies/beta1-seed0."""
    data: str | None = None
    """Logged data whose states the teacher is asked about. Default: what the policy was trained on, where that is
    `demo` or a Minari data set on this machine."""
    seed: int = 0
    """Of the noises and of training."""
    budget: float = 1.0
    """Share of the usual pairs and training steps: 0.01 is a quick look whether everything works."""
    out: Path | None = None
    """Where the work and the new policy go. The same command on the same folder continues. Default:
    runs/POLICY-distilled."""

    @property
    def name(self) -> str:
        """What the new policy is called."""
        name = self.policy.as_posix() if on_hub(self.policy) else self.policy.resolve().name
        return f"{slug(name)}-distilled"


class Distillation:
    """A policy's distillation in its folder. Each stage is a property: asking for it does, or finds done, its work."""

    def __init__(self, options: DistillOptions, reporter: Reporter):
        """Check everything that can be checked before long work starts.

        Raises:
            InputError: the policy, the data, a number or the folder cannot be used.
        """
        check_budget(options.budget)
        if not 0 <= options.seed < MOST_SEEDS:
            raise InputError(f"seed = {options.seed}; it must lie in 0 to {MOST_SEEDS - 1}")
        self.options = options
        self.reporter = reporter
        self.config = DistillConfig().scaled(options.budget)
        self.teacher: Policy = load_policy(options.policy)
        self.energy = self.teacher.diffusion
        dataset = options.data or data_of(self.teacher)
        data = load(dataset)
        self.index, self.k = choose_states(len(states_for(self.teacher, data.obs)), self.config, options.seed)
        self.obs: Float[np.ndarray, "states obs"] = self.teacher.config.scaling.normalize_obs(
            read(data.obs, self.index)
        )
        if not np.isfinite(self.obs).all():
            raise InputError(f"{dataset}: obs holds values that are not finite; the files are damaged")
        identity = {
            "dataset": dataset,
            "fingerprint": data.fingerprint(),
            "teacher": self.teacher.digest,
            "budget": options.budget,
            "seed": options.seed,
        }
        self.folder = RunFolder(options.out or Path("runs") / options.name, identity)
        self._pair_key, self._train_key, self._check_key = jax.random.split(stage_key(options.seed, "distill"), 3)

    @cached_property
    def pairs_stage(self) -> Stage:
        """Where the teacher's answers live."""
        return self.folder.stage("pairs", teacher=self.teacher.digest, pairs=self.config.pairs)

    @cached_property
    def pairs(self) -> Float[np.ndarray, "states k 2 act"]:
        """Noises, and the actions that the teacher takes them to."""
        stage, shape = self.pairs_stage, (len(self.obs), self.k, 2, self.energy.act_dim)
        path = stage.folder / "pairs.safetensors"
        if not stage.done:
            self.reporter.start("ask teacher", len(self.obs))
            began = time.monotonic()
            with KeptRows(stage.folder / "parts", self.reporter.say) as kept:
                pairs = noise_and_actions(
                    self.energy,
                    self.obs,
                    self.k,
                    self.teacher.config.sampler,
                    self._pair_key,
                    kept=kept,
                    on_progress=lambda done, total: self.reporter.update(done, total, {}),
                )
            save_arrays(path, pairs)
            stage.finish({"states": len(self.obs), "noises": self.k}, began)
        return np.asarray(arrays_of(stage, path.name, jax.ShapeDtypeStruct(shape, jnp.float32)))

    @cached_property
    def student_stage(self) -> Stage:
        """Where the student lives."""
        return self.folder.stage("distill", config=self.config, pairs=self.pairs_stage.key)

    @cached_property
    def student(self) -> OneStep:
        """The network, with a leading axis of one; the stage's summary tells how near it is to its teacher."""
        sizes = self.obs.shape[1], self.energy.act_dim
        like = eqx.filter_eval_shape(
            eqx.filter_vmap(lambda key: OneStep(*sizes, self.config.network, key=key)), self._train_key[None]
        )

        def train(session: Session) -> OneStep:
            return train_student(triples(self.obs, self.pairs), self.config, self._train_key, session)

        def check(student: OneStep) -> dict[str, Agreement]:
            network, some = jax.tree.map(lambda leaf: leaf[0], student), self.obs[:: -(-len(self.obs) // CHECKED)]
            return {"agreement": agreement(network, self.energy, some, self.teacher.config.sampler, self._check_key)}

        if not self.student_stage.done:
            _ = self.pairs  # before the student's bar is drawn
        return trained(self.student_stage, like, self.config.steps, train, self.reporter, check)

    def save(self) -> Path:
        """Write the policy, ready to load; returns its folder."""
        policy = distilled(self.teacher, self.student, self.config, self.options.seed)
        path = self.folder.path / "policies" / self.options.name
        policy.save(path)
        return path


def data_of(policy: Policy) -> str:
    """The data set that a policy names, where nothing but a known set can be behind the name.

    A policy may come from anybody, and must not choose which files are read or what is downloaded.

    Raises:
        InputError: the name may be anything.
    """
    name = policy.config.task.dataset
    if name == "demo" or (MINARI_ID.fullmatch(name) and find_minari(name) is not None):
        return name
    raise InputError(
        f"the policy was trained on {name!r:.300}, which is neither `demo` nor a Minari data set on this machine; a "
        "policy may be anybody's and does not choose what else is read, so name the data with --data"
    )
