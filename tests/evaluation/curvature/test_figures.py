"""The figure of a run's curvature: densities that integrate to 1, slices as they were written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from evaluation.analysis.data import dataset
from evaluation.curvature.measure import FOLDER
from evaluation.plots.curvature_figures import LEAST, curvature, side_by_side, smoothed, tail
from evaluation.plots.figure import Figure, Omitted
from evaluation.plots.study_data import StudyData


def run(folder: Path, steps: list[int]) -> SimpleNamespace:
    (folder / FOLDER).mkdir(exist_ok=True)
    for step in steps:
        look = {
            "step": step,
            "spectrum": {"values": [-1.0, 0.0, 4.0 + step], "weights": [0.1, 0.7, 0.2]},
            "at": [-0.5, 0.0, 0.5],
            "slices": {"gradient": [3.0, 1.0 + step, 2.0], "random": [1.0, 0.5, "Infinity"]},
        }
        (folder / FOLDER / f"{step:012d}.json").write_text(json.dumps(look))
    return SimpleNamespace(path=folder, optimizer="adam", title="CartPole, adam, seed 1")


def test_a_density_is_one_by_shares_of_its_range() -> None:
    values, weights = np.array([-1.0, 0.0, 9.0]), np.array([0.1, 0.7, 0.2])
    at, density = smoothed(values, weights)
    assert np.trapezoid(density, at) / 10 == pytest.approx(1.0, abs=0.02)
    assert at[density.argmax()] == pytest.approx(0.0, abs=0.05)
    assert density[np.abs(at - 4.5).argmin()] < 1e-4  # nothing lies there


def test_the_first_the_last_and_one_between_are_drawn(tmp_path: Path) -> None:
    (figure,) = curvature(run(tmp_path, [10, 20, 30, 40, 50]))
    assert isinstance(figure, Figure)
    assert [panel.column for panel in figure.panels[:3]] == ["step 10", "step 30", "step 50"]
    assert [panel.row for panel in figure.panels].count("loss along the gradient") == 3
    (along,) = (p for p in figure.panels if (p.row, p.column) == ("loss along the gradient", "step 30"))
    assert along.series[0].x.tolist() == [-0.5, 0.0, 0.5]
    assert along.series[0].y.tolist() == [3.0, 31.0, 2.0]


def test_a_run_without_looks_says_how_to_get_some(tmp_path: Path) -> None:
    (found,) = curvature(SimpleNamespace(path=tmp_path, optimizer="adam", title=""))
    assert isinstance(found, Omitted)
    assert "--curvature.every" in found.reason


def test_the_mass_of_a_spectrum_above_each_positive_eigenvalue() -> None:
    at, share = tail(np.array([4.0, -1.0, 0.0, 1.0]), np.array([0.2, 0.4, 0.8, 0.6]))
    assert at.tolist() == [1.0, 4.0]
    assert share == pytest.approx([0.1, LEAST])  # from 1 to 4 a tenth lies above


class TestSideBySide:
    def looks(self, study: Path, task: str, losses: dict[str, float], seed: int) -> None:
        """The first look of each optimizer's run, and its last one, where the slices have this loss."""
        for name, loss in losses.items():
            for step, value in ((10, 99.0), (20, loss)):
                folder = study / f"comparison/{task}/plain/{name}/default/s{seed}"
                run(folder, [step])
                file = folder / FOLDER / f"{step:012d}.json"
                look = json.loads(file.read_text()) | {
                    "slices": {key: [value, 1.0, 2.0] for key in ("gradient", "random")}
                }
                file.write_text(json.dumps(look))

    def test_the_last_look_of_each_optimizer(self, demo_study: Path, tmp_path: Path) -> None:
        study = tmp_path / "study"
        shutil.copytree(demo_study, study)
        self.looks(study, "CartPole", {"adam": 3.0, "asgc": 5.0}, seed=102)
        self.looks(study, "CartPole", {"adam": 4.0, "asgc": 6.0}, seed=103)  # of the lowest seed that has looked
        found = side_by_side(data := StudyData(dataset.load(study), repetitions=100), data.parts("compare")[0])
        figure = next(one for one in found if isinstance(one, Figure))
        spectrum, along, *_ = [panel for panel in figure.panels if panel.row == "CartPole"]
        assert {one.label: one.y[0] for one in along.series} == {"adam": 3.0, "asgc": 5.0}
        assert all(one.x.tolist() == [24.0] and one.y == pytest.approx([LEAST]) for one in spectrum.series)
        assert {one.runs.task for one in along.series} == {"CartPole"}
        assert all(panel.empty for panel in figure.panels if panel.row != "CartPole")

    def test_a_study_without_looks_says_how_to_get_some(self, demo_study: Path) -> None:
        data = StudyData(dataset.load(demo_study), repetitions=100)
        (found,) = side_by_side(data, data.parts("compare")[0])
        assert isinstance(found, Omitted)
        assert "--curvature.every" in found.reason
