"""`asgc-eval plot`: the files, what is in them, and what the command says."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

pytest.importorskip("matplotlib")

from evaluation.analysis.data import dataset
from evaluation.main import main
from evaluation.plots import catalog, matplotlib_files, style
from evaluation.plots.figure import Axis, Figure, Mark, Panel, series
from evaluation.plots.study_data import StudyData

LOOKS = style.looks(["asgc", "adam"])


@pytest.fixture
def run(demo_study: Path, tmp_path: Path) -> Path:
    """A run with the records of two layers."""
    copy = Path(shutil.copytree(demo_study / "comparison/CartPole/plain/asgc/default/s101", tmp_path / "s101"))
    [part] = (copy / "gradients").iterdir()
    rows = [row for row in parquet.read_table(part).to_pylist() if row["layer"] in ("layers.0.bias", "layers.2.weight")]
    parquet.write_table(pyarrow.Table.from_pylist(rows), part)
    return copy


def drawn(figure: Figure) -> Iterator[Any]:
    with matplotlib_files._drawn(figure, LOOKS) as canvas:
        yield from (axes for axes in canvas.axes if axes.get_visible())


class TestDrawing:
    def test_lines_and_bands_are_the_numbers(self) -> None:
        one = series("asgc", [1, 2, 3], [4, 5, 6], low=[3, 4, 5], high=[5, 6, 7])
        [axes] = drawn(Figure("f", "f", "", (Panel("", "", Axis(), Axis(), (one,)),)))
        np.testing.assert_array_equal(axes.lines[0].get_xydata(), [[1, 4], [2, 5], [3, 6]])
        [band] = axes.collections
        corners = {tuple(corner) for corner in band.get_paths()[0].vertices.tolist()}
        assert {(1, 3), (2, 4), (3, 5), (1, 5), (2, 6), (3, 7)} <= corners
        assert axes.lines[0].get_color() == style.KNOWN["asgc"].colour

    def test_every_evaluation_has_a_marker(self) -> None:
        lines = tuple(series("asgc", np.arange(size), np.arange(size)) for size in (8, 400))
        figure = Figure("f", "f", "", tuple(Panel("", str(i), Axis(), Axis(), (one,)) for i, one in enumerate(lines)))
        few, many = (axes.lines[0] for axes in drawn(figure))
        assert few.get_marker() == many.get_marker() == "o"
        assert few.get_markevery() is many.get_markevery() is None
        assert few.get_markersize() > many.get_markersize() > 1

    def test_a_line_of_one_point_is_seen(self) -> None:
        lines = series("asgc", [1], [2], role="after"), series("asgc", [1, 2], [2, 3], role="before")
        [axes] = drawn(Figure("f", "f", "", (Panel("", "", Axis(), Axis(), lines),)))
        assert [line.get_marker() for line in axes.lines] == ["o", "None"]

    @pytest.mark.parametrize("ends", [(0.31, 0.48), (1.1, 9.0), (0.95, 96), (1e-7, 1e3)])
    def test_log_axes_have_several_labels(self, ends: tuple[float, float]) -> None:
        panel = Panel("", "", Axis(log=True), Axis(log=True), (series("asgc", ends, ends),))
        [axes] = drawn(Figure("f", "f", "", (panel,), per_panel=(1.9, 1.2)))
        for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            labels = zip(axis.get_majorticklocs(), axis.get_majorticklabels(), strict=True)
            assert len([place for place, label in labels if low <= place <= high and label.get_text()]) >= 3

    def test_the_baseline_is_grey_and_needs_no_marker(self) -> None:
        one = series("adam", [1, 2], [1, 2], role="baseline")
        [axes] = drawn(Figure("f", "f", "", (Panel("", "", Axis(), Axis(), (one,)),)))
        assert (axes.lines[0].get_color(), axes.lines[0].get_marker()) == (style.PALE, "None")

    def test_censored_estimates_are_open_triangles_beyond_the_run(self) -> None:
        reached = series("asgc", 40.0, 0, low=30.0, high=np.inf)
        missed = series("adam", np.inf, 1, low=np.inf, high=np.inf)
        panel = Panel("", "", Axis(low=0), Axis(), (reached, missed), categories=("asgc", "adam"), beyond=100.0)
        [axes] = drawn(Figure("f", "f", "", (panel,)))
        points = {line.get_marker(): line for line in axes.lines if line.get_xdata().size}
        assert points["o"].get_xdata().tolist() == [40]
        assert 100 < points[">"].get_xdata()[0] < axes.get_xlim()[1]
        assert points[">"].get_markerfacecolor() == "white"
        assert len(axes.texts) == 1  # the arrow of the open interval, and none for what has no lower end either

    def test_a_grid_names_columns_at_the_top_and_rows_at_the_left(self) -> None:
        one = series("asgc", [1, 2], [1, 2])
        panels = tuple(
            Panel(row, column, Axis("steps"), Axis("return", share=row), (one,)) for row in "ab" for column in "xyz"
        )
        axes = list(drawn(Figure("f", "f", "", panels)))
        assert [one.get_title(loc="left") for one in axes] == ["x", "y", "z", "", "", ""]
        assert [one.get_ylabel() for one in axes] == ["a\nreturn", "", "", "b\nreturn", "", ""]
        assert [one.get_xlabel() for one in axes] == ["", "", "", "steps", "steps", "steps"]

    def test_marks_stay_on_their_axis(self) -> None:
        one = series("asgc", [1, 2], [1, 2])
        panel = Panel("", "", Axis(), Axis(), (one,), (Mark("y", 30.0), Mark("x", 1.5, rug=True)))
        [axes] = drawn(Figure("f", "f", "", (panel,)))
        assert axes.get_ylim()[1] > 30

    @pytest.mark.parametrize("count", [1, 2, 3, 5, 7])
    def test_a_row_of_many_panels_is_wrapped(self, count: int) -> None:
        one = series("asgc", [1, 2], [1, 2])
        figure = Figure("f", "f", "", tuple(Panel(f"t{i}", "", Axis(), Axis(), (one,)) for i in range(count)))
        axes = list(drawn(figure))
        assert [one.get_title(loc="left") for one in axes] == ([f"t{i}" for i in range(count)] if count > 1 else [""])


class TestFiles:
    def test_same_data_give_the_same_bytes(self, demo_study: Path, tmp_path: Path) -> None:
        study = StudyData(dataset.load(demo_study), repetitions=100)
        [[figure]] = [found for _, found in catalog.figures(study, ["final-scores"])]
        assert isinstance(figure, Figure)
        formats = ("png", "svg", "pdf")
        for folder in ("one", "two"):
            (tmp_path / folder).mkdir()
            matplotlib_files.save(figure, tmp_path / folder, formats, study.looks)
        for form in formats:
            name = f"final-scores.{form}"
            assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
        assert (tmp_path / "one" / "final-scores.png").stat().st_size > 10_000

    def test_of_a_study(self, demo_study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        only = "learning-curves,time-to-target"
        options = ["--only", only, "--format", "svg", "--repetitions", "100", "--out", str(tmp_path / "out")]
        assert main(["plot", str(demo_study), *options]) == 0
        names = {path.name for path in (tmp_path / "out").iterdir()}
        assert names == {f"{name}.{form}" for name in only.split(",") for form in ("svg", "csv")}
        assert set(capsys.readouterr().out.split()) == {str(tmp_path / "out" / name) for name in names}
        svg = (tmp_path / "out" / "learning-curves.svg").read_text()
        for word in ("Learning curves", "CartPole", "Acrobot", "mse", "asgc", "environment steps"):
            assert word in svg
        with (tmp_path / "out" / "learning-curves.csv").open() as file:
            assert len(list(csv.DictReader(file))) == 2 * 2 * 3 * 20

    def test_of_a_run(self, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["plot", str(run)]) == 0
        names = {path.stem for path in (run / "plots").iterdir()}
        assert names == set(catalog.RUN) - {"clip-options", "curvature"}
        options, looks = capsys.readouterr().err.splitlines()
        assert options.startswith("left out clip-options: no optimizer changes its clip's options while it trains")
        assert looks.startswith("left out curvature: the run has not looked at it (`train --curvature.every 1`)")

    def test_of_an_unfinished_run_without_gradients(self, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (run / "summary.json").unlink()
        shutil.rmtree(run / "gradients")
        assert main(["plot", str(run), "--only", "score,gradients"]) == 0
        said = capsys.readouterr()
        assert "left out gradients: no run has gradient records" in said.err
        assert {path.name for path in (run / "plots").iterdir()} == {"score.png", "score.csv"}

    def test_a_damaged_part_of_the_records_is_named(self, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (run / "gradients" / "part-000001.parquet").write_bytes(b"PAR1")
        assert main(["plot", str(run), "--only", "thresholds"]) == 0
        assert "part-000001.parquet" in capsys.readouterr().err

    def test_runs_that_were_left_out_are_named(
        self, demo_study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        runs = tmp_path / "runs"
        shutil.copytree(demo_study / "comparison/CartPole/plain/adam/default", runs)
        (runs / "s103" / "summary.json").unlink()
        assert main(["plot", str(runs), "--only", "learning-curves", "--repetitions", "100"]) == 0
        assert "s103: unfinished" in capsys.readouterr().err
        assert (runs / "plots").is_dir()
        assert not [problem for problem in dataset.load(runs).problems if "plots" in problem.path]


class TestUserErrors:
    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ([], "say what to draw"),
            (["nowhere"], "no such folder"),
            (["STUDY", "--format", "jpg"], "--format jpg: must be of png, svg, pdf"),
            (["STUDY", "--format", ","], "name at least one"),
            (["STUDY", "--only", "learning"], "no such figure"),
            (["STUDY", "--baseline", "adm"], "did you mean 'adam'"),
            (["STUDY", "--repetitions", "1"], "--repetitions 1: must be at least 100"),
        ],
    )
    def test_are_one_line(
        self, demo_study: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
    ) -> None:
        assert main(["plot", *(str(demo_study) if word == "STUDY" else word for word in arguments)]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1


def test_long_names_of_axes_end_where_their_panels_do() -> None:
    """Of small panels below each other: they would run into each other."""
    axis = Axis("-log10 of the excess risk")
    panels = tuple(
        Panel(f"method {row}", "", Axis("learning rate"), axis, (series("adam", [1.0, 2.0], [0.0, 1.0]),))
        for row in range(16)
    )
    figure = Figure("rates", "Rates", "", panels)
    with matplotlib_files._drawn(figure, LOOKS) as canvas:
        canvas.draw_without_rendering()
        heights = [
            (axes.yaxis.label.get_window_extent().height, axes.get_window_extent().height)
            for axes in canvas.axes
            if axes.get_visible() and axes.get_ylabel()
        ]
    assert len(heights) == 4
    assert all(label <= panel for label, panel in heights)
