"""Images per second of training a classifier, beside a plain loop with torchvision's model.

The plain loop is that of torchvision's reference (references/classification/train.py: DataLoader, CrossEntropyLoss,
torch.optim.SGD, zero_grad, backward, step) without its metrics, which wait for the loss in each update; once as it is,
and once with channels_last, which it has no flag for. On the same images, with the same precision, threads and workers.
Everything of an update counts: reading and augmenting, copies to the device, both passes, the optimizer. The ratio is
to the faster of the two.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import turns
from benchmarks.made_up import MadeUpImages
from benchmarks.turns import Turn
from evaluation.cli.errors import UserError, tell
from evaluation.runs.hardware import deterministic, keep_freed_memory, select_device, torch_threads
from supervised.config import TrainConfig
from supervised.distributed import ALONE
from supervised.learner import Learner
from supervised.preflight import choose, data_workers
from supervised.stream import Stream
from supervised.tasks.imagenet import ImageNet
from supervised.vision.image_folder import LAYOUT, TRAIN
from supervised.vision.models import SMALL_CNN
from supervised.vision.torchvision_import import import_torchvision

LR, MOMENTUM, WEIGHT_DECAY = 0.01, 0.9, 1e-4
CPU_SIDE, GPU_SIDE = 96, 224  # pixels, where none are asked for
BURN_IN = 1  # updates
Images = Callable[[int], contextlib.AbstractContextManager[Iterator[tuple[Tensor, Tensor]]]]


@dataclass(frozen=True)
class Contestant:
    """Somebody who trains.

    Attributes:
        train: learns from so many updates' images, which are opened for it.
        plain: whether it is the plain loop.
    """

    name: str
    train: Callable[[int], Any]
    model: nn.Module
    plain: bool = False


@dataclass(frozen=True)
class Setting:
    """What is measured.

    Attributes:
        data: a folder of images; None: random ones that are held in memory.
        model: of torchvision.
        optimizer: this toolkit's, with momentum where it has such; the plain loop always has torch.optim's SGD.
        batch_size: images of an update.
        resolution: pixels of their sides; None: `CPU_SIDE` or `GPU_SIDE`.
        workers: processes that read images, for each; None: as training has it.
        precision, device, threads: as `train` takes them.
    """

    data: str | None = None
    model: str = "resnet50"
    optimizer: str = "asgc"
    batch_size: int = 32
    resolution: int | None = None
    workers: int | None = None
    precision: str = "auto"
    device: str = "auto"
    threads: int | None = None


def compare(setting: Setting, updates: int, rounds: int) -> None:
    """Measure so many rounds of so many updates of each and print; the last line is `ratio: N.NNx`.

    Raises:
        UserError: torchvision, its model or the data are missing.
    """
    import_torchvision()
    config = config_of(setting)
    full, lines = choose(config, None)
    for line in lines:
        tell(line)
    device, threads = torch.device(full.device), full.threads or 1
    keep_freed_memory()  # in all of them
    with torch_threads(threads), deterministic(False):
        task = (MadeUpImages if setting.data is None else ImageNet)(full, ALONE, tell)
        contestants = [*plain(full, task, device), ours(full, task, device)]
        print(describe(full, task, device, updates, rounds), flush=True)
        loaded = turns.load(threads)
        found = measure(contestants, updates, rounds, device)
    print(report(contestants, found, updates * task.order.update(0).items))
    if loaded:
        tell(loaded)


def config_of(setting: Setting) -> TrainConfig:
    """The run that is measured: the preset `imagenet` with SGD's learning rate, momentum and weight decay of all."""
    if setting.model == SMALL_CNN:
        raise UserError(f"--model {SMALL_CNN}: torchvision has no such model to compare with: choose one of its own")
    if setting.data is not None and not Path(setting.data).is_dir():
        raise UserError(f"--data {setting.data}: there is no such folder. Expected {LAYOUT}; without --data made up")
    options: dict[str, Any] = {"name": setting.optimizer, "lr": LR}
    if setting.optimizer == "asgc":
        options |= {"rule": "sgd"}
    if setting.optimizer in ("asgc", "sgd"):
        options |= {"momentum": MOMENTUM, "weight_decay": WEIGHT_DECAY}
    side = setting.resolution or (CPU_SIDE if select_device(setting.device).type == "cpu" else GPU_SIDE)
    few = {"train_size": 8 * setting.batch_size} if setting.data is None else {}
    config = TrainConfig.preset(
        "imagenet",
        data={"name": setting.data or "made-up", "workers": setting.workers, "resolution": side, **few},
        model=setting.model,
        batch_size=setting.batch_size,
        precision=setting.precision,
        device=setting.device,
        threads=setting.threads,
        optimizer=options,
    )
    config.validate()
    return config


def ours(config: TrainConfig, task: ImageNet, device: torch.device) -> Contestant:
    """What `asgc-sup train` does in an update."""
    torch.manual_seed(0)
    learner, done = Learner(config, task, device, ALONE, 1_000_000), 0

    def train(updates: int) -> None:
        nonlocal done
        stream = Stream(task, ALONE, device, done, done + updates, data_workers(config, task))
        try:
            for _ in range(updates):
                learner.update(*stream.next())
        finally:
            stream.close()
        done += updates

    return Contestant(f"asgc-sup, {config.optimizer.name}", train, learner.model)


def plain(config: TrainConfig, task: ImageNet, device: torch.device) -> list[Contestant]:
    """The loop of torchvision's reference, in both memory formats."""
    opened = _memory(config, task, device) if task.in_memory else _folder(config, task, device)
    return [
        _plain(config, task, device, opened, name, memory_format)
        for name, memory_format in (
            ("torchvision", torch.contiguous_format),
            ("torchvision, channels_last", torch.channels_last),
        )
    ]


def _plain(
    config: TrainConfig, task: ImageNet, device: torch.device, opened: Images, name: str, memory_format: Any
) -> Contestant:
    torch.manual_seed(0)
    models = import_torchvision("torchvision.models")
    model = models.get_model(config.model.name, num_classes=len(task.data.classes))
    model = model.to(device, memory_format=memory_format).train()
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)

    def train(updates: int) -> None:
        with opened(updates) as batches:
            for images, labels in batches:
                images = images.to(device, non_blocking=True, memory_format=memory_format)
                labels = labels.to(device, non_blocking=True)
                with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                    loss = criterion(model(images), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    return Contestant(name, train, model, plain=True)


def _memory(config: TrainConfig, task: ImageNet, device: torch.device) -> Images:
    """Batches of images that are there: gathered, as floating-point numbers, normalized; pinned for a GPU, as a
    DataLoader would have them."""
    functional = import_torchvision("torchvision.transforms.v2.functional")
    pixels, labels = task.fetch(np.arange(len(task.data.train)), 0)
    generator = torch.Generator().manual_seed(0)
    normalization, pins = task.data.normalization, device.type == "cuda"

    @contextlib.contextmanager
    def opened(updates: int) -> Iterator[Iterator[tuple[Tensor, Tensor]]]:
        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            for _ in range(updates):
                chosen = torch.randperm(len(labels), generator=generator)[: config.batch_size]
                images = functional.to_dtype(pixels[chosen], torch.float32, scale=True)
                images = functional.normalize(images, normalization.mean, normalization.std)
                yield (images.pin_memory(), labels[chosen].pin_memory()) if pins else (images, labels[chosen])

        yield batches()

    return opened


def _folder(config: TrainConfig, task: ImageNet, device: torch.device) -> Images:
    """torchvision's ImageFolder, transforms and DataLoader, as the reference puts them together."""
    datasets = import_torchvision("torchvision.datasets")
    transforms = import_torchvision("torchvision.transforms.v2")
    normalization = task.data.normalization
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(config.data.resolution, antialias=True),
            transforms.RandomHorizontalFlip(),
            transforms.PILToTensor(),
            transforms.ToDtype(torch.float32, scale=True),
            transforms.Normalize(normalization.mean, normalization.std),
        ]
    )
    folder = datasets.ImageFolder(str(Path(config.data.name or "") / TRAIN[0]), transform)
    batch, workers = task.order.update(0).items, data_workers(config, task)

    @contextlib.contextmanager
    def opened(updates: int) -> Iterator[Iterator[tuple[Tensor, Tensor]]]:
        loader = torch.utils.data.DataLoader(
            folder,
            batch_size=batch,
            sampler=torch.utils.data.RandomSampler(folder, num_samples=updates * batch),
            num_workers=workers,
            pin_memory=device.type == "cuda",
        )
        yield iter(loader)

    return opened


def measure(contestants: Sequence[Contestant], updates: int, rounds: int, device: torch.device) -> list[list[Turn]]:
    """What each contestant took in each round, behind a burn-in."""
    for contestant in contestants:
        contestant.train(BURN_IN)
    jobs = [lambda _, train=contestant.train: train(updates) for contestant in contestants]  # type: ignore[misc]
    return turns.take_turns(jobs, rounds, device)


def describe(config: TrainConfig, task: ImageNet, device: torch.device, updates: int, rounds: int) -> str:
    """What is measured, in one line."""
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {config.threads} threads"
    side, workers = config.data.resolution, data_workers(config, task)
    images = f"{task.order.update(0).items} images of {side} x {side} ({config.data.name}, {workers} workers)"
    return (
        f"{config.model.name}, {images}, {config.precision}; torch {torch.__version__}, {where}; {rounds} rounds of "
        f"{updates} updates in turns; torchvision's loop with torch.optim.SGD"
    )


def report(contestants: Sequence[Contestant], found: Sequence[Sequence[Turn]], images: int) -> str:
    """The table of medians, and the ratio of ours to the faster plain loop.

    Args:
        images: of a round.
    """
    width = max(len(contestant.name) for contestant in contestants)
    lines = [
        f"{contestant.name:{width}}  {turns.rate(row, images, 'images')}"
        for contestant, row in zip(contestants, found, strict=True)
    ]
    others = [row for one, row in zip(contestants, found, strict=True) if one.plain]
    lines += [
        f"{contestant.name}: {turns.ratios(row, others)}"
        for contestant, row in zip(contestants, found, strict=True)
        if not contestant.plain
    ]
    return "\n".join(lines)
