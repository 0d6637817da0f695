"""The learning rates of a grid at which a method is near the best."""

from __future__ import annotations

import itertools
import math

import pytest

from evaluation.analysis.comparisons.usable_range import is_grid, usable_range
from evaluation.analysis.data import dataset
from evaluation.analysis.data.normalization import REFERENCES
from evaluation.analysis.stats.bootstrap import Bootstrap
from evaluation.cli.errors import UserError
from evaluation.main import main
from tests.evaluation.run_trees import Planned, write_study

QUICK = {"how": Bootstrap(repetitions=300)}
RATES = (1e-3, 2e-3, 4e-3, 8e-3, 16e-3)
SPACE = {"optimizer.lr": {"choices": list(RATES)}, "optimizer.eps": {"choices": [1e-8, 1e-2]}}
WIDE = {1e-8: (300, 480, 490, 470, 100), 1e-2: (475, 470, 460, 480, 478)}  # at its best, eps 1e-8, three rates in a row
NARROW = {1e-8: (40, 100, 200, 300, 40), 1e-2: (479, 100, 486, 300, 479)}  # best in the middle, and near at both ends
LOW = {1e-8: (30,) * 5, 1e-2: (40,) * 5}
LOWEST, HIGHEST = REFERENCES["CartPole"].low, REFERENCES["CartPole"].high


def grid(optimizer, scores, spread=(0, 0, 0), **labels):
    points = itertools.product(enumerate(RATES), scores.items())
    return [
        Planned(
            optimizer, seed, [0.0, *[values[at] + spread[seed - 1]] * 5], part="tuning", kind="search", lr=lr,
            variant=f"trial-{number:03d}", options={"optimizer.eps": eps}, **labels,
        )
        for number, ((at, lr), (eps, values)) in enumerate(points)
        for seed in (1, 2, 3)
    ]  # fmt: skip


def study(folder, planned):
    part = {"kind": "search", "sampler": "grid", "space": SPACE}
    return write_study(folder / "tiny", planned, parts={"tuning": part})


def test_rates_near_the_best_of_any_method_with_other_options_retuned_or_held(tmp_path):
    """Within 5 % of 478.3 points of 490: from 466.1 on."""
    planned = [*grid("wide", WIDE), *grid("narrow", NARROW), *grid("low", LOW)]
    with dataset.load(study(tmp_path, planned)) as data:
        assert is_grid(data, "tuning")
        rows = {row.optimizer.name: row for row in usable_range(data, "tuning", **QUICK)}
    wide, narrow, low = rows["wide"], rows["narrow"], rows["low"]
    assert (wide.rates, wide.best, wide.best_rate, wide.cell_best) == (5, 490.0, 4e-3, 490.0)
    assert (wide.retuned.value, wide.retuned_factor) == (1.0, 16.0)
    assert (wide.held.value, wide.held_factor) == (0.6, 4.0)
    assert (narrow.best, narrow.best_rate, narrow.cell_best) == (486.0, 4e-3, 490.0)
    assert (narrow.retuned.value, narrow.held.value) == (0.6, 0.6)
    assert (narrow.retuned_factor, narrow.held_factor) == (1.0, 1.0)  # the ends do not hang together with the best
    assert (low.retuned.value, low.retuned_factor, low.held_factor) == (0.0, 0.0, 0.0)


def test_how_near_is_asked_for(tmp_path):
    with dataset.load(study(tmp_path, grid("wide", WIDE))) as data:
        (row,) = usable_range(data, "tuning", 11, **QUICK)  # from 479 on
        data.definition["near"] = {"CartPole": 11}
        assert list(usable_range(data, "tuning", **QUICK)) == [row]
        data.definition["near"] = {"Acrobot": 11}
        (other,) = usable_range(data, "tuning", **QUICK)
    assert other.near == pytest.approx(0.05 * (HIGHEST - LOWEST))
    assert (row.retuned.value, row.held.value, row.held_factor) == (0.6, 0.4, 2.0)


def test_the_interval_is_that_of_the_seeds_drawn_anew(tmp_path):
    """The best is 490: a rate of 468 +- 8 is near it, or not, by which seeds are drawn."""
    scores = {1e-8: (100, 468, 490, 468, 100)}
    with dataset.load(study(tmp_path / "spread", grid("adam", scores, spread=(-8, 0, 8)))) as data:
        (row,) = usable_range(data, "tuning", **QUICK)
    assert row.held == row.retuned
    assert row.held.low < row.held.value == 0.6
    with dataset.load(study(tmp_path / "none", grid("adam", scores))) as data:
        (row,) = usable_range(data, "tuning", **QUICK)
    assert row.held == (0.6, 0.6, 0.6)


def test_a_diverged_run_is_the_worst(tmp_path):
    scores = {1e-8: (470, 480, 490, math.nan, math.nan)}
    with dataset.load(study(tmp_path, grid("sgd", scores))) as data:
        (row,) = usable_range(data, "tuning", **QUICK)
    assert (row.best, row.held.value, row.held_factor) == (490.0, 0.6, 4.0)


def test_what_is_no_whole_grid_is_refused(tmp_path):
    planned = grid("wide", WIDE)
    with dataset.load(study(tmp_path / "hole", planned[:6] + planned[9:])) as data:
        with pytest.raises(UserError, match=r"search of wide on CartPole \(plain\) is no whole grid"):
            usable_range(data, "tuning", **QUICK)
        with pytest.raises(UserError, match="is shown for a score, not for 'std'"):
            usable_range(data, "tuning", metric="std")
        with pytest.raises(UserError, match="no grids to search in 'other'"):
            usable_range(data, "other")
    with (
        dataset.load(study(tmp_path / "seed", planned[:-1])) as data,
        pytest.raises(UserError, match="no whole grid"),
    ):
        usable_range(data, "tuning", **QUICK)


def test_compare_prints_it_for_a_grid(tmp_path, capsys):
    folder = study(tmp_path, [*grid("wide", WIDE), *grid("narrow", NARROW)])
    out = tmp_path / "out"
    command = ["compare", str(folder), "--part", "tuning", "--repetitions", "200", "--out", str(out)]
    assert main(command) == 0
    found = capsys.readouterr().out
    assert "Learning rates at which the final score is near that of the best method" in found
    (line,) = (line for line in found.splitlines() if "narrow" in line and "0.004" in line)
    assert "486" in line
    assert (out / "tuning-final-usable-range.csv").is_file()
