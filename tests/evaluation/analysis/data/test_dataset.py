"""Run folders as tables; whatever is wrong with one is reported and only that one left out."""

from __future__ import annotations

import json
import math
import shutil

import duckdb
import pytest

from evaluation.analysis.data import dataset
from evaluation.files import read_json
from tests.evaluation.run_trees import Planned, write_gradients, write_run, write_study

GOOD = ("adam", 1)


def broken(study):
    return study / Planned("adam", 2).path


def left_out(study):
    """The one problem of a study whose other runs are all there."""
    with dataset.load(study) as data:
        (problem,) = data.problems
        assert [row["seed"] for row in data.rows("SELECT seed FROM runs ORDER BY seed")] == [1, 3]
        assert not data.rows("SELECT * FROM metrics WHERE run LIKE '%s2'")
        assert not data.rows("SELECT * FROM evaluations WHERE run LIKE '%s2'")
        return problem


def test_a_study_in_tables(study):
    with dataset.load(study) as data:
        assert (data.name, data.definition["question"], data.problems) == ("tiny", "which?", [])
        row = data.rows("SELECT * FROM runs ORDER BY run")[0]
        summary = read_json(study / row["path"] / "summary.json")
        expected = {
            "run": "comparison/CartPole/plain/adam/default/s1",
            "path": "comparison/CartPole/plain/adam/default/s1",
            "study": "tiny",
            "kind": "compare",
            "task": "CartPole",
            "setting": "plain",
            "optimizer": "adam",
            "variant": "default",
            "purpose": "test",
            "seed": 1,
            "options": '{"optimizer.lr": 0.001}',
            "lr": 0.001,
            "total_steps": 3000,
            "target": 25.0,
            "reached": True,
            "final": 20.0,
            "last": 30.0,
            "std": 10.0,
            "ttt_steps": 3000.0,
            "ttt_samples": 12000.0,
            "ttt_seconds": summary["time_to_threshold"]["seconds"],
            "steps": 3000,
            "commit": "0" * 40,
            "protocol": "game=CartPole; protocol=made up; episodes=10; last_k=5",
            "command": "asgc-rl train --seed 1",
        }
        assert {key: row[key] for key in expected} == expected
        (evaluation, *others) = data.rows("SELECT * FROM evaluations WHERE run LIKE '%s1' ORDER BY step")
        assert len(others) == 2
        values = {
            "step": 1000,
            "samples": 4000,
            "wall_s": 0.123456789,
            "evaluation_s": 0.01,
            "value": 10.0,
            "std": 12.5,
        }
        assert evaluation == {"run": row["run"], **values}
        assert data.rows("SELECT count(*) AS n, min(run) AS run FROM metrics WHERE split = 'train'") == [
            {"n": 3 * 6, "run": row["run"]}
        ]


def test_gradient_parts_are_joined_to_their_runs(study):
    write_gradients(broken(study), updates=4)
    write_gradients(broken(study), updates=2, number=1)
    with dataset.load(study) as data:
        rows = data.rows("SELECT * FROM gradients ORDER BY step, layer")
        assert len(rows) == 12
        assert {row["run"] for row in rows} == {Planned("adam", 2).path}
        assert rows[0] | {"before": [0, 3, 5], "after": [1, 3, 4], "threshold": math.inf} == rows[0]


def test_a_study_without_gradients_has_an_empty_table(study):
    with dataset.load(study) as data:
        assert data.rows("SELECT run, step, before FROM gradients") == []


def test_columns_are_arrays_and_missing_numbers_nan(tmp_path):
    runs = [Planned("adam", 1, (1.0, 2.0)), Planned("adam", 2, (1.0, 30.0)), Planned("sgd", 3, target=None)]
    with dataset.load(write_study(tmp_path / "tiny", runs)) as data:
        columns = data.columns("SELECT seed, ttt_steps, reached, detrended_std, optimizer FROM runs ORDER BY seed")
        assert columns["seed"].tolist() == [1, 2, 3]
        assert columns["ttt_steps"][:2].tolist() == [math.inf, 2000.0]
        assert math.isnan(columns["ttt_steps"][2])
        assert columns["reached"].tolist() == [False, True, None]
        assert math.isnan(columns["detrended_std"][0])  # two evaluations: "NaN" in summary.json
        assert columns["optimizer"].tolist() == ["adam", "adam", "sgd"]
        assert data.columns("SELECT seed FROM runs WHERE optimizer = ?", "sgd")["seed"].tolist() == [3]


def test_not_a_number_and_infinity_in_metrics(tmp_path):
    write_run(tmp_path / "runs" / "a", seed=1, scores=[1.0, math.nan, -math.inf, math.inf])
    with dataset.load(tmp_path / "runs") as data:
        values = data.columns('SELECT "value" FROM evaluations ORDER BY step')["value"].tolist()
        assert values[0] == 1.0
        assert math.isnan(values[1])
        assert values[2:] == [-math.inf, math.inf]


# What may be wrong with a run


def test_unfinished(study):
    (broken(study) / "summary.json").unlink()
    problem = left_out(study)
    assert problem.path == str(broken(study))
    assert problem.reason.startswith("unfinished: it has no summary.json")


@pytest.mark.parametrize(
    ("remove", "reason"),
    [
        ("config.yaml", "not a run folder: it has no config.yaml"),
        ("metrics.jsonl", "half-written: it has no metrics.jsonl"),
        ("provenance.json", "half-written: it has no provenance.json"),
    ],
)
def test_half_written(study, remove, reason):
    (broken(study) / remove).unlink()
    assert left_out(study).reason == reason


def test_planned_and_not_run(study):
    shutil.rmtree(broken(study))
    assert left_out(study).reason == "missing: planned, but not run"
    broken(study).mkdir()
    assert left_out(study).reason == "missing: an empty folder"


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("config.yaml", "game: [1", "corrupt: cannot read"),
        ("config.yaml", "just text", "corrupt: cannot read"),
        ("config.yaml", "- [game, Pong]\n", "corrupt: cannot read"),
        ("config.yaml", "\0\0\0", "corrupt: cannot read"),
        ("config.yaml", "game: CartPole\n", "corrupt: summary.json or config.yaml: KeyError: 'optimizer.name'"),
        ("summary.json", '{"final": 1', "corrupt: cannot read summary.json"),
        ("summary.json", "[1]", "corrupt: summary.json is not a JSON object"),
        ("summary.json", '{"final": 1}', "corrupt: summary.json or config.yaml: KeyError"),
        ("provenance.json", "", "corrupt: cannot read provenance.json"),
        ("metrics.jsonl", "", "corrupt: metrics.jsonl has no rows eval/score"),
        ("metrics.jsonl", "x" * 20_000_000, "corrupt: metrics.jsonl has no rows eval/score"),
        ("metrics.jsonl", "nonsense\n" * 3, "line 1: not a row of metrics"),
    ],
)
def test_corrupt_files(study, file, content, reason):
    (broken(study) / file).write_text(content)
    assert reason in left_out(study).reason


GOOD_ROW = '{"step": 9000, "samples": 2, "wall_s": 0.5, "split": "train", "name": "loss", "value": 1.5}'


@pytest.mark.parametrize(
    "line",
    [
        GOOD_ROW[:40],
        GOOD_ROW[:40] + GOOD_ROW,
        GOOD_ROW + GOOD_ROW,
        GOOD_ROW.replace("9000", '"abc"'),
        GOOD_ROW.replace("1.5}", "null}"),
        GOOD_ROW.replace("1.5}", '"high"}'),
        '{"step": 3}',
        "[1, 2]",
        "\0" * 30,
        "\udcff\udcfe",
        GOOD_ROW.replace("9000", "9" * 30),
    ],
)
def test_damage_in_the_middle_of_metrics_is_named_with_its_line(study, line):
    path = broken(study) / "metrics.jsonl"
    lines = path.read_text().splitlines()
    lines.insert(2, line)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape")
    assert left_out(study).reason.startswith(f"corrupt: {path}, line 3: not a row of metrics")


def test_an_unfinished_last_line_is_dropped_and_the_run_kept(study):
    with (broken(study) / "metrics.jsonl").open("a") as file:
        file.write(GOOD_ROW[:40])
    with dataset.load(study) as data:
        assert data.problems == []
        assert data.rows("SELECT count(*) AS n FROM metrics WHERE run LIKE '%s2'") == [{"n": 15}]


def test_metrics_that_do_not_fit_the_summary(study):
    path = broken(study) / "metrics.jsonl"
    lines = [line for line in path.read_text().splitlines(keepends=True) if '"step": 2000' not in line]
    path.write_text("".join(lines))
    assert left_out(study).reason == "corrupt: metrics.jsonl has 2 evaluations, where summary.json counts 3"
    path.write_text("".join(lines + lines))
    assert left_out(study).reason.startswith("corrupt: metrics.jsonl has 2 rows eval/score at a step that has one")


@pytest.mark.parametrize("content", [b"PAR1 but not really PAR1", b""])
def test_a_corrupt_gradient_part_leaves_its_run_and_the_other_parts(study, content):
    whole = write_gradients(broken(study))
    bad = write_gradients(broken(study), number=1)
    bad.write_bytes(content)
    with dataset.load(study) as data:
        (problem,) = data.problems
        assert problem.path == str(bad)
        assert problem.reason.startswith("corrupt: not a parquet file")
        assert data.rows("SELECT count(*) AS n FROM gradients") == [{"n": 8}]
        assert len(data.rows("SELECT run FROM runs")) == 3
    whole.write_bytes(content)
    with dataset.load(study) as data:
        assert len(data.problems) == 2
        assert data.rows("SELECT * FROM gradients") == []


def test_a_parquet_file_of_something_else(study):
    import pyarrow

    path = write_gradients(broken(study))
    pyarrow.parquet.write_table(pyarrow.table({"step": [1], "layer": ["a"]}), path)
    with dataset.load(study) as data:
        assert [problem.reason for problem in data.problems] == ["foreign: a parquet file without 'update'"]


def test_foreign_folders_in_a_study(study):
    write_run(study / "comparison" / "stranger", seed=1, scores=[1.0])
    (study / "comparison" / "notes").mkdir()
    (study / "comparison" / "notes" / "idea.txt").write_text("!")
    (study / "logs").mkdir()  # of the study itself
    (study / "logs" / "a.log").write_text("...")
    (study / "plots").mkdir()
    (study / "plots" / "curves.png").write_text("...")
    with dataset.load(study) as data:
        found = {problem.path: problem.reason for problem in data.problems}
        assert found == {
            str(study / "comparison" / "stranger"): "foreign: a run that runs.jsonl does not list",
            str(study / "comparison" / "notes"): "foreign: not a run folder, and runs.jsonl does not list it",
        }
        assert len(data.rows("SELECT run FROM runs")) == 3


def test_a_run_that_is_not_the_planned_one(study):
    shutil.rmtree(broken(study))
    write_run(broken(study), seed=7, scores=[1.0])
    assert left_out(study).reason == "foreign: its config.yaml has seed 7, where runs.jsonl planned 2"
    shutil.rmtree(broken(study))
    write_run(broken(study), seed=2, scores=[1.0], lr=0.5)
    assert left_out(study).reason == "foreign: its config.yaml has optimizer.lr 0.5, where runs.jsonl planned 0.001"


def test_a_damaged_index(study):
    index = study / "runs.jsonl"
    lines = index.read_text().splitlines()
    outside = json.dumps(json.loads(lines[1]) | {"path": "../elsewhere"})
    index.write_text("\n".join([lines[0], "{", lines[2], lines[0], outside]))
    with dataset.load(study) as data:
        reasons = [(problem.path.rpartition("runs.jsonl")[2], problem.reason) for problem in data.problems]
        assert [where for where, _ in reasons[:3]] == [", line 2", ", line 4", ", line 5"]
        assert reasons[1][1] == "the run comparison/CartPole/plain/adam/default/s1 is listed twice"
        assert reasons[2][1] == "the run's path ../elsewhere leads out of the study"
        assert reasons[3][1] == "foreign: a run that runs.jsonl does not list"
        assert [row["seed"] for row in data.rows("SELECT seed FROM runs ORDER BY seed")] == [1, 3]
    index.unlink()
    with dataset.load(study) as data:
        assert data.problems[0].reason.startswith("cannot read the study's index of runs")
        assert data.rows("SELECT run FROM runs") == []


def test_a_damaged_definition_leaves_the_runs(study):
    (study / "study.yaml").write_text("name: [")
    with dataset.load(study) as data:
        assert data.problems[0].path == str(study / "study.yaml")
        assert (data.definition, len(data.rows("SELECT run FROM runs"))) == ({}, 3)


# Plain folders, and several ------------------------------------------------------------------------------------------


def test_problems_that_many_folders_share_are_counted(tmp_path):
    planned = [Planned("adam", seed, [1.0] * 6) for seed in range(7)]
    study = write_study(tmp_path / "tiny", planned)
    for run in planned[1:]:
        shutil.rmtree(study / run.path)
    reason = "missing: planned, but not run"
    with dataset.load(study) as data:
        assert [problem.reason for problem in data.problems] == [reason] * 6
        named = [f"left out {study / run.path}: {reason}" for run in planned[1:4]]
        assert data.left_out() == [*named, f"left out 3 more: {reason}"]


def test_the_definition_of_a_part_and_of_a_study_that_is_one():
    parts = {"parts": {"tuning": {"kind": "search", "objective": "auc"}, "odd": 3}}
    with dataset.Dataset("x", duckdb.connect(), [], parts, []) as data:
        assert data.part_definition("tuning") == parts["parts"]["tuning"]
        assert data.part_definition("odd") == data.part_definition("none") == {}
    single = {"kind": "search", "objective": "auc", "seeds": [1]}
    with dataset.Dataset("x", duckdb.connect(), [], single, []) as data:
        assert data.part_definition("search") == single
