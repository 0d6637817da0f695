"""`asgc-sup` from outside: help, errors of one line, whole runs, and what is done with their models."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from evaluation.runs.kept_models import MODELS
from evaluation.runs.kept_results import RESULTS
from evaluation.runs.run_folder import load_summary, read_series
from evaluation.runs.watchers import Watcher
from supervised import cli, translate_cli
from supervised.config import TrainConfig
from supervised.model import load
from supervised.text.subwords import Subwords
from supervised.text.token_files import VOCABULARY
from tests.killed import kill_at
from tests.supervised.test_trainer import numbers, weights
from tests.supervised.toy_text import prepared, sentences

pytest.importorskip("sentencepiece")
pytest.importorskip("sacrebleu")

COMMANDS = ("train", "eval", "predict", "translate", "data prepare", "data info", "bench", "check")
RUN = [
    *("--preset", "dict-ende", "--model", "tiny", "--total-steps", "40", "--batch-size", "200", "--optimizer", "adam"),
    *("--optimizer.lr", "3e-3", "--lr-schedule.warmup", "10", "--log-interval", "5", "--checkpoint-interval", "15"),
    *("--device", "cpu", "--precision", "fp32", "--threads", "1", "--no-tensorboard", "--no-gradients.enabled"),
    *("--evaluation.interval", "20", "--evaluation.metric", "accuracy", "--evaluation.train-subset", "20"),
]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def run(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose evaluations are after 20 and 40 updates, with models kept after 10, 20, 30 and 40."""
    folder = tmp_path_factory.mktemp("run") / "run"
    assert cli.main(["train", *RUN, "--data", str(text), "--keep-models", "10", "--run-dir", str(folder)]) == 0
    return folder


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The error line of a command that must end with exit code 2 and say nothing else."""
    code = cli.main(argv)
    out, err = capsys.readouterr()
    assert code == 2, (code, out, err)
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err.removeprefix("error: ").strip()


# Pages --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_page(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    try:
        code: Any = cli.main([*command.split(), "--help"])
    except SystemExit as done:
        code = done.code
    page, err = capsys.readouterr()
    assert (code, err) == (0, "")
    assert page.startswith(f"usage: asgc-sup {command} ")
    assert max(map(len, page.splitlines())) <= 80
    assert f"asgc-sup {command.split()[0]}" in cli.USAGE
    flags = re.findall(r"^  (?:-h, )?(--?[a-z.-]+|[A-Z]+).*", page, re.MULTILINE)
    assert "--help" in flags
    assert len(flags) == len(set(flags))


def test_the_pages_of_train_show_what_the_run_has(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--task", "wmt14", "--help"]) == 0
    text = capsys.readouterr().out
    assert cli.main(["train", "--data", "digits", "--help"]) == 0
    images = capsys.readouterr().out
    assert "--evaluation.beam" in text
    assert "--evaluation.beam" not in images
    assert "--data.label-noise" in images
    assert "--data.label-noise" not in text
    assert "[25000]" in text
    assert cli.main(["train", "--help-all"]) == 0
    everything = capsys.readouterr().out
    for one in TrainConfig.settings().values():
        assert f"  {one.flag.removesuffix('.name')} " in everything, one.flag
    assert cli.main([]) == 0
    assert capsys.readouterr().out == cli.USAGE


# Errors -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["trian"], "unknown command 'trian'; did you mean 'train'?"),
        (["train", "--dat", "digits"], "unknown option --dat; did you mean --data?"),
        (["train", "--beam", "4"], "unknown option --beam; did you mean --evaluation.beam?"),
        (["train", "digits"], "unexpected argument 'digits': options start with --"),
        (["train"], "--data: say what to learn from: a folder, or fashion-mnist or digits, which a laptop has"),
        (["train", "--data", "digits", "--epochs", "0"], "--epochs 0: must be above 0 and at most 1e6"),
        (["train", "--data", "digits", "--optimizer", "adma"], "unknown optimizer 'adma'; did you mean 'adam'?"),
        (["train", "--preset", "wmt"], f"unknown preset 'wmt'; there are {', '.join(TrainConfig.PRESETS)}"),
        (
            ["train", "--data", "digits", "--evaluation.beam", "3"],
            "--evaluation.beam 3: only --task wmt14 has this option: leave it out",
        ),
        (
            ["train", "--data", "dict-ende", "--data.label-noise", "0.2"],
            "--data.label-noise 0.2: only --task imagenet has this option: leave it out",
        ),
        (["train", "--data", "digits", "--backend", "fairseq"], "--backend fairseq: only for --task wmt14"),
        (
            ["train", "--data", "digits", "--data.resize", "40"],
            "--data.resize 40: has no effect on digits, which comes with scikit-learn and is held in memory: leave it "
            "out",
        ),
        (
            ["train", "--data", "digits", "--model", "smallcnn"],
            "--model smallcnn: must be small-cnn or a classifier of torchvision; did you mean small-cnn?",
        ),
        (
            ["train", "--data", "dict-ende", "--model", "smal"],
            "--model smal: no size of the Transformer; did you mean 'small'?",
        ),
        (["train", "--resume", "nowhere"], "--resume nowhere: not a run folder (no config.yaml in it)"),
        (["train", "--data", "digits", "--jobs", "2"], "--jobs: how many runs at a time, with --seeds"),
        (
            ["train", "--data", "digits", "--seeds", "1-2", "--dry-run"],
            "--dry-run: what one run takes: leave out --seeds",
        ),
        (["eval"], "say which run: asgc-sup eval RUN"),
        (["eval", "nowhere"], "nowhere is not a run folder: no such folder"),
        (["eval", "."], ". is not a run folder: it has no config.yaml"),
        (["translate"], "say which run: asgc-sup translate RUN < LINES"),
        (["predict", "run"], "say which run and which images: asgc-sup predict RUN IMAGE [IMAGE ...]"),
        (["predict", "run", "boot.png"], "run is not a run folder: no such folder"),
        (["check", "nowhere"], "cannot read nowhere: No such file or directory"),
    ],
)
def test_faults_are_one_line(
    argv: list[str],
    expected: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "smallcnn" in argv:
        pytest.importorskip("sklearn")
        if importlib.util.find_spec("torchvision") is None:
            pytest.skip("needs torchvision, whose models it names")
    monkeypatch.chdir(tmp_path)
    assert refused(capsys, *argv) == expected
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_the_other_trainer(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "pong").mkdir()
    (tmp_path / "pong" / "config.yaml").write_text("game: Pong\n")
    run = str(tmp_path / "pong")
    for asked in (["eval", run], ["translate", run]):
        assert refused(capsys, *asked) == f"{run} is a run of asgc-rl: asgc-rl eval {run}"


def test_missing_data_says_where_it_is_to_be(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = refused(capsys, "train", "--data", "photos")
    assert "Expected FOLDER/train/CLASS/*.jpg and FOLDER/val/CLASS/*.jpg" in line
    assert line.endswith("for text: --data dict-ende, or --task wmt14 and a --data of your own")
    assert "did you mean 'digits'? Expected" in refused(capsys, "train", "--data", "digitz")
    line = refused(capsys, "train", "--data", "corpus", "--task", "wmt14")
    assert "a folder with train, valid, test.en and .de" in line
    line = refused(capsys, "train", "--data", "dict-ende", "--data.root", "nowhere")
    assert line.startswith("no dictionary at nowhere: `apt install trans-de-en` puts it at ")
    line = refused(capsys, "train", "--data", "fashion-mnist", "--data.root", "nowhere")
    assert "nowhere" in line
    assert "dataset-fashion-mnist" in line
    assert list(tmp_path.iterdir()) == []


def test_check_answers_each_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        ["--data", "digits", "--optimizer.lr", "0.25"],
        ["--data", "digits", "--epoch", "3", "--optimizer.lr", "x"],
        ["--data", "digits", "--evaluation.beam", "2"],
        ["--data", "digits", "--dry-run", "--seeds", "1-2"],
        ["--task", "wmt14", "--total-steps", "1e3"],
    ]
    file = tmp_path / "lines"
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines) + "no JSON\n")
    assert cli.main(["check", str(file)]) == 2
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["ok"] for answer in answers] == [True, False, False, False, True, False]
    assert answers[0]["config"]["optimizer"]["lr"] == 0.25
    assert answers[0]["config"]["model"]["name"] == "small-cnn"
    assert answers[1]["errors"] == [
        "unknown option --epoch; did you mean --epochs?",
        "--optimizer.lr x: must be a number",
    ]
    assert answers[2]["errors"] == ["--evaluation.beam 2: only --task wmt14 has this option: leave it out"]
    assert answers[3]["errors"] == ["--seeds: not possible here", "--dry-run: not possible here"]
    assert (answers[4]["total_steps"], answers[4]["config"]["task"]) == (1000, "wmt14")
    file.write_text(json.dumps(lines[0]))
    assert cli.main(["check", str(file)]) == 0


# Runs ---------------------------------------------------------------------------------------------------------------


def test_eval_scores_each_of_a_runs_models(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = read_series(run, "eval", "score")["value"]
    best = int(read_series(run, "eval", "score")["step"][scores.argmax()])

    def evaluated(*flags: str) -> dict[str, Any]:
        assert cli.main(["eval", str(run), "--json", "--device", "cpu", *flags]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    final = evaluated()
    assert (final["model"], final["step"], final["score"]) == ("final", 40, pytest.approx(scores[-1]))
    assert final["signature"]["sentences"] == 30
    assert (evaluated("--best")["step"], evaluated("--best")["score"]) == (best, pytest.approx(scores.max()))
    kept = evaluated("--step", "20")
    assert (kept["model"], kept["step"], kept["score"]) == ("kept", 20, pytest.approx(scores[0]))
    average = evaluated("--average", "3")
    assert (average["model"], average["step"]) == ("average of 3", 40)
    assert average["nll"] not in (final["nll"], kept["nll"])
    mean = load(run, "cpu", average=3).weights
    parts = [torch.load(run / MODELS / f"step-{step:09d}.pt", weights_only=True)["model"] for step in (20, 30, 40)]
    for name, tensor in mean.items():
        torch.testing.assert_close(tensor, (parts[0][name] + parts[1][name] + parts[2][name]) / 3)
    test = evaluated("--split", "test")
    assert test["score"] == pytest.approx(load_summary(run)["test"]["score"])
    assert (test["signature"]["sentences"], test["signature"]["split"]) == (20, "test")
    lines = [json.loads(line) for line in (run / RESULTS).read_text().splitlines()]
    assert lines[-1]["score"] == test["score"]
    assert cli.main(["eval", str(run)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"score={final['score']:.4g} nll=")
    assert "model=final step=40" in first
    assert "metric=accuracy" in second


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--best", "--step", "20"], "--best and --step name two models: leave out one of them"),
        (["--step", "15"], "has no model of that step; there are 10, 20, 30, 40"),
        (["--average", "9"], "has kept 4 models; `train --keep-models N` keeps one every N steps"),
        (["--split", "tets"], "--split tets: there are validation, train_subset, test"),
        (["--device", "cuda:99"], "cuda"),
    ],
)
def test_what_eval_refuses(run: Path, flags: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in refused(capsys, "eval", str(run), *flags)


def translated(monkeypatch: pytest.MonkeyPatch, capsysbinary: Any, run: Path, data: bytes, *flags: str) -> Any:
    """Exit code, lines and what was said of an error."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="latin-1"))
    code = cli.main(["translate", str(run), "--device", "cpu", *flags])
    out, err = capsysbinary.readouterr()
    assert out == b"" or out.endswith(b"\n")
    return code, out.decode().split("\n")[:-1], err.decode()


def test_translate_gives_a_line_for_each(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setattr(translate_cli, "LINES", 3)
    sources = [source for source, _ in sentences(5, 9)]
    lines = [sources[0], "", *sources[1:3], "   ", *sources[3:], "ü\N{SNOWMAN} a"]

    def given(data: str, *flags: str) -> list[str]:
        code, found, err = translated(monkeypatch, capsysbinary, run, data.encode(), *flags)
        assert (code, err) == (0, "")
        return list(found)

    alone = [given(f"{line}\n")[0] for line in lines]
    assert len(set(alone)) > 3  # or their order would say nothing
    assert [k for k, line in enumerate(alone) if not line] == [1, 4]
    assert given("\n".join(lines)) == alone  # the last one without an end
    assert given("\r\n".join(lines) + "\r\n") == alone
    assert given("") == []
    assert given("\n\n") == ["", ""]
    greedy = given("\n".join(lines), "--beam", "1")
    assert len(greedy) == len(lines)


def test_translate_says_which_line_is_no_text(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    code, found, err = translated(monkeypatch, capsysbinary, run, b"a b c\nd e\nf \xff g\na\n")
    assert (code, len(found)) == (2, 2)
    assert err == "error: line 3 of standard input is no text in UTF-8\n"


def test_a_model_that_says_the_byte_of_a_lines_end_says_one_line(run: Path) -> None:
    subwords = Subwords.load(run / VOCABULARY)
    ends = [k for k in range(len(subwords)) if subwords.pieces([k]) in (["<0x0A>"], ["<0x0D>"])]
    word = subwords.encode(["a"])[0]
    assert len(ends) == 2
    assert subwords.decode([[*word, ends[0], *word], [*word, ends[1], *word]]) == ["a  a", "a  a"]


def test_a_run_that_classifies_is_no_translator(tmp_path: Path, capsys: pytest.CaptureFixture[str], run: Path) -> None:
    pytest.importorskip("sklearn")
    folder = str(tmp_path / "digits")
    options = ["--total-steps", "3", "--device", "cpu", "--threads", "1", "--no-tensorboard", "--no-gradients.enabled"]
    assert cli.main(["train", "--data", "digits", *options, "--run-dir", folder]) == 0
    capsys.readouterr()
    assert "it does not translate: asgc-sup predict" in refused(capsys, "translate", folder)
    assert refused(capsys, "predict", folder, "boot.png") == "boot.png: no such file"
    assert "it does not classify images: asgc-sup translate" in refused(capsys, "predict", str(run), "a.png")
    assert "without a beam search" in refused(capsys, "eval", folder, "--beam", "3")
    assert "has finished: nothing to resume" in refused(capsys, "train", "--resume", folder)
    assert "holds a finished run" in refused(capsys, "train", "--data", "digits", "--run-dir", folder)


def test_several_seeds(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "seeds"
    options = [*RUN, "--data", str(text), "--total-steps", "2"]
    assert cli.main(["train", *options, "--seeds", "1-2", "--jobs", "2", "--run-dir", str(folder)]) == 0
    table = capsys.readouterr().out
    assert [load_summary(folder / f"s{seed}")["signature"]["seed"] for seed in (1, 2)] == [1, 2]
    for seed in (1, 2):
        assert f"{load_summary(folder / f's{seed}')['final']:.2f}" in table
    first, second = (numbers(folder / f"s{seed}") for seed in (1, 2))
    assert first != second
    assert cli.main(["train", "--resume", str(folder)]) == 0  # all are there


class Interrupt(Watcher):
    """Ctrl-C after some updates."""

    def stepped(self, step: int, result: Any) -> None:
        if step == 17:
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_saves_and_says_how_to_go_on(
    text: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tmp_path / "run")
    options = [*RUN, "--data", str(text), "--keep-models", "10", "--run-dir", folder]
    assert cli.main(["train", *options, "--callbacks", f"{__name__}:Interrupt"]) == 130
    assert f"--resume {folder}" in capsys.readouterr().err
    assert cli.main(["eval", folder]) == 0
    assert "model=checkpoint step=17" in capsys.readouterr().out
    assert cli.main(["train", "--resume", folder]) == 0
    assert numbers(tmp_path / "run") == numbers(run)


def kill_after(folder: Path, step: int, argv: Sequence[str]) -> None:
    """Start a process, and kill -9 it as soon as the metrics show `step`."""
    program = [sys.executable, "-m", "supervised.cli", "train", *argv]
    kill_at(subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True), folder, step)


def test_killed_in_the_middle_of_an_epoch_and_resumed_is_the_undisturbed_run(
    text: Path, run: Path, tmp_path: Path
) -> None:
    """Of an epoch's 38 updates 15 are saved."""
    folder = tmp_path / "run"
    kill_after(folder, 25, [*RUN, "--data", str(text), "--keep-models", "10", "--run-dir", str(folder)])
    assert cli.main(["train", "--resume", str(folder)]) == 0
    assert numbers(folder) == numbers(run)
    for name, tensor in weights(run).items():
        assert torch.equal(tensor, weights(folder)[name]), name
