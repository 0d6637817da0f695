"""What one setting for all tasks loses, against numbers by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from evaluation.analysis.comparisons.single_setting import _row, _Tried, _tuned, single_setting
from evaluation.analysis.data import dataset
from evaluation.analysis.data.normalization import REFERENCES
from evaluation.analysis.data.run_key import Cell, Method
from evaluation.analysis.stats.bootstrap import Bootstrap
from evaluation.cli.errors import UserError
from evaluation.main import main
from tests.evaluation.run_trees import Planned, write_study

QUICK = {"how": Bootstrap(repetitions=300)}
RATES, NORMS = (1e-3, 1e-2), (0.5, 10.0)
SPACE = {"optimizer.lr": {"choices": list(RATES)}, "optimizer.max_norm": {"choices": list(NORMS)}}
SPACE |= {"optimizer.momentum": {"choices": [0.8, 0.9], "optimizers": ["sgd"]}}  # what these have fixed
# Scores at (lr, max_norm) in order: (1e-3, 0.5), (1e-3, 10), (1e-2, 0.5), (1e-2, 10).
CLIP = {"CartPole": (500, 200, 480, 100), "Acrobot": (-400, -100, -150, -300)}
SURE = {"CartPole": (470, 10, 10, 10), "Acrobot": (-120, -500, -500, -500)}
WIDTH = {name: REFERENCES[name].high - REFERENCES[name].low for name in CLIP}


def trials(optimizer, by_task, spread=(0, 0, 0)):
    return [
        Planned(
            optimizer, seed, [-500.0, *[scores[at] + spread[seed - 1]] * 5], part="tuning", kind="search", lr=lr,
            variant=f"trial-{at:03d}", options={"optimizer.max_norm": norm, "optimizer.momentum": 0.9}, task=task,
        )
        for task, scores in by_task.items()
        for at, (lr, norm) in enumerate(itertools.product(RATES, NORMS))
        for seed in (1, 2, 3)
    ]  # fmt: skip


def study(folder, planned):
    part = {"kind": "search", "sampler": "grid", "space": SPACE}
    return write_study(folder / "tiny", planned, parts={"tuning": part})


def test_tuned_on_each_task_once_for_all_and_chosen_elsewhere(tmp_path):
    with dataset.load(study(tmp_path, [*trials("clip", CLIP), *trials("sure", SURE)])) as data:
        table = single_setting(data, "tuning", **QUICK)
    rows = {row.optimizer.name: row for row in table}
    clip, sure = rows["clip"], rows["sure"]
    assert (clip.tasks, clip.points) == (2, 4)
    assert clip.own.value == 0  # the best of any method on both tasks
    # Once for all: lr 1e-2 with 0.5, which loses 20 and 50 points.
    assert clip.options == "lr 0.01, max_norm 0.5"
    losses = {"CartPole": 20 / WIDTH["CartPole"], "Acrobot": 50 / WIDTH["Acrobot"]}
    assert clip.single.value == pytest.approx(sum(losses.values()) / 2)
    assert (clip.worst_task, clip.worst) == ("Acrobot", pytest.approx(losses["Acrobot"]))
    # What is best on Acrobot loses 300 on CartPole, and the other way round 300.
    assert clip.elsewhere.value == pytest.approx((300 / WIDTH["CartPole"] + 300 / WIDTH["Acrobot"]) / 2)
    assert clip.apart == "lr x1, max_norm x20"
    below = (30 / WIDTH["CartPole"] + 20 / WIDTH["Acrobot"]) / 2
    assert [one.value for one in (sure.own, sure.single, sure.elsewhere)] == pytest.approx([below] * 3)
    assert sure.apart == "lr x1, max_norm x1"


def test_more_settings_to_choose_from_look_no_better():
    """Of settings that are all alike but for their seeds' luck none loses, few or many of them."""
    rng, how, found = np.random.default_rng(0), Bootstrap(repetitions=2), {}
    for count in (2, 16):
        losses = []
        for _ in range(300):
            tried = _Tried([{"optimizer.lr": 1.0}] * count, rng.normal(size=(3, 2, count)))
            best, scale = np.zeros(2), np.ones(2)
            row = _row("tuning", Cell(), Method("any"), ["a", "b"], tried, best, scale, how)
            losses.append([row.own.value, row.single.value, row.elsewhere.value, -_tuned(tried.scores).mean()])
        found[count] = np.mean(losses, axis=0)
    assert np.abs([found[2], found[16]]).max() < 0.1  # of a score's standard deviation; the best of 16 looks 1 better


def test_the_command_shows_and_writes_it(tmp_path, capsys):
    folder = study(tmp_path, [*trials("clip", CLIP), *trials("sure", SURE)])
    assert main(["compare", str(folder), "--part", "tuning", "--repetitions", "200", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "What one setting for all tasks loses of the final score" in out
    assert "lr 0.01, max_norm 0.5" in out
    assert "elsewhere_low" in (tmp_path / "tuning-final-single-setting.csv").read_text().splitlines()[0]


def test_what_cannot_be_compared_is_left_out_or_refused(tmp_path):
    missing = [*trials("clip", CLIP)[:-1], *trials("sure", SURE)]
    with dataset.load(study(tmp_path, missing)) as data:
        table = single_setting(data, "tuning", **QUICK)
        assert [row.optimizer.name for row in table] == ["sure"]
        assert "clip was not tried with the same settings and seeds on all tasks" in table.note
        with pytest.raises(UserError, match="not for 'std'"):
            single_setting(data, "tuning", metric="std")
        with pytest.raises(UserError, match="has no settings to search in 'other'"):
            single_setting(data, "other")
    with dataset.load(study(tmp_path / "one", trials("clip", {"CartPole": CLIP["CartPole"]}))) as data:
        assert len(single_setting(data, "tuning", **QUICK)) == 0
