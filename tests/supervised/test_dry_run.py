"""`asgc-sup train --dry-run`: what a run takes, before it begins."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from evaluation.runs import resources
from supervised import cli, dry_run
from supervised.learner import Learner
from supervised.tasks.task import Batch, Task
from supervised.text.subwords import PAD
from supervised.text.token_files import TokenPairs
from tests.supervised.test_cli import RUN, refused
from tests.supervised.toy_text import prepared

pytest.importorskip("sentencepiece")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("text"))


def test_a_dry_run_says_what_a_run_takes_and_writes_nothing(
    text: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(text.rglob("*"))
    assert cli.main(["train", *RUN, "--data", str(text), "--dry-run", "--run-dir", "run"]) == 0
    said = capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    assert sorted(text.rglob("*")) == before
    found = {line.split()[0]: line for line in said.splitlines() if line[0] != " "}
    width, inner, subwords = 128, 256, 290
    attention, norm = 4 * (width * width + width), 2 * width
    forward = 2 * width * inner + inner + width
    encoder, decoder = attention + forward + 2 * norm, 2 * attention + forward + 3 * norm
    parameters = subwords * width + 2 * (encoder + decoder) + 2 * norm
    assert found["parameters"].split()[1] == f"{parameters:,}"
    match = re.search(r"updates +(\d+), ([\d.]+) epochs of (\d+); (\d+) target tokens each", said)
    assert match is not None
    updates, epochs, epoch, tokens = map(float, match.groups())
    assert (updates, epochs) == (40, pytest.approx(40 / epoch, rel=0.01))
    assert 100 < tokens <= 200
    operations = re.search(r"operations +(\S+) FLOPs an update, (\S+) in all", said)
    assert operations is not None
    one, all_of_them = map(float, operations.groups())
    assert 4 < one / (parameters * tokens) < 8  # 6 a weight and token: source and target are about as long
    assert all_of_them == pytest.approx(40 * one, rel=0.01)
    assert found["memory"].split()[1:3] == [f"{16 * parameters / 1e6:.1f}", "MB"]  # Adam's two moments


def test_a_dry_run_counts_the_operations_of_the_updates_that_it_times(
    text: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token takes a millisecond and a million operations; updates have more or fewer of them."""
    now, sizes = [0.0], list[int]()

    def update(self: Learner, batches: Sequence[Batch], items: int) -> dict[str, torch.Tensor]:
        now[0] += items / 1000
        sizes.append(items)
        return {}

    def operations(learner: Learner, task: Task, batches: Sequence[Batch], items: int) -> float:
        return 1e6 * sum(int((batch[2] != PAD).sum()) for batch in batches)

    monkeypatch.setattr(Learner, "update", update)
    monkeypatch.setattr(dry_run, "operations", operations)
    monkeypatch.setattr(dry_run, "time", SimpleNamespace(monotonic=lambda: now[0]))
    assert cli.main(["train", *RUN, "--data", str(text), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert len(set(sizes)) > 3
    assert "(1,000 target tokens/s, 0.001 TFLOP/s)" in said
    match = re.search(r"epochs of (\d+); (\d+) target tokens each\noperations +(\S+) FLOPs an update", said)
    assert match is not None
    epoch, tokens, flops = map(float, match.groups())
    assert flops == pytest.approx(1e6 * tokens, rel=0.01)
    assert f"{tokens:.0f} ms an update" in said
    lengths = TokenPairs(text, "train").target_lengths
    assert tokens == pytest.approx((lengths.sum() + len(lengths)) / epoch, abs=1)  # a mean update


@pytest.mark.parametrize(("what", "line"), [("memory", "not enough memory: "), ("disk", "not enough disk space for ")])
def test_a_dry_run_refuses_what_does_not_fit(
    text: Path,
    what: str,
    line: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(resources, f"available_{what}", lambda *_: 1000)
    monkeypatch.chdir(tmp_path)
    for options in ([], ["--run-dir", "run"]):
        for dry in ([], ["--dry-run"]):
            assert refused(capsys, "train", *RUN, "--data", str(text), *options, *dry).startswith(line)
    assert list(tmp_path.iterdir()) == []
