"""Folders of runs at any depth, several studies, awkward names and configurations."""

from __future__ import annotations

import contextlib

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.load_runs import write_run
from evaluation.analysis.data import dataset
from evaluation.analysis.data.run_reader import RunReader
from evaluation.cli.config_file import write_config
from evaluation.cli.errors import UserError
from evaluation.files import read_json, write_json
from tests.evaluation.run_trees import Planned, write_gradients, write_study


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


SCALARS = st.one_of(
    st.integers(),
    st.floats(allow_nan=False),
    st.booleans(),
    st.none(),
    st.text(max_size=100),
    st.sampled_from(["1e-4", "yes", "0x1f", "1:30", "1_000", "a: b", "# no", "", "  x", "2026-01-01", "'", "- a"]),
)
KEYS = st.one_of(st.sampled_from(["lr", "name", "yes", "on", "null", "seed"]), st.text(min_size=1, max_size=8))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(KEYS, VALUES, min_size=1, max_size=5), st.booleans())
def test_configurations_mean_what_the_yaml_parser_says(config, unicode):
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=unicode)
    expected = yaml.safe_load(text)
    with contextlib.suppress(TypeError, ValueError, yaml.YAMLError):  # then the whole file goes to the parser
        found = RunReader([])._yaml(text)
        assert found == expected
        assert repr(found) == repr(expected)  # and of the same types


def test_a_programs_own_configuration_does_not_need_the_whole_parser(tmp_path):
    config = {
        "game": "Pong",
        "lr": 2.5e-4,
        "big": 1e6,
        "run_dir": None,
        "env": {"clip": True, "shape": [84, 84], "eps": 1e-8},
    }
    write_config(tmp_path / "config.yaml", config)
    assert RunReader([])._yaml((tmp_path / "config.yaml").read_text()) == config


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
