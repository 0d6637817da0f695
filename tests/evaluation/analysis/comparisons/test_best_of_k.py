"""The expected score of the best of k trials: by hand, on held-out seeds, as a table and a picture."""

from __future__ import annotations

import itertools
import math
import re

import numpy as np
import pytest

from evaluation.analysis import compare_cli
from evaluation.analysis.comparisons.best_of_k import best_of_k, expected_best
from evaluation.analysis.data import dataset
from evaluation.analysis.data.normalization import REFERENCES
from evaluation.analysis.stats.bootstrap import Bootstrap
from evaluation.cli.errors import UserError
from tests.evaluation.run_trees import Planned, write_study

QUICK = {"how": Bootstrap(repetitions=300)}


def test_the_mean_over_all_choices_of_k():
    rng = np.random.default_rng(0)
    objective, values = rng.normal(size=(2, 6))
    found = expected_best(objective, values)
    for k in range(1, 7):
        best = [values[max(some, key=lambda i: objective[i])] for some in itertools.combinations(range(6), k)]
        assert found[k - 1] == pytest.approx(np.mean(best))
    assert found[0] == pytest.approx(values.mean())
    assert found[-1] == values[objective.argmax()]
    many = rng.normal(size=(3, 4, 6))
    assert expected_best(many, many)[2, 1] == pytest.approx(expected_best(many[2, 1], many[2, 1]))


def test_it_is_unbiased():
    """Of the best of 3 of uniform numbers, 3/4, from five of them; drawing with replacement would give less."""
    trials = np.random.default_rng(1).uniform(size=(20_000, 5))
    assert expected_best(trials, trials)[:, 2].mean() == pytest.approx(0.75, abs=0.005)


SCORES = {  # trials x two seeds
    ("CartPole", "adam"): ((100.0, 300.0), (200.0, 250.0), (400.0, 150.0)),
    ("Acrobot", "adam"): ((-400.0, -300.0), (-200.0, -250.0), (-100.0, -150.0)),
    ("CartPole", "asgc"): ((100.0, 200.0), (200.0, 250.0), (300.0, 350.0)),
}


def searched(tmp_path, seeds=2, scores=SCORES, objective="final"):
    planned = [
        Planned(name, seed, [0.0, *[score] * 5], task=task, part="tuning", kind="search", variant=f"trial-{trial}")
        for (task, name), trials in scores.items()
        for trial, values in enumerate(trials)
        for seed, score in enumerate(values[:seeds], start=1)
    ]
    parts = {"tuning": {"kind": "search", "objective": objective}}
    return write_study(tmp_path / "tiny", planned, parts=parts)


def test_scores_are_those_of_a_seed_that_had_no_part_in_the_choice(tmp_path):
    with dataset.load(searched(tmp_path)) as data:
        rows = {(row.cell.task, row.method.name, row.k): row for row in best_of_k(data, "tuning", **QUICK)}
    last = rows["CartPole", "adam", 3]
    assert (last.trials, last.seeds) == (3, 2)
    assert last.tuning_score.value == 275.0  # the third trial has the highest mean
    assert last.score.value == np.mean([150.0, 100.0])  # the third, chosen by seed 1; the first, chosen by seed 2
    assert rows["CartPole", "adam", 1].score.value == pytest.approx(np.mean([200.0, 225.0, 275.0]))
    over_all = rows["", "adam", 3]
    normalized = [
        (score - REFERENCES[task].low) / (REFERENCES[task].high - REFERENCES[task].low)
        for task, score in (("CartPole", 125.0), ("Acrobot", -125.0))
    ]
    assert over_all.score.value == pytest.approx(np.mean(normalized))
    assert ("", "asgc", 3) not in rows  # it was not tuned on all tasks
    assert all(row.score.low <= row.score.value <= row.score.high for row in rows.values())
    ends = [rows["CartPole", "adam", k].score for k in (1, 2, 3)]
    assert min(one.low for one in ends) >= 100.0
    assert max(one.high for one in ends) <= 400.0  # no run reached more


def test_one_seed_has_a_tuning_score_only_and_two_trials_no_interval(tmp_path):
    scores = {key: trials[:2] for key, trials in SCORES.items()}
    with dataset.load(searched(tmp_path, 1, scores)) as data:
        rows = list(best_of_k(data, "tuning", **QUICK))
    assert all(math.isnan(row.score.value) and row.shown == row.tuning_score for row in rows)
    assert all(math.isnan(row.tuning_score.low) for row in rows)
    assert rows[1].tuning_score.value == max(trial[0] for trial in scores[rows[1].cell.task, rows[1].method.name])


def test_the_objective_chooses_and_the_metric_counts(tmp_path):
    with dataset.load(searched(tmp_path, objective="curve")) as data:
        finals = best_of_k(data, "tuning", **QUICK)
        areas = best_of_k(data, "tuning", metric="auc", **QUICK)
        assert [row.k for row in finals] == [row.k for row in areas]
        pairs = [two for two in zip(areas, finals, strict=True) if two[0].cell.task == "CartPole"]
        assert all(area.score.value < final.score.value for area, final in pairs)
        with pytest.raises(UserError, match="the best of k trials is shown for a score"):
            best_of_k(data, "tuning", metric="ttt_steps")
        with pytest.raises(UserError, match="part comparison is no search: tiny has tuning"):
            best_of_k(data, "comparison")


def test_compare_of_a_search_prints_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    folder = searched(tmp_path)
    argv = [str(folder), "--part", "tuning", "--out", str(tmp_path / "out"), "--repetitions", "300"]
    assert compare_cli.main(argv) == 0
    printed = capsys.readouterr().out
    assert "best of 1" in printed
    assert "best of 3" in printed
    assert "scores on a seed that had no part in the choice" in printed
    header, *lines = (tmp_path / "out" / "tuning-final-best-of-k.csv").read_text().splitlines()
    assert header.startswith("part,task,setting,method,k,trials,seeds,score,low,high,tuning_score")
    assert len(lines) == 4 * 3


@pytest.mark.parametrize(("columns", "tables"), [("160", 1), ("80", 2), ("55", 3), ("", 1)])
def test_no_cell_of_a_table_is_broken(tmp_path, capsys, monkeypatch, columns, tables):
    """On a terminal, columns that do not fit come in tables below; a pipe ("") has no width."""
    monkeypatch.setenv("COLUMNS", columns or "20")
    if columns:
        monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal
    argv = [str(searched(tmp_path)), "--part", "tuning", "--repetitions", "300"]
    assert compare_cli.main(argv) == 0
    lines = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in capsys.readouterr().out.splitlines()]
    assert sum(line.startswith("task ") for line in lines) == tables
    assert re.findall(r"best of \d", " ".join(line for line in lines if line.startswith("task "))) == [
        *("best of 1", "best of 2", "best of 3")
    ]
    rows = [line for line in lines if re.match("CartPole|Acrobot|all  ", line)]
    assert len(rows) == 4 * tables
    assert all(line.count("[") == line.count("]") for line in rows)
    assert sum(line.count("[") for line in rows) == 12
    if columns:
        assert max(map(len, rows)) <= int(columns)
