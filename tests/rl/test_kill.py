"""`asgc-rl train` on real Pong and CartPole, killed with -9 and resumed: the curve of the run that nobody disturbed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evaluation.runs.run_folder import is_finished, read_metrics
from tests.rl.test_trainer import assert_same_run

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
OPTIONS = [
    *("--game", "pong", "--total-steps", "1600", "--checkpoint-interval", "400", "--log-interval", "160"),
    *("--learning-starts", "320", "--train-every", "16", "--batch-size", "8", "--replay-size", "2000"),
    *("--env.threads", "1", "--evaluation.interval", "1000000", "--evaluation.final-episodes", "1"),
    *("--evaluation.epsilon", "1.0", "--tensorboard", "false"),
]
CARTPOLE = [
    *("--game", "cartpole", "--total-steps", "4000", "--checkpoint-interval", "1000", "--log-interval", "400"),
    *("--replay-size", "1500", "--evaluation.interval", "1500", "--evaluation.final-episodes", "3"),
]


def start(*arguments: str) -> subprocess.Popen[str]:
    program = [sys.executable, "-m", "rl.cli", "train", *arguments]
    return subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT)


def finish(*arguments: str) -> str:
    process = start(*arguments)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def kill_after(run: Path, step: int, *arguments: str) -> None:
    """Start, and kill -9 as soon as the metrics show `step`."""
    process = start(*arguments)
    deadline = time.monotonic() + 120
    try:
        while not (run / "config.yaml").exists() or max((row.step for row in read_metrics(run)), default=0) < step:
            assert process.poll() is None, process.stdout and process.stdout.read()
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not is_finished(run)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    finish(*OPTIONS, "--run-dir", str(run))
    return run


def test_killed_twice_and_resumed_is_the_undisturbed_run(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    kill_after(run, 640, *OPTIONS, "--run-dir", str(run))
    assert [path.name for path in (run / "checkpoints").iterdir() if not path.name.startswith(".")] != []
    kill_after(run, 1_280, "--resume", str(run))
    finish("--resume", str(run))
    assert_same_run(whole, run)


def test_a_control_task_killed_twice_and_resumed_is_the_undisturbed_run(tmp_path: Path) -> None:
    finish(*CARTPOLE, "--run-dir", str(tmp_path / "whole"))
    run = tmp_path / "run"
    kill_after(run, 1_600, *CARTPOLE, "--run-dir", str(run))
    kill_after(run, 3_200, "--resume", str(run))
    finish("--resume", str(run))
    assert_same_run(tmp_path / "whole", run)


def test_killed_before_the_first_checkpoint_starts_over(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    kill_after(run, 160, *OPTIONS, "--run-dir", str(run))
    output = finish(*OPTIONS, "--run-dir", str(run), "--resume")
    assert "starts over" in output
    assert_same_run(whole, run)
