"""Whole runs on control tasks: resume, replay ratios, summary, command line, learning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from evaluation.runs.run_folder import load_config, load_summary, read_series
from rl import TrainConfig, cli, load_agent, tasks, train
from rl.tasks.families import CONTROL
from tests.rl.test_trainer import Killed, StopAt, assert_same_run, numbers

Policy = Callable[[NDArray[np.float32]], int]
pytestmark = pytest.mark.usefixtures("one_thread")


def tiny(run: Path, **options: Any) -> TrainConfig:
    defaults: dict[str, Any] = {
        "run_dir": str(run),
        "game": "CartPole",
        "total_steps": 2_000,
        "replay_size": 1_000,
        "learning_starts": 400,
        "train_every": 8,
        "batch_size": 16,
        "checkpoint_interval": 700,
        "log_interval": 300,
        "network": {"units": [16]},
        "evaluation": {"interval": 1_000, "episodes": 4, "final_episodes": 4},
    }
    return TrainConfig.preset(**(defaults | options))


@pytest.mark.parametrize("options", [{"optimizer": {"name": "adam"}}, {"game": "LunarLander", "n_step": 3}], ids=str)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path: Path, options: dict[str, Any]) -> None:
    train(tiny(tmp_path / "whole", **options))
    with pytest.raises(Killed):
        train(tiny(tmp_path / "killed", **options), watchers=[StopAt(1_000)])
    with pytest.raises(Killed):
        train(tiny(tmp_path / "killed", **options), resume=True, watchers=[StopAt(1_500)])
    train(tiny(tmp_path / "killed", **options), resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    train(tiny(tmp_path / "other", seed=2, **options))
    assert numbers(tmp_path / "whole") != numbers(tmp_path / "other")


def test_replay_ratios_above_and_below_one(tmp_path: Path) -> None:
    for every, steps, expected in ((1, 1, 1_600), (8, 1, 200), (2, 3, 2_400)):
        run = tmp_path / f"{every}-{steps}"
        train(tiny(run, train_every=every, gradient_steps=steps))
        assert read_series(run, "train", "loss")["samples"][-1] == expected * 16


@pytest.mark.parametrize(("n_step", "first"), [(1, 8), (3, 24), (10, 80)])
def test_learning_that_starts_at_once_waits_for_the_first_return(tmp_path: Path, n_step: int, first: int) -> None:
    train(tiny(tmp_path / "run", total_steps=400, learning_starts=0, n_step=n_step, log_interval=8))
    losses = read_series(tmp_path / "run", "train", "loss")
    assert losses["step"][0] == first
    assert losses["samples"][-1] == (400 - (first - 8)) // 8 * 16


def test_a_short_run_shrinks_its_schedules_once_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, stop = tmp_path / "run", StopAt(400)
    evaluation = {"episodes": 2, "final_episodes": 2}
    config = TrainConfig.preset("control", run_dir=str(run), total_steps=800, evaluation=evaluation)
    assert (config.learning_starts, config.exploration.steps, config.evaluation.interval) == (13, 106, 40)
    with pytest.raises(Killed):
        train(config, watchers=[stop])
    assert sum("made for 60,000 steps, shrunk to 800: --learning-starts 13" in line for line in stop.said) == 1
    assert load_config(run) == config.to_dict() | {"run_dir": None}
    assert cli.main(["train", "--resume", str(run)]) == 0
    assert "shrunk" not in capsys.readouterr().out
    assert load_config(run) == config.to_dict() | {"run_dir": None}
    scores = read_series(run, "eval", "score")["step"]
    assert list(scores) == list(range(40, 801, 40))


def test_summary_and_agent_of_a_run(tmp_path: Path) -> None:
    summary = train(tiny(tmp_path / "run"))
    assert summary == load_summary(tmp_path / "run")
    signature = summary["signature"]
    assert (signature["game"], signature["protocol"], signature["epsilon"], signature["frame"]) == (
        *("CartPole", "control"),
        *(0.0, "4x1"),
    )
    assert summary["time_to_threshold"]["target"] == 475
    agent = load_agent(tmp_path / "run")
    observation = tasks.find("CartPole").make(TrainConfig().env, num_envs=3, seed=1, training=True).reset()
    assert agent.act(observation).shape == (3,)
    assert agent.act(observation[0]).shape == ()
    with pytest.raises(ValueError, match=r"float32 \(N, 1, 4\)"):
        agent.act(observation[:, 0])


def test_eval_and_games_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(tmp_path / "run")
    assert cli.main(["train", "--config", str(write_config(tmp_path)), "--game", "acrobot", "--run-dir", run]) == 0
    assert "game=Acrobot protocol=control" in capsys.readouterr().out
    assert cli.main(["eval", run, "--episodes", "3"]) == 0
    out = capsys.readouterr().out
    assert "game=Acrobot protocol=control epsilon=0.0 episodes=3 seed=1 frame=6x1" in out
    assert cli.main(["eval", run, "--mode", "1"]) == 2
    assert capsys.readouterr().err == "error: --mode: Acrobot is a control task and has none\n"
    assert cli.main(["games"]) == 0
    names = capsys.readouterr().out.splitlines()
    assert names[-5:] == ["", *tasks.names(CONTROL)]
    assert "Pong" in names[:-5]


def write_config(folder: Path) -> Path:
    """A file that names no game and no preset: the game on the command line chooses `control`."""
    path = folder / "tiny.yaml"
    path.write_text("total_steps: 300\nlearning_starts: 100\nevaluation: {interval: 1000, final_episodes: 2}\n")
    return path


def test_the_game_in_a_config_file_chooses_the_preset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_config(tmp_path)
    path.write_text(path.read_text() + "game: mountain_car\n")
    assert cli.main(["train", "--config", str(path), "--print-config"]) == 0
    values = yaml.safe_load(capsys.readouterr().out)
    expected = TrainConfig.preset("control", game="mountain_car", total_steps=300, learning_starts=100)
    assert values["env"] == expected.to_dict()["env"]
    assert (values["total_steps"], values["network"]) == (300, expected.to_dict()["network"])


def test_learns_cartpole(tmp_path: Path) -> None:
    """A random player scores about 22."""
    config = tiny(
        tmp_path / "run",
        total_steps=10_000,
        replay_size=10_000,
        train_every=4,
        batch_size=64,
        checkpoint_interval=100_000,
        network={"units": [64, 64]},
        exploration={"steps": 4_000},
        optimizer={"name": "adam", "lr": 1e-3},
        evaluation={"interval": 100_000, "final_episodes": 20},
    )
    assert train(config)["mean_score"] > 80
