"""Videos: H.264 through the ffmpeg that imageio-ffmpeg brings, GIF through Pillow where there is none."""

from __future__ import annotations

import os
import subprocess
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.cli.errors import UserError, reason

FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
GIF = ".gif"
CODEC = "libx264"
QUALITY = 20  # of x264: 18 is near lossless, 23 its default
FASTEST_GIF = 50  # frames/s: a hundredth of a second is the unit, and viewers slow down what is faster than two


class Video(ABC):
    """A video file that is being written: a context manager; `add` takes frames (height, width, 3), uint8.

    The file appears under its name when the block ends, also where it ends early (Ctrl-C): what was added is whole.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.frames = 0
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            self._temporary.touch()
        except OSError as error:
            raise UserError(f"--video {path}: cannot be written: {reason(error)}") from error

    def add(self, frame: NDArray[np.uint8]) -> None:
        """Append a frame; all have the size of the first."""
        self._add(frame)
        self.frames += 1

    @abstractmethod
    def _add(self, frame: NDArray[np.uint8]) -> None: ...

    @abstractmethod
    def _finish(self) -> None:
        """Complete the file."""

    def __enter__(self) -> Video:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if error is None or isinstance(error, KeyboardInterrupt):
                self._finish()
                if self.frames:
                    self._temporary.replace(self.path)
            else:
                self._abandon()
        finally:
            self._temporary.unlink(missing_ok=True)

    def _abandon(self) -> None:  # noqa: B027 - optional
        """Stop without completing the file."""


class FfmpegVideo(Video):
    """H.264 in MP4, MOV or Matroska."""

    def __init__(self, path: Path, fps: float) -> None:
        self._program = _ffmpeg()
        super().__init__(path)
        self._fps = fps
        self._process: subprocess.Popen[bytes] | None = None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - a pipe could fill up

    def _add(self, frame: NDArray[np.uint8]) -> None:
        if self._process is None:
            self._start(frame.shape[1], frame.shape[0])
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(np.ascontiguousarray(frame).data)
        except OSError as error:
            self._abandon()
            raise UserError(self._failure()) from error

    def _start(self, width: int, height: int) -> None:
        source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{self._fps:g}", "-i", "-"]
        # yuv420p is what browsers and players take; faststart puts the index in front.
        how = ["-an", "-c:v", CODEC, "-crf", str(QUALITY), "-pix_fmt", "yuv420p", "-movflags", "+faststart"]
        target = ["-f", FORMATS[self.path.suffix.lower()], str(self._temporary)]
        command = [self._program, "-y", "-loglevel", "error", *source, *how, *target]
        try:
            # A session of its own: Ctrl-C is for this program, which then completes the file.
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=self._errors, stderr=self._errors, start_new_session=True
            )
        except OSError as error:
            raise UserError(f"ffmpeg ({self._program}) cannot be run: {reason(error)}; {_REMEDY}") from error

    def _finish(self) -> None:
        if self._process is None:
            return
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except OSError as error:
            self._abandon()
            raise UserError(self._failure()) from error
        if self._process.wait() != 0:
            raise UserError(self._failure())

    def _abandon(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _failure(self) -> str:
        """What ffmpeg said, in one line, and what to do."""
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().decode(errors="replace").splitlines() if line.strip()]
        if not lines:
            return f"ffmpeg ({self._program}) ended without a word; {_REMEDY}"
        said = next((line for line in lines if CODEC in line or "No space" in line), lines[0])
        if "ncoder" in said:
            return f"ffmpeg ({self._program}) has no {CODEC}: {said}; {_REMEDY}"
        remedy = "free some space" if "No space" in said else f"or name a {GIF} file"
        return f"ffmpeg could not write {self.path}: {said}; {remedy}"


class GifVideo(Video):
    """A GIF, for where there is no ffmpeg: larger than a video, with 256 colours."""

    def __init__(self, path: Path, fps: float) -> None:
        super().__init__(path)
        self._ms = 10 * round(100 / min(fps, FASTEST_GIF))
        self._images: list[Any] = []

    def _add(self, frame: NDArray[np.uint8]) -> None:
        from PIL import Image

        image = Image.fromarray(frame)
        self._images.append(image.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE))

    def _finish(self) -> None:
        if not self._images:
            return
        first, *others = self._images
        first.save(self._temporary, "GIF", save_all=True, append_images=others, duration=self._ms, loop=0)


def open_video(path: Path, fps: float) -> Video:
    """A video file of a format that its name says.

    Raises:
        UserError: the package that writes it is missing, or has no codec; the name says no format; it cannot be
            written there.
    """
    suffix = path.suffix.lower()
    if suffix not in (*FORMATS, GIF):
        raise UserError(f"--video {path}: the name must end in {', '.join(FORMATS)} or {GIF}")
    if not path.parent.is_dir():
        raise UserError(f"--video {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise UserError(f"--video {path} is a folder")
    _require_pillow_for(path)  # which draws the frames, too
    return GifVideo(path, fps) if suffix == GIF else FfmpegVideo(path, fps)


_REMEDY = f"pip install --force-reinstall imageio-ffmpeg brings one that works, and a {GIF} file needs none"


def _ffmpeg() -> str:
    """The program."""
    try:
        import imageio_ffmpeg
    except ImportError as error:
        line = f"videos need imageio-ffmpeg: pip install 'asgc[video]'; or name a {GIF} file, which needs Pillow only"
        raise UserError(line) from error
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:  # a wheel without a program, or IMAGEIO_FFMPEG_EXE names none
        raise UserError(f"imageio-ffmpeg finds no ffmpeg ({reason(error)}); {_REMEDY}") from error


def _require_pillow_for(path: Path) -> None:
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise UserError(f"--video {path}: its frames are drawn by Pillow: pip install 'asgc[video]'") from error
