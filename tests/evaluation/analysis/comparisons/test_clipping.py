"""What clipping did, from the summaries of all seeds."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from evaluation.analysis.comparisons.clipping import clipping
from evaluation.analysis.data import dataset
from evaluation.analysis.data.run_key import Cell, Method
from tests.evaluation.run_trees import Planned, write_gradients, write_study


def write(folder: Path, run: Planned, clipped: float, threshold: float) -> None:
    path = write_gradients(folder / run.path, updates=9)
    rows = [
        row | {"clipped": clipped, "threshold": threshold, "noise_std": 0.0, "grad_rms": 1.0}
        for row in pyarrow.parquet.read_table(path).to_pylist()
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def test_means_and_the_range_over_all_seeds(tmp_path: Path) -> None:
    runs = [Planned(name, seed) for name in ("adam", "asgc") for seed in (1, 2)]
    trial = Planned("asgc", 3, part="tuning", kind="search", variant="trial-0")
    folder = write_study(tmp_path / "tiny", [*runs, trial, Planned("sgd", 1)])  # sgd has no records
    for run, clipped, threshold in zip(runs, (0.0, 0.0, 0.1, 0.5), (math.inf, math.inf, 1.0, 1.0), strict=True):
        write(folder, run, clipped, threshold)
    write(folder, trial, 1.0, 1.0)
    with dataset.load(folder) as data:
        adam, asgc = clipping(data, "comparison")
    assert (asgc.cell, asgc.method, asgc.n) == (Cell("CartPole", "plain"), Method("asgc"), 2)
    assert (asgc.clipped, asgc.clipped_least, asgc.clipped_most) == pytest.approx((0.3, 0.1, 0.5))
    assert (asgc.threshold, asgc.noise_to_gradient) == (1, 0)
    assert (adam.threshold, adam.clipped) == (0, 0)
    assert asgc.update_to_weight == pytest.approx(1e-3)


def test_variants_of_an_ablation_are_methods_and_points_of_a_grid_cells(tmp_path: Path) -> None:
    runs = [Planned("asgc", 1, part="parts", kind="ablation", variant=name) for name in ("full", "unit")]
    runs += [Planned("asgc", 1, part="rates", kind="grid", variant=name) for name in ("lrx10", "lrx30")]
    folder = write_study(tmp_path / "tiny", runs)
    for run in runs:
        write(folder, run, 0.2, 1.0)
    with dataset.load(folder) as data:
        assert [(row.method.name, row.cell.point) for row in clipping(data, "parts")] == [("full", ""), ("unit", "")]
        assert [(row.method.name, row.cell.point) for row in clipping(data, "rates")] == [
            ("asgc", "lrx10"),
            ("asgc", "lrx30"),
        ]
        assert len(clipping(data, "nothing")) == 0
