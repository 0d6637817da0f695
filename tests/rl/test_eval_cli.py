"""`asgc-rl eval`: which model it plays, progress, JSON, results beside the run."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from evaluation.cli import progress as progress_module
from evaluation.cli.progress import progress
from evaluation.runs.kept_results import RESULTS, keep
from rl import cli, train
from tests.rl.test_trainer import Killed, StopAt, catch_config

pytestmark = pytest.mark.usefixtures("one_thread", "catch")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A short finished run whose best evaluation is its first."""
    train(catch_config(tmp_path / "run", total_steps=800, evaluation={"interval": 200}))
    return tmp_path / "run"


def evaluated(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[str, str]:
    """What `eval` prints, on both streams."""
    assert cli.main(["eval", *argv, "--episodes", "8", "--device", "cpu"]) == 0
    return tuple(capsys.readouterr())  # type: ignore[return-value]


def test_it_says_which_model_of_which_step_it_plays(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = evaluated(capsys, str(run))
    assert out.splitlines()[0].endswith(" model=final step=800")
    assert err == "playing 8 games: final model, step 800\n"
    out, _ = evaluated(capsys, str(run), "--best")
    found = re.search(r"model=best step=(\d+)", out)
    assert found
    assert int(found[1]) in (200, 400, 600, 800)


def test_of_a_run_that_goes_on_it_plays_the_newest_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Killed):
        train(catch_config(tmp_path / "run"), watchers=[StopAt(1_500)])
    out, err = evaluated(capsys, str(tmp_path / "run"))
    assert "model=checkpoint step=1400" in out
    assert "checkpoint model, step 1,400" in err


def test_the_result_is_json_and_kept_beside_the_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluated(capsys, str(run))
    out, _ = evaluated(capsys, str(run), "--json", "--seed", "7")
    result = json.loads(out)
    first, second = map(json.loads, (run / RESULTS).read_text().splitlines())
    assert result == second
    assert (first["signature"]["seed"], second["signature"]["seed"]) == (1, 7)
    assert (result["model"], result["step"], len(result["scores"])) == ("final", 800, 8)
    assert result["score"] == pytest.approx(sum(result["scores"]) / 8)
    assert result["signature"]["game"] == "Pong"


def test_a_run_that_cannot_be_written_is_evaluated_all_the_same(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (run / RESULTS).mkdir()  # what a read-only mount is to root
    out, err = evaluated(capsys, str(run))
    assert out.startswith("score=")
    assert err.splitlines()[-1] == f"the result is not kept in {run / RESULTS}: Is a directory"


def test_a_result_is_kept_whole_or_not_at_all(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(run, {"score": 1.0})
    before = (run / RESULTS).read_bytes()
    real = Path.open

    def short(self: Path, *arguments: Any, **options: Any) -> Any:
        file = real(self, *arguments, **options)

        class Full:
            """A disk with five bytes left."""

            def __enter__(self) -> Full:
                return self

            def __exit__(self, *_: object) -> None:
                file.close()

            def write(self, data: bytes) -> int:
                return int(file.write(data[:5]))

            def __getattr__(self, name: str) -> Any:
                return getattr(file, name)

        return Full()

    monkeypatch.setattr(Path, "open", short)
    keep(run, {"score": 2.0})
    monkeypatch.undo()
    assert (run / RESULTS).read_bytes() == before


def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    with progress("final model", 30) as show:
        for done in range(30):
            now[0] += 1.0
            show(done, 30)
    assert capsys.readouterr().err.splitlines() == [
        "playing 30 games: final model",
        "9/30 games",
        "19/30 games",
        "29/30 games",
    ]
    monkeypatch.undo()
    stream = io.StringIO()
    terminal = Console(file=stream, force_terminal=True, width=40, color_system=None)
    monkeypatch.setattr("rich.console.Console", lambda stderr: terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress("final model", 30) as show:
        show(17, 30)
    assert "17/30" in stream.getvalue()


def test_a_run_of_the_other_trainer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text("task: imagenet\n")
    assert cli.main(["eval", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path} is no run of asgc-rl: asgc-sup eval {tmp_path}\n"
