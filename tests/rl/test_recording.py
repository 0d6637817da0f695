"""Recorded gradients of a training run: complete, the same after a kill, and unnoticed by the learning."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch

from evaluation.runs.recorder import part_paths
from evaluation.runs.run_folder import read_metrics, read_series
from rl import train
from rl.algorithms.dqn import QLearner
from rl.replay.ring import Batch
from rl.tasks import ObservationSpec
from tests.rl.test_trainer import Killed, StopAt, assert_same_run, catch_config, numbers, weights

RECORD = {"interval": 61, "offsets": [-1, 0, 2, 10]}


pytestmark = pytest.mark.usefixtures("one_thread", "catch")


def rows(run: Path) -> list[dict[str, Any]]:
    """NaN as text, so that it equals itself."""
    found = [row for path in part_paths(run) for row in pyarrow.parquet.read_table(path).to_pylist()]
    return [{name: "NaN" if value != value else value for name, value in row.items()} for row in found]


@pytest.mark.parametrize("optimizer", ["asgc", "adam", "sgd+clip"])
def test_learning_is_the_same_with_and_without(tmp_path: Path, optimizer: str) -> None:
    options = {"optimizer": {"name": optimizer}, "total_steps": 1_200}
    train(catch_config(tmp_path / "on", **options, gradients={"interval": 3}))
    train(catch_config(tmp_path / "off", **options, gradients={"enabled": False}))
    assert len({row["update"] for row in rows(tmp_path / "on")}) > 60
    assert not (tmp_path / "off" / "gradients").exists()
    assert {row[2] for row in numbers(tmp_path / "on")} == {"train", "eval", "gradients", "diagnostics"}
    assert {row[2] for row in numbers(tmp_path / "off")} == {"train", "eval"}
    for name, tensor in weights(tmp_path / "on").items():
        assert torch.equal(tensor, weights(tmp_path / "off")[name]), name
    learned = [row for row in numbers(tmp_path / "on") if row[2] in ("train", "eval")]
    assert learned == [row for row in numbers(tmp_path / "off") if row[2] in ("train", "eval")]


def test_a_run_records_its_intervals_and_target_updates(tmp_path: Path) -> None:
    train(catch_config(tmp_path / "run", gradients=RECORD))
    found = rows(tmp_path / "run")
    layers = list(dict.fromkeys(row["layer"] for row in found))
    assert layers == [f"layers.{i}.{kind}" for i in (0, 3, 5) for kind in ("weight", "bias")]
    events = [(row["update"], row["event"], row["since_shift"]) for row in found if row["layer"] == layers[0]]
    assert len(found) == len(events) * len(layers)
    assert [update for update, event, _ in events if event == "interval"] == list(range(0, 400, 61))
    # Target updates at steps 800, 1200, 1600 (and 400, before any learning): after updates 100, 200, 300.
    assert [event for event in events if event[0] < 120] == [
        (0, "interval", -1), (61, "interval", -1), (99, "shift", -1), (100, "shift", 0), (102, "shift", 2),
        (110, "shift", 10),
    ]  # fmt: skip
    assert all(row["step"] == 408 + 8 * (row["update"] // 2) for row in found)  # 2 updates with each step of all
    scale = read_series(tmp_path / "run", "gradients", "noise_scale")
    regular = [408 + 8 * (update // 2) for update in range(0, 400, 61)]
    assert scale["step"].tolist() == regular
    assert np.all(scale["value"] > 0)
    assert np.all(read_series(tmp_path / "run", "gradients", "noise_trace")["value"] > 0)
    changed = read_series(tmp_path / "run", "diagnostics", "churn")
    assert changed["step"].tolist() == regular
    assert 0 < changed["value"].max() <= 1
    for name in ("dormant", "feature_rank", "q_overestimation", "q_return"):  # at the evaluations
        assert read_series(tmp_path / "run", "diagnostics", name)["step"].tolist() == [1_000, 2_000], name
    assert 1 <= read_series(tmp_path / "run", "diagnostics", "feature_rank")["value"].min() <= 32


def test_killed_and_resumed_records_the_same_bytes(tmp_path: Path) -> None:
    train(catch_config(tmp_path / "whole", gradients=RECORD))
    with pytest.raises(Killed):
        train(catch_config(tmp_path / "killed", gradients=RECORD), watchers=[StopAt(1_000)])
    for stop in (1_500, 1_800):
        with pytest.raises(Killed):
            train(catch_config(tmp_path / "killed", gradients=RECORD), resume=True, watchers=[StopAt(stop)])
    train(catch_config(tmp_path / "killed", gradients=RECORD), resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    whole, killed = part_paths(tmp_path / "whole"), part_paths(tmp_path / "killed")
    assert [path.name for path in whole] == [f"part-{i:06d}.parquet" for i in range(3)]  # at 704, 1400 and 2000 steps
    assert [path.name for path in killed] == [path.name for path in whole]
    assert [path.read_bytes() for path in killed] == [path.read_bytes() for path in whole]


def test_killed_before_its_first_checkpoint_starts_over(tmp_path: Path) -> None:
    train(catch_config(tmp_path / "whole", gradients=RECORD))
    with pytest.raises(Killed):
        train(catch_config(tmp_path / "killed", gradients=RECORD), watchers=[StopAt(600)])
    stray = tmp_path / "killed" / "gradients" / "part-000007.parquet"
    stray.parent.mkdir()
    stray.write_bytes(b"of the first try")
    train(catch_config(tmp_path / "killed", gradients=RECORD), resume=True)
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")


def test_gradients_of_a_part_of_the_batch_leave_the_gradients_alone() -> None:
    config = catch_config(Path("unused"))
    learner = QLearner(config, 3, ObservationSpec((2, 16, 16), np.uint8), torch.device("cpu"))
    seen: list[torch.Tensor] = []

    def compare(part: tuple[torch.Tensor, ...], ahead: int) -> Any:
        before = [param.grad.clone() for param in learner.network.parameters() if param.grad is not None]
        halves = learner.gradients(part, 4), learner.gradients(tuple(t.flip(0) for t in part), 4)
        for param, grad, one, other in zip(learner.network.parameters(), before, *halves, strict=True):
            assert torch.equal(param.grad, grad)  # type: ignore[arg-type]
            torch.testing.assert_close((one + other) / 2, grad, rtol=1e-4, atol=1e-6)
            seen.append(one)
        return contextlib.nullcontext()

    learner.around_step = compare
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 255, (2, 8, 2, 16, 16), generator=generator, dtype=torch.uint8)
    batch = Batch(frames[0], torch.arange(8) % 3, torch.arange(8.0), frames[1], torch.full((8,), 0.9))
    next(learner.updates(batch, 1))
    assert any(grad.abs().sum() > 0 for grad in seen)


def test_a_batch_of_one_has_no_noise_scale(tmp_path: Path) -> None:
    train(catch_config(tmp_path / "run", batch_size=1, total_steps=600, gradients=RECORD))
    assert rows(tmp_path / "run")
    assert not [row for row in read_metrics(tmp_path / "run") if row.name == "noise_scale"]
