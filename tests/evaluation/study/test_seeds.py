"""Several seeds in one command."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from evaluation.cli.errors import UserError
from evaluation.files import read_json
from evaluation.runs.run_folder import load_config, load_summary
from evaluation.study.seeds import OWN, read_seeds, train_seeds, without
from rl.cli import COMMAND

DESCENT = (sys.executable, str(Path(__file__).parents[1] / "runs" / "descent.py"))
SLOW = """
import signal, sys, time
from pathlib import Path
folder = next(Path(word.partition("=")[2]) for word in sys.argv if word.startswith("--run-dir="))
def stop(*_):
    (folder / "saved").touch()
    sys.exit(130)
signal.signal(signal.SIGTERM, stop)
folder.mkdir()
(folder / "begun").touch()
time.sleep(100)
"""


def train(program: Sequence[str], *argv: str) -> int:
    """As `asgc-rl train` does it, with another program for the runs."""
    typed, faults = COMMAND.flags().read_all(argv)
    assert not faults
    return train_seeds(COMMAND, program, argv, typed, lambda config: Path("runs"))


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
    with pytest.raises(UserError, match="--learning-starts 1000000000: must be below"):
        train(DESCENT, "--seeds", "1-2", "--run-dir", str(tmp_path / "runs"), "--learning-starts", "1e9")
    with pytest.raises(UserError, match="--seed: with --seeds there are several"):
        train(DESCENT, "--seeds", "1-2", "--seed", "3")
    with pytest.raises(UserError, match="--jobs: how many runs at a time, with --seeds"):
        COMMAND.read(["--jobs", "2"])
    assert not (tmp_path / "runs").exists()


def test_each_seed_is_a_run_of_its_own_and_missing_ones_are_made_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    assert train(DESCENT, "--seeds", "1-2", "--jobs", "2", "--run-dir", str(runs)) == 0
    assert [load_config(runs / f"s{seed}")["seed"] for seed in (1, 2)] == [1, 2]
    finals = [load_summary(runs / f"s{seed}")["final"] for seed in (1, 2)]
    assert finals[0] != finals[1]
    told = capsys.readouterr()
    assert f"mean of 2 final scores: {sum(finals) / 2:.2f}; fewer than 3 runs have no interval" in told.out
    with pytest.raises(UserError, match=r"--resume .*runs goes on with them"):
        train(DESCENT, "--seeds", "1-2", "--run-dir", str(runs))
    assert train(DESCENT, "--resume", str(runs), "--seeds", "3") == 0
    told = capsys.readouterr()
    assert f"seed 3 begins in {runs / 's3'}" in told.err
    assert "seed 1 " not in told.err  # finished ones stay as they are
    assert read_json(runs / "seeds.json") == {"arguments": [], "seeds": [1, 2, 3]}
    assert re.search(r"mean of 3 final scores: .*95% interval", told.out)


def test_a_run_that_fails_is_in_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failing = (sys.executable, "-c", "raise SystemExit('error: no such thing')")
    assert train(failing, "--seeds", "4", "--run-dir", str(tmp_path / "runs")) == 2
    told = capsys.readouterr()
    assert re.search(r"4  failed: exit code 1: error: no such thing", told.out)
    assert "1 of 1 runs failed" in told.err


def test_ctrl_c_lets_all_runs_save(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slow, runs = tmp_path / "slow.py", tmp_path / "runs"
    slow.write_text(SLOW)

    def interrupt() -> None:
        while not all((runs / f"s{seed}" / "begun").is_file() for seed in (1, 2)):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    arguments = ("--seeds", "1-3", "--jobs", "2", "--run-dir", str(runs))
    assert train((sys.executable, str(slow)), *arguments) == 130
    assert sorted(path.parent.name for path in runs.glob("*/saved")) == ["s1", "s2"]
    assert f"stopped; go on with: asgc-rl train --resume {runs}" in capsys.readouterr().err
