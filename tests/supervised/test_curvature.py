"""Looks at the curvature of supervised runs: the loss is the training's, and training is the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

import pytest
import torch

from evaluation.cli.errors import UserError
from evaluation.curvature.hessian import Hessian, flat
from evaluation.curvature.measure import read
from evaluation.runs.run_folder import RunFolder
from evaluation.runs.watchers import Watchers
from supervised import TrainConfig, train
from supervised.curvature import training_loss
from supervised.distributed import Group
from supervised.tasks.streams import Streams
from supervised.tasks.task import Task
from supervised.tasks.wmt14 import WMT14
from supervised.trainer import Trainer
from tests.supervised import toy_text
from tests.supervised.test_trainer import config_of, numbers, weights


def drifting(run: Path) -> TrainConfig:
    """A stream for a small perceptron, 9 updates of 16 samples."""
    options = {"data.name": "drifting", "batch_size": 16, "total_steps": 9, "threads": 1}
    return TrainConfig.preset("streams", device="cpu", run_dir=run, **options)


@contextmanager
def trainer_of(task: Task) -> Iterator[Trainer]:
    """A trainer before its first update."""
    config = task.config
    with RunFolder(Path(config.run_dir or ""), config.to_dict(), seeds={"seed": 1}, device="cpu") as run:
        trainer = Trainer(config, run, torch.device("cpu"), Watchers(), task, Group())
        yield trainer
        trainer.close()


def test_training_is_the_same_and_the_looks_are_logged(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    looks = {"curvature": {"every": 2, "samples": 100, "vectors": 10}, "model": "small-cnn"}
    train(config_of(tmp_path / "looked", **looks))
    train(config_of(tmp_path / "plain", model="small-cnn"))
    found = numbers(tmp_path / "looked")
    assert [row for row in found if row[2] != "curvature"] == numbers(tmp_path / "plain")
    a, b = weights(tmp_path / "looked"), weights(tmp_path / "plain")
    assert all(torch.equal(a[name], b[name]) for name in b)
    steps = {row[0] for row in found if row[2] == "curvature"}
    assert steps == {20, 60}  # the first and the third evaluation, which is the last
    assert {row[3] for row in found if row[2] == "curvature"} == {
        *("loss", "hessian_max", "hessian_min", "gradient_curvature", "preconditioned_max")
    }
    assert [one["step"] for one in read(tmp_path / "looked")] == [20, 60]


def test_it_is_the_mean_loss_over_the_latest_samples(tmp_path: Path) -> None:
    task = Streams(drifting(tmp_path / "run"), Group(), print)
    with trainer_of(task) as trainer:
        for _ in range(5):
            trainer.advance()
        with training_loss(trainer.learner, task, trainer.step, samples=40) as problem:
            assert (problem.samples, problem.items) == (48, 48)  # whole updates: the latest three
            batches = [task.fetch(task.order.update(k).indices, 0) for k in (4, 3, 2)]
            with torch.no_grad():
                expected = sum(float(task.loss(trainer.learner.model, batch).total) for batch in batches) / 48
            assert problem.value() == pytest.approx(expected, rel=1e-6)
        with training_loss(trainer.learner, task, trainer.step, samples=4000) as problem:
            assert problem.samples == 80  # there are no more


def test_a_transformer_by_its_tokens(tmp_path: Path) -> None:
    """Sentences of several widths, tied weights, attention, a loss that knows its own derivative."""
    config = toy_text.config_of(toy_text.prepared(tmp_path, train=200), tmp_path / "run", total_steps=4)
    config.model.dropout = 0.3  # not in what is looked at
    task = WMT14(config, Group(), print)
    with trainer_of(task) as trainer:
        for _ in range(3):
            trainer.advance()
        trainer.learner.model.double()
        with training_loss(trainer.learner, task, trainer.step, samples=50) as problem:
            gradient, operator = flat(problem.gradient()), Hessian(problem)
            vector = torch.randn(len(gradient), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
            found, ends = operator @ vector, []
            starts = [parameter.detach().clone() for parameter in problem.parameters]
            for sign in (1, -1):
                step = sign * 1e-8  # so small that hardly a ReLU is passed
                with torch.no_grad():
                    parts = vector.split([p.numel() for p in problem.parameters])
                    for parameter, start, part in zip(problem.parameters, starts, parts, strict=True):
                        parameter.copy_(start + step * part.view_as(parameter))
                ends.append(flat(problem.gradient()))
            expected = (ends[0] - ends[1]) / 2e-8
            assert float((found - expected).norm() / expected.norm()) < 1e-3


def test_batch_normalization_is_as_in_training_and_nobody_is_told(tmp_path: Path) -> None:
    """The statistics of each update's own batch; what evaluations normalize by does not move."""
    task = Streams(drifting(tmp_path / "run"), Group(), print)
    with trainer_of(task) as trainer:
        first = trainer.learner.model[0].out_features
        trainer.learner.model[1] = torch.nn.Sequential(torch.nn.BatchNorm1d(first), torch.nn.Dropout(0.5))
        model = trainer.learner.model
        before = {name: buffer.clone() for name, buffer in model.named_buffers()}
        expected = 0.0
        for k in (4, 3, 2):
            batch = task.fetch(task.order.update(k).indices, 0)
            copy = deepcopy(model).train()
            copy[1][1].eval()
            with torch.no_grad():
                expected += float(task.loss(copy, batch).total) / 48
        with training_loss(trainer.learner, task, 5, samples=40) as problem:
            assert problem.value() == pytest.approx(expected, rel=1e-5)
            Hessian(problem) @ torch.ones(sum(p.numel() for p in model.parameters()))
        assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
        assert model[1][0].training
        assert model[1][0].track_running_stats


def test_fairseq_and_several_processes_are_refused_or_told() -> None:
    config = TrainConfig.preset("wmt14", **{"backend": "fairseq", "data.name": "wmt14", "curvature.every": 1})
    with pytest.raises(UserError, match=r"--curvature.every 1: .*the backend fairseq has no second derivatives"):
        config.validate()
