"""Figures as numbers: what is drawn is what the runs gave, with the intervals of `aggregate` and `compare`."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from evaluation.analysis.comparisons.compare import compare
from evaluation.analysis.data import dataset
from evaluation.analysis.data.run_key import RunKey
from evaluation.analysis.stats.bootstrap import Bootstrap
from evaluation.cli.errors import UserError
from evaluation.plots import catalog, single_run, style
from evaluation.plots.axes import axis_limits, ticks
from evaluation.plots.figure import Axis, Figure, Mark, Omitted, Panel, seeds_in_words, series, write_csv
from evaluation.plots.single_run import RunData
from evaluation.plots.study_data import StudyData, apart, band_of
from evaluation.plots.words import GAMES, words
from tests.evaluation.run_trees import write_run
from tests.evaluation.synthetic_study import EVALUATIONS, STEPS, write_study

SEEDS = 3
WITHOUT = ["clip-options", "curvature"]  # no optimizer of the synthetic runs adapts, and they have no looks


@pytest.fixture(scope="module")
def folder(demo_study: Path) -> Path:
    return demo_study


@pytest.fixture(scope="module")
def study(folder: Path) -> StudyData:
    return StudyData(dataset.load(folder), repetitions=100)


@pytest.fixture(scope="module")
def figures(study: StudyData) -> dict[str, Figure]:
    found = [figure for _, some in catalog.figures(study) for figure in some]
    assert [figure.name for figure in found if isinstance(figure, Omitted)] == WITHOUT
    return {figure.name: figure for figure in found if isinstance(figure, Figure)}


def panel(figure: Figure, row: str, column: str) -> Panel:
    [found] = [panel for panel in figure.panels if (panel.row, panel.column) == (row, column)]
    return found


def line(panel: Panel, label: str) -> dict[float, float]:
    [found] = [one for one in panel.series if one.label == label]
    return dict(zip(found.x.tolist(), found.y.tolist(), strict=True))


def scores(folder: Path, cell: str) -> np.ndarray:
    """Evaluation scores (R, E) read straight from the files."""
    runs = sorted((folder / cell).iterdir())
    rows = [[json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()] for run in runs]
    return np.array([[row["value"] for row in run if row["name"] == "score"] for run in rows])


class TestStudy:
    def test_every_figure_of_the_catalog_is_made(self, figures: dict[str, Figure]) -> None:
        for name in catalog.STUDY.keys() - set(WITHOUT):
            assert any(figure == name or figure.startswith(f"{name}-") for figure in figures), name

    def test_learning_curves_are_the_iqm_of_the_runs(self, folder: Path, figures: dict[str, Figure]) -> None:
        drawn = line(panel(figures["learning-curves"], "Acrobot", "mse"), "adam")
        expected = stats.trim_mean(scores(folder, "comparison/Acrobot/mse/adam/default"), 0.25, axis=0)
        assert list(drawn) == np.linspace(STEPS / EVALUATIONS, STEPS, EVALUATIONS).tolist()
        np.testing.assert_allclose(list(drawn.values()), expected)

    def test_bands_lie_about_their_curve_as_far_as_students_t_goes(
        self, folder: Path, figures: dict[str, Figure]
    ) -> None:
        for one in panel(figures["learning-curves"], "CartPole", "plain").series:
            assert one.low is not None
            assert one.high is not None
            runs = scores(folder, f"comparison/CartPole/plain/{one.label}/default")
            assert (one.low <= one.y).all()
            assert (one.y <= one.high).all()
            reach = stats.t.ppf(1 - 0.025 * (1 - 1.5 / SEEDS), SEEDS - 1) * runs.std(axis=0, ddof=1) / SEEDS**0.5
            assert one.high - one.y == pytest.approx(reach, rel=0.1)
            assert (one.high > one.low).any()

    def test_points_are_those_of_the_comparison(self, study: StudyData, figures: dict[str, Figure]) -> None:
        for name, metric, statistic in (
            ("final-scores", "final", "iqm"),
            ("stability", "detrended_std", "iqm"),
            ("time-to-target", "ttt_steps", "median"),
        ):
            for row in compare(study.data, "comparison", metric=metric).cells:
                drawn = panel(figures[name], row.cell.task, row.cell.setting)
                [one] = [one for one in drawn.series if one.label == row.method.name]
                assert one.low is not None
                assert one.high is not None
                assert np.array_equal((one.x[0], one.low[0], one.high[0]), getattr(row, statistic), equal_nan=True)
                assert drawn.categories[int(one.y[0])] == row.method.name

    def test_profiles_of_times_count_the_runs_that_were_there(
        self, study: StudyData, figures: dict[str, Figure]
    ) -> None:
        rows = [
            row
            for row in study.runs
            if (row["part"], row["task"], row["setting"]) == ("comparison", "Acrobot", "plain")
        ]
        for optimizer in study.optimizers:
            times = np.array([row["ttt_steps"] for row in rows if row["optimizer"] == optimizer])
            drawn = line(panel(figures["time-to-target-profiles"], "Acrobot", "plain"), optimizer)
            assert drawn[0.0] == 0
            for step, share in drawn.items():
                assert share == pytest.approx(np.mean(times <= step))

    def test_rates_of_a_grid_are_multiples(self, study: StudyData, figures: dict[str, Figure]) -> None:
        drawn = line(panel(figures["learning-rate-rates"], "CartPole", "plain"), "adam")
        assert list(drawn) == [1, 10, 30]
        at_one = [row["final"] for row in study.runs if row["run"].startswith("comparison/CartPole/plain/adam/")]
        assert drawn[1] == pytest.approx(stats.trim_mean(at_one, 0.25))

    def test_near_rates_of_single_runs_are_put_together(self, study: StudyData, figures: dict[str, Figure]) -> None:
        [one] = [
            one for one in panel(figures["learning-rate-robust"], "CartPole", "plain").series if one.label == "adam"
        ]
        assert one.n is not None
        assert one.n.sum() == 6  # every draw is in one point
        assert one.low is not None
        assert np.isnan(one.low[one.n < 3]).all()  # too few runs have no interval
        assert np.isfinite(one.low[one.n >= 3]).all()
        assert "Without an interval: too few runs" in figures["learning-rate-robust"].caption

    def test_robustness_is_the_share_above(self, study: StudyData, figures: dict[str, Figure]) -> None:
        finals = np.array([row["final"] for row in study.runs if row["run"].startswith("robust/Acrobot/plain/asgc/")])
        drawn = line(panel(figures["robustness"], "Acrobot", "plain"), "asgc")
        for score, share in drawn.items():
            assert share == pytest.approx((finals > score).mean())

    def test_ablations_are_differences_from_the_full_method(self, study: StudyData, figures: dict[str, Figure]) -> None:
        found = panel(figures["ablations"], "Acrobot", "plain")
        assert "full" not in found.categories
        finals = {
            name: [row["final"] for row in study.runs if row["run"].startswith(f"ablations/Acrobot/plain/asgc/{name}/")]
            for name in ("full", "noise-only")
        }
        [one] = [one for one in found.series if one.label == "noise-only"]
        expected = stats.trim_mean(finals["noise-only"], 0.25) - stats.trim_mean(finals["full"], 0.25)
        assert one.x[0] == pytest.approx(expected)

    def test_profiles_end_at_the_data(self, figures: dict[str, Figure]) -> None:
        for found in figures["performance-profiles"].panels:
            highest = max(one.x[one.y > 0].max() for one in found.series)
            assert all(one.y[-1] == 0 for one in found.series)
            assert found.series[0].x[-1] == pytest.approx(max(1.0, highest), abs=0.05)

    def test_captions_say_n_and_how_intervals_were_made(self, figures: dict[str, Figure]) -> None:
        for name in ("learning-curves", "final-scores", "stability", "time-to-target", "ablations"):
            assert seeds_in_words([SEEDS]) in figures[name].caption
            assert "95% interval" in figures[name].caption
            assert "seed 0" in figures[name].caption

    def test_same_colour_in_every_figure(self, study: StudyData) -> None:
        alone = StudyData(study.data)
        alone.optimizers = ["sgd", "adam"]  # type: ignore[misc]
        assert alone.looks["adam"] == study.looks["adam"]


class TestOmitted:
    def test_says_which_figure_is_left_out_and_why(self, tmp_path: Path) -> None:
        folder = write_study(tmp_path / "one", tasks=("CartPole",), settings=("plain",), optimizers=("adam",), seeds=2)
        for part in ("tuning", "robust", "rates", "ablations"):
            text = (folder / "runs.jsonl").read_text().splitlines()
            (folder / "runs.jsonl").write_text("".join(f"{row}\n" for row in text if f'"part": "{part}"' not in row))
        found = dict(catalog.figures(StudyData(dataset.load(folder), repetitions=100)))
        reasons = {one.name: one.reason for some in found.values() for one in some if isinstance(one, Omitted)}
        assert reasons["robustness"] == "the study has no finished runs of a part of kind robustness"
        assert reasons["thresholds"] == "no optimizer among the recorded ones has a threshold"
        assert "one optimizer only" in reasons["improvement"]
        assert "learning-curves" not in reasons

    def test_unknown_names(self, study: StudyData) -> None:
        with pytest.raises(UserError, match="--only learning-curve: no such figure; did you mean 'learning-curves'"):
            list(catalog.figures(study, ["learning-curve"]))

    def test_protocols_that_differ_are_a_reason_not_a_crash(self, tmp_path: Path) -> None:
        folder = write_study(
            tmp_path / "mixed", tasks=("CartPole",), settings=("plain",), optimizers=("adam", "sgd"), seeds=2
        )
        summary = folder / "comparison/CartPole/plain/sgd/default/s101/summary.json"
        summary.write_text(summary.read_text().replace('"protocol": "control"', '"protocol": "sticky"'))
        found = dict(catalog.figures(StudyData(dataset.load(folder), repetitions=100), ["final-scores"]))
        [one] = found["final-scores"]
        assert isinstance(one, Omitted)
        assert "two protocols" in one.reason


class TestCensored:
    def test_never_reached_is_infinite_in_the_csv(self, figures: dict[str, Figure], tmp_path: Path) -> None:
        figure = figures["time-to-target"]
        [one] = [one for one in panel(figure, "Acrobot", "plain").series if one.label == "sgd"]
        assert np.isposinf(one.x).all()
        write_csv(figure, tmp_path / "times.csv")
        rows = list(csv.DictReader(io.StringIO((tmp_path / "times.csv").read_text())))
        [row] = [row for row in rows if (row["task"], row["setting"], row["series"]) == ("Acrobot", "plain", "sgd")]
        assert SEEDS < 5  # too few for a median
        assert (row["median_ttt_steps"], row["high"], row["n"]) == ("inf", "too few runs", str(SEEDS))

    def test_the_axis_goes_beyond_the_run(self, figures: dict[str, Figure]) -> None:
        figure = figures["time-to-target"]
        assert all(panel.beyond == STEPS for panel in figure.panels)
        assert all(limits[0][1] > 1.1 * STEPS for limits in axis_limits(figure))


class TestTable:
    def test_exactly_what_is_drawn(self, figures: dict[str, Figure]) -> None:
        for figure in figures.values():
            header, rows = figure.table()
            assert len(rows) == sum(one.x.size for panel in figure.panels for one in panel.series)
            assert all(len(row) == len(header) for row in rows)
        header, rows = figures["learning-curves"].table()
        assert header == ["task", "setting", "series", "step", "iqm_score", "low", "high", "n"]
        one = figures["learning-curves"].panels[0].series[0]
        assert rows[0][2:] == [one.label, one.x[0], one.y[0], one.low[0], one.high[0], SEEDS]  # type: ignore[index]


class TestLooks:
    def test_ten_optimizers_are_all_different_without_colour_too(self) -> None:
        names = [*list(style.KNOWN)[2:], "ours-1", "ours-2"]
        looks = style.looks(names)
        assert len({(look.colour, look.dash) for look in looks.values()}) == len(names)
        assert len({look.marker for look in looks.values()}) == len(names)

    def test_new_names_take_free_colours(self) -> None:
        looks = style.looks(["adam", "zclip", "agc"])
        assert len({look.colour for look in looks.values()}) == 3
        assert looks["adam"] == style.KNOWN["adam"]

    def test_order(self) -> None:
        assert style.order(["zclip", "sgd", "adam", "asgc"]) == ["asgc", "adam", "sgd", "zclip"]
        assert style.natural_order(["b", "a", "plain"]) == ["plain", "a", "b"]


class TestLimits:
    def test_shared_axes_have_the_limits_of_all_data(self) -> None:
        panels = [
            Panel("a", name, Axis(), Axis(share=share), (series("s", [0, 1], values, low=values, high=[9, 9]),))
            for name, share, values in (("one", "y", [0, 1]), ("two", "y", [-5, 2]), ("alone", "", [4, 6]))
        ]
        one, two, alone = (limits for _, limits in axis_limits(Figure("f", "f", "", tuple(panels))))
        assert one == two == pytest.approx((-5 - 0.7, 9 + 0.7))  # bands count, 5 % on each side
        assert alone == pytest.approx((4 - 0.25, 9 + 0.25))

    def test_logarithmic_axes_leave_out_what_is_not_positive(self) -> None:
        drawn = Panel("", "", Axis(log=True), Axis(), (series("s", [0, 0.01, 100], [1, 2, 3]),), (Mark("y", 10),))
        [(x, y)] = axis_limits(Figure("f", "f", "", (drawn,)))
        assert x == pytest.approx((0.01 / 10**0.16, 100 * 10**0.16))
        assert y[1] > 10  # a mark is never outside

    def test_own_limits_go_first_and_no_data_is_no_crash(self) -> None:
        drawn = Panel("", "", Axis(low=0, high=7), Axis(), (series("s", [], []),))
        assert axis_limits(Figure("f", "f", "", (drawn,))) == [((0, 7), (-0.05, 1.05))]


class TestLogarithmicTicks:
    @pytest.mark.parametrize("factor", [1.1, 1.3, 1.6, 2.5, 5, 9, 20, 99, 101, 1e3, 1e5, 1e8, 1e16])
    @pytest.mark.parametrize("low", [1e-12, 3.1e-5, 0.0104, 0.31, 0.95, 1.05, 6.1, 2.3e4])
    def test_there_are_several_and_they_lie_on_the_axis(self, low: float, factor: float) -> None:
        high = low * factor
        for axis, limits in (
            (Axis(log=True), (low, high)),
            (Axis(exponent=True), (np.log10(low), np.log10(high))),
        ):
            places, texts = zip(*ticks(axis, limits), strict=True)
            assert 3 <= len(set(texts)) == len(places) <= 9
            assert list(places) == sorted(places)
            assert limits[0] - 1e-9 <= places[0]
            assert places[-1] <= limits[1] + 1e-9

    @pytest.mark.parametrize(
        ("limits", "texts"),
        [
            ((0.9, 1100), "1 10 100 1000"),
            ((0.9e-4, 0.11), "10⁻⁴ 10⁻³ 10⁻² 10⁻¹"),
            ((0.25, 40), "0.3 1 3 10 30"),
            ((0.004, 0.06), "0.005 0.01 0.02 0.05"),
            ((2.9e-5, 4.1e-5), "3·10⁻⁵ 3.5·10⁻⁵ 4·10⁻⁵"),
            ((1e-12, 1e4), "10⁻¹² 10⁻⁹ 10⁻⁶ 10⁻³ 10⁰ 10³"),
        ],
    )
    def test_in_words(self, limits: tuple[float, float], texts: str) -> None:
        assert " ".join(text for _, text in ticks(Axis(log=True), limits)) == texts

    def test_given_ones_stay_and_linear_axes_have_none(self) -> None:
        given = ((1.0, "1"), (30.0, "30"))
        assert ticks(Axis(log=True, ticks=given), (0.5, 60)) == given
        assert ticks(Axis(), (0, 1)) == ()

    def test_of_all_figures(self, figures: dict[str, Figure]) -> None:
        log = 0
        for figure in figures.values():
            for panel, limits in zip(figure.panels, axis_limits(figure), strict=True):
                for axis, ends in zip((panel.x, panel.y), limits, strict=True):
                    log += axis.log or axis.exponent
                    assert len(ticks(axis, ends)) > 1 or not (axis.log or axis.exponent)
        assert log > 10


class TestEveryEvaluation:
    def test_steps_that_only_some_runs_have(self) -> None:
        how, key = Bootstrap(repetitions=100), RunKey(optimizer="adam")
        curves = [(np.array([1, 2, 4]), np.array([1.0, 2.0, 4.0])), (np.array([2, 3, 4]), np.array([3.0, 5.0, 6.0]))]
        found = band_of(key, curves, how)
        assert found.n is not None
        assert found.low is not None
        assert (found.x.tolist(), found.y.tolist(), found.n.tolist()) == ([1, 2, 3, 4], [1, 2.5, 5, 5], [1, 2, 1, 2])
        both = how.band(np.array([[2.0, 4.0], [3.0, 6.0]]))
        np.testing.assert_array_equal(found.low[[1, 3]], both.low)
        assert np.isnan(found.low[[0, 2]]).all()  # a single run has no interval

    def test_what_no_run_has_is_no_point(self) -> None:
        assert band_of(RunKey(), [(np.array([], dtype=int), np.array([]))], Bootstrap(repetitions=100)).x.size == 0

    def test_one_seed_evaluated_at_other_steps(self, folder: Path, tmp_path: Path) -> None:
        runs = Path(shutil.copytree(folder / "comparison/CartPole/plain/adam/default", tmp_path / "runs"))
        metrics = runs / "s101" / "metrics.jsonl"
        metrics.write_text(metrics.read_text().replace(f'"step": {STEPS // EVALUATIONS},', '"step": 1234,'))
        [[figure]] = [found for _, found in catalog.figures(StudyData(dataset.load(runs)), ["learning-curves"])]
        assert isinstance(figure, Figure)
        [one] = figure.panels[0].series
        assert one.n is not None
        assert one.x.tolist()[:3] == [1234, STEPS // EVALUATIONS, 2 * STEPS // EVALUATIONS]
        assert one.n.tolist()[:3] == [1, SEEDS - 1, SEEDS]
        assert one.x.size == EVALUATIONS + 1


class TestManyOptimizers:
    @pytest.fixture
    def crowd(self) -> Figure:
        names = [f"rule-{number:02d}" for number in range(11)]
        lines = tuple(series(name, [1, 2], [3, 4]) for name in ("adam", *names))
        panels = tuple(Panel(task, setting, Axis(), Axis(share=task), lines) for task in "AB" for setting in ("p", "q"))
        return Figure("learning-rate", "Learning rate", "Caption.", panels, names=("task", "setting", "lr", "iqm"))

    def test_each_has_its_row_with_the_baseline_in_grey(self, crowd: Figure) -> None:
        [figure] = apart(crowd, "adam")
        assert isinstance(figure, Figure)
        assert len(figure.panels) == 11 * 4
        assert figure.rows() == crowd.labels()[1:]
        assert figure.column_names() == ["A, p", "A, q", "B, p", "B, q"]
        for panel in figure.panels:
            assert [(one.label, one.role) for one in panel.series] == [("adam", "baseline"), (panel.row, "")]
        assert figure.legend() == ["adam"]  # the others are the names of the rows
        assert figure.caption.endswith("Grey in every panel: adam.")
        assert figure.table()[0][:5] == ["optimizer", "cell", "series", "lr", "iqm"]
        assert style.ROLES["baseline"].colour == style.PALE

    def test_of_many_cells_one_figure_a_task(self, crowd: Figure) -> None:
        more = tuple(replace(panel, column=panel.column + "2") for panel in crowd.panels)
        found = apart(replace(crowd, panels=crowd.panels + more), "adam")
        assert [one.name for one in found] == ["learning-rate-A", "learning-rate-B"]
        for one in found:
            assert isinstance(one, Figure)
            assert (len(one.panels), one.family) == (11 * 4, "learning-rate")

    def test_few_stay_together_and_nothing_is_lost_without_a_baseline(self, crowd: Figure) -> None:
        lines = crowd.panels[0].series[: len(style.COLOURS)]
        few = replace(crowd, panels=tuple(replace(panel, series=lines) for panel in crowd.panels))
        assert apart(few, "adam") == [few]
        [figure] = apart(crowd, None)
        assert isinstance(figure, Figure)
        assert figure.labels() == crowd.labels()

    @pytest.mark.parametrize("name", ["learning-rate", "learning-curves", "time-to-target-profiles", "robustness"])
    def test_of_a_study(self, study: StudyData, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        monkeypatch.setattr("evaluation.plots.study_data.TOGETHER", 1)
        for _, found in catalog.figures(study, [name]):
            for figure in found:
                assert isinstance(figure, Figure)
                roles = [[one.role for one in panel.series] for panel in figure.panels]
                assert roles == [["baseline", ""]] * len(figure.panels)
                assert "adam" not in figure.rows()


class TestBaseline:
    def test_of_a_part_without_adam(self, study: StudyData, monkeypatch: pytest.MonkeyPatch) -> None:
        rates = next(part for part in study.parts("grid") if part.name == "rates")
        assert study.baseline(rates) == "adam"
        rows = [row for row in study.runs if row["optimizer"] != "adam"]
        monkeypatch.setattr(study, "runs", rows)
        assert study.baseline(rates) == "sgd"  # not asgc, which is first in the order of legends
        assert study.baseline(study.parts("ablation")[0]) is None  # its own: the whole method


@pytest.mark.parametrize(
    ("counts", "text"),
    [([10, 10], "n = 10 seeds"), ([1], "n = 1 seed"), ([8, 10], "n = 8 to 10 seeds"), ([], "No seeds")],
)
def test_seeds_in_words(counts: list[int], text: str) -> None:
    assert seeds_in_words(counts).replace("\xa0", " ") == text


def test_best_of_k_trials_ends_with_all_tasks(study: StudyData, figures: dict[str, Figure]) -> None:
    figure = figures["best-of-trials"]
    places = [(one.row, one.column) for one in figure.panels]
    assert places == [("CartPole", "plain"), ("Acrobot", "plain"), ("all tasks", "plain")]
    drawn = line(panel(figure, "CartPole", "plain"), "adam")
    assert list(drawn) == [1, 2, 3, 4]
    query = "SELECT avg(final) AS mean FROM runs WHERE part = 'tuning' AND task = 'CartPole' AND optimizer = 'adam'"
    assert drawn[1] == pytest.approx(study.data.rows(query)[0]["mean"])
    assert "on a seed that had no part in the choice" in figure.caption


def test_scores_and_steps_are_called_what_they_are() -> None:
    assert words({"game": "Pong", "protocol": "classic"}) == words({}) == GAMES
    images = words({"task": "imagenet", "score": "top-1 accuracy, percent"})
    assert (images.score, images.steps, images.games) == ("top-1 accuracy, percent", "updates", False)
    assert words({"task": "wmt14", "metric": "bleu"}).evaluation == "score (BLEU)"
    assert words({"task": "of somebody's"}).score == "score"


def test_a_run_that_classifies_plays_nothing(tmp_path: Path) -> None:
    write_run(tmp_path / "run", seed=1, scores=[80.0, 85.0], task="imagenet", score="top-1 accuracy, percent")
    run = RunData(tmp_path / "run")
    [figure] = single_run.score(run)
    assert isinstance(figure, Figure)
    assert (figure.panels[0].x.label, figure.panels[0].y.label) == ("updates", "top-1 accuracy, percent")
    assert figure.caption.startswith("The score (top-1 accuracy, percent) at each scheduled evaluation")
    assert single_run.sync_response(run) == [Omitted("sync-response", "the run has no target network")]


def test_many_optimizers_share_no_colour_more_than_they_must() -> None:
    known = ["asgc-adam", "asgc-sgd", "adam", "adam+clip", "sgd", "sgd+clip", "rmsprop", "adagrad"]  # two are black
    found = style.looks([*known, *(f"mine-{i}" for i in range(8))])
    assert set(Counter(look.colour for look in found.values()).values()) == {2}
    assert len({(look.colour, look.dash) for look in found.values()}) == 16
