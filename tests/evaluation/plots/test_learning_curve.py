"""The picture at the end of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluation.files import write_json
from evaluation.plots import learning_curve
from evaluation.plots.learning_curve import LearningCurve, draw
from evaluation.runs.metrics_file import MetricsWriter

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("matplotlib")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "one"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("game: Pong\nseed: 1\noptimizer:\n  name: asgc\n")
    metrics = MetricsWriter(folder / "metrics.jsonl")
    for number in range(1, 6):
        metrics.log(1000 * number, 0, float(number), "train", {"return": -20.0 + number})
        metrics.log(
            1000 * number, 0, float(number), "eval", {"score": -20.0 + 8 * number, "score_std": 2.0, "games": 10}
        )
    metrics.close()
    write_json(folder / "summary.json", {"time_to_threshold": {"target": 0.0}})
    return folder


def watched(run: Path, finished: bool = True) -> None:
    watcher = LearningCurve()
    watcher.start({"run_dir": str(run)})
    watcher.close(finished)


def test_it_is_drawn_when_the_run_has_finished(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = run / "learning_curve.png"
    watched(run, finished=False)
    assert not picture.exists()
    watched(run)
    assert capsys.readouterr().err == f"drawn: {picture}\n"
    with Image.open(picture) as image:
        colours = image.convert("RGB").getcolors(1 << 20)
        assert image.size[0] > 1500
    assert colours is not None
    assert len(colours) > 50
    before = picture.read_bytes()
    assert draw(run) == picture
    assert picture.read_bytes() == before


def test_a_run_of_several_tasks_has_a_panel_of_each(run: Path) -> None:
    with Image.open(draw(run)) as image:
        width = image.size[0]
    metrics = MetricsWriter(run / "metrics.jsonl", length=(run / "metrics.jsonl").stat().st_size)
    for step, name in ((6000, "Pong"), (7000, "Breakout"), (8000, "Breakout")):
        metrics.log(step, 0, 1.0, f"eval {name}", {"score": float(step)})
    metrics.close()
    with Image.open(draw(run)) as image:
        assert image.size[0] > 1.3 * width, "three panels in the place of two"


def test_runs_of_a_study_and_runs_without_scores_have_none(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run.parent / "study.yaml").write_text("name: s\n")
    watched(run)
    (run.parent / "study.yaml").unlink()
    (run / "metrics.jsonl").write_text("")
    watched(run)
    LearningCurve().close(True)
    assert list(run.glob("*.png")) == []
    assert capsys.readouterr().err == ""


def test_a_picture_ends_no_run(run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def defect(path: Path) -> None:
        raise ValueError("no room\nfor it")

    monkeypatch.setattr(learning_curve, "draw", defect)
    watched(run)
    assert capsys.readouterr().err == "no learning_curve.png: no room\n"
    monkeypatch.setattr(learning_curve.importlib.util, "find_spec", lambda name: None)
    watched(run)
    assert capsys.readouterr().err == "no learning_curve.png: pictures need matplotlib: pip install 'asgc[study]'\n"
