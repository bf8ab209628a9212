"""`tiltrl play` and `tiltrl push`: see a policy, and share it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from tiltrl.policy import load_policy
from tiltrl.progress import LiveProgress
from tiltrl.sharing import push as push_policy

console = Console(markup=False, emoji=False)


@dataclass(frozen=True)
class PlayOptions:
    """Which policy to watch, and for how long."""

    policy: tyro.conf.Positional[Path]
    """A policy's folder, such as runs/demo-fast/policies/beta1-seed0, or hf:owner/name."""
    beside: Path | None = None
    """The behavior policy, such as runs/demo-fast/policies/behavior-seed0: acts beside it from the same first states,
    and says how rare each action is for it."""
    env: str | None = None
    """A registered environment to act in. Default: the one the data was recorded in."""
    episodes: int = 1
    """How many, one after the other."""
    steps: int | None = None
    """At most so many of each episode. Default: to its end."""
    seed: int = 0
    """Of the actions and of the environments' first states."""
    width: int = 480
    """Pixels of each policy's picture."""
    out: Path = Path("clip.mp4")
    """The clip. A PNG of a few of its frames comes to stand beside it."""


def play(options: Annotated[PlayOptions, tyro.conf.arg(name="")]) -> None:
    """Record a policy at play as an MP4, in real time, with rewards and how rare its actions are; needs no display.

    Example: tiltrl play runs/demo-fast/policies/beta1-seed0 --beside runs/demo-fast/policies/behavior-seed0
    """
    from tiltrl.play import record  # here, because no other command needs pictures

    policy = load_policy(options.policy)
    beside = None if options.beside is None else load_policy(options.beside)
    with LiveProgress(console) as progress:
        progress.start("play", 1)
        clip = record(
            policy,
            options.out,
            beside=beside,
            env_id=options.env,
            episodes=options.episodes,
            steps=options.steps,
            seed=options.seed,
            width=options.width,
            labels=(options.policy.name, "" if options.beside is None else options.beside.name),
            on_progress=lambda done, total: progress.update(done, total, {}),
        )
    for name, returns, lengths in zip((options.policy, options.beside), clip.returns, clip.lengths, strict=False):
        found = ", ".join(f"{value:.1f} in {steps} steps" for value, steps in zip(returns, lengths, strict=True))
        console.print(f"return   {found}  {name}", highlight=False, soft_wrap=True)
    console.print(f"clip     {clip.video}\npicture  {clip.strip}", highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class PushOptions:
    """Which policy to share, and where."""

    policy: tyro.conf.Positional[Path]
    """A policy's folder, such as runs/demo-fast/policies/beta1-seed0."""
    repository: tyro.conf.Positional[str]
    """Where to on the Hugging Face hub: owner/name. It is made if it is not there."""
    private: bool = False
    """Refuse to upload where others could see it."""
    message: str = "Upload a policy of TiltRL"
    """Of the commit."""


def push(options: Annotated[PushOptions, tyro.conf.arg(name="")]) -> None:
    """Upload a policy with its model card to the Hugging Face hub; docs/hub.md tells what becomes known with it.

    Example: tiltrl push runs/demo-fast/policies/beta1-seed0 owner/hopper
    """
    shared = push_policy(options.policy, options.repository, private=options.private, message=options.message)
    console.print(f"commit   {shared.commit}\nload it  {shared.name}", highlight=False, soft_wrap=True)
