"""Whole runs, on scikit-learn's digits: real data that needs no download."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from asgc import ASGC
from evaluation.cli.errors import UserError
from evaluation.runs.loop import STATE
from evaluation.runs.make_optimizer import make_optimizer
from evaluation.runs.run_folder import load_summary, newest_checkpoint, read_metrics, read_series
from evaluation.runs.watchers import Watcher
from supervised import TrainConfig, train
from supervised.learner import parameter_groups
from supervised.model import averaged, load
from supervised.tasks.imagenet import ImageNet
from supervised.trainer import Trainer
from supervised.vision import data_sets

pytest.importorskip("sklearn")

CLOCKED = {"evaluation_s", "data_wait"}  # metrics that no two runs have the same


def config_of(run: Path | None, **options: Any) -> TrainConfig:
    """A run of a second or two."""
    values: dict[str, Any] = {
        "data": {"name": "digits", "augment": "none"},
        "model": "small-cnn",
        "total_steps": 60,
        "batch_size": 64,
        "precision": "fp32",
        "threads": 1,
        "tensorboard": False,
        "log_interval": 10,
        "checkpoint_interval": 25,
        "optimizer": {"name": "asgc", "lr": 2e-3},
        "lr_schedule": {"name": "cosine"},
        "run_dir": run,
        "evaluation": {"interval": 20, "train_subset": 200, "last_k": 2},
        "gradients": {"interval": 7},
    }
    return TrainConfig.preset("fashion-mnist", **(values | options))


def numbers(run: Path) -> list[tuple[int, int, str, str, float]]:
    return [
        (row.step, row.samples, row.split, row.name, row.value) for row in read_metrics(run) if row.name not in CLOCKED
    ]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load(run, "cpu").weights


class Killed(BaseException):
    """What a kill looks like from inside: nothing more is written."""


class StopAt(Watcher):
    def __init__(self, step: int) -> None:
        self.step = step

    def stepped(self, step: int, result: Any) -> None:
        if step >= self.step:
            raise Killed


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ema_decay": 0.9, "data": {"name": "digits", "augment": "crop-flip"}, "optimizer": {"name": "sgd", "lr": 0.1}},
    ],
)
def test_resumed_is_uninterrupted_bit_for_bit_in_the_middle_of_an_epoch(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    train(config_of(tmp_path / "whole", **options))
    with pytest.raises(Killed):
        train(config_of(tmp_path / "killed", **options), watchers=[StopAt(33)])
    for stop in (40, 58):  # back to 25 each time, then to 50
        with pytest.raises(Killed):
            train(config_of(tmp_path / "killed", **options), resume=True, watchers=[StopAt(stop)])
    train(config_of(tmp_path / "killed", **options), resume=True)
    assert numbers(tmp_path / "whole") == numbers(tmp_path / "killed")
    whole, killed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    for name, tensor in whole.items():
        assert torch.equal(tensor, killed[name]), name


def test_a_run_learns_and_says_how_well(tmp_path: Path) -> None:
    """Chance is 10 %. The generalization gap is measured in evaluation mode on both sides."""
    summary = train(config_of(tmp_path / "run", total_steps=120, evaluation={"interval": 20, "train_subset": 300}))
    curve = read_series(tmp_path / "run", "eval", "score")
    assert curve["step"].tolist() == [20, 40, 60, 80, 100, 120]
    assert curve["samples"].tolist() == [64 * step for step in curve["step"].tolist()]
    assert summary["mean_score"] > 95 > 92 > curve["value"][0] > 15
    trained = read_series(tmp_path / "run", "train_eval", "score")["value"]
    expected = float(np.mean(trained[-5:] - curve["value"][-5:]))
    assert summary["generalization_gap"] == pytest.approx(expected)
    assert summary == load_summary(tmp_path / "run")
    losses = read_series(tmp_path / "run", "train", "loss")["value"]
    assert losses[0] == pytest.approx(math.log(10), abs=0.5)
    assert losses[-1] < 0.5
    waits = read_series(tmp_path / "run", "train", "data_wait")["value"]
    assert ((waits >= 0) & (waits <= 1)).all()
    assert list((tmp_path / "run" / "gradients").glob("part-*.parquet"))


class Layers(Watcher):
    """What the optimizer says of its layers after some updates."""

    def __init__(self, trainers: list[Trainer]) -> None:
        self.trainers, self.seen = trainers, list[dict[str, float]]()

    def stepped(self, step: int, result: Any) -> None:
        if step in (16, 32):
            layers = describe(self.trainers[0].learner.optimizer)
            self.seen.append({name: float(np.mean([layer[name] for layer in layers])) for name in CLIPPED})


CLIPPED = ("clipped", "attenuation")
describe = ASGC.diagnostics


def test_what_clipping_did_is_logged_without_asking_for_the_layers_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`diagnostics` brings them to the host, for which a GPU is waited for."""
    trainers: list[Trainer] = []
    begin = Trainer.start
    monkeypatch.setattr(Trainer, "start", lambda self: (trainers.append(self), begin(self)))
    monkeypatch.setattr(ASGC, "diagnostics", lambda self: pytest.fail("the optimizer was waited for"))
    layers = Layers(trainers)
    optimizer = {"name": "asgc", "lr": 2e-3, "clip_factor": 1.0}
    options: dict[str, Any] = {"gradients": {"enabled": False}, "optimizer": optimizer, "log_interval": 32}
    train(config_of(tmp_path / "run", total_steps=32, **options), watchers=[layers])
    assert len(layers.seen) == 2
    for name in CLIPPED:
        logged = read_series(tmp_path / "run", "train", name)["value"]
        assert logged.tolist() == pytest.approx([np.mean([seen[name] for seen in layers.seen])])
    assert 0 < layers.seen[0]["attenuation"] < 1


@pytest.mark.parametrize("device_batch", [16, 23])
def test_a_global_batch_in_several_passes_is_the_same_batch(tmp_path: Path, device_batch: int) -> None:
    train(config_of(tmp_path / "one", total_steps=12, optimizer={"name": "sgd", "lr": 0.05}))
    options: dict[str, Any] = {"total_steps": 12, "optimizer": {"name": "sgd", "lr": 0.05}}
    train(config_of(tmp_path / "several", device_batch=device_batch, **options))
    one, several = weights(tmp_path / "one"), weights(tmp_path / "several")
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, several[name], rtol=1e-4, atol=1e-6)


def test_workers_that_read_ahead_change_nothing(tmp_path: Path) -> None:
    for workers in (0, 2):
        data = {"name": "digits", "augment": "crop-flip", "workers": workers}
        train(config_of(tmp_path / str(workers), total_steps=30, data=data))
    assert numbers(tmp_path / "0") == numbers(tmp_path / "2")


def test_kept_models_are_averaged(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(config_of(run, total_steps=30, keep_models=10))
    kept = [load(run, "cpu", step=step).weights for step in (20, 30)]
    mean = load(run, "cpu", average=2)
    assert (mean.name, mean.step) == ("average of 2", 30)
    for name, tensor in mean.weights.items():
        torch.testing.assert_close(tensor, (kept[0][name] + kept[1][name]) / 2)
    with pytest.raises(UserError, match=r"--average 4: .* has kept 3 models; .* keeps one every N steps"):
        load(run, "cpu", average=4)
    with pytest.raises(UserError, match=r"--step 15: .* there are 10, 20, 30"):
        load(run, "cpu", step=15)


def test_an_average_leaves_counters_alone() -> None:
    states: list[Mapping[str, torch.Tensor]] = [
        {"w": torch.tensor([1.0, 2.0]), "count": torch.tensor(3)},
        {"w": torch.tensor([3.0, 2.0]), "count": torch.tensor(9)},
    ]
    mean = averaged(states)
    assert mean["w"].tolist() == [2.0, 2.0]
    assert mean["count"].item() == 9


@pytest.mark.parametrize("no_decay", [False, True])
def test_weight_decay_leaves_biases_alone(tmp_path: Path, no_decay: bool) -> None:
    """Without gradients a step of SGD is the decay alone: everything that decays halves."""
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.GroupNorm(1, 2), torch.nn.Linear(3, 3))
    config = config_of(tmp_path, no_decay=no_decay, optimizer={"name": "sgd", "lr": 0.5, "weight_decay": 1.0})
    optimizer = make_optimizer(config.optimizer, config.seed, parameter_groups(model, config))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 1.0 if no_decay and parameter.ndim == 1 else 0.5
        torch.testing.assert_close(parameter, factor * before[name])


def test_the_head_stays_behind_what_does_not_decay(tmp_path: Path) -> None:
    """AGC leaves the last matrix and what follows it alone, in the order of the groups."""
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.GroupNorm(1, 2), torch.nn.Linear(3, 3))
    agc = {"name": "agc", "rule": "sgd", "lr": 1.0, "weight_decay": 0.01}
    config = config_of(tmp_path, no_decay=True, optimizer=agc)
    optimizer = make_optimizer(config.optimizer, config.seed, parameter_groups(model, config))
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e3)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer.step()
    moved = {name: (parameter - before[name]).abs().max().item() for name, parameter in model.named_parameters()}
    assert {name for name, distance in moved.items() if distance > 100} == {"2.weight", "2.bias"}


def test_a_run_that_ends_in_its_warm_up_says_so(tmp_path: Path) -> None:
    told: list[str] = []

    class Listener(Watcher):
        def message(self, text: str) -> None:
            told.append(text)

    schedule = {"name": "cosine", "warmup": 40}
    train(config_of(tmp_path / "short", total_steps=10, lr_schedule=schedule), watchers=[Listener()])
    assert [line for line in told if "warm" in line] == [
        "--lr-schedule.warmup 40: longer than the run, of 10 updates: the learning rate ends at 0.25 of --optimizer.lr"
    ]


def test_what_a_model_was_trained_on_is_looked_at(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--data: say what to learn from"):
        TrainConfig.preset("imagenet").validate()
    config = config_of(tmp_path / "run", data={"name": "digits", "source": "de"})
    with pytest.raises(UserError, match="only --task wmt14 has this option"):
        train(config)
    assert not (tmp_path / "run").exists()


def test_other_images_of_the_same_number_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a checkpoint of an earlier version knows nothing of them, it goes on."""
    digits, run = data_sets.SMALL["digits"], tmp_path / "run"

    def changed(config: Any) -> Any:
        found = digits(config)
        found.train._images[5, 3, 3] ^= 1  # type: ignore[attr-defined]
        return found

    with pytest.raises(Killed):
        train(config_of(run, checkpoint_interval=4, total_steps=10), watchers=[StopAt(5)])
    monkeypatch.setitem(data_sets.SMALL, "digits", changed)
    message = r"digits is not the data that .*run was begun with \(other training images\): give it that, or train anew"
    for _ in range(2):
        with pytest.raises(UserError, match=message):
            train(config_of(run, checkpoint_interval=4, total_steps=10), resume=True)
    monkeypatch.setitem(data_sets.SMALL, "digits", digits)
    with pytest.raises(Killed):
        train(config_of(run, checkpoint_interval=4, total_steps=10), resume=True, watchers=[StopAt(6)])
    checkpoint = newest_checkpoint(run)
    assert checkpoint is not None
    state = torch.load(checkpoint.path / STATE, weights_only=False)
    assert {"training images", "validation images"} <= state["data"].keys()
    monkeypatch.setattr(ImageNet, "contents", lambda self: {})  # as an earlier version saves
    with pytest.raises(Killed):
        train(config_of(run, checkpoint_interval=4, total_steps=10), resume=True, watchers=[StopAt(9)])
    monkeypatch.undo()
    monkeypatch.setitem(data_sets.SMALL, "digits", changed)
    train(config_of(run, checkpoint_interval=4, total_steps=10), resume=True)


class SeesSettings(Watcher):
    def __init__(self) -> None:
        self.seen: set[tuple[bool, bool]] = set()

    def stepped(self, step: int, result: Any) -> None:
        self.seen.add((torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark))


@pytest.mark.parametrize("wanted", [True, False])
def test_deterministic_holds_for_the_run_and_no_longer(tmp_path: Path, wanted: bool) -> None:
    sees = SeesSettings()
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    train(config_of(tmp_path / "run", total_steps=2, deterministic=wanted), watchers=[sees])
    assert sees.seen == {(wanted, not wanted)}
    assert (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark) == before
