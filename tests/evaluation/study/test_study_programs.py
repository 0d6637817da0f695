"""The trainers of studies as programs: several in one study, and forked ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from evaluation.main import main
from tests.evaluation.study.study_helpers import write
from tests.evaluation.study.test_study_run import process


def test_tasks_of_two_programs_are_one_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = {"total_steps": 400, "tensorboard": False, "evaluation.interval": 200, "gradients.enabled": False}
    changes: dict[str, Any] = {
        "program": "asgc-rl",
        "programs": {"bursts": "asgc-sup"},
        "options": both,
        "tasks": {
            "CartPole": {"game": "CartPole", "learning_starts": 100, "evaluation.final_episodes": 2},
            "bursts": {"task": "streams", "data.name": "bursts", "model": "linear"},
        },
        "optimizers": {"adam": {"optimizer": {"name": "adam"}}},
        "seconds": None,
        "parts": {"comparison": {"kind": "compare", "seeds": [11]}},
    }
    file = write(tmp_path / "both.yaml", **changes)
    assert process(file, "--dir", tmp_path / "s").wait(400) == 0
    for task, program in (("CartPole", "asgc-rl"), ("bursts", "asgc-sup")):
        run = tmp_path / "s/comparison" / task / "default/adam/default/s11"
        command = json.loads((run / "provenance.json").read_text())["command"]
        assert [Path(command[0]).name, command[1]] == [program, "train"]
        assert json.loads((run / "summary.json").read_text())["final"] is not None
    assert main(["study", "run", str(file), "--dir", str(tmp_path / "s")]) == 0  # each is asked about its own runs
    assert main(["study", "run", str(file), "--dir", str(tmp_path / "new"), "--dry-run"]) == 0
    assert "bursts/default/adam/default/s11: asgc-sup train" in capsys.readouterr().out

    wrong = {**changes, "programs": {"burst": "asgc-sup", "bursts": []}}
    assert main(["study", "run", str(write(tmp_path / "wrong.yaml", **wrong)), "--dir", str(tmp_path / "w")]) == 2
    error = capsys.readouterr().err
    assert "programs.burst: must be one of the tasks" in error
    assert "programs.bursts []: must be a command" in error


def test_a_console_script_is_forked_and_its_runs_are_those_of_new_processes(tmp_path: Path) -> None:
    """asgc-rl on CartPole, once by a fork of the server and once as a process of its own: the same numbers."""
    options = {"total_steps": 1200, "learning_starts": 200, "evaluation.interval": 600, "evaluation.final_episodes": 5}
    changes: dict[str, Any] = {
        "program": "asgc-rl",
        "options": options,
        "tasks": {"CartPole": {"game": "CartPole"}},
        "optimizers": {"asgc": {"optimizer": {"name": "asgc"}}},
        "seconds": None,
        "parts": {"comparison": {"kind": "compare", "seeds": [11]}},
    }
    file = write(tmp_path / "tiny.yaml", **changes)
    assert process(file, "--dir", tmp_path / "s").wait(400) == 0
    forked = tmp_path / "s/comparison/CartPole/default/asgc/default/s11"
    command = json.loads((forked / "provenance.json").read_text())["command"]
    assert Path(command[0]).name == "asgc-rl"
    alone = tmp_path / "alone"
    arguments = [argument for argument in command[2:] if not argument.startswith("--run-dir")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-m", "rl.cli", "train", *arguments, "--run-dir", str(alone)],
        check=True,
        capture_output=True,
        env=environment,
    )
    scores = [json.loads((run / "summary.json").read_text())["scores"] for run in (forked, alone)]
    assert scores[0] == scores[1]

    def losses(run: Path) -> list[float]:
        rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        return [row["value"] for row in rows if row["name"] == "loss"]

    assert losses(forked) == losses(alone) != []
