from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.cli.config_file import dump_yaml
from evaluation.cli.errors import UserError
from evaluation.study import space, spec
from evaluation.study.entry import flatten
from evaluation.study.plan import Planner
from evaluation.study.space import Dimension
from evaluation.study.spec import StudyFaults
from evaluation.study.study_folder import StudyFolder
from tests.evaluation.study.study_helpers import DEFINITION, definition, study, write


def faults(**changes: object) -> list[str]:
    with pytest.raises(StudyFaults) as caught:
        study(**changes)
    return list(caught.value.faults)


def test_a_definition_is_read_with_its_defaults(tmp_path: Path) -> None:
    read = spec.load(write(tmp_path / "tiny.yaml"))
    tuning = read.parts["tuning"]
    assert read.name == "tiny"
    assert tuning.tasks == ("valley",)
    assert tuning.settings == ("default",)
    assert tuning.optimizers == ("plain", "heavy")
    assert tuning.purpose == "tune"
    assert tuning.space[0] == Dimension("lr", 1e-3, 1.0)
    assert [one.name for one in space.of(tuning.space, "plain")] == ["lr"]
    assert read.parts["comparison"].seeds == (11, 12)
    assert read.parts["comparison"].purpose == "test"
    assert read.parts["rates"].multiply == {"lr": (0.1, 3)}


def test_options_in_groups_are_dotted_and_numbers_in_any_spelling_are_numbers() -> None:
    assert flatten({"optimizer": {"lr": "1e-3", "betas": [0.9, 0.99]}, "total-steps": "40_000"}) == {
        "optimizer.lr": 1e-3,
        "optimizer.betas": [0.9, 0.99],
        "total_steps": 40_000,
    }


def test_a_study_of_one_part_needs_no_parts() -> None:
    single = definition(parts=None) | {"kind": "compare", "seeds": [3, 4]}
    read = spec.parse(single, name="single", where="single.yaml")
    assert list(read.parts) == ["compare"]
    assert read.parts["compare"].tasks == ("bowl", "valley")
    assert read.parts["compare"].seeds == (3, 4)


@pytest.mark.parametrize("word", ["auc", "curve"])
def test_the_mean_over_the_run_has_an_older_name(word: str) -> None:
    tuning = {**DEFINITION["parts"]["tuning"], "objective": word}
    assert study(parts={"tuning": tuning}).parts["tuning"].objective == "auc"


def test_all_faults_are_told_at_once() -> None:
    parts = {
        "tuning": {"kind": "search", "trials": 0, "seeds": [1, 1], "space": {"lr": {"low": 1, "high": 0.1}}},
        "comparison": {"kind": "compare", "tuned": "tunin", "seeds": "x", "optimizers": ["heavi"]},
        "grid": {"kind": "gird"},
        "given": {"kind": "compare", "seeds": [9], "given": {"valey": {}, "bowl": {"heavi": {"lr": 1}, "plain": 3}}},
        "ablation": {"kind": "ablation", "seeds": [1], "varants": {}},
        "logs": {"kind": "compare", "seeds": [1]},
        "many": {"kind": "search", "trials": "many", "seeds": [2], "space": {"lr": {"low": 1, "high": 2}}},
        "list": {"kind": "compare", "tuned": ["tuning"], "seeds": [3]},
    }
    references = {"bowl": [1, 0], "valley": [0, 1]}
    found = "\n".join(
        faults(
            parts=parts,
            optoins={},
            seconds={"bow": 1},
            program=[],
            references=references,
            plain={"heavi": {"lr": 1}, "heavy": {}},
        )
    )
    for fault in (
        "optoins: unknown key; did you mean 'options'?",
        "parts.tuning.trials 0: must be a whole number of at least 1",
        "parts.tuning.seeds [1, 1]: a seed is given twice",
        "parts.tuning.space.lr: low 1 must be below high 0.1",
        "parts.comparison.tuned: 'tunin' is no search above this part; did you mean 'tuning'?",
        "parts.comparison.seeds 'x': must be whole numbers",
        "parts.comparison.optimizers: unknown name 'heavi'; did you mean 'heavy'?",
        "parts.grid.kind 'gird': must be compare, search, grid, robustness or ablation",
        "parts.ablation.varants: unknown key; did you mean 'variants'?",
        "parts.ablation.variants: is missing",
        "ablation: seed 1 is a tuning seed of 'tuning'",
        "parts.logs: the study folder has a file of that name",
        "parts.many.trials 'many': must be a whole number",
        "parts.list.tuned ['tuning']: must be a name",
        "parts.given.given.valey: unknown key; did you mean 'valley'?",
        "parts.given.given.bowl.heavi: unknown key; did you mean 'heavy'?",
        "parts.given.given.bowl.plain: expected `name: value` lines, got 3",
        "program []: must be a command",
        "seconds.bow: must be a number of seconds for one of the tasks",
        "plain.heavi: must be one of the optimizers, with at least one option",
        "plain.heavy: must be one of the optimizers, with at least one option",
        "references.bowl: must be two scores, [the one that counts as 0, the one that counts as 1], of a task",
    ):
        assert fault in found, fault
    assert "references.valley" not in found


def test_names_that_differ_in_case_only_are_refused() -> None:
    """They are one folder on the file systems of macOS and Windows."""
    assert faults(tasks={"valley": {}, "Valley": {}, "bowl": {}}) == [
        "tasks: 'valley' and 'Valley' are one folder where case makes no difference: rename one"
    ]
    parts = {name: {"kind": "compare", "seeds": [1]} for name in ("one", "ONE", "Logs")}
    assert faults(parts=parts, settings={"plain": {}, "Plain": {}}) == [
        "settings: 'plain' and 'Plain' are one folder where case makes no difference: rename one",
        "parts: 'one' and 'ONE' are one folder where case makes no difference: rename one",
        "parts.Logs: the study folder has a file of that name; choose another",
    ]
    variants = {"none": {}, "None": {"lr": 1}}
    assert faults(parts={"a": {"kind": "ablation", "seeds": [1], "variants": variants}}) == [
        "parts.a.variants: 'none' and 'None' are one folder where case makes no difference: rename one"
    ]


def test_a_folder_beside_one_whose_name_differs_in_case_only_is_refused(tmp_path: Path) -> None:
    (tmp_path / "Tiny").mkdir()
    with pytest.raises(UserError, match=r"Tiny is one folder with tiny where case makes no difference: choose another"):
        StudyFolder(tmp_path / "tiny", study())
    assert not (tmp_path / "tiny").exists()
    StudyFolder(tmp_path / "Tiny", study()).close()


def test_one_setting_for_all_tasks_needs_a_search_that_can_tell_it() -> None:
    tuning = {**DEFINITION["parts"]["tuning"], "tasks": ["bowl", "valley"]}
    one = {"kind": "compare", "tuned": "tuning", "tuned_tasks": "all", "seeds": [11]}
    assert faults(parts={"tuning": tuning, "one": one}, references={"bowl": [-1, 0]}) == [
        "parts.one.tuned_tasks: the search 'tuning' tries other settings on each task: sampler grid or random",
        "parts.one: one setting for all tasks compares tasks by `references`, which valley has not",
    ]
    alone = {"one": {"kind": "compare", "tuned_tasks": "some", "seeds": [11]}}
    assert faults(parts=alone) == [
        "parts.one.tuned_tasks 'some': must be each or all",
        "parts.one.tuned_tasks: goes with tuned",
    ]


def test_what_is_tuned_of_some_optimizers() -> None:
    tuning = {**DEFINITION["parts"]["tuning"], "optimizers": ["heavy"], "sampler": "random"}
    tuned = {
        "plain": {"search": "tuning"},
        "light": {"search": "tuning", "optimizer": "heavy", "tasks": "all", "seting": "default"},
        "heavy": {"optimizer": "heavy"},
        "Adam": {"search": "tuning"},
    }
    optimizers = {**DEFINITION["optimizers"], "light": {"method": "heavy"}}
    one = {"kind": "compare", "tasks": ["bowl"], "seeds": [11], "tuned": tuned, "tuned_setting": "default"}
    assert faults(parts={"tuning": tuning, "one": one}, optimizers=optimizers) == [
        "parts.one.tuned_setting: is said for each optimizer, in tuned",
        "parts.one.tuned.Adam: unknown key; there are plain, heavy, light",
        "parts.one.tuned.light.seting: unknown key; did you mean 'setting'?",
        "parts.one.tuned.heavy.search: is missing: the part that has tuned it",
        "parts.one.tuned.plain: the search 'tuning' does not cover the task 'bowl'",
        "parts.one.tuned.plain: the search 'tuning' does not cover the optimizer 'plain'",
        "parts.one: one setting for all tasks compares tasks by `references`, which valley has not",
    ]


def test_a_tuned_part_must_be_covered_by_its_search() -> None:
    parts = DEFINITION["parts"] | {"comparison": {"kind": "compare", "tuned": "tuning", "seeds": [11]}}
    assert faults(parts=parts) == ["parts.comparison.tuned: the search 'tuning' does not cover the task 'bowl'"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("tasks: {a: {}}\ntasks: {b: {}}\n", "key 'tasks' is given twice"),
        ("tasks: [", "no valid YAML"),
        ("- 1\n", "expected `key: value` lines"),
    ],
)
def test_a_file_that_is_no_definition(tmp_path: Path, text: str, error: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=error):
        spec.load(path)


def test_an_unknown_study_is_named_with_the_nearest() -> None:
    with pytest.raises(UserError, match="no such study file: nowhere"):
        spec.find("nowhere")


def test_an_option_may_have_a_range_of_its_own_for_each_optimizer() -> None:
    ranges = [{"low": 1e-4, "high": 1e-2, "optimizers": ["plain"]}, {"low": 1e-3, "high": 0.1, "optimizers": "heavy"}]
    parts = {"tuning": {"kind": "search", "trials": 2, "seeds": [1], "space": {"lr": ranges}}}
    read = study(parts=parts).parts["tuning"].space
    assert [one.low for name in ("plain", "heavy") for one in space.of(read, name)] == [1e-4, 1e-3]
    ranges[0].pop("optimizers")
    assert faults(parts=parts) == ["parts.tuning.space.lr: has several ranges for heavy"]


def test_a_latin_hypercube_has_one_point_in_every_stratum() -> None:
    points = space.latin_hypercube(8, 3, seed=5)
    assert points.shape == (8, 3)
    for column in points.T:
        assert sorted((column * 8).astype(int)) == list(range(8))
    assert np.array_equal(points[:, :2], space.latin_hypercube(8, 2, seed=5))  # optimizers share their points
    assert len(np.unique(points)) == 24


def test_draws_can_be_added_without_changing_the_first() -> None:
    assert np.array_equal(space.uniform(9, 3, 1)[:4, :2], space.uniform(4, 2, 1))


def test_values_of_a_dimension() -> None:
    log = Dimension("lr", 1e-4, 1.0)
    assert log.at(0.5) == pytest.approx(1e-2, rel=1e-3)
    assert log.at(0) == 1e-4
    assert log.at(1 - 1e-12) <= 1.0
    assert Dimension("n", 1, 9, log=False, integer=True).at(0.5) == 5
    assert [Dimension("mode", choices=("norm", "value")).at(u) for u in (0.0, 0.49, 0.5, 0.99)] == [
        *("norm", "norm", "value", "value")
    ]


def test_names_are_what_is_written(tmp_path: Path) -> None:
    """Whatever YAML would take them for: numbers, null, truth."""
    names = ["010", "1e3", "null", "true", "yes", "Infinity", "0x1F"]
    (tmp_path / "x.yaml").write_text(
        "tasks: {010: {}}\noptimizers: {null: {}}\nsettings:\n"
        + "".join(f"  {name}: {{}}\n" for name in names)
        + f"parts: {{a: {{kind: compare, seeds: [1], settings: [{', '.join(names)}]}}}}\n"
    )
    study = spec.load(tmp_path / "x.yaml")
    assert study.parts["a"].settings == tuple(names)
    assert (study.parts["a"].tasks, study.parts["a"].optimizers) == (("010",), ("null",))
    (tmp_path / "y.yaml").write_text(dump_yaml(study.definition))
    assert spec.load(tmp_path / "y.yaml").parts == study.parts


@pytest.mark.parametrize(
    ("part", "fault"),
    [
        ({"values": {"lr": [0.1, "1e-1"]}}, "values.lr: 0.1 is given twice"),
        ({"values": {"steps": [1_000, 1e3]}}, "values.steps: 1000.0 is given twice (as 1000)"),
        ({"multiply": {"lr": [2, 2.0]}}, "multiply.lr: 2.0 is given twice (as 2)"),
        ({"values": {"units": [[1, 2], "1,2"]}}, "values.units: 1,2 is given twice"),
        ({"values": {"lr": [1]}, "options": {"a-b": 1, "a_b": 2}}, "options.a_b: is given twice"),
        ({"values": {"lr": [1]}, "options": {"a": {"b": 1}, "a.b": 2}}, "options.a.b: is given twice"),
    ],
)
def test_what_is_given_twice_is_a_fault(part: dict[str, Any], fault: str) -> None:
    with pytest.raises(StudyFaults) as caught:
        study(parts={"cells": {"kind": "grid", "seeds": [1], **part}})
    assert f"parts.cells.{fault}" in str(caught.value)


def test_cells_of_one_folder_name_are_a_fault() -> None:
    planner = Planner(study(parts={"cells": {"kind": "grid", "seeds": [1], "values": {"word": ["a b", "a_b"]}}}))
    assert list(planner.samples()) == []
    assert planner.faults[0] == ("cells: two points of the grid would have the folder word=a_b: write the values apart")


def test_a_grid_gives_every_optimizer_the_same_number_of_trials() -> None:
    ranges = {"lr": [0.1, 0.3], "momentum": {"choices": [0.5, 0.9], "optimizers": ["heavy"]}}
    parts = {"tuning": {"kind": "search", "sampler": "grid", "trials": 4, "seeds": [1], "space": ranges}}
    fault = "parts.tuning.trials 4: the grid of plain has 2 points; all must have as many"
    assert faults(parts=parts) == [fault]
    ranges["lr"] = {"low": 0.1, "high": 1.0}
    assert faults(parts=parts) == ["parts.tuning.space.lr: must be a list of choices, or the grid has no end"]
