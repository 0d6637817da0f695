"""What may be another at a resume: what is said of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from evaluation.runs.watchers import Watcher
from supervised import TrainConfig, resumed, train
from supervised.text.transformer import Transformer, TransformerSize
from supervised.vision import models
from tests.supervised.test_trainer import Killed, StopAt, config_of

pytest.importorskip("sklearn")

NORMALIZED = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.0))
SIZE = TransformerSize(1, 8, 1, 8, dropout=0.0)


def said(model: nn.Module, before: dict[str, Any], processes: tuple[int, int] = (1, 1), **now: Any) -> str | None:
    known = resumed.options_of(TrainConfig.preset("digits", **before))
    return resumed.said(known, TrainConfig.preset("digits", **now), *processes, model)


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (NORMALIZED, "batch normalization"),
        (nn.Sequential(nn.Dropout(0.1)), "dropout"),
        (nn.Sequential(NORMALIZED, nn.MultiheadAttention(4, 1, dropout=0.1)), "batch normalization and dropout"),
        (Transformer(TransformerSize(1, 8, 1, 8, dropout=0.1), 20, 0), "dropout"),
    ],
)
def test_it_is_said_of_models_whose_numbers_change(model: nn.Module, what: str) -> None:
    same = f"it goes on with the same samples, but with {what} not with the numbers of the uninterrupted run"
    assert said(model, {}, device_batch=16) == f"--device-batch null before, 16 now: {same}"
    assert said(model, {"sharded": True}, (2, 1)) == (
        f"2 processes before, 1 now; --sharded true before, false now: {same}"
    )
    assert said(model, {"device_batch": 16}, device_batch=16) is None


@pytest.mark.parametrize(
    "model", [models.make("small-cnn", 1, 8, 10), nn.Sequential(nn.Dropout(0.0)), Transformer(SIZE, 20, 0)]
)
def test_of_others_only_another_number_of_processes(model: nn.Module) -> None:
    assert said(model, {}, device_batch=16, sharded=True) is None
    assert said(model, {}, (2, 4)) == "2 processes before, 4 now: it goes on with the same samples"


class Hears(Watcher):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, line: str) -> None:
        self.lines.append(line)


@pytest.mark.parametrize("normalized", [True, False])
def test_a_resume_with_another_device_batch_says_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, normalized: bool
) -> None:
    make: Callable[..., nn.Module] = models.make

    def with_normalization(*arguments: Any) -> nn.Module:
        return nn.Sequential(nn.BatchNorm2d(1), make(*arguments))

    if normalized:
        monkeypatch.setattr(models, "make", with_normalization)
    with pytest.raises(Killed):
        train(config_of(tmp_path / "run", checkpoint_interval=2, total_steps=5), watchers=[StopAt(3)])
    sessions = []
    for device_batch, stop in ((None, 3), (32, 5), (32, 6)):
        hears = Hears()
        options: dict[str, Any] = {"device_batch": device_batch, "checkpoint_interval": 2, "total_steps": 5}
        with contextlib.suppress(Killed):
            train(config_of(tmp_path / "run", **options), resume=True, watchers=[hears, StopAt(stop)])
        sessions.append([line for line in hears.lines if "same samples" in line])
    line = (
        "--device-batch null before, 32 now: it goes on with the same samples, but with batch normalization not with "
        "the numbers of the uninterrupted run"
    )
    assert sessions == [[], [line] if normalized else [], []]
