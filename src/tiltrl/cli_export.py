"""`tiltrl export`: a policy as one file that runs without JAX."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from tiltrl.data import load
from tiltrl.distillation import data_of
from tiltrl.errors import InputError
from tiltrl.export import export_onnx
from tiltrl.export.functions import Kind
from tiltrl.files import slug, writable
from tiltrl.hub import on_hub
from tiltrl.policy import Policy, acting, load_policy
from tiltrl.progress import LiveProgress

console = Console(markup=False, emoji=False)


@dataclass(frozen=True)
class ExportOptions:
    """Which policy to export, and how it acts. Each field is an option of the command line."""

    policy: tyro.conf.Positional[Path]
    """A policy's folder, such as runs/demo-fast/policies/beta1-seed0, or hf:owner/name."""
    to: Literal["onnx"] = "onnx"
    """The format of the file."""
    what: Kind = "policy"
    """The policy; or its bare energy (obs, action, t -> energy); or its critic (obs, action -> value)."""
    calls: int | None = None
    """Network calls for each action. Default: as the policy acts."""
    mean_of: int | None = None
    """Act by the mean of so many sampled actions; 1: by a single one. Default: as the policy is saved."""
    best_of: int | None = None
    """Act by the one of so many sampled actions that the policy's critic prefers. Default: as the policy is saved."""
    anomaly: Path | None = None
    """A behavior policy's folder, such as runs/demo-fast/policies/behavior-seed0: with each action then comes how
    unusual it is, measured by that policy on its own data."""
    data: str | None = None
    """Logged data: the file is compared with the policy at its observations. Default: what the policy was trained on,
    where that is `demo` or a Minari data set on this machine."""
    license: str | None = None
    """Of the file, such as MIT; only written into it."""
    out: Path | None = None
    """The file. Default: POLICY.onnx beside the policy's folder."""

    def asked(self) -> Policy:
        """The policy as it is to act.

        Raises:
            InputError: there is none, or it cannot act so.
        """
        policy = load_policy(self.policy)
        for name, value in (("calls", self.calls), ("mean_of", self.mean_of), ("best_of", self.best_of)):
            if value is not None and self.what != "policy":
                raise InputError(f"{name} = {value}: what = {self.what} draws no actions; leave it out")
        if self.calls is not None:
            if policy.config.energy is None:
                raise InputError(f"calls = {self.calls}: {self.policy} is distilled and acts in one; leave it out")
            policy = policy.replace(sampler=replace(policy.config.sampler, calls=self.calls))
        return acting(policy, self.mean_of, self.best_of)

    @property
    def file(self) -> Path:
        """Where it goes."""
        if self.out is not None:
            return self.out
        suffix = "" if self.what == "policy" else f"-{self.what}"
        if on_hub(self.policy):
            return Path("runs", f"{slug(self.policy.as_posix())}{suffix}.onnx")
        beside = self.policy if self.policy.name not in ("", "..") else self.policy.resolve()
        return beside.parent / f"{slug(beside.name)}{suffix}.onnx"


def export(options: Annotated[ExportOptions, tyro.conf.arg(name="")]) -> None:
    """Write a policy as one ONNX file that runs without JAX: normalization, sampler, choice and bounds included.

    Example: tiltrl export runs/demo-fast/policies/beta1-seed0 --anomaly runs/demo-fast/policies/behavior-seed0

    The file is compared with the policy at 10,000 logged observations, and is not written if they differ. Run it with
    `python -m tiltrl.runtime FILE`, or any ONNX runtime (docs/deploy.md).
    """
    policy = options.asked()
    path = writable(options.file, ".onnx")
    behavior = None if options.anomaly is None else load_policy(options.anomaly)
    data = load(options.data or data_of(policy))
    with LiveProgress(console) as progress:
        begun: set[str] = set()

        def tell(stage: str, done: int, total: int) -> None:
            if stage not in begun:
                begun.add(stage)
                progress.start(stage, total)
            progress.update(done, total, {})

        found = export_onnx(
            policy,
            path,
            data,
            what=options.what,
            behavior=behavior,
            license=options.license,
            on_progress=tell,
        )
    run_it = f"\n\nRun it:  python -m tiltrl.runtime {found.path}" if options.what == "policy" else ""
    ties = f", {found.ties} ties of two actions aside" if found.ties else ""
    console.print(
        f"within {found.error:.1g} of the policy at {found.observations} observations{ties}\n"
        f"file     {found.path} ({found.size / 1e6:.1f} MB){run_it}",
        highlight=False,
        soft_wrap=True,
    )
