"""`asgc-sup translate` as somebody sees it who watches a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import pytest

from evaluation.cli import progress
from supervised import cli, translate_cli
from supervised.text import translate
from tests.supervised.test_cli import RUN
from tests.supervised.toy_text import prepared, sentences

pytest.importorskip("sentencepiece")
pytest.importorskip("sacrebleu")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    text, folder = prepared(tmp_path_factory.mktemp("text")), tmp_path_factory.mktemp("run") / "run"
    options = ("--total-steps", "1", "--evaluation.interval", "1", "--data", str(text), "--run-dir", str(folder))
    assert cli.main(["train", *RUN, *options]) == 0
    return folder


@contextmanager
def a_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], str]]:
    """stderr on a terminal; yields what it has been shown so far."""
    outer, inner = os.openpty()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    os.set_blocking(outer, False)
    with os.fdopen(inner, "w") as stream:

        def shown() -> str:
            stream.flush()
            return os.read(outer, 1 << 16).decode()

        monkeypatch.setattr(sys, "stderr", stream)
        yield shown
    os.close(outer)


def capitals(model: Any, subwords: Any, lines: Any, beam: Any, penalty: Any, tell: Callable[[int, int], None]) -> Any:
    """What translates here: as the toy language has it, with news after each third of the lines."""
    for k in (1, 2, 3):
        tell(k * len(lines) // 3, len(lines))
    return [line.upper() for line in lines]


@pytest.mark.parametrize("pipe", [False, True])
def test_who_watches_sees_how_far_it_is(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes], pipe: bool
) -> None:
    lines = [source for source, _ in sentences(100, 3)]
    text = "\n".join(lines).encode()  # the last one without an end
    (tmp_path / "lines").write_bytes(text)
    monkeypatch.setattr(translate_cli, "LINES", 60)
    monkeypatch.setattr(translate, "translate_lines", capitals)
    with opened(tmp_path / "lines", text, pipe) as stream, a_terminal(monkeypatch) as shown:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=stream, isatty=lambda: False))
        told: list[tuple[int, int | None]] = []
        bar = translate_cli.progress

        @contextmanager
        def watching(*arguments: Any) -> Iterator[Any]:
            with bar(*arguments) as show:
                yield lambda *done: (told.append(done), show(*done))

        monkeypatch.setattr(translate_cli, "progress", watching)
        assert cli.main(["translate", str(run), "--device", "cpu"]) == 0
        seen = shown()
    assert capsysbinary.readouterr().out.decode().splitlines() == [line.upper() for line in lines]
    total = None if pipe else 100
    assert told == [(done, total) for done in (20, 40, 60, 60, 73, 86, 100, 100)]
    assert f"translating {'lines' if pipe else '100 lines'}: final model of " in seen
    assert ("0/?" if pipe else "0/100") in seen
    assert ("100/?" if pipe else "100/100") in seen


@contextmanager
def opened(path: Path, text: bytes, pipe: bool) -> Iterator[BinaryIO]:
    if not pipe:
        with path.open("rb") as file:
            yield file
        return
    reads, writes = os.pipe()
    with os.fdopen(writes, "wb") as full:
        full.write(text)
    with os.fdopen(reads, "rb") as file:
        yield file


def test_a_few_lines_have_no_bar(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    (tmp_path / "lines").write_text("a b\nc\n")
    monkeypatch.setattr(translate, "translate_lines", capitals)
    with (tmp_path / "lines").open("rb") as stream, a_terminal(monkeypatch) as shown:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=stream, isatty=lambda: False))
        assert cli.main(["translate", str(run), "--device", "cpu"]) == 0
        with pytest.raises(BlockingIOError):  # nothing was said
            shown()
    assert capsysbinary.readouterr().out == b"A B\nC\n"


def test_where_stderr_is_no_terminal_progress_is_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "TELL_EVERY_S", 0.0)
    for total in (None, 9):
        with progress.progress("that", total, "translating", "lines") as show:
            show(4, total)
    said = capsys.readouterr().err.splitlines()
    assert said == ["translating lines: that", "4 lines", "translating 9 lines: that", "4/9 lines"]
