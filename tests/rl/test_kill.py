"""`asgc-rl train` on real Pong and CartPole, killed with -9 and resumed: the curve of the run that nobody disturbed."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evaluation.runs.run_folder import is_finished, load_summary, read_metrics
from rl import train
from rl.cli import COMMAND
from tests.killed import kill_at
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


PQN = [  # rollouts of 512 steps: checkpoints lie in the middle of one
    *("--algorithm", "pqn", "--game", "cartpole", "--total-steps", "6000", "--checkpoint-interval", "800"),
    *("--log-interval", "400", "--evaluation.interval", "2000", "--evaluation.final-episodes", "3"),
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
    kill_at(start(*arguments), run, step)


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


def test_pqn_killed_in_mid_rollout_and_resumed_is_the_undisturbed_run(tmp_path: Path) -> None:
    config, _ = COMMAND.read([*PQN, "--run-dir", str(tmp_path / "whole")])
    assert config is not None
    train(config)
    run = tmp_path / "run"
    kill_after(run, 2_800, *PQN, "--run-dir", str(run))
    finish("--resume", str(run))
    assert_same_run(tmp_path / "whole", run)


def test_killed_before_the_first_checkpoint_starts_over(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    kill_after(run, 160, *OPTIONS, "--run-dir", str(run))
    output = finish(*OPTIONS, "--run-dir", str(run), "--resume")
    assert "starts over" in output
    assert_same_run(whole, run)


SMALL = ["--preset", "atari-small", "--total-steps", "6000", "--learning-starts", "1000"]
ROLLOUTS = ["--preset", "pqn-small", "--total-steps", "6000", "--pqn.rollout-steps", "100", "--pqn.minibatches", "8"]
TEN = {
    "dqn-pong": SMALL,
    "dqn-breakout": SMALL,
    "dqn-space-invaders": SMALL,
    "dqn-cartpole": ["--total-steps", "12000", "--evaluation.interval", "5000", "--learning-starts", "1000"],
    "pqn-breakout": ROLLOUTS,
    "pqn-space-invaders": [*ROLLOUTS, "--overlap"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TEN)
def test_killed_at_ten_random_moments_is_the_undisturbed_run(name: str, tmp_path: Path) -> None:
    """Checkpoints from every 500 steps to none but the last one; segments shorter than the run, too."""
    text = "--env.num-envs 4 --env.threads 1 --segment-steps 4500 --log-interval 500 --seed 3"
    more = "--evaluation.final-episodes 2 --tensorboard false"
    options = ["--game", name.split("-", 1)[1], *TEN[name], *text.split(), *more.split()]
    finish(*options, "--run-dir", str(tmp_path / "whole"))
    took = load_summary(tmp_path / "whole")["wall_s"]
    whole = {row.step: row.value for row in read_metrics(tmp_path / "whole") if row.name == "episodes"}
    assert sum(whole.values()) >= 3  # games end, however short the interval between checkpoints
    rng = random.Random(name)
    for number in range(10):
        interval = [500, 1_000, 2_500, 10**9][number % 4]
        run = tmp_path / f"run-{number}"
        process = start(*options, "--checkpoint-interval", str(interval), "--run-dir", str(run))
        while not (run / "config.yaml").exists():
            assert process.poll() is None, process.stdout and process.stdout.read()
            time.sleep(0.01)
        time.sleep(rng.uniform(0, took))
        interrupt = number % 4 == 3  # else everything would start over
        process.send_signal(signal.SIGINT if interrupt else signal.SIGKILL)
        process.communicate(timeout=120)
        if not is_finished(run):
            finish("--resume", str(run))
        assert_same_run(tmp_path / "whole", run)
