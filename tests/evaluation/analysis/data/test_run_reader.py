"""Folders of runs at any depth, several studies, awkward names and configurations."""

from __future__ import annotations

import shutil

import pytest

from evaluation.analysis.data import dataset
from evaluation.cli.errors import UserError
from evaluation.files import read_json, write_json
from evaluation.runs.run_folder import RunFolder
from evaluation.runs.run_metrics import Evaluation, summarize
from tests.evaluation.run_trees import Planned, write_gradients, write_run, write_study


def test_a_folder_of_plain_runs_at_any_depth(tmp_path):
    write_run(tmp_path / "runs" / "2026-01-01" / "a", seed=4, scores=[1.0, 2.0], optimizer="sgd")
    write_run(tmp_path / "runs" / "b", seed=5, scores=[1.0, 2.0])
    write_study(tmp_path / "runs" / "tiny", [Planned("adam", 1)])
    (tmp_path / "runs" / "pictures").mkdir()
    (tmp_path / "runs" / "pictures" / "x.png").write_text("")
    with dataset.load(tmp_path / "runs") as data:
        rows = data.rows(
            "SELECT run, study, part, task, setting, optimizer, variant, purpose, seed FROM runs ORDER BY run"
        )
        labels = {"study": "runs", "part": "runs", "task": "CartPole", "setting": "default", "variant": "default"}
        assert rows[:2] == [
            {"run": "2026-01-01/a", **labels, "optimizer": "sgd", "purpose": "test", "seed": 4},
            {"run": "b", **labels, "optimizer": "adam", "purpose": "test", "seed": 5},
        ]
        assert (rows[2]["run"], rows[2]["study"]) == ("tiny/comparison/CartPole/plain/adam/default/s1", "tiny")
        assert [problem.reason for problem in data.problems] == ["foreign: a folder without config.yaml"]
        assert data.name == "tiny+runs"


def test_one_run(tmp_path):
    write_run(tmp_path / "a", seed=4, scores=[1.0, 2.0])
    with dataset.load(tmp_path / "a") as data:
        assert data.rows("SELECT run, path FROM runs") == [{"run": "a", "path": "."}]


def test_several_studies(tmp_path, study):
    other = write_study(tmp_path / "other", [Planned("sgd", 1)])
    (other / "study.yaml").write_text("name: second\n")
    with dataset.load([study, other]) as data:
        assert (data.name, data.definition) == ("tiny+second", {})
        assert data.rows("SELECT study, count(*) AS n FROM runs GROUP BY study ORDER BY study") == [
            {"study": "second", "n": 1},
            {"study": "tiny", "n": 3},
        ]
        assert data.rows("SELECT run FROM runs WHERE study = 'second'")[0]["run"].startswith("second/comparison/")
    with pytest.raises(UserError, match="two of the folders are named tiny"):
        dataset.load([study, study])


@pytest.mark.parametrize("name", ["it's", "a[1]", "star*", "ü mlaut"])
def test_awkward_names_of_folders(tmp_path, name):
    write_run(tmp_path / "runs" / name, seed=1, scores=[1.0, 2.0])
    write_gradients(tmp_path / "runs" / name)
    with dataset.load(tmp_path / "runs") as data:
        assert data.problems == []
        assert data.rows("SELECT DISTINCT run FROM metrics") == [{"run": name}]
        assert data.rows("SELECT DISTINCT run FROM gradients") == [{"run": name}]


def test_configurations_that_are_not_written_by_the_program(tmp_path):
    write_run(tmp_path / "runs" / "a", seed=1, scores=[1.0])
    (tmp_path / "runs" / "a" / "config.yaml").write_text(
        "# mine\n---\ngame: 'Pong'\nseed: 3\ntotal_steps: 1_000\noptimizer: {name: asgc,\n  lr: 2.5e-4}\n"
        "note: >\n  several\n\n  lines\n"
    )
    with dataset.load(tmp_path / "runs") as data:
        assert data.rows("SELECT task, seed, optimizer, lr, total_steps FROM runs") == [
            {"task": "Pong", "seed": 3, "optimizer": "asgc", "lr": 2.5e-4, "total_steps": 1000}
        ]


def everything(folder):
    """What is wrong, and the rows of two tables as text, in which NaN equals NaN."""
    with dataset.load(folder) as data:
        rows = [data.rows(f"SELECT * FROM {table} ORDER BY ALL") for table in ("runs", "evaluations")]
        return [problem.reason for problem in data.problems], str(rows)


def test_a_run_means_the_same_with_its_row_and_without(tmp_path):
    """Also where numbers are infinite, and where the run is not the planned one."""
    planned = [Planned("adam", 1, (1.0, 2.0, 3.0)), Planned("asgc", 2, (1.0, 2.0)), Planned("sgd", 3, target=None)]
    found = []
    for row in (True, False):
        folder = write_study(tmp_path / str(row) / "tiny", planned, row=row)
        shutil.rmtree(folder / planned[0].path)
        write_run(folder / planned[0].path, seed=1, scores=[1.0], lr=0.5, row=row)
        assert (folder / planned[1].path / "row.json").is_file() == row
        found.append(everything(folder))
    assert found[0] == found[1]
    assert found[0][0] == ["foreign: its config.yaml has optimizer.lr 0.5, where runs.jsonl planned 0.001"]


def test_a_row_is_what_is_read_and_a_damaged_one_is_not_missed(tmp_path):
    write_run(tmp_path / "runs" / "a", seed=4, scores=[1.0, 2.0], row=True)
    before = everything(tmp_path / "runs")
    config, row = tmp_path / "runs" / "a" / "config.yaml", tmp_path / "runs" / "a" / "row.json"
    text = config.read_text()
    config.write_text("game: [1")  # nobody looks
    assert everything(tmp_path / "runs") == before
    config.write_text(text)
    row.write_text("{")
    assert everything(tmp_path / "runs") == before


def test_a_finished_run_of_the_run_folder_has_its_row(tmp_path):
    config = {"game": "CartPole", "seed": 3, "total_steps": 2, "optimizer": {"name": "adam", "lr": 0.25}}
    evaluations = [Evaluation(step, 4 * step, 0.5 * step, 0.0, 10.0 * step) for step in (1, 2)]
    signature = {"game": "CartPole", "protocol": "made up"}
    with RunFolder(tmp_path / "runs" / "a", config, seeds={"seed": 3}, device="cpu", tensorboard=False) as run:
        for one in evaluations:
            run.log(one.step, one.samples, one.wall_s, "eval", {"score": one.value})
        run.finish(summarize(evaluations, target=None, last_k=2, signature=signature))
    with_row = everything(tmp_path / "runs")
    (tmp_path / "runs" / "a" / "row.json").unlink()  # as a folder of an earlier version
    assert everything(tmp_path / "runs") == with_row
    with dataset.load(tmp_path / "runs") as data:
        assert data.rows("SELECT task, optimizer, seed, lr, final FROM runs") == [
            {"task": "CartPole", "optimizer": "adam", "seed": 3, "lr": 0.25, "final": 15.0}
        ]


def test_what_cannot_be_loaded_at_all(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        dataset.load(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        dataset.load(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no runs there"):
        dataset.load(tmp_path / "empty")
    with pytest.raises(UserError, match="no folder given"):
        dataset.load([])


def test_a_folder_of_broken_runs_only_is_loaded_and_says_so(tmp_path):
    write_run(tmp_path / "runs" / "a", seed=1, scores=[1.0])
    summary = tmp_path / "runs" / "a" / "summary.json"
    write_json(summary, read_json(summary) | {"final": None})
    with dataset.load(tmp_path / "runs") as data:
        assert len(data.problems) == 1
        assert data.rows("SELECT * FROM runs") == []
