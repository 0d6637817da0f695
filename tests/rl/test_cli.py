"""`asgc-rl` from outside: help, errors of one line with exit code 2, layers of options, a whole run."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from evaluation.runs import resources
from evaluation.runs.run_folder import read_metrics
from rl import cli
from rl.config import TrainConfig

# A run of a second: random games of Breakout end after some 150 steps.
TINY = """\
game: Breakout
total_steps: 200
replay_size: 1000
learning_starts: 100
log_interval: 50
checkpoint_interval: 100
tensorboard: false
env: {num_envs: 2, threads: 1, height: 42, width: 42}
network: {channels: [4], kernels: [8], strides: [8], hidden: 8, standardize: false}
optimizer: {name: sgd}
evaluation: {interval: 1000, final_episodes: 1, epsilon: 1.0}
"""


COMMAND = [sys.executable, "-m", "rl.cli"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A YAML file of a run of 200 steps."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The error line of a command that must end with exit code 2 and say nothing else."""
    code = cli.main(argv)
    out, err = capsys.readouterr()
    assert code == 2, (code, out, err)
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err.removeprefix("error: ").strip()


def printed_config(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    """The configuration that `train` would use with these arguments."""
    assert cli.main(["train", *argv, "--print-config"]) == 0
    values: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    return values


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["trian"], "unknown command 'trian'; did you mean 'train'?"),
        (["train", "--gam", "Pong"], "unknown option --gam; did you mean --game?"),
        (["train", "--total_step", "5"], "unknown option --total_step; did you mean --total-steps?"),
        (["train", "--clip-factor", "3"], "unknown option --clip-factor; did you mean --optimizer.clip-factor?"),
        (["train", "--xyz"], "unknown option --xyz; `asgc-rl train --help` lists them"),
        (["train", "-x"], "unknown option -x; `asgc-rl train --help` lists them"),
        (["train", "Pong"], "unexpected argument 'Pong': options start with --"),
        (["train", "--game"], "--game: expected a value"),
        (["train", "--seed", "x"], "--seed x: must be a whole number"),
        (["train", "--total-steps", "-5"], "--total-steps -5: must be at least 1 and at most 1e12"),
        (["train", "--gamma=1.5"], "--gamma 1.5: must be at least 0 and below 1"),
        (["train", "--optimizer.lr", "-1e-4"], "--optimizer.lr -1e-4: must be at least 0 and finite"),
        (
            ["train", "--batch-size", "2e3", "--replay-size", "1000"],
            "--batch-size 2000: must be at most --replay-size 1000",
        ),
        (
            ["train", "--env.protocol", "atari"],
            "--env.protocol atari: must be nature, classic, sticky, control or gymnasium",
        ),
        (["train", "--optimizer.adapt", "yes"], "--optimizer.adapt yes: must be hypergradient or null"),
        (["train", "--double", "maybe"], "--double maybe: must be true or false"),
        (["train", "--preset", "slow"], f"unknown preset 'slow'; there are {', '.join(TrainConfig.PRESETS)}"),
        (["train", "--resume"], "--resume: say which run: --resume RUN"),
        (["train", "--resume", "/nowhere"], "--resume /nowhere: not a run folder (no config.yaml in it)"),
        (["train", "--config", "/nowhere.yaml"], "cannot read --config /nowhere.yaml: No such file or directory"),
        (["train", "--optimizer", "adma"], "unknown optimizer 'adma'; did you mean 'adam'?"),
        (["train", "--optimizer", "adam", "--optimizer.mode", "norm"], "--optimizer.mode: adam has no such option"),
        (["eval"], "say which run: asgc-rl eval RUN"),
        (["eval", "/nowhere"], "/nowhere is not a run folder: no such folder"),
        (["eval", "run", "--episodes", "0"], "--episodes 0: must be at least 1 and at most 10000"),
        (["games", "--all"], "unknown option --all; `asgc-rl games --help` lists them"),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_code_2(
    argv: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(capsys, *argv) == expected


def test_unknown_game_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "train", "--game", "brekout")
    assert "brekout" in line
    assert "Breakout" in line


def test_yaml_errors_name_the_line(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.write_text(TINY + "bach_size: 32\n")
    line = refused(capsys, "train", "--config", str(tiny))
    assert line == f"{tiny}:{TINY.count(chr(10)) + 1}: unknown option 'bach_size'; did you mean 'batch_size'?"


def test_dashes_and_underscores_and_the_optimizer_alias(capsys: pytest.CaptureFixture[str]) -> None:
    one = printed_config(
        capsys, "--total_steps", "1e6", "--optimizer", "sgd", "--optimizer.weight_decay=1e-2", "--double"
    )
    other = printed_config(
        capsys,
        "--total-steps=1000000",
        "--optimizer.name",
        "sgd",
        "--optimizer.weight-decay",
        "0.01",
        "--double",
        "true",
    )
    assert one == other
    assert (one["total_steps"], one["optimizer"]["name"], one["optimizer"]["weight_decay"]) == (1_000_000, "sgd", 0.01)
    assert one["double"] is True


def test_later_layers_win(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = printed_config(capsys)
    assert quick == TrainConfig.preset("quick").to_dict()
    assert printed_config(capsys, "--preset", "dqn") == TrainConfig.preset("dqn").to_dict()
    # Flags win over the file wherever they stand.
    config = printed_config(capsys, "--seed", "9", "--env.num-envs", "3", "--config", str(tiny), "--replay-size", "500")
    assert (config["seed"], config["env"]["num_envs"], config["replay_size"]) == (9, 3, 500)
    assert config["total_steps"] == 200
    assert config["n_step"] == quick["n_step"]


def test_negative_values_are_values(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed_config(capsys, "--evaluation.target", "-1.5e1")["evaluation"]["target"] == -15.0
    assert printed_config(capsys, "--evaluation.target", "null")["evaluation"]["target"] is None


def test_lists_and_infinity(capsys: pytest.CaptureFixture[str]) -> None:
    config = printed_config(
        capsys, "--network.channels", "8,16", "--optimizer.betas", "[0.5, 0.9]", "--optimizer.clip-factor", "inf"
    )
    assert config["network"]["channels"] == [8, 16]
    assert config["optimizer"]["betas"] == [0.5, 0.9]
    assert config["optimizer"]["clip_factor"] == float("inf")


def test_a_run_folder_gives_its_own_configuration_to_resume(tmp_path: Path) -> None:
    config = TrainConfig.preset("dqn", seed=5)
    (tmp_path / "config.yaml").write_text(config.dump())

    def layers(*argv: str) -> TrainConfig:
        return cli.COMMAND.layers(cli.COMMAND.flags().read(argv)[1])

    config.run_dir = str(tmp_path)
    assert layers("--resume", str(tmp_path)) == config
    assert layers("--run-dir", str(tmp_path), "--resume").seed == 5
    assert layers("--run-dir", str(tmp_path), "--resume", "--preset", "quick").seed == 1


def test_help_is_short_and_shows_the_defaults_of_the_layers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["train", "--help", "--seed", "42"]) == 0
    page = capsys.readouterr().out
    assert len(page.splitlines()) <= 80
    assert max(map(len, page.splitlines())) <= 80
    assert "seed of everything random [42]" in page
    assert "--optimizer NAME" in page
    assert cli.main(["train", "--help-all"]) == 0
    everything = capsys.readouterr().out
    for path in TrainConfig.settings():
        assert "--" + path.replace("_", "-").removesuffix(".name") in everything


def test_version_and_overview(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("asgc ")
    assert cli.main([]) == 0
    assert "asgc-rl train --game Pong" in capsys.readouterr().out


def test_games_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["games"]) == 0
    assert {"Pong", "Breakout", "SpaceInvaders"} <= set(capsys.readouterr().out.split())


def test_what_studies_preload_is_there() -> None:
    """The fork server swallows a module that is missing: every run would import it anew."""
    from rl.cli import PRELOAD

    assert [name for name in PRELOAD if name != "pandas" and importlib.util.find_spec(name) is None] == []


def test_help_shows_the_options_of_the_algorithm(capsys: pytest.CaptureFixture[str]) -> None:
    pages = []
    for argv in ([], ["--algorithm", "pqn"], ["--preset", "pqn"], ["--algorithm", "pqn", "--game", "cartpole"]):
        assert cli.main(["train", "--help", *argv]) == 0
        pages.append(capsys.readouterr().out)
    assert [("--replay-size" in page, "--pqn.td-lambda" in page) for page in pages] == [(True, False)] + [
        (False, True)
    ] * 3
    assert ["environments stepped together [128]" in page for page in pages] == [False, False, True, False]


def test_help_and_errors_do_not_import_torch() -> None:
    code = """
import sys
from rl.cli import main
def code(argv):
    try:
        return main(argv)
    except SystemExit as ended:
        return ended.code
codes = [code(argv) for argv in (["--help"], ["train", "--help"], ["bench", "--help"], ["eval", "--help"],
     ["train", "--gam", "x"], ["train", "--gamma", "7"])]
heavy = {"torch", "envpool", "numpy", "tensorboard"} & set(sys.modules)
sys.exit(f"{codes} {heavy}" if heavy or codes != [0, 0, 0, 0, 2, 2] else 0)
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr


def test_a_run_from_start_to_evaluation(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert cli.main(["train", "--game", "BREAKOUT", "--config", str(tiny), "--run-dir", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("step=200 total=200 ") for line in lines)
    assert json.loads((run / "summary.json").read_text())
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["game"], config["total_steps"]) == ("Breakout", 200)
    assert len(config["optimizer"]) == len(TrainConfig().to_dict()["optimizer"])  # complete

    assert cli.main(["eval", str(run), "--episodes", "2", "--epsilon", "1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("score=")
    assert "game=Breakout protocol=classic epsilon=1.0 episodes=2 seed=1" in out

    assert "holds a finished run" in refused(capsys, "train", "--config", str(tiny), "--run-dir", str(run))


def test_places_and_machines_that_cannot_hold_a_run(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train = ("train", "--config", str(tiny))
    below_a_file = str(tiny / "run")
    assert refused(capsys, *train, "--run-dir", below_a_file).startswith(f"cannot write to {below_a_file}: ")
    assert "is a file" in refused(capsys, *train, "--run-dir", str(tiny))
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").touch()
    assert "is not a run folder" in refused(capsys, *train, "--run-dir", str(other))

    line = refused(capsys, *train, "--replay-size", "1e10", "--run-dir", str(tmp_path / "a"))
    assert line.startswith("not enough memory: ")
    assert "--replay-size" in line
    if not torch.cuda.is_available():
        line = refused(capsys, *train, "--device", "cuda", "--run-dir", str(tmp_path / "a"))
        assert "--device cuda: no CUDA GPU" in line
    monkeypatch.setattr(resources, "available_disk", lambda path: 1_000_000)
    line = refused(capsys, *train, "--run-dir", str(tmp_path / "a"))
    assert line.startswith("not enough disk space for ")
    assert not (tmp_path / "a").exists()
    monkeypatch.undo()
    assert cli.main([*train, "--run-dir", str(tmp_path / "a")]) == 0  # the same command, mended


@pytest.mark.parametrize("stdout", ["closed", "pipe", "full"])
def test_a_stdout_that_nobody_reads_ends_the_display_not_the_run(tiny: Path, tmp_path: Path, stdout: str) -> None:
    run = tmp_path / "run"
    argv = " ".join([*COMMAND, "train", "--config", str(tiny), "--run-dir", str(run)])
    shell = {"closed": f"{argv} >&-", "pipe": f"set -o pipefail; {argv} | head -1", "full": f"{argv} >/dev/full"}[
        stdout
    ]
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("the run goes on without it") == (stdout != "closed")
    assert (run / "summary.json").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_in_an_evaluation_leaves_it_at_once(tiny: Path, tmp_path: Path, number: signal.Signals) -> None:
    """On a terminal that is closed: a display, then none. The evaluation would take minutes."""
    run = tmp_path / "run"
    games = ["--evaluation.interval", "100", "--evaluation.episodes", "10000", "--checkpoint-interval", "1000000"]
    master, slave = os.openpty()
    argv = [*COMMAND, "train", "--config", str(tiny), "--run-dir", str(run), *games]
    process = subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, env={**ENVIRONMENT, "TERM": "xterm"})
    os.close(slave)
    shown = b""
    try:
        while b"evaluating" not in shown:
            shown += os.read(master, 4096)
        if number == signal.SIGHUP:
            os.close(master)  # the terminal goes first: whatever is written is an error
            process.send_signal(number)
        process.send_signal(number)
        if number == signal.SIGINT:
            with contextlib.suppress(OSError):
                while data := os.read(master, 4096):
                    shown += data
        assert process.wait(timeout=60) == 130
    finally:
        process.kill()
    if number == signal.SIGINT:
        assert b"stopped at step 100 and saved; resume with: asgc-rl train --resume" in shown.replace(b"\r\n", b"")
        assert b"Traceback" not in shown
    (saved,) = (run / "checkpoints").iterdir()
    assert saved.name.endswith("-step-100")
    assert [row.name for row in read_metrics(run) if row.split == "eval"] == []


def test_ctrl_c_saves_and_says_how_to_resume(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    argv = ["train", "--config", str(tiny), "--run-dir", str(run), "--total-steps", "100000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "rl.cli", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        metrics = run / "metrics.jsonl"
        deadline = time.monotonic() + 90
        while not (metrics.exists() and metrics.stat().st_size):
            assert time.monotonic() < deadline
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert f"asgc-rl train --resume {run}" in err
    assert "Traceback" not in err

    line = refused(capsys, "train", "--resume", str(run), "--gamma", "0.5")
    assert "another configuration" in line
    assert "gamma 0.99 -> 0.5" in line
