"""The TensorBoard mirror shows what metrics.jsonl holds, also after a kill and a resume."""

from __future__ import annotations

import os

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from evaluation.metrics_file import MetricRow
from evaluation.runs import RunFolder, read_metrics
from evaluation.tensorboard import TensorBoardMirror
from tests.evaluation.test_checkpoint import child

KILLED_RUN = """
import os, signal, sys
from evaluation.runs import RunFolder
run = RunFolder.create(sys.argv[1], {}, seeds={}, device="cpu")
for step in range(1, 8):
    run.log(step, step, 0.0, "train", {"loss": 10.0 * step})
    if step == 4:
        run.save_checkpoint(step, lambda folder: None)
        run.log(step, step, 0.0, "late", {"score": 1.0})  # of the checkpoint's step, yet not in it
        run.log(step, step, 0.0, "eval", {"score": 1.0})
run._mirror.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


def events(path, tag):
    accumulator = EventAccumulator(str(path / "tensorboard"))
    accumulator.Reload()
    if tag not in accumulator.Tags()["scalars"]:
        return []
    return [(event.step, event.value) for event in accumulator.Scalars(tag)]


def test_events_past_the_checkpoint_do_not_show_twice_and_none_is_missing(tmp_path):
    path = tmp_path / "run"
    assert child("-c", KILLED_RUN, path).returncode == -9
    assert events(path, "train/loss") == [(step, 10.0 * step) for step in range(1, 8)]
    with RunFolder.resume(path, {}, seeds={}, device="cpu", message=pytest.fail) as run:
        run.log(4, 4, 0.0, "late", {"score": 2.0})
        for step in range(5, 7):
            run.log(step, step, 0.0, "train", {"loss": 100.0 * step})
    assert events(path, "train/loss") == [(1, 10), (2, 20), (3, 30), (4, 40), (5, 500), (6, 600)]
    assert events(path, "late/score") == [(4, 2.0)]
    assert events(path, "eval/score") == []
    for tag in ("train/loss", "late/score"):
        rows = [(row.step, row.value) for row in read_metrics(path) if f"{row.split}/{row.name}" == tag]
        assert events(path, tag) == rows


KILLED_AFTER_A_CHECKPOINT = """
import os, signal, sys, time
from tensorboard.summary.writer.record_writer import RecordWriter
from evaluation.runs import RunFolder
write = RecordWriter.write
RecordWriter.write = lambda self, data: (time.sleep(0.05), write(self, data))  # a slow disk: events wait in the queue
run = RunFolder.create(sys.argv[1], {}, seeds={}, device="cpu")
for step in range(1, 5):
    run.log(step, step, 0.0, "train", {"loss": 10.0 * step})
run.save_checkpoint(4, lambda folder: None)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_events_before_the_checkpoint_outlive_a_kill(tmp_path):
    path = tmp_path / "run"
    assert child("-c", KILLED_AFTER_A_CHECKPOINT, path).returncode == -9
    assert events(path, "train/loss") == [(1, 10), (2, 20), (3, 30), (4, 40)]


def test_a_run_that_starts_over_shows_nothing_of_before(tmp_path):
    path = tmp_path / "run"
    with RunFolder.create(path, {}, seeds={}, device="cpu") as run:
        run.log(0, 0, 0.0, "train", {"loss": 1.0})
        run.log(1, 1, 0.0, "train", {"loss": 1.0})
    with RunFolder.resume(path, {}, seeds={}, device="cpu", message=lambda _: None) as run:
        run.log(0, 0, 0.0, "train", {"loss": 2.0})
    assert events(path, "train/loss") == [(0, 2.0)]


def test_without_it_torch_is_not_even_imported(tmp_path):
    program = (
        "import sys\nfrom evaluation.runs import RunFolder\n"
        "RunFolder.create(sys.argv[1], {}, seeds={}, device='cpu', tensorboard=False).close()\n"
        "assert not {'torch', 'tensorboard'} & set(sys.modules)\n"
    )
    done = child("-c", program, tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_when_the_mirror_breaks_the_run_goes_on_with_one_message(tmp_path, monkeypatch):
    messages = []
    mirror = TensorBoardMirror(tmp_path, messages.append)

    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(mirror._writer, "add_scalar", full)
    rows = [MetricRow(step, 1, 1.0, "train", "loss", 1.0) for step in (1, 2)]
    mirror.write(rows)
    mirror.write(rows)
    mirror.flush()
    mirror.close()
    assert messages == ["TensorBoard events are no longer written (No space left on device); metrics.jsonl goes on"]
