"""`asgc-rl play`: the score that it shows is `eval`'s; kept models; the terminal's pictures."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import rl.view.film
from rl import cli, preflight, train
from rl.view.film import Moment
from rl.view.screens import Frames
from rl.view.terminal import TerminalStage, half_blocks
from tests.rl.test_trainer import Killed, StopAt, catch_config

pytestmark = pytest.mark.usefixtures("one_thread", "catch")


@pytest.fixture
def screens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catch has no other picture than its frames."""
    monkeypatch.setattr(rl.view.film, "make_screens", lambda *arguments, **options: Frames())


@pytest.fixture
def run(tmp_path: Path, screens: None) -> Path:
    train(catch_config(tmp_path / "run", total_steps=800, keep_models=240))
    return tmp_path / "run"


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert cli.main([*argv, "--device", "cpu"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("more", [(), ("--best",), ("--step", "240"), ("--epsilon", "0.5", "--seed", "8")])
def test_the_score_is_evals(run: Path, more: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    played = said(capsys, "play", str(run), "--games", "12", *more)
    evaluated = said(capsys, "eval", str(run), "--episodes", "12", *more)
    score = re.search(r"score=\S+", evaluated)
    assert score
    last = played.splitlines()[-1]
    assert last.startswith(f"{score[0]} games=12 model=")
    assert re.findall(r"model=\w+ step=\d+", evaluated) == re.findall(r"model=\w+ step=\d+", last)
    assert len(played.splitlines()) == 13


def test_kept_models_are_the_agent_as_it_was(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """That of step 480 plays as the final one of a run of the same seed that ended there; a wrong step names them."""
    names = sorted(path.name for path in (run / "models").iterdir())
    assert names == ["step-000000240.pt", "step-000000480.pt", "step-000000720.pt"]
    exploration = {"exploration": {"steps": 1_000, "end": 0.05}}
    train(catch_config(tmp_path / "short", total_steps=480, **exploration))
    kept = said(capsys, "eval", str(run), "--episodes", "8", "--step", "480")
    short = said(capsys, "eval", str(tmp_path / "short"), "--episodes", "8")
    assert "model=kept step=480" in kept
    assert kept.split("model=")[0] == short.split("model=")[0]
    assert "model=kept step=800" in said(capsys, "play", str(run), "--step", "800"), "its last step"
    assert cli.main(["play", str(run), "--step", "500"]) == 2
    error = capsys.readouterr().err
    assert error.splitlines() == [f"error: --step 500: {run} has no model of that step; there are 240, 480, 720, 800"]
    assert cli.main(["eval", str(run), "--step", "500", "--best"]) == 2
    assert cli.main(["eval", str(tmp_path / "short"), "--step", "7"]) == 2
    assert "no model of that step; there are 480" in capsys.readouterr().err.splitlines()[-1]


def test_kept_models_survive_a_kill_alike(run: Path, tmp_path: Path) -> None:
    config = catch_config(tmp_path / "killed", total_steps=800, keep_models=240, checkpoint_interval=400)
    with pytest.raises(Killed):
        train(config, watchers=[StopAt(600)])
    train(config, resume=True)
    for path in (run / "models").iterdir():
        assert (tmp_path / "killed" / "models" / path.name).is_file()


def test_a_model_that_cannot_be_kept_ends_no_run(tmp_path: Path) -> None:
    class Said(StopAt):
        def start(self, info: Any) -> None:
            (tmp_path / "run" / "models").write_text("in the way")

    watcher = Said(10**9)
    train(catch_config(tmp_path / "run", total_steps=500, learning_starts=100, keep_models=240), watchers=[watcher])
    assert [line for line in watcher.said if "not kept" in line] == [
        "the model of step 240 is not kept: File exists",
        "the model of step 480 is not kept: File exists",
    ]


def test_a_video_of_a_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    path = tmp_path / "v.mp4"
    out = said(capsys, "play", str(run), "--video", str(path), "--games", "3", "--fps", "30")
    assert out.splitlines()[0] == f"{path}: 24 frames, 0.8 seconds", "7 actions and the end, thrice"
    assert ffmpeg.count_frames_and_secs(path)[0] == 24
    assert cli.main(["play", str(run), "--video", str(tmp_path / "no" / "v.mp4")]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_what_is_asked_for_wrongly(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argv, line in (
        ([], "say which run: asgc-rl play RUN"),
        ([str(run), "--best", "--step", "240"], "--best and --step name two models: leave out one of them"),
        ([str(run), "--games", "40"], "--games 40: must be at least 1 and at most 32"),
    ):
        assert cli.main(["play", *argv]) == 2
        assert capsys.readouterr().err == f"error: {line}\n"


def moment(action: int | None = 1, shape: tuple[int, ...] = (2, 16, 16)) -> Moment:
    rng = np.random.default_rng(0)
    picture = rng.integers(256, size=(210, 160, 3), dtype=np.uint8)
    observation = rng.integers(256, size=shape, dtype=np.uint8)
    return Moment(1, 3, 2.0, picture, observation, np.array([0.5, -0.5, 0.1], np.float32), action)


def plain(line: str) -> str:
    return re.sub(r"\x1b\[[\d;]*m", "", line)


def stage(colours: str = "truecolor") -> TerminalStage:
    console = Console(file=io.StringIO(), force_terminal=True, color_system=colours)  # type: ignore[arg-type]
    return TerminalStage(console, ("Pong", "final model"), ("NOOP", "FIRE", "RIGHT"), 1e6)


@pytest.mark.parametrize("size", [(120, 40), (80, 24), (50, 24), (30, 20)])
@pytest.mark.parametrize("shape", [(2, 16, 16), (4, 84, 84)])
def test_a_moment_fits_the_terminal(size: tuple[int, int], shape: tuple[int, ...]) -> None:
    lines = stage().frame(moment(shape=shape), *size)
    assert len(lines) <= size[1]
    text = "\n".join(map(plain, lines))
    assert "score 2" in text
    if size[0] >= 80:
        assert max(len(plain(line)) for line in lines) <= size[0]
        (chosen,) = (line for line in text.splitlines() if "FIRE" in line)
        assert chosen.endswith(" random"), "not the greedy action"


def test_half_blocks_are_the_pixels() -> None:
    picture = np.array([[[255, 0, 0], [255, 0, 0]], [[0, 0, 255], [0, 0, 255]], [[9, 9, 9], [1, 2, 3]]], np.uint8)
    first, second = half_blocks(picture, true_colour=True)
    assert first == "\x1b[38;2;255;0;0;48;2;0;0;255m▀▀\x1b[0m", "equal colours are said once"
    assert second == "\x1b[38;2;9;9;9;48;2;0;0;0m▀\x1b[38;2;1;2;3;48;2;0;0;0m▀\x1b[0m"
    assert half_blocks(picture[:2], true_colour=False)[0].startswith("\x1b[38;5;196;48;5;21m▀")


def test_the_terminal_is_given_back() -> None:
    one = stage()
    stream: Any = one._stream

    def leave() -> None:
        with one.open():
            one.show(moment())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leave()
    text = stream.getvalue()
    assert text.startswith("\x1b[?1049h")
    assert text.endswith("\x1b[?25h\x1b[?1049l")
    assert "▀" in text


def test_kept_models_are_counted_before_the_run_starts(tmp_path: Path) -> None:
    without, kept = (catch_config(tmp_path, keep_models=every) for every in (None, 240))
    assert preflight._records(kept, 4, 1_000) - preflight._records(without, 4, 1_000) == 2_000 // 240 * 1_000
