"""Videos are written, and read back by another program; what is missing is said in a line that helps."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from evaluation.cli.errors import UserError
from rl.view.canvas import HEIGHT, WIDTH, Canvas
from rl.view.film import Moment
from rl.view.video import open_video

imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
Image = pytest.importorskip("PIL.Image")

FRAMES = 20


def frames() -> Iterator[NDArray[np.uint8]]:
    """A white square that moves over red, 4 pixels a frame."""
    for number in range(FRAMES):
        frame = np.full((64, 96, 3), (200, 30, 30), np.uint8)
        frame[24:40, 4 * number : 4 * number + 16] = 255
        yield frame


def written(path: Path, fps: float = 15.0) -> Path:
    with open_video(path, fps) as video:
        for frame in frames():
            video.add(frame)
    assert video.frames == FRAMES
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_a_video_has_its_frames_size_speed_and_pictures(suffix: str, tmp_path: Path) -> None:
    path = written(tmp_path / f"v{suffix}")
    count, seconds = imageio_ffmpeg.count_frames_and_secs(path)
    assert (count, seconds) == (FRAMES, pytest.approx(FRAMES / 15, abs=0.1))
    reader = imageio_ffmpeg.read_frames(path)
    about = next(reader)
    assert (about["size"], about["fps"], about["codec"]) == ((96, 64), 15.0, "h264")
    for found, frame in zip(reader, frames(), strict=True):
        seen = np.frombuffer(found, np.uint8).reshape(64, 96, 3).astype(int)
        assert np.abs(seen - frame).mean() < 8
    assert list(tmp_path.iterdir()) == [path]


def test_a_gif_needs_no_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    path = written(tmp_path / "v.gif")
    with Image.open(path) as gif:
        assert (gif.n_frames, gif.size, gif.info["duration"]) == (FRAMES, (96, 64), 70)
        for number, frame in enumerate(frames()):
            gif.seek(number)
            assert np.abs(np.asarray(gif.convert("RGB")).astype(int) - frame).mean() < 6


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("v.avi", "the name must end in .mp4, .mov, .mkv or .gif"),
        ("none/v.mp4", "there is no folder"),
        ("folder.mp4", "is a folder"),
    ],
)
def test_paths_that_cannot_be(name: str, line: str, tmp_path: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(UserError, match=line):
        open_video(tmp_path / name, 15)


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def touch(self: Path) -> None:  # root may write everywhere
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "touch", touch)
    with pytest.raises(UserError, match=r"v\.mp4: cannot be written: Permission denied"):
        open_video(tmp_path / "v.mp4", 15)


def test_missing_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(UserError, match=r"pip install 'asgc\[video\]'; or name a \.gif"):
        open_video(tmp_path / "v.mp4", 15)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(UserError, match=r"drawn by Pillow: pip install 'asgc\[video\]'"):
        open_video(tmp_path / "v.gif", 15)


@pytest.mark.parametrize(
    ("script", "line"),
    [
        ("echo \"Unknown encoder 'libx264'\" >&2; exit 1", r"has no libx264: Unknown encoder 'libx264'; pip install"),
        ("cat > /dev/null; exit 3", r"ended without a word; pip install --force-reinstall imageio-ffmpeg"),
        ("cat > /dev/null; echo 'x: No space left on device' >&2; exit 1", r"No space left on device; free some space"),
    ],
)
def test_an_ffmpeg_that_fails(script: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "ffmpeg"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(program))
    with pytest.raises(UserError, match=line) as caught:
        written(tmp_path / "v.mp4")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [program], "nothing half-written is left"


def test_no_ffmpeg_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", none)
    with pytest.raises(UserError, match=r"finds no ffmpeg \(No ffmpeg exe could be found"):
        open_video(tmp_path / "v.mp4", 15)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(tmp_path / "gone"))
    with pytest.raises(UserError, match="cannot be run: No such file"):
        written(tmp_path / "v.mp4")


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_what_is_left_early_is_whole(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"v{suffix}"

    def leave(error: BaseException) -> None:
        with open_video(path, 15) as video:
            for number, frame in enumerate(frames()):
                video.add(frame)
                if number == 6:
                    raise error

    with pytest.raises(ValueError, match="a defect"):
        leave(ValueError("a defect"))
    assert os.listdir(tmp_path) == []  # noqa: PTH208
    with pytest.raises(KeyboardInterrupt):
        leave(KeyboardInterrupt())
    if suffix == ".mp4":
        assert imageio_ffmpeg.count_frames_and_secs(path)[0] == 7
    else:
        with Image.open(path) as gif:
            assert gif.n_frames == 7


def test_the_canvas_shows_screen_values_and_stack() -> None:
    """Each in its place; the chosen action has a colour of its own, another one where it is random."""
    picture = np.full((210, 160, 3), (0, 0, 250), np.uint8)
    stack = np.stack([np.full((42, 42), level, np.uint8) for level in (60, 120, 180, 240)])
    values = np.array([0.0, 1.0, 0.5], np.float32)
    canvas = Canvas(("Pong", "final model"), ("NOOP", "FIRE", "RIGHT"))
    greedy = canvas.draw(Moment(1, 7, 3.0, picture, stack, values, 1))
    other = canvas.draw(Moment(1, 7, 3.0, picture, stack, values, 2))
    assert greedy.shape == (HEIGHT, WIDTH, 3)
    assert (greedy[100:400, 20:330] == (0, 0, 250)).all()
    orange, red = (240, 160, 60), (220, 90, 90)

    def rows(frame: NDArray[np.uint8], colour: tuple[int, int, int]) -> NDArray[np.intp]:
        return np.flatnonzero((frame[:, 500:] == colour).all(-1).sum(1) > 20)

    assert rows(greedy, orange).size
    assert not rows(greedy, red).size
    assert not rows(other, orange).size
    assert rows(other, red).min() > rows(greedy, orange).max(), "a bar further down"
    strip = greedy[440, 392:760, 0].tolist()
    assert [level for level in dict.fromkeys(strip) if level in (60, 120, 180, 240)] == [60, 120, 180, 240]
    over = canvas.draw(Moment(1, 8, 3.0, picture, stack, values, None))
    assert not rows(over, orange).size
