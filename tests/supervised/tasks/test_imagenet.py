"""The task of classifying images, as the trainer sees it."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from evaluation.cli.errors import UserError
from evaluation.runs.run_folder import load_summary
from supervised import train
from supervised.config import TrainConfig
from supervised.distributed import ALONE, Group
from supervised.order import share
from supervised.tasks.imagenet import ImageNet
from supervised.tasks.task import united
from tests.supervised.test_resumed import Hears
from tests.supervised.test_trainer import Killed, StopAt, config_of
from tests.supervised.vision.images import make_folder
from tests.torchvision_ops import import_torchvision, needs_torchvision

pytest.importorskip("sklearn")
import_torchvision()


def task_of(group: Group = ALONE, **options: Any) -> ImageNet:
    config = TrainConfig.preset(**({"data.name": "digits", "device": "cpu", "data.workers": 0} | options))
    return ImageNet(config, group, print)


def learned(task: ImageNet, updates: int) -> torch.nn.Module:
    torch.manual_seed(1)
    model = task.make_model()
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for number in range(updates):
        update = task.order.update(number)
        loss = task.loss(model, task.fetch(update.indices, update.epoch))
        (loss.total / update.items).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def evaluated(task: ImageNet, model: torch.nn.Module, split: str = "validation") -> Any:
    with torch.inference_mode():
        return task.evaluate(model, split, final=True, tell=lambda done, total: None)


def test_digits_are_learned_in_a_second() -> None:
    task = task_of()
    model = learned(task, 250)
    scores = evaluated(task, model)
    assert scores.score > 95
    assert scores.values["top5"] >= scores.score
    # By hand.
    split = task.data.validation
    pixels, _ = next(split.plain([np.arange(len(split))], 0))
    with torch.inference_mode():
        logits = model(task.data.normalization.apply(pixels))
    labels = torch.from_numpy(split.labels)
    assert scores.score == pytest.approx(100 * float((logits.argmax(1) == labels).double().mean()))
    assert scores.values["loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), rel=1e-5)
    assert scores.words == "top-1 accuracy on 364 validation images, in percent"
    assert evaluated(task, model, "train_subset").score > 97


@dataclass(frozen=True)
class Threads(Group):
    """Processes that are threads, with a real sum over them."""

    barrier: Any = None
    box: Any = None

    def sum(self, tensor: Tensor) -> Tensor:
        self.box[self.rank] = tensor.clone()
        self.barrier.wait()
        return tensor.copy_(torch.stack([self.box[rank] for rank in range(self.ranks)]).sum(0))

    def merged(self, found: Any) -> Any:
        self.box[self.rank] = found
        self.barrier.wait()
        union = {key: value for rank in range(self.ranks) for key, value in self.box[rank].items()}
        self.barrier.wait()
        return union


@pytest.mark.parametrize(("ranks", "batch"), [(2, 64), (3, 121), (5, 73)])  # 364 = 2 * 182 = 3 * 121 + 1 = 5 * 73 - 1
def test_several_processes_evaluate_what_one_does(ranks: int, batch: int) -> None:
    model, alone = learned(task_of(), 20), task_of()
    barrier, box, found, passes = threading.Barrier(ranks), {}, {}, {}

    def work(rank: int) -> None:
        task = task_of(Threads(rank, ranks, barrier=barrier, box=box), **{"evaluation.batch_size": batch})
        told: list[tuple[int, int]] = []
        with torch.inference_mode():
            found[rank] = task.evaluate(model, "validation", final=True, tell=lambda *done: told.append(done))
        passes[rank] = told

    workers = [threading.Thread(target=work, args=(rank,)) for rank in range(ranks)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    expected = evaluated(alone, model)
    assert len({len(told) for told in passes.values()}) == 1  # sharded models need equal numbers of passes
    assert all(told[-1] == (364, 364) for told in passes.values())
    for scores in found.values():
        assert scores.score == pytest.approx(expected.score)
        assert scores.values == pytest.approx(expected.values, rel=1e-5)


def test_processes_take_passes_of_the_same_size() -> None:
    task = task_of(Group(0, 3), batch_size=100, device_batch=10)
    assert task.passes(np.arange(100)) == 4  # 34 of the first process
    assert [len(share(np.arange(100), rank, 3)) for rank in range(3)] == [34, 33, 33]
    assert task_of(batch_size=100).passes(np.arange(100)) == 1
    with pytest.raises(UserError, match="fewer images than the 3 processes"):
        task_of(Group(0, 3), batch_size=2)


def test_label_noise_is_the_same_for_all_seeds_and_only_in_training() -> None:
    noisy = [task_of(seed=seed, **{"data.label_noise": 0.3}) for seed in (1, 2)]
    clean = task_of()
    indices = np.arange(len(clean.data.train))
    labels = [task.fetch(indices, 0)[1].numpy() for task in (*noisy, clean)]
    assert (labels[0] == labels[1]).all()
    assert 0.2 < (labels[0] != labels[2]).mean() < 0.3
    assert (noisy[0].data.validation.labels == clean.data.validation.labels).all()
    # The training score is taken over the labels that are trained on.
    model = learned(clean, 150)
    scores = [evaluated(task, model, "train_subset").score for task in (noisy[0], clean)]
    assert scores[0] < 80 < 95 < scores[1]
    assert (noisy[0].target, clean.target) == (None, 95.0)


def test_resolution_rises_with_the_epochs() -> None:
    task = task_of(epochs=3, **{"data.start_resolution": 8, "data.resolution": 16})
    assert [task.fetch(np.arange(2), epoch)[0].shape[-1] for epoch in range(4)] == [8, 12, 16, 16]


def test_label_smoothing_and_logged_values() -> None:
    task, smooth = task_of(), task_of(label_smoothing=0.2)
    model, batch = learned(task, 5).requires_grad_(False), task.fetch(np.arange(50), 0)
    loss = task.loss(model, batch)
    logits = model(task.data.normalization.apply(batch[0])).log_softmax(1)
    nll = -logits.gather(1, batch[1][:, None]).sum()
    assert float(loss.total) == pytest.approx(float(nll), rel=1e-5)
    assert float(loss.values["top1"]) == 100 * int((logits.argmax(1) == batch[1]).sum())
    expected = 0.8 * nll - 0.2 * logits.mean(1).sum()
    assert float(smooth.loss(model, batch).total) == pytest.approx(float(expected), rel=1e-5)


@needs_torchvision
def test_a_folder_with_broken_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_folder(tmp_path)
    (root / "train" / "dog" / "0.jpg").write_bytes(b"nothing")
    (root / "val" / "dog" / "0.jpg").write_bytes(b"nothing")
    options = {"data.name": str(root), "data.resolution": 32, "data.bad_share": 0.12, "model.name": "small-cnn"}
    task = task_of(batch_size=6, **options)
    assert not task.in_memory
    _, labels = task.fetch(np.array([5, 6, 7]), 0)
    assert labels.tolist() == [0, 1, 1]
    model = learned(task, 30)
    scores = evaluated(task, model)
    assert scores.words.startswith("top-1 accuracy on 8 validation images")
    assert scores.summary == {"skipped_images": 1}
    assert scores.score == 100
    said = capsys.readouterr().out
    assert said.count("another takes its place") == said.count("left out") == 1
    assert task.facts()["classes"] == ["cat", "dog", "fish"]


def broken_folder(root: Path) -> Path:
    """18 training images, of which 2, 3 and 17 cannot be read, and 9 for validation, of which the fifth cannot."""
    folder = make_folder(root)
    for name in ("train/cat/2.jpg", "train/cat/3.png", "train/fish/5.png", "val/dog/1.png"):
        (folder / name).write_bytes(b"nothing")
    return folder


@dataclass(frozen=True)
class WithAnother(Group):
    """Another process has found the first and the third training image and the first validation image."""

    def merged(self, found: Any) -> Any:
        return {("training", 0): True, ("training", 2): True, ("validation", 0): True} | found


@needs_torchvision
def test_images_that_cannot_be_read_are_counted_once_over_all_processes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"data.name": str(broken_folder(tmp_path)), "data.resolution": 32, "model.name": "small-cnn"}
    task = task_of(WithAnother(), batch_size=6, **options, **{"data.bad_share": 0.3})
    task.fetch(np.arange(4), 0)
    assert task.skipped() == {"training": [2, 3], "validation": []}
    scores = evaluated(task, learned(task, 0))
    assert scores.summary == {"skipped_images": 2}
    assert task.skipped() == {"training": [0, 2, 3], "validation": [0, 4]}
    assert task.summary() == {"skipped_training_images": 3, "skipped_images": 2}
    said = capsys.readouterr().out
    assert (
        "could not be read: 3 of 18 training images, others took their places, and 2 of 9 validation images, left out\n"
        in said
    )
    assert said.count("another takes its place") == 3
    strict = task_of(WithAnother(), batch_size=6, **options, **{"data.bad_share": 0.15})
    strict.fetch(np.arange(4), 0)  # two of 18 may be bad
    with pytest.raises(UserError, match=r"3 of 18 images cannot be read, more than --data.bad-share 0\.15"):
        evaluated(strict, learned(strict, 0))
    assert task_of().summary() == task_of().skipped() == {}  # in memory
    assert united([{"training": [2, 3], "validation": []}, {"training": [0, 2]}]) == {
        "training": [0, 2, 3],
        "validation": [],
    }


@needs_torchvision
def test_a_resumed_run_knows_the_images_that_could_not_be_read_before(tmp_path: Path) -> None:
    """Each image is drawn once in the run's three updates."""
    data = {"name": str(broken_folder(tmp_path / "data")), "resolution": 32, "bad_share": 0.3, "workers": 0}
    options: dict[str, Any] = {"data": data, "batch_size": 6, "total_steps": 3, "checkpoint_interval": 2}
    options["evaluation"] = {"train_subset": 0}
    hears = Hears()
    with pytest.raises(Killed):
        train(config_of(tmp_path / "run", **options), watchers=[StopAt(3)])
    train(config_of(tmp_path / "run", **options), resume=True, watchers=[hears])
    summary = load_summary(tmp_path / "run")
    assert (summary["skipped_training_images"], summary["skipped_images"]) == (3, 1)
    order = ImageNet(config_of(None, **options), ALONE, print).order
    late = {2, 3, 17} & set(order.update(2).indices.tolist())
    assert len(late) < 3  # or nothing had been found before
    assert sum("another takes its place" in line for line in hears.lines) == len(late)
    assert sum(line.startswith("could not be read: 3 of 18 training images") for line in hears.lines) == 1


@needs_torchvision
def test_grey_images_in_colour_models() -> None:
    task = task_of(**{"model.name": "resnet18", "data.resolution": 32})
    model = task.make_model()
    loss = task.loss(model, task.fetch(np.arange(4), 0))
    assert model.conv1.weight.shape[1] == 3
    assert bool(loss.total.isfinite())
    with pytest.raises(UserError, match="did you mean resnet50"):
        task_of(**{"model.name": "resnet5O"})
