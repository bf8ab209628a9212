"""Record a clip: policies act, each step is drawn, ffmpeg encodes."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tiltrl.errors import InputError
from tiltrl.files import writable, write_atomically
from tiltrl.play.picture import frame, strip
from tiltrl.play.rarity import Rarity
from tiltrl.play.scene import Scene, described, pace, stage_for
from tiltrl.play.video import Frame, Video, find_ffmpeg
from tiltrl.policy import Policy

_MOST_FRAMES_A_SECOND = 50  # more is seen by nobody; of a faster environment every so many-th step is drawn
_PAUSE = 0.7  # seconds that an episode's last frame stands
_STRIP_FRAMES, _STRIP_WIDTH = 5, 1600  # one frame less for each policy


@dataclass(frozen=True)
class Clip:
    """What was recorded."""

    video: Path
    strip: Path  # PNG of a few of its frames in a row
    frames: int
    returns: tuple[tuple[float, ...], ...]  # undiscounted, of each policy's episodes; of a cut episode, so far
    lengths: tuple[tuple[int, ...], ...]  # steps


def record(
    policy: Policy,
    out: str | os.PathLike[str] = "clip.mp4",
    *,
    beside: Policy | None = None,
    env_id: str | None = None,
    episodes: int = 1,
    steps: int | None = None,
    seed: int = 0,
    width: int = 480,
    labels: tuple[str, str] = ("policy", "behavior"),
    on_progress: Callable[[int, int], None] | None = None,
) -> Clip:
    """Write an MP4 of episodes in real time, and a PNG of a few frames beside it, named alike.

    Below the picture run the reward and the return so far, and with a behavior how rare each action is for it
    (`tiltrl.play.rarity`).

    Args:
        policy: acts; its sequence of random numbers is started anew.
        out: the clip, ending in .mp4.
        beside: a behavior that acts beside it from the same first states.
        env_id: a registered environment to act in; None: the policy's own.
        episodes: how many, one after the other; episode i starts from the environment's state of seed `seed + i`.
        steps: at most so many of each episode; None: to its end.
        seed: of the actions and of the environment's first states.
        width: pixels of each policy's picture.
        labels: what stands above the pictures.
        on_progress: called with (steps done, steps at most) after each step.

    Raises:
        InputError: a number or the target cannot be used, ffmpeg is not installed or fails, the policy has no
            environment, or it does not match or cannot be rendered, or the behavior is distilled.
    """
    _check_numbers(episodes=(episodes, 1, 1000), steps=(steps, 1, 1_000_000), seed=(seed, 0, 2**31 - 1001))
    _check_numbers(width=(width, 64, 2048))
    target, ffmpeg = writable(Path(out), ".mp4"), find_ffmpeg()
    writable(target.with_suffix(".png"), ".png")
    rarity = None if beside is None else Rarity(beside)
    policies = [policy] if beside is None else [policy, beside]
    where = policy.config.task.env_spec if env_id is None else described(env_id)
    with ExitStack() as stack:
        tasks = [replace(one.config.task, env_spec=where) for one in policies]
        envs = [stack.enter_context(closing(stage_for(task))) for task in tasks]
        scenes = [Scene(*parts, rarity) for parts in zip(labels, policies, envs, strict=False)]
        horizon, rate = pace(envs[0])
        horizon = min(steps or horizon, horizon)
        every = math.ceil(rate / _MOST_FRAMES_A_SECOND)
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="tiltrl-clip-")))
        few = _Few(_STRIP_FRAMES - len(scenes))
        returns, lengths = [], []
        with Video(folder / "clip.mp4", rate / every, ffmpeg) as video:
            for episode in range(episodes):

                def tell(done: int, episode: int = episode) -> None:
                    if on_progress is not None:
                        on_progress(episode * horizon + done, episodes * horizon)

                for image in _episode(scenes, seed + episode, horizon, every, 2 * (width // 2), tell):
                    video.write(image)
                    few.add(image)
                for _ in range(round(_PAUSE * rate / every)):
                    video.write(few.last)
                returns.append([scene.returns[-1] for scene in scenes])
                lengths.append([len(scene.returns) for scene in scenes])
        png = io.BytesIO()
        strip(few.chosen(), _STRIP_WIDTH).save(png, "PNG")
        write_atomically(target.with_suffix(".png"), png.getvalue())
        write_atomically(target, (folder / "clip.mp4").read_bytes())
    by_policy = tuple(zip(*returns, strict=True)), tuple(zip(*lengths, strict=True))
    return Clip(target, target.with_suffix(".png"), few.seen, *by_policy)


def _episode(
    scenes: list[Scene], seed: int, horizon: int, every: int, width: int, on_step: Callable[[int], None]
) -> Iterator[Frame]:
    """Frames of one episode of all scenes in lockstep: of every so many-th step, and of the last."""
    for scene in scenes:
        scene.reset(seed)
    for done in range(1, horizon + 1):
        for scene in scenes:
            scene.step()
        over = done == horizon or all(scene.ended for scene in scenes)
        if done % every == 0 or over:
            yield frame(scenes, horizon, width)
        on_step(horizon if over else done)
        if over:
            return


class _Few:
    """A few frames spread evenly over a clip whose length is not known before its end."""

    def __init__(self, count: int):
        self._count, self._every, self.seen = count, 1, 0
        self._kept: list[Frame] = []

    def add(self, image: Frame) -> None:
        """Keep every so many-th, at twice the distance each time there are many; and always the last."""
        if self.seen % self._every == 0:
            self._kept.append(image)
            if len(self._kept) > 8 * self._count:
                self._kept, self._every = self._kept[::2], 2 * self._every
        self.seen += 1
        self.last = image

    def chosen(self) -> list[Frame]:
        """From the first to the last."""
        index = np.linspace(0, len(self._kept) - 1, self._count).round().astype(int)
        return [*(self._kept[i] for i in index[:-1]), self.last]


def _check_numbers(**numbers: tuple[int | None, int, int]) -> None:
    for name, (value, low, high) in numbers.items():
        if value is not None and not low <= value <= high:
            raise InputError(f"{name} = {value}; it must lie in {low} to {high}")
