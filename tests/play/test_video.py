"""Frames to ffmpeg, and what becomes of it when something fails."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tiltrl.errors import InputError
from tiltrl.play.video import Video, find_ffmpeg

FRAME = np.zeros((64, 64, 3), np.uint8)


def test_a_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").mkdir()
    with (
        pytest.raises(InputError, match=r"clip\.mp4: ffmpeg cannot encode the clip: .*Is a directory"),
        Video(tmp_path / "clip.mp4", Fraction(30), find_ffmpeg()) as video,
    ):
        for _ in range(100):
            video.write(FRAME)


def test_an_ffmpeg_that_ends_early_is_told(tmp_path: Path) -> None:
    script = tmp_path / "ffmpeg"
    script.write_text("#!/bin/sh\necho no such encoder >&2\nexit 1\n")
    script.chmod(0o755)
    with (
        pytest.raises(InputError, match="ffmpeg cannot encode the clip: no such encoder"),
        Video(tmp_path / "clip.mp4", Fraction(30), str(script)) as video,
    ):
        for _ in range(100):
            video.write(FRAME)


def test_it_is_ended_when_it_is_not_needed_any_more(tmp_path: Path) -> None:
    script = tmp_path / "ffmpeg"
    script.write_text(f"#!/bin/sh\necho $$ > {tmp_path / 'number'}\nexec sleep 600\n")
    script.chmod(0o755)
    with pytest.raises(KeyboardInterrupt), Video(tmp_path / "clip.mp4", Fraction(30), str(script)) as video:
        video.write(FRAME)
        raise KeyboardInterrupt
    if (tmp_path / "number").exists():  # it may have been ended before it wrote that
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "number").read_text()), 0)


def test_no_frames_are_no_clip(tmp_path: Path) -> None:
    with Video(tmp_path / "clip.mp4", Fraction(30), find_ffmpeg()):
        pass
    assert not list(tmp_path.iterdir())
