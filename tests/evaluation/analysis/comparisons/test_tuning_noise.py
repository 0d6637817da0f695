"""Tuning as part of the noise: what is drawn, what a comparison says of it, and whole studies under the null."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evaluation.analysis.comparisons.compare import compare
from evaluation.analysis.comparisons.selection import select
from evaluation.analysis.comparisons.trials import Trials
from evaluation.analysis.comparisons.tuning_noise import _noise, contrast_tuned, lucks, tuning_noise
from evaluation.analysis.comparisons.verdicts import Contrast, Verdict, contrast, judge
from evaluation.analysis.data import dataset
from evaluation.analysis.data.normalization import REFERENCES
from evaluation.analysis.stats.aggregate import Array, interquartile_mean
from evaluation.analysis.stats.bootstrap import Bootstrap
from tests.evaluation.run_trees import Planned, write_study

QUICK = Bootstrap(repetitions=400)
PARTS = {"tuning": {"kind": "search"}, "comparison": {"kind": "compare", "tuned": "tuning"}}


def luck(objective, values=None, repetitions=20_000, seed=0, grid=False) -> Array:
    one = Trials(np.asarray(objective, float), np.asarray(objective if values is None else values, float))
    (found,) = lucks([one], repetitions, [np.random.default_rng(seed)], grid)
    return found


def test_trials_that_are_alike_leave_nothing_to_luck():
    assert not luck([[3.0, 3.0]] * 5).any()
    noise = np.random.default_rng(0).normal(0, 1, (6, 2))
    noise -= noise.mean(axis=1, keepdims=True)  # seeds differ, trials do not
    assert np.abs(luck(noise)).max() < 1e-9


def test_without_noise_of_the_seeds_luck_is_the_best_of_as_many_trials():
    found = luck([[value] for value in (0.0, 1.0, 2.0)])  # one seed: as they are
    apart = math.sqrt(3 / 2) * math.sqrt(4 / 3)  # trials, and the mean that they tell
    best = np.array([1.0, 7.0, 19.0]) / 27  # of three drawn with replacement
    at = apart * np.array([0.0, 1.0, 2.0])
    assert found.mean() == pytest.approx(0, abs=1e-12)
    assert found.std() == pytest.approx(math.sqrt(best @ at**2 - (best @ at) ** 2), rel=0.02)


def test_the_noise_of_the_seeds_makes_choices_less_sure():
    """Two settings far apart for the metric, hardly for what the search sees."""
    values = np.repeat([[0.0], [1.0]], 4, axis=0) + np.zeros((8, 2))
    clear = np.where(values > 0, 10.0, 0.0) + np.array([-0.1, 0.1])
    unclear = np.where(values > 0, 0.3, 0.0) + np.array([-2.0, 2.0])
    assert luck(clear, values).std() < 0.1 < 0.4 < luck(unclear, values).std()


def test_a_whole_grid_is_tried_again_as_it_is_and_only_its_seeds_differ():
    apart = [[value] for value in (0.0, 1.0, 2.0)]
    assert not luck(apart, grid=True).any()
    assert luck(apart).any()
    # Two settings of the better half, alike for the search, 1 apart for the metric: each is chosen half of the time.
    noise = np.array([-0.3, 0.0, 0.3])
    objective = np.array([80.0, 80.0, 10.0, 12.0])[:, None] + noise
    values = np.array([0.0, 1.0, -50.0, -60.0])[:, None] + np.zeros(3)
    found = luck(objective, values, grid=True)
    assert found.std() == pytest.approx(0.5, rel=0.02)
    assert np.sqrt(_noise([np.random.default_rng(0).normal(0, 2, (5000, 3))], typical=True)) == pytest.approx(
        2, rel=0.03
    )
    diverging = objective + np.array([0.0, 0.0, 1.0, 1.0])[:, None] * np.array([-60.0, 0.0, 60.0])
    assert luck(diverging, values, grid=True).std() == pytest.approx(0.5, rel=0.02)


def test_luck_is_in_the_metric_and_grows_with_what_trials_differ_by():
    trials = np.random.default_rng(3).normal(0, 1, (5, 2))
    assert luck(trials, 100 * trials).std() == pytest.approx(100 * luck(trials).std(), rel=1e-6)


def tuned_study(tmp_path, parts=PARTS, spread=100.0, kind="compare", **labels):
    """adam at 300 and asgc at 340 in eight test runs each, whose four trials of two seeds differ by `spread`."""
    rng = np.random.default_rng(0)
    planned = []
    for name, score in (("adam", 300.0), ("asgc", 340.0)):
        planned += [
            Planned(name, seed, [0.0, *[score + 5 * rng.normal()] * 5], kind=kind, **labels) for seed in range(8)
        ]
        for trial, at in enumerate((-1.0, 0.0, 0.3, 0.6)):
            scores = [[0.0, *[300 + spread * at + 5 * rng.normal()] * 5] for _ in range(2)]
            planned += [
                Planned(name, 50 + seed, of, part="tuning", kind="search", variant=f"trial-{trial}")
                for seed, of in enumerate(scores)
            ]
    return write_study(tmp_path / "tiny", planned, parts=parts)


def test_a_comparison_of_tuned_methods_includes_the_search(tmp_path):
    folder = tuned_study(tmp_path)
    with dataset.load(folder) as data:
        tuned = compare(data, "comparison", how=QUICK)
        data.definition.pop("parts")  # as if the values had been given
        given = compare(data, "comparison", how=QUICK)
    (one,), (other,) = tuned.pairs, given.pairs
    assert (other.verdict, one.verdict) == (Verdict.BETTER, Verdict.NOT_SHOWN)
    assert one.p > 0.05 > other.p
    assert one.center.value == other.center.value
    for name in ("center", "baseline_center", "difference", "improvement"):
        wide, narrow = getattr(one, name), getattr(other, name)
        assert wide.low < narrow.low
        assert wide.high >= narrow.high
    (wide, *_), (narrow, *_) = tuned.cells, given.cells  # in the task's units
    assert wide.iqm.low < narrow.iqm.low - 10
    (wide, *_), (narrow, *_) = tuned.aggregates, given.aggregates
    range_of = REFERENCES["CartPole"].high - REFERENCES["CartPole"].low
    assert wide.value.low < narrow.value.low - 10 / range_of
    said = "tuning is included: the search tuning (4 trials x 2 seeds a method and task) is drawn again, too"
    assert said in tuned.pairs.note
    assert said in tuned.cells.note
    assert "tuning" not in given.pairs.note


def test_only_what_was_tuned_on_its_own_task_has_the_noise_of_a_search(tmp_path):
    """By optimizer, from the trials of another one's name; one setting for all tasks has none, and that is said."""
    tuned = {"adam": {"search": "tuning", "optimizer": "asgc"}}
    folder = tuned_study(tmp_path, {**PARTS, "comparison": {"kind": "compare", "tuned": tuned}})
    with dataset.load(folder) as data:
        one = compare(data, "comparison", how=QUICK)
        tuned["asgc"] = {"search": "tuning", "tasks": "all"}
        data.definition["parts"]["comparison"]["tuned"] = tuned
        both = compare(data, "comparison", how=QUICK)
        data.definition["parts"]["comparison"] = {"kind": "compare", "tuned": "tuning", "tuned_tasks": "all"}
        single = compare(data, "comparison", how=QUICK)
        data.definition.pop("parts")
        given = compare(data, "comparison", how=QUICK)
    for result in (one, both, single):
        wide = {str(row.method): row.iqm for row in result.cells}
        narrow = {str(row.method): row.iqm for row in given.cells}
        assert wide["asgc"] == narrow["asgc"]
        assert (wide["adam"].low < narrow["adam"].low - 10) == (result is not single)
    words = "the choice of one setting for all tasks is not drawn again: `single_setting` of tuning tells its luck"
    assert [words in result.pairs.note for result in (one, both, single)] == [False, True, True]
    included = "tuning is included: the search tuning (4 trials x 2 seeds a method and task) is drawn again, too"
    assert [included in result.pairs.note for result in (one, both, single)] == [True, True, False]


def test_without_trials_it_is_said_that_tuning_is_not_included(tmp_path):
    folder = tuned_study(tmp_path)
    for run in (folder / "tuning").rglob("summary.json"):
        run.unlink()
    with dataset.load(folder) as data:
        result = compare(data, "comparison", how=QUICK)
    assert "tuning is not included: the trials of tuning are not all here" in result.pairs.note
    assert next(iter(result.pairs)).verdict is Verdict.BETTER


def test_small_luck_leaves_a_difference_that_is_there(tmp_path):
    with dataset.load(tuned_study(tmp_path, spread=10.0)) as data:
        assert next(iter(compare(data, "comparison", how=QUICK).pairs)).verdict is Verdict.BETTER


def test_variants_of_one_tuned_optimizer_share_its_luck(tmp_path):
    """An ablation at the values of one search: the search moves all variants alike, so their differences stay."""
    rng = np.random.default_rng(0)
    parts = {"tuning": {"kind": "search"}, "parts": {"kind": "ablation", "tuned": "tuning"}}
    planned = [
        Planned("asgc", seed, [0.0, *[score + rng.normal()] * 5], part="parts", kind="ablation", variant=variant)
        for variant, score in (("full", 300.0), ("clip", 310.0))
        for seed in range(6)
    ]
    planned += [
        Planned("asgc", 50 + seed, [0.0, *[100.0 * trial] * 5], part="tuning", kind="search", variant=f"trial-{trial}")
        for trial in range(4)
        for seed in range(2)
    ]
    folder = write_study(tmp_path / "tiny", planned, parts=parts)
    with dataset.load(folder) as data:
        tuned = compare(data, "parts", how=QUICK)
        data.definition.pop("parts")
        given = compare(data, "parts", how=QUICK)
    (one,), (other,) = tuned.pairs, given.pairs
    assert one.verdict is other.verdict is Verdict.BETTER
    assert one.p == other.p
    assert one.center.low < other.center.low - 0.05


def test_a_time_to_the_target_is_tuned_as_well(tmp_path):
    with dataset.load(tuned_study(tmp_path, target=250.0)) as data:
        result = compare(data, "comparison", metric="ttt_steps", how=QUICK)
    assert "tuning is included" in result.pairs.note
    assert all(0 <= pair.center.low <= pair.center.high <= 1 for pair in result.pairs)


# Whole studies under the null -----------------------------------------------------------------------------------------

# Normalized mean scores over the run of the control study's tuning part (7 methods x 5 trials x 2 seeds on CartPole,
# Acrobot, LunarLander): standard deviation of a run within its trial, and of a test run; trials' true values are drawn
# from `TRIALS`, the trials' means, together by the share of their spread that is their seeds' noise.
WITHIN, TEST = (0.109, 0.143, 0.193), (0.147, 0.157, 0.143)
TRIALS = """
0.81 0.83 0.89 0.65 0.75  0.90 0.87 0.79 0.59 0.62  0.68 0.85 0.61 0.59 0.87  0.70 0.83 0.86 0.60 0.59
0.77 0.66 0.74 0.08 0.61  0.88 0.18 0.78 0.89 0.73  0.75 0.65 0.85 -0.03 0.76
0.62 0.10 0.73 0.00 0.67  0.53 0.42 0.78 0.00 0.49  0.53 0.65 0.58 0.00 0.00  0.69 0.55 0.41 0.00 0.48
0.22 0.74 0.27 0.00 0.63  0.70 0.13 0.49 0.06 0.48  0.24 0.71 0.58 0.00 0.67
0.39 0.30 0.29 0.30 0.29  0.33 0.27 0.11 0.12 0.13  0.47 0.15 0.43 0.12 0.45  0.41 0.25 0.33 0.15 0.27
0.28 0.22 0.22 -0.95 -0.03  0.17 -0.16 0.36 0.26 0.00  0.42 0.21 0.29 -0.79 0.29
"""


def study(rng, methods, trials=5, seeds=2, runs=10, gain=0.0):
    """Searches (task by task, of each method) and test runs (R, T) of each method, which are one and the same but that
    the second's scores are higher by `gain`."""
    searches, tests = [], []
    for means, within, test in zip(np.array(TRIALS.split(), float).reshape(3, -1), WITHIN, TEST, strict=True):
        true = means.mean() + math.sqrt(1 - within**2 / 2 / means.var(ddof=1)) * (means - means.mean())
        values = rng.choice(true, (methods, trials)) + gain * (np.arange(methods) == 1)[:, None]
        seen = values[..., None] + rng.normal(0, within, (methods, trials, seeds))
        chosen = values[np.arange(methods), seen.mean(axis=-1).argmax(axis=-1)]
        searches.append([Trials(one, one) for one in seen])
        tests.append(chosen[:, None] + rng.normal(0, test, (methods, runs)))
    return searches, list(np.stack(tests, axis=-1))


def judged(rng, methods, tuned=True, how=Bootstrap(repetitions=400), **options):  # noqa: B008  (frozen)
    """The verdicts on all methods but the first, which is the baseline."""
    searches, tests = study(rng, methods, **options)
    rngs = [np.random.default_rng(seed) for seed in rng.integers(2**31, size=methods)]
    drawn = [lucks(of_task, how.repetitions, rngs) for of_task in searches]
    moves = [np.stack([of_task[method] for of_task in drawn], axis=-1) for method in range(methods)]
    contrasts: list[Contrast] = []
    for x, of_x in zip(tests[1:], moves[1:], strict=True):
        one = contrast(x, tests[0], how)
        if tuned:
            one = contrast_tuned(one, x, tests[0], (of_x, moves[0]), how, interquartile_mean, True)
        contrasts.append(one)
    return judge(contrasts, how)


def claims(studies, methods, **options):
    """Share of studies with any claim, and with an interval of a difference that leaves out 0."""
    rng, any_claim, outside = np.random.default_rng(methods), 0, 0
    for _ in range(studies):
        found = judged(rng, methods, **options)
        any_claim += any(one.verdict is not Verdict.NOT_SHOWN for one in found)
        outside += any(not one.difference.low <= 0 <= one.difference.high for one in found)
    return any_claim / studies, outside / studies


def test_identical_methods_are_called_different_by_their_runs_alone_but_not_with_the_search():
    assert claims(30, 2, tuned=False)[0] > 0.15
    assert claims(30, 2)[0] <= 0.1
    assert claims(5, 2, gain=0.5)[0] == 1


@pytest.mark.slow
@pytest.mark.parametrize("methods", [2, 4, 7])
def test_false_claims_of_whole_studies(methods):
    """``python -m pytest -m slow -s tests/evaluation/analysis/comparisons/test_tuning_noise.py`` prints the shares."""
    studies = 400
    before, _ = claims(100, methods, tuned=False)
    share, outside = claims(studies, methods)
    print(
        f"\n{methods} identical methods, 5 trials x 2 seeds, 3 tasks, 10 test seeds: a claim in {share:.1%} of studies"
    )
    print(f"(without the search {before:.0%}); an interval of a difference without 0 in {outside:.1%}")
    assert max(share, outside) <= 0.05 + 1.65 * math.sqrt(0.05 * 0.95 / studies)


@pytest.mark.slow
@pytest.mark.parametrize(("trials", "seeds", "runs"), [(3, 2, 10), (10, 2, 10), (5, 1, 10), (5, 2, 3), (5, 2, 5)])
def test_false_claims_of_other_searches(trials, seeds, runs):
    share, _ = claims(400, 2, trials=trials, seeds=seeds, runs=runs)
    print(
        f"\n2 identical methods, {trials} trials x {seeds} seeds, {runs} test seeds: a claim in {share:.1%} of studies"
    )
    assert share <= 0.05 + 1.65 * math.sqrt(0.05 * 0.95 / 400)


@pytest.mark.slow
@pytest.mark.parametrize(("gain", "least"), [(0.1, 0.1), (0.2, 0.45), (0.3, 0.8)])
def test_what_differences_are_still_seen(gain, least):
    share, _ = claims(200, 2, gain=gain)
    print(f"\na method better by {gain:g} of the normalized score: seen in {share:.0%} of studies of two")
    assert share >= least


def test_searches_of_one_comparison_have_luck_of_their_own(tmp_path):
    """Two parts that tried the same, with the same results: what they would find another time is not the same."""
    rng = np.random.default_rng(0)
    planned = [Planned(name, seed, [0.0, *[300 + rng.normal()] * 5]) for name in ("adam", "asgc") for seed in range(8)]
    for trial, at in enumerate((-1.0, 0.0, 0.3, 0.6)):
        scores = [[0.0, *[300 + 100 * at + 5 * rng.normal()] * 5] for _ in range(2)]
        for part in ("one", "two"):
            planned += [
                Planned("adam", 50 + seed, of, part=part, kind="search", variant=f"trial-{trial}")
                for seed, of in enumerate(scores)
            ]
    tuned = {"adam": {"search": "one"}, "asgc": {"search": "two", "optimizer": "adam"}}
    search = {"kind": "search"}
    parts = {"one": search, "two": search, "comparison": {"kind": "compare", "tuned": tuned}}
    with dataset.load(write_study(tmp_path / "tiny", planned, parts=parts)) as data:
        noise = tuning_noise(data, select(data, "comparison"), QUICK)
    (draws,) = noise.draws.values()
    assert min(draws["adam"].std(), draws["asgc"].std()) > 10
    assert abs(np.corrcoef(draws["adam"], draws["asgc"])[0, 1]) < 0.2
