"""`asgc-sup data` from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluation.cli.errors import UserError, main_guard
from supervised.data_cli import data_command
from tests.supervised.text.written import pairs, parallel, small

main = main_guard(data_command)


def test_prepare_and_info(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, out = small(tmp_path / "text"), str(tmp_path / "out")
    command = ["prepare", "--data", str(text), "--out", out, "--vocab-size", "400", "--processes", "1"]
    assert main(command) == 0
    printed, told = capsys.readouterr()
    assert told.splitlines()[0] == "learning the vocabulary: 300 pairs"
    assert printed.splitlines()[0] == f"{out}: text, en to de"
    assert "train: 300 pairs, " in printed
    assert main(command) == 0
    again, told = capsys.readouterr()
    assert again == printed
    assert told == f"{out} is prepared already: 300 pairs to train on\n"
    assert main(["info", out]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(printed)
    first, second = pairs(20, 1)[0]
    assert f"en: {first}\nde: {second}\n▁" in shown
    assert shown.count("\nen: ") == 3


def test_skipped_pairs_are_told_by_their_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {"train": [*pairs(150), ("", "x"), *pairs(5, 3)], "valid": pairs(2, 1), "test": pairs(3, 2)}
    command = ["prepare", "--data", str(parallel(tmp_path / "text", rows)), "--out", str(tmp_path / "out")]
    assert main([*command, "--vocab-size", "400", "--max-length", "12", "--processes", "1"]) == 0
    printed = capsys.readouterr().out
    assert "  skipped: 1 empty; first line 151 (empty)\n" in printed
    assert " too long\n" in printed


def test_faults_are_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argv, line in (
        (["prepare"], "say which text: asgc-sup data prepare --data dict-ende (or wmt14, or a path)"),
        (["info"], "say which folder: asgc-sup data info FOLDER"),
        (["info", str(tmp_path)], f"{tmp_path} holds no prepared text: run asgc-sup data prepare --out {tmp_path}"),
        (["prepair"], "unknown command 'data prepair'; did you mean 'prepare'?"),
        (["prepare", "--vocab-size", "12"], "--vocab-size 12: must be at least 300 and at most 1000000"),
    ):
        assert main(argv) == 2
        assert capsys.readouterr().err == f"error: {line}\n"
    with pytest.raises(UserError, match="unknown option --vocab"):
        data_command(["prepare", "--vocab", "400"])
    assert main([]) == 0
    assert "asgc-sup data info FOLDER" in capsys.readouterr().out
