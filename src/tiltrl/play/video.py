"""Frames to an MP4, by ffmpeg in a process of its own."""

from __future__ import annotations

import subprocess
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import numpy as np
from jaxtyping import UInt8

from tiltrl.errors import InputError

Frame = UInt8[np.ndarray, "height width 3"]
_PATIENCE = 600.0  # seconds that ffmpeg may take to finish


def find_ffmpeg() -> str:
    """The ffmpeg that imageio-ffmpeg brings along, or one that the environment variable IMAGEIO_FFMPEG_EXE names.

    Raises:
        InputError: there is none.
    """
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        return get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise InputError("a clip is encoded by ffmpeg, which is not here: `pip install 'tiltrl[play]'`") from error


class Video:
    """Writes frames of one size, of even height and width, to a new file: H.264, as browsers play it.

    A context manager; the file is whole once it is left without an error.
    """

    def __init__(self, path: Path, rate: Fraction, ffmpeg: str):
        self._path, self._rate, self._ffmpeg = path, rate, ffmpeg
        self._log = path.with_suffix(".log")
        self._process: subprocess.Popen[bytes] | None = None

    def write(self, image: Frame) -> None:
        """Add a frame.

        Raises:
            InputError: ffmpeg has failed.
        """
        if self._process is None:
            self._process = self._started(image.shape[1], image.shape[0])
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(np.ascontiguousarray(image).data)
        except BrokenPipeError as error:
            raise self._failed() from error

    def __enter__(self) -> Video:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is None:
            return
        if error is not None:
            self._process.kill()
        self._process.communicate(timeout=_PATIENCE)  # closes its input, which tells it that all frames are there
        if error is None and self._process.returncode:
            raise self._failed()

    def _started(self, width: int, height: int) -> subprocess.Popen[bytes]:
        said = [self._ffmpeg, "-v", "error", "-nostdin", "-y"]
        said += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(self._rate), "-i", "-"]
        said += ["-c:v", "libx264", "-crf", "20", "-preset", "veryfast", "-pix_fmt", "yuv420p"]
        said += ["-movflags", "+faststart", "-f", "mp4", str(self._path)]
        with self._log.open("wb") as log:
            # In a group of its own: Ctrl-C is for us, and we end it.
            return subprocess.Popen(said, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True)

    def _failed(self) -> InputError:
        told = " ".join(self._log.read_text(errors="replace").split())[-300:]
        return InputError(f"{self._path.name}: ffmpeg cannot encode the clip: {told or 'it says nothing'}")
