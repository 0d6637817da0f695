"""Claims about optimizers: numbers by hand, verdicts, refusals, and that losses are said as plainly as wins."""

from __future__ import annotations

import csv
import io
import math

import numpy as np
import pytest
from scipy import stats

from evaluation.analysis.comparisons.compare import compare
from evaluation.analysis.comparisons.selection import run_rows, select
from evaluation.analysis.comparisons.verdicts import Contrast, Verdict, judge
from evaluation.analysis.data import dataset
from evaluation.analysis.data.normalization import REFERENCES
from evaluation.analysis.data.run_key import ALL
from evaluation.analysis.stats.aggregate import interquartile_mean, probability_of_improvement
from evaluation.analysis.stats.bootstrap import Bootstrap, Estimate
from evaluation.cli.errors import UserError
from tests.evaluation.run_trees import Planned, write_study

QUICK = {"how": Bootstrap(repetitions=300)}
BETTER, WORSE, NOT_SHOWN = Verdict.BETTER, Verdict.WORSE, Verdict.NOT_SHOWN


def runs(optimizer, finals, **labels):
    """Runs of one optimizer whose final scores (means of the last five evaluations) are `finals`."""
    return [Planned(optimizer, seed, [final - 300, final - 2, final - 1, final, final + 1, final + 2], **labels)
            for seed, final in enumerate(finals, start=1)]  # fmt: skip


def load(tmp_path, planned):
    return dataset.load(write_study(tmp_path / "tiny", planned))


def cell(result, task, method):
    """The row of a method on a task."""
    [found] = [row for row in result.cells if (row.cell.task, row.method.name) == (task, method)]
    return found


def by_method(table):
    return {row.method.name: row for row in table}


ADAM = [300.0, 310.0, 320.0, 330.0, 340.0, 350.0]
GOOD = [400.0, 410.0, 420.0, 430.0, 440.0, 450.0]
BAD = [100.0, 110.0, 120.0, 130.0, 140.0, 150.0]
SAME = [299.0, 311.0, 319.0, 331.0, 339.0, 351.0]


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """asgc wins, sgd loses and rmsprop equals, on two tasks."""
    planned = [
        run
        for task, shift in (("CartPole", 0.0), ("Acrobot", -550.0))
        for name, finals in (("adam", ADAM), ("asgc", GOOD), ("sgd", BAD), ("rmsprop", SAME))
        for run in runs(name, [final + shift for final in finals], task=task, target=340.0 + shift)
    ]
    with load(tmp_path_factory.mktemp("four"), planned) as data:
        yield data


def test_cells_are_in_the_units_of_their_task(four):
    row = cell(compare(four, **QUICK), "Acrobot", "asgc")
    scores = np.array(GOOD) - 550
    assert (row.cell.setting, row.n, row.reached) == ("plain", 6, None)
    assert (row.mean.value, row.median.value) == (-125.0, -125.0)
    assert row.iqm.value == pytest.approx(stats.trim_mean(scores, 0.25))
    assert row.iqm == Bootstrap(repetitions=300).estimate(interquartile_mean, scores)


def test_aggregates_are_over_normalized_tasks(four):
    rows = {row.statistic: row for row in compare(four, **QUICK).aggregates if row.method.name == "asgc"}
    cartpole, acrobot = REFERENCES["CartPole"], REFERENCES["Acrobot"]
    one = (np.array(GOOD) - cartpole.low) / (cartpole.high - cartpole.low)
    other = (np.array(GOOD) - 550 - acrobot.low) / (acrobot.high - acrobot.low)
    both = np.stack([one, other], axis=1)
    assert rows["mean"].value.value == pytest.approx(both.mean())
    assert rows["median"].value.value == pytest.approx((one.mean() + other.mean()) / 2)
    assert rows["iqm"].value.value == pytest.approx(stats.trim_mean(both, 0.25, axis=None))
    assert rows["optimality_gap"].value.value == pytest.approx(1 - np.minimum(both, 1).mean())
    for row in rows.values():
        assert (row.group.group, row.cells, row.n) == ("plain", 2, 6)
        assert row.value.low < row.value.value < row.value.high


def test_wins_losses_and_draws(four):
    result = compare(four, **QUICK)
    pairs = by_method(result.pairs)
    assert list(pairs) == ["asgc", "rmsprop", "sgd"]
    assert {name: row.verdict for name, row in pairs.items()} == {"asgc": BETTER, "sgd": WORSE, "rmsprop": NOT_SHOWN}
    assert (pairs["asgc"].improvement.value, pairs["sgd"].improvement.value) == (1.0, 0.0)
    ways = math.comb(12, 6)
    assert pairs["asgc"].p == pytest.approx(2 / ways**2)
    assert pairs["asgc"].p_holm == pytest.approx(6 / ways**2)
    x, y = np.array([SAME, SAME]).T, np.array([ADAM, ADAM]).T
    assert pairs["rmsprop"].improvement.value == probability_of_improvement(x, y)
    for row in pairs.values():
        assert row.difference.value == pytest.approx(row.center.value - row.baseline_center.value)
        assert row.difference.low < row.difference.value < row.difference.high
    assert pairs["asgc"].difference.low > 0 > pairs["sgd"].difference.high


def test_every_claim_is_a_sentence_with_its_intervals(four):
    result = compare(four, **QUICK)
    asgc, rmsprop, sgd = result.sentences
    row = result.pairs.records[0]
    y = row.baseline_center
    assert asgc == (
        f"plain: asgc reaches an IQM of {row.center.value:.3g} [{row.center.low:.3g}, {row.center.high:.3g}] against "
        f"{y.value:.3g} [{y.low:.3g}, {y.high:.3g}] of adam (final score, "
        "normalized; 2 cells x 6 runs); probability of improvement 1 [0.758, 1], Holm-adjusted p < 0.001: better."
    )
    assert sgd.endswith("worse.")
    assert rmsprop.endswith("no difference shown.")
    for row in result.cell_pairs:
        assert row.sentence.startswith(f"{row.cell.task}, plain: {row.method} reaches an IQM of ")
        assert row.sentence.count("[") == 3


def test_cell_pairs_are_corrected_for_their_number(four):
    rows = compare(four, **QUICK).cell_pairs
    assert len(rows) == 6
    best = [row for row in rows if row.p == min(other.p for other in rows)]
    assert [row.p for row in best] == [pytest.approx(2 / math.comb(12, 6))] * 4
    assert [row.p_holm for row in best] == [pytest.approx(6 * 2 / math.comb(12, 6))] * 4


def test_a_seed_gives_one_result_and_is_recorded(four):
    first, again, other = (compare(four, how=Bootstrap(seed, repetitions=300)) for seed in (3, 3, 4))
    assert (first.how.seed, first.how.repetitions, first.how.level) == (3, 300, 0.95)
    assert first.pairs.rows() == again.pairs.rows() != other.pairs.rows()
    assert first.cells.csv() == again.cells.csv()
    assert "seed 3" in first.cells.note


def test_times_count_missed_targets_and_lower_is_better(four):
    result = compare(four, metric="ttt_steps", **QUICK)
    asgc, adam, sgd = (cell(result, "CartPole", name) for name in ("asgc", "adam", "sgd"))
    assert (asgc.reached, asgc.mean.value, asgc.median.value) == (6, 2000.0, 2000.0)
    assert (sgd.reached, sgd.mean.value, sgd.median.value, sgd.iqm.value) == (0, 6000.0, math.inf, math.inf)
    assert (adam.reached, adam.mean.value, adam.median.value) == (2, (4 * 6000 + 4000 + 2000) / 6, math.inf)
    pairs = by_method(result.pairs)
    assert (pairs["asgc"].verdict, pairs["sgd"].verdict) == (BETTER, NOT_SHOWN)
    assert pairs["sgd"].improvement.value == pytest.approx(4 / 6 / 2)  # where both missed it: a draw
    assert pairs["asgc"].center.value == pytest.approx(2000 / 6000)
    assert pairs["sgd"].center.value == 1.0
    assert "a run that misses it counts with its whole length" in pairs["sgd"].sentence
    reached = {row.method.name: row.value.value for row in result.aggregates if row.statistic == "reached"}
    assert (reached["asgc"], reached["sgd"]) == (1.0, 0.0)


def test_seconds_and_samples(four):
    for metric, unit in (("ttt_samples", " samples on average"), ("ttt_seconds", " s on average")):
        result = compare(four, metric=metric, **QUICK)
        assert result.pairs.records[0].verdict == BETTER
        assert unit in result.cell_pairs.records[0].sentence


def test_the_area_under_the_curve(four):
    row = cell(compare(four, metric="auc", **QUICK), "CartPole", "adam")
    curves = [np.array([final - 300, final - 2, final - 1, final, final + 1, final + 2]) for final in ADAM]
    assert row.mean.value == pytest.approx(np.mean([np.trapezoid(curve) / 5 for curve in curves]))


def test_spread_is_a_share_of_the_reference_range_and_lower_is_better(tmp_path):
    planned = [Planned("adam", seed, [300.0, 340.0] * 3 + [seed]) for seed in range(6)]
    planned += [Planned("asgc", seed, [300.0, 301.0] * 3 + [300.0 + seed / 10]) for seed in range(6)]
    with load(tmp_path, planned) as data:
        (pair,) = compare(data, metric="std", **QUICK).pairs
    assert pair.verdict == BETTER
    assert pair.center.value < pair.baseline_center.value < 1
    assert pair.sentence.startswith("plain: the scores of asgc spread by 0.00")


def test_settings_are_groups_and_all_of_them_the_first(tmp_path):
    planned = [
        run
        for setting in ("plain", "mse")
        for name, finals in (("adam", ADAM), ("asgc", GOOD if setting == "mse" else SAME))
        for run in runs(name, finals, setting=setting)
    ]
    with load(tmp_path, planned) as data:
        result = compare(data, **QUICK)
    whole, mse, plain = result.pairs
    assert [(row.cell.group, row.cells) for row in result.pairs] == [(ALL, 2), ("mse", 1), ("plain", 1)]
    assert (mse.verdict, plain.verdict) == (BETTER, NOT_SHOWN)
    assert whole.improvement.value == pytest.approx((mse.improvement.value + plain.improvement.value) / 2)
    assert whole.p < plain.p
    assert [row.cell.group for row in result.cell_pairs] == ["mse", "plain"]


def test_an_optimizer_without_runs_on_a_task_is_named_and_left_out_of_the_aggregate(tmp_path):
    planned = runs("adam", ADAM) + runs("asgc", GOOD) + runs("adam", ADAM, task="Acrobot")
    planned += runs("sgd", BAD) + runs("sgd", BAD[:4], task="Acrobot")
    with load(tmp_path, planned) as data:
        result = compare(data, **QUICK)
    assert [row.method.name for row in result.pairs] == ["sgd"]
    assert [(row.cell.task, row.method.name) for row in result.cell_pairs] == [
        ("Acrobot", "sgd"),
        ("CartPole", "asgc"),
        ("CartPole", "sgd"),
    ]
    assert "asgc is left out of plain: it has no runs on Acrobot (plain)" in result.notes
    assert "Acrobot (plain): fewer than 6 runs of sgd 4" in result.notes
    assert any(
        note.startswith("some cells have 4 runs: where half of the seeds collapse, they are") for note in result.notes
    )


def test_a_task_without_published_scores_says_how_it_was_normalized(tmp_path):
    with load(tmp_path, runs("adam", ADAM, task="Catch", target=400.0) + runs("asgc", GOOD, task="Catch")) as data:
        result = compare(data, **QUICK)
    assert "Catch has no published reference scores: 0 is its worst run (300), 1 is the target (400)" in result.notes
    assert {task: str(to) for task, to in result.references.items()} == {
        "Catch": "0 = 300, 1 = 400; worst run and the target"
    }


def test_references_of_the_definition_come_before_all_others_and_settle_what_diverged(tmp_path):
    lost = [*ADAM[:-1], math.nan]
    with load(tmp_path, runs("adam", ADAM, task="Catch") + runs("asgc", lost, task="Catch")) as data:
        data.definition["references"] = {"Catch": [200, 600], "Pong": [0, 1]}
        result = compare(data, **QUICK)
        assert str(data.reference("Pong")) == "0 = 0, 1 = 1; the study's definition"
        assert data.reference("Breakout").low == 1.7
        worst = min(row["final"] for row in run_rows(data, "final"))
    assert result.references["Catch"].ends == "0 = 200, 1 = 600"
    assert 200 - 1e-3 < worst < 200  # a hair below a random policy


def test_ablations_are_compared_with_the_full_method(tmp_path):
    parts = {"part": "ablations", "kind": "ablation"}
    planned = runs("asgc", ADAM, variant="full", **parts) + runs("asgc", BAD, variant="clip-only", **parts)
    with load(tmp_path, planned) as data:
        result = compare(data, "ablations", **QUICK)
    assert (result.baseline.name, [row.method.name for row in result.pairs]) == ("full", ["clip-only"])
    assert result.pairs.records[0].verdict == WORSE


def test_points_of_a_grid_are_settings_of_their_own(tmp_path):
    planned = [
        run
        for rate in (1e-3, 1e-2)
        for name, finals in (("adam", ADAM if rate < 1e-2 else BAD), ("asgc", SAME))
        for run in runs(name, finals, part="rates", kind="grid", variant=f"lr-{rate}", lr=rate)
    ]
    with load(tmp_path, planned) as data:
        rows = compare(data, "rates", **QUICK).cell_pairs
    assert [(row.cell.group, row.verdict) for row in rows] == [
        ("plain, lr-0.001", NOT_SHOWN),
        ("plain, lr-0.01", BETTER),
    ]


def test_random_settings_are_the_sample_of_a_robustness_part(tmp_path):
    labels = {"part": "random", "kind": "robustness"}
    planned = []
    for number, (adam, asgc) in enumerate(zip(BAD, GOOD, strict=True)):
        variant = f"draw-{number:03d}"
        planned += runs("adam", [adam - 5, adam + 5], variant=variant, lr=1e-3 * (number + 1), **labels)
        planned += runs("asgc", [asgc - 5, asgc + 5], variant=variant, lr=1e-3 * (number + 1), **labels)
    with load(tmp_path, planned) as data:
        result = compare(data, "random", **QUICK)
    (pair,) = result.pairs
    assert pair.n == 6
    assert "1 cell x 6 settings" in pair.sentence
    assert [row.mean.value for row in result.cells] == [pytest.approx(np.mean(BAD)), pytest.approx(np.mean(GOOD))]


def test_tables_as_rows_and_csv(four, tmp_path):
    table = compare(four, **QUICK).pairs
    table.write_csv(tmp_path / "pairs.csv")
    read = list(csv.DictReader(io.StringIO((tmp_path / "pairs.csv").read_text())))
    assert [row["method"] for row in read] == [row["method"] for row in table.rows()]
    assert [float(row["p"]) for row in read] == [row.p for row in table]
    assert len(table) == len(read) == 3


@pytest.mark.parametrize(
    ("low", "high", "p", "expected"),
    [
        (0.51, 0.9, 0.04, BETTER),
        (0.51, 0.9, 0.06, NOT_SHOWN),
        (0.49, 0.9, 0.001, NOT_SHOWN),
        (0.5, 0.9, 0.001, NOT_SHOWN),
        (0.1, 0.49, 0.04, WORSE),
        (0.1, 0.49, 0.06, NOT_SHOWN),
    ],
)
def test_a_verdict_needs_interval_and_test(low, high, p, expected):
    improvement = Estimate((low + high) / 2, low, high)
    one = Contrast(Estimate(1.0), Estimate(0.5), np.linspace(0.0, 1.0, 100), p, improvement)
    [judged] = judge([one], Bootstrap())
    assert (judged.verdict, judged.p_holm) == (expected, p)


# What is refused -----------------------------------------------------------------------------------------------------


def refused(tmp_path, planned, part=None, **options):
    with load(tmp_path, planned) as data, pytest.raises(UserError) as caught:
        compare(data, part, **options)
    return str(caught.value)


def test_scores_of_two_protocols_never_mix(tmp_path):
    planned = runs("adam", ADAM) + runs("asgc", GOOD, signature={"protocol": "sticky"})
    message = refused(tmp_path, planned)
    assert message.startswith(
        "scores of two protocols cannot be put together: protocol is made up and sticky in runs of"
    )
    assert "comparison/CartPole/plain/adam/default/s1" in message
    assert "comparison/CartPole/plain/asgc/default/s1" in message


def test_other_fields_of_a_signature_are_named(tmp_path):
    planned = runs("adam", ADAM) + runs("asgc", GOOD, setting="mse", signature={"mode": 4})
    assert "mode is 4 and not given" in refused(tmp_path, planned)


def test_versions_may_differ_and_are_noted(tmp_path):
    planned = runs("adam", ADAM) + runs("asgc", GOOD, signature={"version": "0.2", "envpool": "9"})
    with load(tmp_path, planned) as data:
        notes = compare(data, **QUICK).notes
    assert "the runs are of 2 versions of asgc: 0 (6 runs), 0.2 (6 runs)" in notes
    assert "the runs are of 2 versions of EnvPool: 0 (6 runs), 9 (6 runs)" in notes


def test_two_budgets(tmp_path):
    planned = [*runs("adam", ADAM), Planned("asgc", 1, [1.0] * 7)]
    assert "have two budgets, 6,000 and 7,000 steps" in refused(tmp_path, planned)


def test_two_learning_rates_and_two_runs_of_a_seed(tmp_path):
    planned = [*runs("adam", ADAM[:1]), Planned("adam", 2, [1.0] * 6, lr=0.1)]
    assert "runs of several learning rates (0.001, 0.1)" in refused(tmp_path / "a", planned)
    twice = [Planned("adam", 1, [1.0] * 6), Planned("sgd", 1, [1.0] * 6)]
    study = write_study(tmp_path / "b", twice)
    with dataset.load(study) as data:
        data.connection.execute("INSERT INTO runs SELECT * REPLACE ('copy' AS run) FROM runs WHERE optimizer = 'adam'")
        with pytest.raises(UserError, match=r"adam on CartPole \(plain\) has 2 runs of seed 1"):
            compare(data)


def test_unknown_names(four):
    for options, message in (
        ({"part": "comparisons"}, "has no part 'comparisons'; did you mean 'comparison'"),
        ({"baseline": "adamm"}, "has no runs of the baseline 'adamm'; did you mean 'adam'"),
        ({"metric": "finall"}, "unknown metric 'finall'; did you mean 'final'"),
    ):
        with pytest.raises(UserError) as caught:
            compare(four, **options)
        assert message in str(caught.value)


def test_which_part_and_which_baseline(tmp_path):
    both = runs("adam", ADAM) + runs("adam", ADAM, part="stress")
    assert "2 parts of kind compare: name a part of comparison, stress" in refused(tmp_path / "a", both)
    assert "part comparison has no adam: say --baseline, one of asgc, sgd" in refused(
        tmp_path / "b", runs("asgc", ADAM) + runs("sgd", ADAM)
    )
    assert "part tuning is a search" in refused(
        tmp_path / "c", runs("adam", ADAM, part="tuning", kind="search"), "tuning"
    )
    assert "no finished runs (1 folders were left out)" in refused(tmp_path / "d", [Planned("adam", 1, None)])


def test_a_time_needs_a_target(tmp_path):
    assert "no run of part comparison has a target" in refused(
        tmp_path / "a", runs("adam", ADAM, target=None), metric="ttt_steps"
    )
    planned = runs("adam", ADAM, target=None) + runs("adam", ADAM, task="Acrobot")
    with load(tmp_path / "b", planned) as data:
        selection = select(data, metric="ttt_steps")
    assert list(map(str, selection.cells)) == ["Acrobot (plain)"]
    assert selection.notes == ["CartPole (plain) has no target: left out"]


def test_of_single_runs_there_is_no_interval_and_no_claim(tmp_path):
    with load(tmp_path, runs("adam", ADAM) + runs("asgc", GOOD[:1])) as data:
        result = compare(data, **QUICK)
    row = cell(result, "CartPole", "asgc")
    assert row.iqm.value == GOOD[0]
    assert np.isnan([row.iqm[1:], row.mean[1:]]).all()
    (pair,) = result.pairs
    assert pair.verdict == NOT_SHOWN
    assert np.isnan([pair.difference[1:], pair.improvement[1:]]).all()
    assert "[too few runs]" in pair.sentence
    assert "nan" not in pair.sentence
    assert "some cells have 1 run: too few for an interval" in result.notes
