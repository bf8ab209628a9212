"""Clips of policies at play."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import equinox as eqx
import hostile_policies
import jax
import numpy as np
import pytest
import small_world
from PIL import Image

from tiltrl import cli_share
from tiltrl.cli_share import PlayOptions
from tiltrl.diffusion.energy import Energy
from tiltrl.errors import InputError
from tiltrl.evaluation.rollout import rollout
from tiltrl.play import record
from tiltrl.play.video import find_ffmpeg
from tiltrl.policy import Policy


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Temporary folders where a test can see what is left of them."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


def frames_of(video: Path) -> tuple[int, int, int, float]:
    """Width, height, number and rate of a video's frames, as ffmpeg reads them."""
    command = [find_ffmpeg(), "-i", str(video), "-map", "0:v:0", "-f", "null", "-"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    size, rate = re.search(r"h264.*?, (\d+)x(\d+)", said), re.search(r"([\d.]+) fps", said)
    count = re.findall(r"frame=\s*(\d+)", said)
    assert size and rate and count and "yuv420p" in said
    return int(size[1]), int(size[2]), int(count[-1]), float(rate[1])


def test_an_episode_becomes_a_clip_in_real_time_and_a_strip(tmp_path: Path, scratch: Path) -> None:
    done: list[tuple[int, int]] = []
    out = tmp_path / "new" / "clip.mp4"
    clip = record(small_world.policy(), out, width=101, seed=3, on_progress=lambda *at: done.append(at))
    assert (clip.video, clip.strip) == (out, out.with_suffix(".png"))
    assert clip.returns == ((40.0,),) and clip.lengths == ((40,),)
    assert clip.frames == 20, "every second of 100 steps a second"
    width, height, count, rate = frames_of(out)
    assert (width, height % 2, rate) == (100, 0, 50.0)
    assert count == 20 + 35, "and the last for a moment longer"
    with Image.open(clip.strip) as image:
        assert image.width == 1600
    assert done == [(step, 40) for step in range(1, 41)]
    assert sorted(path.name for path in out.parent.iterdir()) == ["clip.mp4", "clip.png"]
    assert not list(scratch.iterdir())


def test_it_acts_as_an_evaluation_does(tmp_path: Path) -> None:
    policy = small_world.policy("Short-v0")
    clip = record(policy, "clip.mp4", episodes=2, seed=5)
    for i, seed in enumerate((5, 6)):
        policy.reset(seed)
        alone = rollout(lambda obs, _: policy.sample(obs), policy.config.task, episodes=1, seed=seed)
        assert (clip.returns[0][i], clip.lengths[0][i]) == (alone.returns[0], alone.lengths[0])
    assert clip.lengths[0][0] < 40
    first = Path("clip.mp4").read_bytes()
    record(policy, "clip.mp4", episodes=2, seed=5)
    assert Path("clip.mp4").read_bytes() == first


def test_a_behavior_acts_beside_it_from_the_same_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[np.ndarray] = []
    reset = small_world.Walk.reset

    def noted(self: Any, **asked: Any) -> Any:
        found = reset(self, **asked)
        starts.append(found[0])
        return found

    monkeypatch.setattr(small_world.Walk, "reset", noted)
    clip = record(small_world.policy(), "clip.mp4", beside=small_world.policy("Short-v0"), width=100, steps=12)
    assert len(starts) == 2 and np.array_equal(*starts)
    assert clip.lengths == ((12,), (12,)), "in the policy's environment, not in its own"
    alone = record(small_world.policy(), "alone.mp4", width=100, steps=12)
    assert frames_of(clip.video)[0] == 208 and frames_of(clip.video)[1] > frames_of(alone.video)[1]


def test_a_scene_that_has_ended_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    render = small_world.Walk.render
    monkeypatch.setattr(small_world.Walk, "render", lambda self: drawn.append(self) or render(self))
    clip = record(small_world.policy(), "clip.mp4", env_id="Short-v0", beside=small_world.policy(scale=0.02))
    (first,), (second,) = clip.lengths
    assert first != second, "or there is nothing to see here"
    assert clip.frames == -(-max(first, second) // 2)
    assert len(drawn) == -(-first // 2) + -(-second // 2)


def test_a_robot_is_drawn_without_a_display(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    network = eqx.filter_jit(Energy)(11, 3, hostile_policies.NETWORK, key=jax.random.key(0))
    clip = record(Policy(network, hostile_policies.CONFIG), "clip.mp4", steps=6, width=96)
    assert clip.frames == 2, "every third of 125 steps a second"
    with Image.open(clip.strip) as image:
        assert len(np.unique(np.asarray(image).reshape(-1, 3), axis=0)) > 100, "there is something to see"


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        (None, "set: the data names no environment"),
        (
            "Windowed-v0",
            r"environment Windowed-v0 cannot be drawn without a display: it renders human, and a clip needs",
        ),
        ("Broken-v0", "set: the environment cannot be rendered here: no GL; set MUJOCO_GL=egl"),
        ("Text-v0", "set: the environment renders no picture but str"),
        ("Nosuch-v0", "environment Nosuch-v0: is unknown to Gymnasium"),
        ("Hopper-v5", "its observations are Box.*, but those of the data have 3 dimensions"),
    ],
)
def test_environments_that_cannot_be_drawn(env_id: str | None, message: str, tmp_path: Path, scratch: Path) -> None:
    with pytest.raises(InputError, match=message) as caught:
        record(small_world.policy(env_id), "clip.mp4")
    assert str(caught.value).isprintable()
    assert list(tmp_path.iterdir()) == [scratch] and not list(scratch.iterdir())


def test_an_environment_by_name_has_to_be_registered() -> None:
    with pytest.raises(InputError, match="--env: environment 'Nosuch-v0' is unknown"):
        record(small_world.policy(), "clip.mp4", env_id="Nosuch-v0")


def test_a_behavior_has_to_be_of_the_task_and_to_have_energies() -> None:
    with pytest.raises(InputError, match="those of the data have 4 dimensions"):
        record(small_world.policy(), "clip.mp4", beside=small_world.policy(obs_dim=4))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"episodes": 0}, "episodes = 0; it must lie in 1 to 1000"),
        ({"steps": 0}, "steps = 0"),
        ({"seed": -1}, "seed = -1"),
        ({"width": 10_000}, "width = 10000; it must lie in 64 to 2048"),
        ({"out": "clip.gif"}, "clip.gif: the file's name has to end in .mp4"),
        ({"out": "file/clip.mp4"}, "file/clip.mp4: cannot be written, as "),
        ({"out": "folder.mp4"}, "folder.mp4: is a folder"),
        ({"out": "other.mp4"}, "other.png: is a folder"),
    ],
)
def test_what_cannot_be_recorded_is_refused_at_once(
    asked: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("file").touch()
    Path("folder.mp4").mkdir()
    Path("other.png").mkdir()
    monkeypatch.setattr("tiltrl.play.clip.stage_for", lambda _: pytest.fail("only then refused"))
    with pytest.raises(InputError, match=message):
        record(small_world.policy(), **asked)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(InputError, match=r"pip install 'tiltrl\[play\]'"):
        record(small_world.policy())


def test_an_interrupt_leaves_the_old_clip_and_nothing_aside(tmp_path: Path, scratch: Path) -> None:
    Path("clip.mp4").write_text("old")

    def interrupt(done: int, total: int) -> None:
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record(small_world.policy(), "clip.mp4", on_progress=interrupt)
    assert Path("clip.mp4").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "scratch"] and not list(scratch.iterdir())


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = small_world.policy()
    policy.save("beta1-seed0")
    policy.replace(task=replace(policy.config.task, dataset="other")).save("behavior-seed0")
    cli_share.play(PlayOptions(Path("beta1-seed0"), beside=Path("behavior-seed0"), steps=5, out=Path("x.mp4")))
    said = capsys.readouterr().out
    for line in (
        "return   5.0 in 5 steps  beta1-seed0",
        "return   5.0 in 5 steps  behavior-seed0",
        "clip     x.mp4",
        "picture  x.png",
    ):
        assert line in said.splitlines()
    assert Path("x.mp4").is_file() and Path("x.png").is_file()
