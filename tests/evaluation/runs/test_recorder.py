"""The gradient recorder: when it records, what it writes, and that nothing notices it."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
from torch import nn

from asgc import optimizers
from evaluation.cli.errors import UserError
from evaluation.runs.gradient_columns import BINS, COLUMNS
from evaluation.runs.recorder import FOLDER, GradientRecorder, part_paths

NAMES = optimizers.names()


class Task:
    """A small network, its optimizer, and data that depend on the update only."""

    def __init__(self, run: Path, name: str = "asgc", interval: int = 4, **options: Any) -> None:
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(5, 20), nn.ReLU(), nn.Linear(20, 3))
        self.optimizer = optimizers.build(name, self.network.parameters(), lr=0.01)
        self.recorder = GradientRecorder(
            run / FOLDER, self.network.named_parameters(), self.optimizer, interval=interval, **options
        )
        self.updates = 0

    def backward(self) -> None:
        generator = torch.Generator().manual_seed(self.updates)
        x = torch.randn(16, 5, generator=generator)
        self.optimizer.zero_grad()
        (self.network(x) - x[:, :3]).square().mean().backward()

    def update(self, shift_follows: bool = False) -> None:
        self.backward()
        event = self.recorder.due(self.updates, shift_follows)
        if event is None:
            self.optimizer.step()
        else:
            with self.recorder.record(10 * self.updates, self.updates, event):
                self.optimizer.step()
        self.updates += 1

    def train(self, updates: int, shift_every: int = 10, flush_every: int = 7) -> None:
        while self.updates < updates:
            shifts = (self.updates + 1) % shift_every == 0
            self.update(shift_follows=shifts)
            if shifts:
                self.recorder.shift(self.updates)
            if self.updates % flush_every == 0:
                self.recorder.flush()
        self.recorder.flush()


def rows(run: Path) -> list[dict[str, Any]]:
    return [row for path in part_paths(run) for row in pyarrow.parquet.read_table(path).to_pylist()]


def recorded(run: Path) -> list[tuple[int, str, int]]:
    return [(row["update"], row["event"], row["since_shift"]) for row in rows(run) if row["layer"] == "0.weight"]


def test_records_the_interval_and_the_first_shift_after_it(tmp_path: Path) -> None:
    Task(tmp_path, interval=25, offsets=(-1, 0, 1, 5)).train(60)
    assert recorded(tmp_path) == [
        (0, "interval", -1), (9, "shift", -1), (10, "shift", 0), (11, "shift", 1), (15, "shift", 5),
        (25, "interval", 5), (29, "shift", 9), (30, "shift", 0), (31, "shift", 1), (35, "shift", 5),
        (50, "interval", 0), (59, "shift", 9),
    ]  # fmt: skip


def test_records_no_shift_without_offsets_and_every_update_once(tmp_path: Path) -> None:
    Task(tmp_path / "a", interval=7, offsets=()).train(30)
    assert [update for update, event, _ in recorded(tmp_path / "a") if event == "interval"] == [0, 7, 14, 21, 28]
    assert len(recorded(tmp_path / "a")) == 5
    Task(tmp_path / "b", interval=1).train(30)
    assert [update for update, _, _ in recorded(tmp_path / "b")] == list(range(30))


def test_a_shift_before_the_first_update_means_nothing(tmp_path: Path) -> None:
    task = Task(tmp_path, interval=1)
    task.recorder.shift(0)
    task.update()
    task.recorder.flush()
    assert recorded(tmp_path) == [(0, "interval", -1)]


SCALING = ("gradient-stabilizer", "divgrad", "obgd")
CHANGING = ("agc", "autoclip", "spamp", "gradient-noise", *SCALING)  # change these gradients


@pytest.mark.parametrize("name", NAMES)
def test_rows_say_what_happened(name: str, tmp_path: Path) -> None:
    """Against figures made here from the gradients, the weights before and the weights after."""
    task = Task(tmp_path, name, interval=1)
    for _ in range(6):
        task.update()
    names = dict(task.network.named_parameters())
    before = {layer: param.detach().clone() for layer, param in names.items()}
    task.backward()
    grads = {layer: param.grad.clone() for layer, param in names.items() if param.grad is not None}
    task.update()
    task.recorder.flush()
    last = {row["layer"]: row for row in rows(tmp_path) if row["update"] == 6}
    assert list(last) == list(names)
    for layer, row in last.items():
        grad, weight = grads[layer].double(), before[layer].double()
        change = names[layer].detach().double() - weight
        assert tuple(row) == COLUMNS
        assert (row["step"], row["numel"], row["event"]) == (60, grad.numel(), "interval")
        assert row["grad_rms"] == pytest.approx(float(grad.square().mean().sqrt()))
        assert row["grad_max"] == pytest.approx(float(grad.abs().max()))
        assert row["weight_rms"] == pytest.approx(float(weight.square().mean().sqrt()))
        assert row["update_rms"] == pytest.approx(float(change.square().mean().sqrt()), rel=1e-4)
        assert row["update_to_weight"] == pytest.approx(row["update_rms"] / row["weight_rms"])
        assert (len(row["before"]), sum(row["before"])) == (BINS, grad.numel())
        assert (len(row["after"]), sum(row["after"])) == (BINS, grad.numel())
        noisy = row["noise_std"] / row["grad_rms"]  # what is in after_rms beside, at most
        assert noisy < 0.11 or name == "gradient-noise"
        if name != "gradient-noise":
            assert row["attenuation"] == pytest.approx(min(1.0, row["after_rms"] / row["grad_rms"]), rel=1e-4 + noisy)
        assert row["attenuation"] <= 1
        if not name.startswith("asgc"):
            assert (row["noise_std"] > 0) == (name == "gradient-noise")
            if name not in CHANGING:  # plain, or far below the bound
                assert row["before"] == row["after"]
            bounded = name.endswith(("+clip", "+clip-value")) or name in ("autoclip", "spamp", *SCALING)
            if name != "agc":  # which bounds all but the head
                assert (row["threshold"] < math.inf) == bounded
        else:
            told = {entry["layer"]: entry for entry in task.optimizer.diagnostics()}[list(names).index(layer)]
            assert (row["threshold"], row["clipped"]) == (told["threshold"], told["clipped"])
            assert (row["noise_std"] > 0) == (name != "asgc-clip")
    if name in ("asgc", "asgc-noise", "agc", "gradient-noise"):
        assert any(row["before"] != row["after"] for row in last.values())


@pytest.mark.parametrize("name", NAMES)
def test_training_does_not_notice(name: str, tmp_path: Path) -> None:
    watched, plain = Task(tmp_path, name, interval=1), Task(tmp_path / "none", name, interval=10**9, offsets=())
    for task in (watched, plain):
        task.train(30)
    for one, other in zip(watched.network.parameters(), plain.network.parameters(), strict=True):
        assert torch.equal(one, other)
    assert len(recorded(tmp_path)) == 30


def test_records_without_touching_the_global_generators(tmp_path: Path) -> None:
    task = Task(tmp_path, interval=1)
    before = torch.get_rng_state(), np.random.get_state()[2]  # noqa: NPY002
    task.train(5)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[2]  # noqa: NPY002


def test_killed_and_resumed_writes_the_same_bytes(tmp_path: Path) -> None:
    """Parts written after the checkpoint, and half of one, are there when the run goes on."""
    whole = Task(tmp_path / "whole")
    whole.train(40)
    killed = Task(tmp_path / "killed")
    killed.train(21)
    saved = copy.deepcopy(
        [killed.network.state_dict(), killed.optimizer.state_dict(), killed.recorder.state_dict(), killed.updates]
    )
    killed.train(33)
    (tmp_path / "killed" / FOLDER / ".part-000009.parquet.1.tmp").write_bytes(b"half")
    resumed = Task(tmp_path / "killed")
    resumed.network.load_state_dict(saved[0])
    resumed.optimizer.load_state_dict(saved[1])
    resumed.recorder.load_state_dict(saved[2])
    resumed.updates = saved[3]
    resumed.train(40)
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    files = [sorted((tmp_path / run / FOLDER).iterdir()) for run in ("whole", "killed")]
    assert [path.name for path in files[0]] == [path.name for path in files[1]]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]


def test_a_run_that_starts_over_leaves_no_parts_of_the_first_try(tmp_path: Path) -> None:
    Task(tmp_path).train(20)
    assert len(part_paths(tmp_path)) > 1
    task = Task(tmp_path)
    task.recorder.load_state_dict(GradientRecorder.START)
    assert part_paths(tmp_path) == []
    task.train(5)
    assert {update for update, _, _ in recorded(tmp_path)} == {0, 4}


def test_parts_are_numbered_and_an_empty_one_is_not_written(tmp_path: Path) -> None:
    task = Task(tmp_path, interval=4)
    task.train(8, flush_every=1)
    assert [path.name for path in part_paths(tmp_path)] == ["part-000000.parquet", "part-000001.parquet"]


def test_a_disk_that_cannot_be_written_is_one_line_and_loses_nothing(tmp_path: Path) -> None:
    task = Task(tmp_path)
    task.update()
    (tmp_path / FOLDER).write_text("in the way")
    with pytest.raises(UserError, match=r"cannot write.*part-000000"):
        task.recorder.flush()
    (tmp_path / FOLDER).unlink()
    task.recorder.flush()
    assert recorded(tmp_path) == [(0, "interval", -1)]
