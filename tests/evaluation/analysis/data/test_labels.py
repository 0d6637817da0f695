"""A run is what the study's index says, whatever name the study's folder is given by."""

from __future__ import annotations

import json

from evaluation.analysis.data import dataset
from evaluation.cli.config_file import read_config, write_config
from tests.evaluation.run_trees import Planned, write_study


def test_swapped_runs_are_found_by_their_optimizer(tmp_path):
    planned = [Planned(optimizer, seed) for optimizer in ("adam", "asgc") for seed in (1, 2)]
    study = write_study(tmp_path / "tiny", planned)
    entries = [json.loads(line) for line in (study / "runs.jsonl").read_text().splitlines()]
    for entry in entries:
        entry["options"] |= {"optimizer.name": entry["optimizer"], "game": "cart_pole"}  # in any spelling
    (study / "runs.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    config = read_config(study / planned[0].path / "config.yaml")
    config["optimizer"]["name"] = "asgc"
    write_config(study / planned[0].path / "config.yaml", config)
    with dataset.load(study) as data:
        (problem,) = data.problems
        assert problem.path == str(study / planned[0].path)
        assert problem.reason == "foreign: its config.yaml has optimizer.name asgc, where runs.jsonl planned adam"
        assert len(data.rows("SELECT run FROM runs")) == 3


def test_the_present_folder_is_a_study_like_any_other(tmp_path, monkeypatch):
    study = write_study(tmp_path / "tiny", [Planned("adam", 1), Planned("asgc", 1)])
    monkeypatch.chdir(study)
    with dataset.load(".") as data:
        assert data.problems == []
        assert len(data.rows("SELECT run FROM runs")) == 2
