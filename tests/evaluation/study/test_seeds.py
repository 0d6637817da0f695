"""Several seeds in one command."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evaluation.cli.errors import UserError
from evaluation.files import read_json
from evaluation.runs.run_folder import is_finished, load_config, load_summary
from evaluation.study.seeds import OWN, read_seeds, without

TINY = (
    *("--game", "gym:CartPole-v1", "--total-steps", "300", "--tensorboard", "false", "--gradients.enabled", "false"),
    *("--evaluation.episodes", "1", "--evaluation.final-episodes", "2", "--evaluation.interval", "300"),
)


def train(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rl.cli", "train", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def test_seeds_are_read() -> None:
    assert read_seeds("1-5") == [1, 2, 3, 4, 5]
    assert read_seeds("3") == [3]
    assert read_seeds("1, 3,7-9") == [1, 3, 7, 8, 9]
    for wrong in ("", "a", "5-1", "1-", "-3", "1-2-3", "0-99999"):
        with pytest.raises(UserError, match=r"must be seeds such as 1-5 or 1,3,7"):
            read_seeds(wrong)
    with pytest.raises(UserError, match="a seed is given twice"):
        read_seeds("1-3,2")


def test_the_runs_get_the_other_arguments() -> None:
    typed = ["--game", "Pong", "--seeds", "1-3", "--jobs=2", "--run_dir", "x", "--optimizer.lr", "-1", "--resume"]
    assert without(typed, OWN) == ["--game", "Pong", "--optimizer.lr", "-1"]
    assert without(["--resume", "--seed=5", "--compile"], OWN) == ["--compile"]


def test_wrong_options_are_told_before_anything_is_started(tmp_path: Path) -> None:
    done = train("--seeds", "1-2", "--run-dir", "runs", "--batch-size", "0", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert not (tmp_path / "runs").exists()


def test_each_seed_is_a_run_of_its_own_and_missing_ones_are_made_up(tmp_path: Path) -> None:
    done = train(*TINY, "--seeds", "1-2", "--jobs", "2", "--run-dir", "runs", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    runs = tmp_path / "runs"
    assert [load_config(runs / f"s{seed}")["seed"] for seed in (1, 2)] == [1, 2]
    finals = [load_summary(runs / f"s{seed}")["final"] for seed in (1, 2)]
    assert f"mean of 2 final scores: {sum(finals) / 2:.2f}; fewer than 3 runs have no interval" in done.stdout
    again = train(*TINY, "--seeds", "1-2", "--run-dir", "runs", cwd=tmp_path)
    assert again.returncode == 2
    assert "--resume runs goes on with them" in again.stderr
    more = train("--resume", "runs", "--seeds", "3", cwd=tmp_path)
    assert more.returncode == 0, more.stderr
    assert "seed 3 begins in runs/s3" in more.stderr
    assert "seed 1" not in more.stderr  # finished ones stay as they are
    assert load_config(runs / "s3")["total_steps"] == 300
    assert read_json(runs / "seeds.json")["seeds"] == [1, 2, 3]
    assert re.search(r"mean of 3 final scores: .*95% interval", more.stdout)


def test_ctrl_c_saves_all_runs_and_a_resume_finishes_them(tmp_path: Path) -> None:
    arguments = [*TINY, "--total-steps", "100000", "--seeds", "1", "--run-dir", "runs", "--env.num-envs", "2"]
    command = [sys.executable, "-m", "rl.cli", "train", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    metrics = tmp_path / "runs" / "s1" / "metrics.jsonl"
    while not (metrics.is_file() and metrics.stat().st_size):
        assert process.poll() is None
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "stopped; go on with: asgc-rl train --resume runs" in err
    assert "not finished" in out
    assert list((tmp_path / "runs" / "s1" / "checkpoints").iterdir())
    assert not is_finished(tmp_path / "runs" / "s1")
