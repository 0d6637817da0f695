from __future__ import annotations

import json
import math

import pytest

from evaluation.cli.errors import UserError
from evaluation.cli.values import show
from evaluation.study.plan import Planner
from evaluation.study.run_id import RunId
from tests.evaluation.study.study_helpers import DEFINITION, study


class Fake:
    """Results by a formula of the run's options, for the runs that are allowed to be finished."""

    def __init__(self, planner: Planner) -> None:
        self.planner = planner
        self.options: dict[RunId, dict[str, object]] = {}
        self.finished: set[RunId] = set()

    def objective(self, run: RunId, name: str) -> float | None:
        assert name == "final"
        if run not in self.finished:
            return None
        options = self.options[run]
        return -abs(math.log10(float(options["lr"]) / 0.05)) - 0.01 * run.seed

    def finish_all(self) -> None:
        plan = self.planner.plan(self.objective)
        self.options |= {run.id: dict(run.options) for run in plan.runs}
        self.finished |= set(self.options)


def test_a_search_goes_on_batch_by_batch_and_then_fixes_the_parts_above_it() -> None:
    planner = Planner(study())
    results = Fake(planner)
    plan = planner.plan(results.objective)
    assert len(plan.runs) == 2 * 2 * 2  # optimizers, startup trials, tuning seeds
    assert len(plan.waiting) == 2 * 2 * 2 + 2 * 2 + 2
    sizes = []
    while plan.waiting:
        results.finish_all()
        plan = planner.plan(results.objective)
        sizes.append(len(plan.runs))
    assert sizes == [12, 16, 22]
    for optimizer in ("plain", "heavy"):
        trials = [
            run for run in plan.runs if run.id.part == "tuning" and run.id.optimizer == optimizer and run.id.seed == 1
        ]
        best = max(trials, key=lambda run: results.objective(run.id, "final"))
        tuned = [run for run in plan.runs if run.id.part == "comparison" and run.id.optimizer == optimizer]
        assert {run.options["lr"] for run in tuned} == {best.options["lr"]}
        assert [run.id.seed for run in tuned] == [11, 12]
    grid = {run.id.variant: run.options["lr"] for run in plan.runs if run.id.part == "rates"}
    heavy = next(run for run in plan.runs if run.id.part == "comparison" and run.id.optimizer == "heavy")
    assert grid == {
        "lrx0.1": pytest.approx(heavy.options["lr"] * 0.1),
        "lrx3": pytest.approx(heavy.options["lr"] * 3),
    }


def test_the_best_trial_is_the_one_of_the_highest_mean() -> None:
    planner = Planner(study())
    first = planner.plan(lambda run, name: None).runs
    wanted = next(run for run in first if run.id.variant == "trial-001" and run.id.optimizer == "plain")
    parts = {**DEFINITION["parts"], "tuning": {**DEFINITION["parts"]["tuning"], "trials": 2}}
    # trial 1 has the better mean, trial 0 the best single seed
    values = {("trial-000", 1): 1.0, ("trial-000", 2): -9.0, ("trial-001", 1): 0.0, ("trial-001", 2): 0.5}

    def objective(run: RunId, name: str) -> float:
        return values[run.variant, run.seed]

    runs = Planner(study(parts=parts)).plan(objective).runs
    tuned = next(run for run in runs if run.id.part == "comparison" and run.id.optimizer == "plain")
    assert tuned.options["lr"] == wanted.options["lr"]


@pytest.mark.parametrize(("of_bowl", "best"), [(1.0, "trial-002"), (40.0, "trial-000")])
def test_one_setting_for_all_tasks(of_bowl: float, best: str) -> None:
    """The highest mean over the tasks in units of their ranges, on a task that the search has not seen, too."""
    tuning = {**DEFINITION["parts"]["tuning"], "tasks": ["bowl", "valley"], "trials": 4, "sampler": "random"}
    tuning["batch"] = 4
    one = {"kind": "compare", "tasks": ["bowl", "ridge"], "tuned": "tuning", "tuned_tasks": "all", "seeds": [11]}
    tasks = {**DEFINITION["tasks"], "ridge": {"task": "valley"}}
    own = {"bowl": [of_bowl, 0.0, 0.7 * of_bowl, math.nan], "valley": [0.0, 8.0, 5.0, 100.0]}  # by trial
    made = study(
        tasks=tasks,
        references={"bowl": [-1.0, 0.0], "valley": ["-10", "0.0"]},
        parts={"tuning": {**tuning, "startup": 4}, "one": one},
    )
    values = {(task, f"trial-{i:03d}"): value for task, row in own.items() for i, value in enumerate(row)}
    half = Planner(made).plan(lambda run, name: values[run.task, run.variant] if run.task == "bowl" else None)
    assert {run.id.part for run in half.runs} == {"tuning"}
    assert {run.part for run in half.waiting} == {"one"}
    runs = Planner(made).plan(lambda run, name: values[run.task, run.variant]).runs
    for optimizer in ("plain", "heavy"):
        of = [run for run in runs if run.id.optimizer == optimizer]
        chosen = {run.options["lr"] for run in of if run.id.part == "one"}
        assert chosen == {run.options["lr"] for run in of if run.id.variant == best}
        assert {run.id.task for run in of if run.id.part == "one"} == {"bowl", "ridge"}


def test_optimizers_of_a_part_are_tuned_each_in_its_own_way() -> None:
    """One task's best, the best of all tasks, nothing: beside each other, from searches of another optimizer's name."""
    search = {"kind": "search", "sampler": "random", "batch": 4, "optimizers": ["heavy"], "trials": 4, "startup": 1}
    search |= {"seeds": [1], "space": {"lr": {"low": "1e-3", "high": 1}}}
    tuned = {
        "single": {"search": "both", "optimizer": "heavy", "tasks": "all"},
        "own": {"search": "bowls", "optimizer": "heavy"},
    }
    made = study(
        optimizers={**DEFINITION["optimizers"], "single": {"method": "heavy"}, "own": {"method": "heavy", "lr": 9}},
        references={"bowl": [0, 1], "valley": [0, 1]},
        parts={
            "both": search,
            "bowls": {**search, "tasks": ["bowl"], "seeds": [2]},
            "table": {"kind": "compare", "tasks": ["bowl"], "seeds": [11], "tuned": tuned},
        },
    )
    best = {("both", "bowl"): 1, ("both", "valley"): 2, ("bowls", "bowl"): 3}

    def objective(run: RunId, name: str) -> float:
        gain = 2.0 if run.task == "valley" else 1.0
        return gain * (run.variant == f"trial-{best[run.part, run.task]:03d}")

    runs = Planner(made).plan(objective).runs
    options = {(run.id.part, run.id.task, run.id.optimizer, run.id.variant): run.options for run in runs}
    table = {name: of for (part, _, name, _), of in options.items() if part == "table"}
    assert table["single"]["lr"] == options["both", "valley", "heavy", "trial-002"]["lr"]
    assert table["own"]["lr"] == options["bowls", "bowl", "heavy", "trial-003"]["lr"]
    assert not {"lr"} & {*table["plain"], *table["heavy"]}


def test_a_diverged_trial_is_never_the_best() -> None:
    parts = {**DEFINITION["parts"], "tuning": {**DEFINITION["parts"]["tuning"], "trials": 2}}
    values = {"trial-000": math.nan, "trial-001": -9.0}
    runs = Planner(study(parts=parts)).plan(lambda run, name: values[run.variant]).runs
    worst, best = (next(run for run in runs if run.id.variant == name) for name in values)
    tuned = next(run for run in runs if run.id.part == "comparison" and run.id.optimizer == "plain")
    assert tuned.options["lr"] == best.options["lr"] != worst.options["lr"]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_seed_that_diverged_is_enough(bad: float) -> None:
    """Infinite is not the best score there is."""
    parts = {**DEFINITION["parts"], "tuning": {**DEFINITION["parts"]["tuning"], "trials": 2, "seeds": [1, 2]}}
    values = {("trial-000", 1): bad, ("trial-000", 2): 100.0, ("trial-001", 1): -9.0, ("trial-001", 2): -9.0}
    runs = Planner(study(parts=parts)).plan(lambda run, name: values[run.variant, run.seed]).runs
    best = next(run for run in runs if run.id.variant == "trial-001")
    tuned = next(run for run in runs if run.id.part == "comparison" and run.id.optimizer == "plain")
    assert tuned.options["lr"] == best.options["lr"]


def test_a_trial_that_has_begun_keeps_its_options() -> None:
    """Whatever another version of Optuna would propose now."""
    results = Fake(Planner(study()))
    for _ in range(4):
        results.finish_all()
    begun = {run: dict(options) for run, options in results.options.items()}
    changed = {run for run in begun if run.variant == "trial-002"}
    for run in changed:
        begun[run]["lr"] = 0.0123
    results.options = begun
    plan = Planner(study(), begun).plan(results.objective)
    assert {run.options["lr"] for run in plan.runs if run.id in changed} == {0.0123}


def test_a_search_is_a_function_of_its_results_whenever_they_came() -> None:
    """Asked again after every single run, or only when all have finished; in this process or in a new one."""
    reference = Fake(Planner(study()))
    for _ in range(4):
        reference.finish_all()
    expected = [run.entry() for run in reference.planner.plan(reference.objective).runs]

    slow = Fake(Planner(study()))
    while True:
        plan = slow.planner.plan(slow.objective)
        slow.options |= {run.id: dict(run.options) for run in plan.runs}
        missing = [run.id for run in plan.runs if run.id not in slow.finished]
        if not missing:
            break
        slow.finished.add(missing[-1])  # the last first
        slow.planner = Planner(study())  # a new process
    assert json.dumps([run.entry() for run in plan.runs]) == json.dumps(expected)


def test_optimizers_share_the_first_points_of_their_searches() -> None:
    runs = Planner(study()).plan(lambda run, name: None).runs
    plain = {run.id.variant: run.options["lr"] for run in runs if run.id.optimizer == "plain"}
    heavy = {run.id.variant: run.options["lr"] for run in runs if run.id.optimizer == "heavy"}
    assert plain == heavy
    assert len(set(plain.values())) == 2


def test_more_trials_keep_the_earlier_ones() -> None:
    tuning = dict(DEFINITION["parts"]["tuning"])
    del tuning["startup"]
    few = Fake(Planner(study(parts={"tuning": tuning})))
    for _ in range(4):
        few.finish_all()
    many = Planner(study(parts={"tuning": {**tuning, "trials": 12}}))
    runs = many.plan(few.objective).runs
    entries = {run.id: run.entry() for run in runs}
    assert all(entries[run] for run in few.options if run.part == "tuning")
    assert {run: dict(entries[run]["options"]) for run in few.options if run.part == "tuning"} == {
        run: options for run, options in few.options.items() if run.part == "tuning"
    }


def test_kinds_and_the_order_of_layers() -> None:
    parts = {
        "ablations": {
            "kind": "ablation",
            "optimizers": ["heavy"],
            "tasks": ["bowl"],
            "seeds": [1],
            "options": {"noise": 0.5},
            "variants": {"full": {}, "still": {"momentum": 0}},
        },
        "draws": {
            "kind": "robustness",
            "tasks": ["bowl"],
            "optimizers": ["plain"],
            "seeds": [1],
            "draws": 3,
            "space": {"lr": {"low": 0.01, "high": 1}},
        },
        "cells": {
            "kind": "grid",
            "tasks": ["bowl"],
            "optimizers": ["plain"],
            "seeds": [1],
            "values": {"lr": [0.1, 0.2], "noise": [0, 1]},
        },
    }
    runs = Planner(study(parts=parts, options={"noise": 0.1, "steps": 20})).plan(lambda run, name: None).runs
    options = {f"{run.id.part}/{run.id.variant}": dict(run.options) for run in runs}
    assert options["ablations/full"] == {"noise": 0.5, "steps": 20, "task": "bowl", "method": "heavy", "momentum": 0.9}
    assert options["ablations/still"]["momentum"] == 0
    assert [name for name in options if name.startswith("draws")] == [f"draws/draw-{i:03d}" for i in range(3)]
    assert {name: (one["lr"], one["noise"]) for name, one in options.items() if name.startswith("cells")} == {
        "cells/lr=0.1,noise=0": (0.1, 0),
        "cells/lr=0.1,noise=1": (0.1, 1),
        "cells/lr=0.2,noise=0": (0.2, 0),
        "cells/lr=0.2,noise=1": (0.2, 1),
    }
    run = next(run for run in runs if run.id.variant == "still")
    assert run.arguments() == ["--noise=0.5", "--steps=20", "--task=bowl", "--method=heavy", "--momentum=0", "--seed=1"]


def test_values_given_for_a_task_and_an_optimizer_lie_below_tuned_ones_and_variants() -> None:
    tuning = {"kind": "search", "trials": 1, "seeds": [1], "space": {"momentum": [0.5]}}
    part = {"kind": "grid", "tuned": "tuning", "seeds": [11], "options": {"lr": 1}, "multiply": {"lr": [10]}}
    given = {"valley": {"heavy": {"lr": 0.2, "momentum": 0.8}}, "bowl": {"plain": {"lr": 0.3}}}
    planner = Planner(study(parts={"tuning": tuning, "grid": part | {"given": given}}))
    results = Fake(planner)
    results.options = {run.id: {"lr": 1.0} for run in planner.plan(results.objective).runs}
    results.finished |= set(results.options)
    found = {
        (run.id.task, run.id.optimizer): (run.options["lr"], run.options["momentum"])
        for run in planner.plan(results.objective).runs
        if run.id.part == "grid"
    }
    assert found == {
        ("valley", "heavy"): (2.0, 0.5),
        ("valley", "plain"): (10.0, 0.5),
        ("bowl", "heavy"): (10.0, 0.5),
        ("bowl", "plain"): (3.0, 0.5),
    }


def test_a_factor_without_a_number_is_a_fault_before_the_first_run() -> None:
    tuning = DEFINITION["parts"]["tuning"]
    grid = {"kind": "grid", "tasks": ["valley"], "tuned": "tuning", "seeds": [11]}
    for name, optimizers in (("momentum", {"plain": {}, "heavy": {}}), ("method", DEFINITION["optimizers"])):
        parts = {"tuning": tuning, "grid": {**grid, "multiply": {name: [2]}}}
        planner = Planner(study(parts=parts, optimizers=optimizers))
        list(planner.samples())
        assert set(planner.faults) == {
            f"grid: multiply {name} has no number to multiply for every optimizer: give it in the options, or tune it"
        }
    parts = {"grid": {"kind": "grid", "seeds": [1], "multiply": {"lr": [2]}}}
    with pytest.raises(UserError, match="multiply lr has no number"):
        Planner(study(parts=parts)).plan(lambda run, name: None)


def test_every_choice_and_both_ends_of_every_range_are_checked_beforehand() -> None:
    samples = [run for run in Planner(study()).samples() if run.id.part == "tuning" and run.id.optimizer == "heavy"]
    assert {run.options["lr"] for run in samples} == {1e-3, 1.0}
    assert {run.options["momentum"] for run in samples} == {0.1, 0.99}


@pytest.mark.parametrize(
    ("value", "typed"),
    [(None, "null"), (True, "true"), (1e-7, "1e-07"), ([0.9, 0.99], "0.9,0.99"), (40_000, "40000"), ("adam", "adam")],
)
def test_values_as_they_are_typed(value: object, typed: str) -> None:
    assert show(value) == typed


def test_a_grid_is_tried_whole_and_its_best_point_goes_on() -> None:
    rates, momenta = [0.1, 0.3, 1.0], [0.5, 0.9]
    tuning = {
        "kind": "search",
        "sampler": "grid",
        "tasks": ["valley"],
        "optimizers": ["heavy"],
        "trials": 6,
        "seeds": [1, 2],
        "space": {"lr": rates, "momentum": momenta},
    }
    comparison = {"kind": "compare", "tasks": ["valley"], "optimizers": ["heavy"], "tuned": "tuning", "seeds": [11]}
    planner = Planner(study(parts={"tuning": tuning, "comparison": comparison}))
    results = Fake(planner)  # best at lr 0.05: the smallest rate
    tried = planner.plan(results.objective).runs
    assert [(run.options["lr"], run.options["momentum"]) for run in tried[::2]] == [
        (lr, momentum) for lr in rates for momentum in momenta
    ]
    results.finish_all()
    last = planner.plan(results.objective).runs[-1]
    assert (last.id.part, last.options["lr"], last.options["momentum"]) == ("comparison", 0.1, 0.5)
