"""Gradient records summed up for figures: quantiles, stages, thresholds, synchronizations; constructed records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow
import pytest

from evaluation.analysis.data.run_key import RunKey
from evaluation.plots import gradient_figures, gradient_tables
from evaluation.plots.figure import Figure, Omitted
from evaluation.runs.gradient_columns import BINS, COLUMNS, HISTOGRAM_EDGES

EDGES = np.array(HISTOGRAM_EDGES)


class Records:
    """A source of gradients made of rows."""

    def __init__(self, rows: list[dict[str, Any]], runs: tuple[str, ...] = ("r1",)) -> None:
        self.connection = duckdb.connect()
        labels = [
            {"run": run, "kind": "compare", "part": "p", "task": "T", "setting": "plain", "optimizer": "asgc"}
            for run in runs
        ]
        labels = [row | {"protocol": "game=T"} for row in labels]
        for name, values in (("runs", labels), ("gradients", rows)):
            arrow = pyarrow.Table.from_pylist(values)
            self.connection.register("incoming", arrow)
            self.connection.execute(f"CREATE TABLE {name} AS SELECT * FROM incoming")
            self.connection.unregister("incoming")

    def rows(self, query: str, *parameters: Any) -> list[dict[str, Any]]:
        cursor = self.connection.execute(query, list(parameters))
        names = [column[0] for column in cursor.description or []]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def record(update: int, *, run: str = "r1", layer: str = "layers.0.weight", **values: Any) -> dict[str, Any]:
    empty = [0] * BINS
    row: dict[str, Any] = dict.fromkeys(COLUMNS, 1.0)
    row |= {"run": run, "step": 4 * update, "update": update, "event": "interval", "since_shift": -1, "layer": layer}
    return row | {"numel": 10, "before": empty, "after": empty} | values


def counts(magnitudes: np.ndarray) -> list[int]:
    with np.errstate(divide="ignore"):
        return np.bincount(np.digitize(np.log10(magnitudes), EDGES), minlength=BINS).tolist()


KEY = RunKey("p", "T", "plain", "asgc")


class TestQuantiles:
    @pytest.mark.parametrize("scale", [1e-6, 1.0, 300.0])
    def test_of_a_known_sample(self, scale: float) -> None:
        magnitudes = scale * np.abs(np.random.default_rng(0).standard_normal(100_000))
        found = gradient_tables.quantiles(np.array(counts(magnitudes)))
        expected = np.quantile(np.log10(magnitudes), gradient_tables.QUANTILES)
        np.testing.assert_allclose(found, expected, atol=0.05)  # bins are 0.25 wide, linear within

    def test_lie_in_their_bins_where_neighbours_are_empty(self) -> None:
        histogram = np.zeros(BINS)
        histogram[30] = 96  # below, then a gap, then a few above
        histogram[50] = 4
        found = gradient_tables.quantiles(histogram)
        assert (found[:4] > EDGES[29]).all()
        assert (found[:4] < EDGES[30]).all()
        assert found[4] <= EDGES[30]

    def test_zeros_do_not_count(self) -> None:
        histogram = np.zeros(BINS)
        histogram[[0, 40]] = 1_000, 1
        assert EDGES[39] < gradient_tables.quantiles(histogram)[2] < EDGES[40]
        histogram[40] = 0
        assert np.isnan(gradient_tables.quantiles(histogram)).all()

    def test_infinite_elements_are_at_the_end(self) -> None:
        histogram = np.zeros(BINS)
        histogram[-1] = 3
        assert (gradient_tables.quantiles(histogram) > EDGES[-2]).all()


class TestStages:
    def test_are_thirds_of_each_run_and_sum_up_runs(self) -> None:
        rows = []
        for run, last in (("r1", 8), ("r2", 5)):  # 9 and 6 updates
            for update in range(last + 1):
                before, after = [0] * BINS, [0] * BINS
                before[update + 10], after[update + 20] = 1, 2
                rows.append(record(update, run=run, before=before, after=after))
        rows.append(record(4, event="shift", before=[7] * BINS))  # around a synchronization: not regular
        found = gradient_tables.histograms(Records(rows, ("r1", "r2")))
        assert {stage for _, _, stage in found} == {"early", "middle", "late"}
        for stage, bins in (("early", [0, 1, 2, 0, 1]), ("middle", [3, 4, 5, 2, 3]), ("late", [6, 7, 8, 4, 5])):
            cell = found[KEY, "layers.0.weight", stage]
            assert cell.runs == 2
            assert cell.before.tolist() == np.bincount(np.array(bins) + 10, minlength=BINS).tolist()
            assert cell.after.tolist() == (2 * np.bincount(np.array(bins) + 20, minlength=BINS)).tolist()


class TestSyncResponse:
    def test_is_relative_to_the_update_before(self) -> None:
        rows = []
        for sync, base in ((100, 0.5), (200, 2.0)):
            rows.append(record(sync - 1, event="shift", since_shift=99, grad_rms=base))
            rows += [
                record(sync + since, event="shift", since_shift=since, grad_rms=base * size)
                for since, size in ((0, 8.0), (1, 4.0), (20, 1.0))
            ]
        rows.append(record(350, since_shift=150, grad_rms=9.0))  # a regular record, at no offset of the recorder
        found = gradient_tables.around_shifts(Records(rows), "grad_rms")
        [(key, values)] = found.items()
        assert key == (KEY, "layers.0.weight")
        assert values["since"].tolist() == [-1, 0, 1, 20]
        assert values["value"].tolist() == [1, 8, 4, 1]
        assert values["n"].tolist() == [2, 2, 2, 2]

    def test_without_the_update_before_there_is_nothing_to_compare_with(self) -> None:
        rows = [record(100, event="shift", since_shift=0), record(101, event="shift", since_shift=1)]
        [found] = gradient_figures.sync_response(Records(rows))
        assert isinstance(found, Omitted)


class TestThresholds:
    def test_medians_over_runs_by_step(self) -> None:
        rows = [
            record(update, run=run, threshold=threshold * (update + 1), grad_rms=1.0, after_rms=0.5)
            for run, threshold in (("r1", 1.0), ("r2", 2.0), ("r3", 9.0))
            for update in (0, 1)
        ]
        [figure] = gradient_figures.thresholds(Records(rows, ("r1", "r2", "r3")))
        assert isinstance(figure, Figure)
        drawn = {one.role: one for one in figure.panels[0].series}
        assert drawn["threshold"].y.tolist() == [2, 4]
        assert drawn["threshold"].x.tolist() == [0, 4]  # steps
        assert drawn["after"].y.tolist() == [0.5, 0.5]
        assert figure.name == "thresholds-T-plain"

    def test_an_optimizer_without_a_threshold_is_left_out(self) -> None:
        [found] = gradient_figures.thresholds(Records([record(0, threshold=np.inf)]))
        assert isinstance(found, Omitted)
        assert "threshold" in found.reason

    def test_marks_are_the_recorded_synchronizations(self) -> None:
        rows = [record(0), record(3, since_shift=0, event="shift"), record(9, since_shift=6)]
        [figure] = gradient_figures.thresholds(Records(rows))
        assert isinstance(figure, Figure)
        assert [(mark.value, mark.rug) for mark in figure.panels[0].marks] == [(12, True)]


def test_magnitudes_of_a_study(demo_study: Path) -> None:
    from evaluation.analysis.data import dataset

    figures = gradient_figures.magnitudes(dataset.load(demo_study))
    names = {figure.name for figure in figures}
    assert names == {f"gradients-{task}-{setting}" for task in ("CartPole", "Acrobot") for setting in ("plain", "mse")}
    figure = next(figure for figure in figures if figure.name == "gradients-CartPole-plain")
    assert isinstance(figure, Figure)
    assert figure.rows() == ["asgc", "adam", "sgd"]
    assert figure.column_names() == ["early", "middle", "late"]
    for panel in figure.panels:
        before, after = panel.series
        assert before.high is not None
        assert after.high is not None
        if panel.row == "asgc":
            assert (after.high < before.high).all()  # clipped above
        else:
            np.testing.assert_array_equal(after.high, before.high)  # a baseline sees what there was


def test_layers_sort_by_number() -> None:
    layers = ["layers.10.weight", "layers.2.bias", "layers.2.weight", "head"]
    assert sorted(layers, key=gradient_tables.natural) == [
        "head",
        "layers.2.weight",
        "layers.2.bias",
        "layers.10.weight",
    ]


class TestClipOptions:
    def test_paths_of_what_moves_beside_what_stays(self) -> None:
        rows = [record(u, clip_factor=1.0 + u, clip_sharpness=2.0) for u in range(3)]
        rows += [record(u, layer="layers.2.weight", clip_factor=4.0, clip_sharpness=2.0) for u in range(3)]
        [figure] = gradient_figures.clip_options(Records(rows))
        assert isinstance(figure, Figure)
        found = {(panel.row, panel.column): panel.series[0].y.tolist() for panel in figure.panels}  # no sharpness
        assert found == {
            ("layers.0.weight", "clip factor"): [1.0, 2.0, 3.0],
            ("layers.2.weight", "clip factor"): [4.0, 4.0, 4.0],
        }
        paths = [panel.series[0] for panel in figure.panels]
        assert paths[0].x.tolist() == [0.0, 4.0, 8.0]

    def test_bands_are_quartiles_over_runs(self) -> None:
        rows = [record(u, run=f"r{i}", clip_factor=float(i + u)) for u in range(2) for i in (1, 2, 3, 4)]
        [figure] = gradient_figures.clip_options(Records(rows, ("r1", "r2", "r3", "r4")))
        path = figure.panels[0].series[0]
        assert (path.low.tolist(), path.y.tolist(), path.high.tolist()) == ([1.0, 2.0], [2.0, 3.0], [3.0, 4.0])
        assert "quartiles" in figure.caption

    @pytest.mark.parametrize("value", [1.0, float("nan")])
    def test_options_that_stay_are_not_drawn(self, value: float) -> None:
        [found] = gradient_figures.clip_options(Records([record(u, clip_factor=value) for u in range(3)]))
        assert isinstance(found, Omitted)
        assert "adapt" in found.reason
