"""The TensorBoard mirror shows what metrics.jsonl holds, also after a kill and a resume."""

from __future__ import annotations

import math
import resource
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from evaluation.runs.metrics_file import MetricRow
from evaluation.runs.run_folder import RunFolder, read_metrics
from evaluation.runs.tensorboard import TensorBoardMirror
from tests.evaluation.runs.test_checkpoint import child

KILLED_RUN = """
import os, signal, sys
from evaluation.runs.run_folder import RunFolder
run = RunFolder(sys.argv[1], {}, seeds={}, device="cpu")
for step in range(1, 8):
    run.log(step, step, 0.0, "train", {"loss": 10.0 * step})
    if step == 4:
        run.save_checkpoint(step, lambda folder: None)
        run.log(step, step, 0.0, "late", {"score": 1.0})  # of the checkpoint's step, yet not in it
        run.log(step, step, 0.0, "eval", {"score": 1.0})
os.kill(os.getpid(), signal.SIGKILL)
"""


def events(path, tag):
    accumulator = EventAccumulator(str(path))
    accumulator.Reload()
    if tag not in accumulator.Tags()["scalars"]:
        return []
    return [(event.step, event.value) for event in accumulator.Scalars(tag)]


def test_events_past_the_checkpoint_do_not_show_twice_and_none_is_missing(tmp_path):
    path = tmp_path / "run"
    assert child("-c", KILLED_RUN, path).returncode == -9
    assert events(path / "tensorboard", "train/loss") == [(step, 10.0 * step) for step in range(1, 8)]
    with RunFolder(path, {}, resume=True, seeds={}, device="cpu", message=pytest.fail) as run:
        run.log(4, 4, 0.0, "late", {"score": 2.0})
        for step in range(5, 7):
            run.log(step, step, 0.0, "train", {"loss": 100.0 * step})
    assert events(path / "tensorboard", "train/loss") == [(1, 10), (2, 20), (3, 30), (4, 40), (5, 500), (6, 600)]
    assert events(path / "tensorboard", "late/score") == [(4, 2.0)]
    assert events(path / "tensorboard", "eval/score") == []
    for tag in ("train/loss", "late/score"):
        rows = [(row.step, row.value) for row in read_metrics(path) if f"{row.split}/{row.name}" == tag]
        assert events(path / "tensorboard", tag) == rows


def test_a_run_that_starts_over_shows_nothing_of_before(tmp_path):
    path = tmp_path / "run"
    with RunFolder(path, {}, seeds={}, device="cpu") as run:
        run.log(0, 0, 0.0, "train", {"loss": 1.0})
        run.log(1, 1, 0.0, "train", {"loss": 1.0})
    with RunFolder(path, {}, resume=True, seeds={}, device="cpu", message=lambda _: None) as run:
        run.log(0, 0, 0.0, "train", {"loss": 2.0})
    assert events(path / "tensorboard", "train/loss") == [(0, 2.0)]


def test_without_it_torch_is_not_even_imported(tmp_path):
    program = (
        "import sys\nfrom evaluation.runs.run_folder import RunFolder\n"
        "RunFolder(sys.argv[1], {}, seeds={}, device='cpu', tensorboard=False).close()\n"
        "assert not {'torch', 'tensorboard'} & set(sys.modules)\n"
    )
    done = child("-c", program, tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_when_the_mirror_breaks_the_run_goes_on_with_one_message(tmp_path):
    messages = []
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    mirror = TensorBoardMirror(tmp_path, messages.append)
    rows = [MetricRow(step, 1, 1.0, "train", "loss", 1.0) for step in range(100)]
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        mirror.logged(rows)
        mirror.logged(rows)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    mirror.close(False)
    assert messages == ["TensorBoard events are no longer written (File too large); metrics.jsonl goes on"]
    shown = events(tmp_path, "train/loss")
    assert 5 < len(shown) < 100


def test_numbers_that_are_none_are_mirrored_too(tmp_path):
    with RunFolder(tmp_path / "run", {}, seeds={}, device="cpu") as run:
        run.log(1, 1, 0.0, "train", {"loss": math.inf})
        run.log(2, 2, 0.0, "train", {"loss": math.nan})
    (_, first), (_, second) = events(tmp_path / "run" / "tensorboard", "train/loss")
    assert first == math.inf
    assert math.isnan(second)


def test_after_the_clock_went_back_the_new_events_still_come_last(tmp_path, monkeypatch):
    """TensorBoard reads files in the order of their names: points that the checkpoint lost must not return."""
    path = tmp_path / "run"
    with RunFolder(path, {}, seeds={}, device="cpu") as run:
        run.log(1, 1, 0.0, "train", {"loss": 1.0})
        run.save_checkpoint(1, lambda folder: None)
        run.log(2, 2, 0.0, "train", {"loss": 2.0})
    now = time.time()
    for late in (now - 1e6, now - 5e5, now - 1e6):
        monkeypatch.setattr(time, "time", lambda late=late: late)
        with RunFolder(path, {}, resume=True, seeds={}, device="cpu", message=pytest.fail) as run:
            run.log(3, 3, 0.0, "train", {"loss": 3.0})
        assert events(path / "tensorboard", "train/loss") == [(1, 1.0), (3, 3.0)]
