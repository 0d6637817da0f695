"""`asgc-rl check`: every fault of every line, nothing run."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import pytest

from evaluation.files import from_json
from rl import cli
from rl.config import TrainConfig


def check(capsys: pytest.CaptureFixture[str], path: Path, *lines: Any) -> tuple[int, list[dict[str, Any]]]:
    """Exit code and answers for these lines (lists of arguments, or text as it is)."""
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    code = cli.main(["check", str(path)])
    out, err = capsys.readouterr()
    assert err == ""
    return code, [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of lines; the working folder is empty, so that run folders made by mistake are seen."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return tmp_path / "lines"


def test_right_lines_give_the_configuration_that_train_would_use(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, answers = check(
        capsys,
        file,
        ["--game", "cart_pole", "--optimizer.lr", "0.003", "--total_steps=3e4", "--run-dir", "runs/x"],
        ["--game", "breakout", "--optimizer", "asgc", "--optimizer.clip-factor", "inf"],
        ["--preset", "dqn", "--tensorboard", "--seed", "7"],
    )
    assert code == 0
    assert [(answer["ok"], answer["game"], answer["total_steps"]) for answer in answers] == [
        (True, "CartPole", 30_000),
        (True, "Breakout", 500_000),
        (True, "Pong", 10_000_000),
    ]
    expected = TrainConfig.preset(
        "control", game="CartPole", optimizer={"lr": 0.003}, total_steps=30_000, run_dir="runs/x"
    )
    expected.validate()
    assert answers[0]["config"] == expected.to_dict()
    assert answers[1]["config"]["optimizer"]["clip_factor"] == "Infinity"
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(
    ("argv", "errors"),
    [
        (
            ["--gam", "Pong", "--optimizer.lrr", "0.1", "--gamma", "7"],
            [
                "unknown option --gam; did you mean --game?",
                "unknown option --optimizer.lrr; did you mean --optimizer.lr?",
                "--gamma 7: must be at least 0 and below 1",
            ],
        ),
        (
            ["--seed", "x", "--game", "brekout", "--optimizer", "adma"],
            [
                "--seed x: must be a whole number",
                "unknown game 'brekout': did you mean Breakout",
                "unknown optimizer 'adma'; did you mean 'adam'?",
            ],
        ),
        (
            ["--game", "CartPole", "--env.height", "42", "--learning-starts", "1e9", "--batch-size", "50000"],
            [
                "--env.height 42: CartPole is a control task",
                "--batch-size 50000: must be at most --replay-size",
                "--learning-starts 1000000000: must be below --total-steps",
            ],
        ),
        (["Pong", "--loss"], ["unexpected argument 'Pong': options start with --", "--loss: expected a value"]),
        (["--resume", "runs/x", "--help"], ["--resume: not possible here", "--help: not possible here"]),
        (["--game", "Pong", "--env.mode", "77"], ["Pong has no mode 77"]),
        (["--preset", "slow", "--sed", "1"], ["unknown option --sed", "unknown preset 'slow'"]),
        (["--config", "/nowhere.yaml"], ["cannot read --config /nowhere.yaml"]),
        (
            ["--optimizer", "sgd", "--optimizer.nesterov", "true", "--optimizer.lr", "-1"],
            ["--optimizer.lr -1", "sgd: "],
        ),
        ({"game": "Pong"}, ["expected a JSON list of texts"]),
        (["--seed", 3], ["expected a JSON list of texts"]),
        ("[", ["expected a JSON list of texts"]),
    ],
)
def test_all_faults_of_a_line_at_once(
    argv: Any, errors: list[str], file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, answers = check(capsys, file, ["--seed", "1"], argv, ["--seed", "2"])
    assert code == 2
    assert [answer["ok"] for answer in answers] == [True, False, True]
    found = answers[1]["errors"]
    assert len(found) == len(errors), found
    for line, expected in zip(found, errors, strict=True):
        assert expected in line
        assert "\n" not in line


def test_all_faults_of_a_config_file(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("seed: x\nenv:\n  hight: 3\n  num_envs: 0\ngamma: 0.9\n")
    _, answers = check(capsys, file, ["--config", str(config), "--gamm", "1"])
    assert [error.partition(": ")[0] for error in answers[0]["errors"]] == [
        "unknown option --gamm; did you mean --gamma?",
        f"{config}:1",
        f"{config}:3",
        f"{config}:4",
    ]


def test_what_is_wrong_alone_is_not_blamed_twice(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a wrong --total-steps nothing is said of --learning-starts, which is right beside the one that was meant."""
    _, answers = check(capsys, file, ["--total-steps", "1e8x", "--learning-starts", "1e7"])
    assert answers[0]["errors"] == ["--total-steps 1e8x: must be a whole number"]


def test_it_accepts_and_refuses_what_train_does(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first fault that it lists is the one that `train` stops at."""
    for argv in (["--gamma", "7"], ["--xyz"], ["--optimizer", "adam", "--optimizer.mode", "norm"], ["--game", "Png"]):
        assert cli.main(["train", *argv]) == 2
        said = capsys.readouterr().err.removeprefix("error: ").strip()
        _, answers = check(capsys, file, argv)
        assert answers[0]["errors"][0] == said


def test_standard_input_and_a_missing_file(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('["--seed", "3"]\n["--seed", "4"]\n'))
    assert cli.main(["check"]) == 0
    assert [json.loads(line)["config"]["seed"] for line in capsys.readouterr().out.splitlines()] == [3, 4]
    assert cli.main(["check", "/nowhere"]) == 2
    assert capsys.readouterr().err == "error: cannot read /nowhere: No such file or directory\n"


def test_a_thousand_lines_take_seconds(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [
        ["--game", game, "--optimizer", optimizer, "--optimizer.lr", str(1e-4 * (seed + 1)), "--seed", str(seed)]
        for game in ("CartPole", "Pong")
        for optimizer in ("adam", "asgc", "sgd", "rmsprop")
        for seed in range(125)
    ]
    check(capsys, file, *lines[:1])  # the imports
    start = time.process_time()
    code, answers = check(capsys, file, *lines)
    assert (code, len(answers)) == (0, 1000)
    assert time.process_time() - start < 15


def test_the_defaults_of_all_options(capsys: pytest.CaptureFixture[str]) -> None:
    """No preset's: what a run means that a version made which did not have an option yet."""
    assert cli.main(["check", "--defaults"]) == 0
    assert from_json(json.loads(capsys.readouterr().out)) == TrainConfig().to_dict()
