"""Classification of images: ImageNet or any folder of classes, and small data sets that are held in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evaluation.cli.errors import UserError
from evaluation.runs.watchers import Column
from supervised.distributed import Group
from supervised.order import Indices, ShuffledOrder, first, share
from supervised.tasks.task import VALIDATION, Batch, Loss, Scores, Task
from supervised.vision import data_sets, models
from supervised.vision.label_noise import noisy
from supervised.vision.resolution import resolution_at
from supervised.vision.splits import DataSet, Split

if TYPE_CHECKING:
    from supervised.config import TrainConfig

TRAINING = "training"  # the whole of it


class ImageNet(Task):
    """Images of one of several classes each; the score is top-1 accuracy in percent."""

    item = things = "images"
    columns = (Column("top1", "top1", "top-1 in training", ".2f"),)

    def __init__(self, config: TrainConfig, group: Group, message: Callable[[str], None]) -> None:
        super().__init__(config, group, message)
        self.data = data = self.open()
        size, sides = len(data.train), config.data
        models.check_sides(
            config.model.name or "",
            [sides.resolution, sides.start_resolution or sides.resolution, sides.eval_resolution or sides.resolution],
        )
        self.in_memory = data.train.in_memory and config.data.augment != "trivial"
        self._channels = models.channels(config.model.name or "", data.train.channels)
        self._labels = noisy(data.train.labels, len(data.classes), config.data.label_noise)
        self._subset = first(size, config.evaluation.train_subset, "train_subset")
        self.order = ShuffledOrder(size, config.batch_size, config.seed)
        of_an_update = min(config.batch_size, size)
        if of_an_update < group.ranks:
            raise UserError(f"--batch-size {of_an_update}: fewer images than the {group.ranks} processes")
        of_a_process = -(-of_an_update // group.ranks)
        self._at_once = min(config.device_batch or of_a_process, of_a_process)
        self._epochs = config.epochs or 1.0
        if config.total_steps is not None:
            self._epochs = config.total_steps / self.order.updates_per_epoch

    def open(self) -> DataSet:
        """The data that the options name."""
        return data_sets.find(self.config.data)

    @staticmethod
    def build(config: TrainConfig, facts: Mapping[str, Any]) -> nn.Module:
        return models.make(config.model.name or "", facts["channels"], facts["side"], len(facts["classes"]))

    def facts(self) -> dict[str, Any]:
        data, options = self.data, self.config.data
        return {
            "classes": list(data.classes),
            "channels": self._channels,  # that the model takes
            "side": options.resolution,
            "preprocessing": {
                "grey": data.train.channels == 1,
                "resize": data.validation.resize,
                "side": options.eval_resolution or options.resolution,
                "mean": list(data.normalization.mean),
                "std": list(data.normalization.std),
            },
        }

    def contents(self) -> dict[str, str]:
        splits = {"training images": self.data.train, "validation images": self.data.validation}
        found = {name: split.fingerprint() for name, split in splits.items()}
        return {name: value for name, value in found.items() if value is not None}

    def skipped(self) -> dict[str, list[int]]:
        return {name: one.bad.found().tolist() for name, one in self._splits().items() if one.bad is not None}

    def skip(self, found: Mapping[str, list[int]]) -> None:
        for name, split in self._splits().items():
            if split.bad is not None:
                split.bad.restore(np.array(found.get(name, []), np.int64))

    def summary(self) -> dict[str, Any]:
        found = self.skipped()  # by all processes: it comes after an evaluation
        if not found:
            return {}
        train, validation = len(found.get(TRAINING, ())), len(found.get(VALIDATION, ()))
        if train or validation:
            self.message(
                f"could not be read: {train:,} of {len(self.data.train):,} training images, others took their places, "
                f"and {validation:,} of {len(self.data.validation):,} validation images, left out"
            )
        return {"skipped_training_images": train, "skipped_images": validation}

    def fetch(self, indices: Indices, epoch: int) -> Batch:
        """Bytes, shape (images, channels, side, side), and labels."""
        data = self.config.data
        side = resolution_at(epoch, self._epochs, data.start_resolution, data.resolution)
        images, used = self.data.train.augmented(indices, self.config.seed, epoch, side)
        return images, torch.from_numpy(self._labels[used])

    def passes(self, indices: Indices) -> int:
        return -(-len(share(indices, 0, self.group.ranks)) // self._at_once)

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        images, labels = batch
        self._tell_bad()
        logits = self._logits(model, images)
        total = F.cross_entropy(logits.float(), labels, reduction="sum", label_smoothing=self.config.label_smoothing)
        with torch.no_grad():
            return Loss(total, {"top1": 100.0 * (logits.argmax(1) == labels).sum()})

    def evaluate(self, model: nn.Module, split: str, *, final: bool, tell: Callable[[int, int], None]) -> Scores:
        """Over the images that can be read. Each process takes a share of every batch, so that all of them make the
        same passes, as sharded models need."""
        images = self.data.validation if split == VALIDATION else self.data.train
        labels = torch.from_numpy(images.labels if split == VALIDATION else self._labels)
        chosen = np.arange(len(images)) if split == VALIDATION else self._subset
        batches, at_once = self._shares(chosen)
        device = next(model.parameters()).device
        sums = torch.zeros(4, dtype=torch.float64, device=device)  # top-1, top-5, loss, images
        for k, (pixels, readable) in enumerate(images.plain(batches, self._workers())):
            target = labels[batches[k]].to(device, non_blocking=True)
            counted = (readable & torch.from_numpy(batches[k] >= 0)).to(device, non_blocking=True)
            logits = self._logits(model, pixels.to(device, non_blocking=True)).float()
            right = logits.topk(min(5, logits.shape[1]), dim=1).indices == target[:, None]
            losses = F.cross_entropy(logits, target, reduction="none")
            values = torch.stack([right[:, 0], right.any(1), losses, torch.ones_like(losses)]).double()
            sums += (values * counted).sum(1)
            tell(min((k + 1) * at_once, len(chosen)), len(chosen))
        self._merge_bad()
        self._tell_bad()
        top1, top5, loss, count = self.group.sum(sums).tolist()
        which = "validation" if split == VALIDATION else "training"
        if count == 0:
            raise UserError(f"none of the {len(chosen):,} {which} images can be read")
        words = f"top-1 accuracy on {count:,.0f} {which} images, in percent"
        summary = {} if images.bad is None else {"skipped_images": len(images.bad.found())}
        return Scores(100.0 * top1 / count, {"top5": 100.0 * top5 / count, "loss": loss / count}, words, summary)

    def size(self, split: str) -> int:
        return len(self.data.validation if split == VALIDATION else self._subset)

    def signature(self) -> dict[str, Any]:
        data = self.config.data
        apart = {} if data.held_out is None else {"held_out": data.held_out}
        return apart | {
            "score": "top-1 accuracy, percent",
            "classes": len(self.data.classes),
            "training_images": len(self.data.train),
            "validation_images": len(self.data.validation),
            "label_noise": data.label_noise,
            "resize": self.data.validation.resize,
            "eval_resolution": data.eval_resolution or data.resolution,
        }

    @property
    def target(self) -> float | None:
        return self.data.target

    def _logits(self, model: nn.Module, images: Tensor) -> Tensor:
        x = self.data.normalization.apply(images)
        if x.shape[1] != self._channels:  # grey images for a model that takes colours
            x = x.expand(-1, self._channels, -1, -1)
        wanted = torch.channels_last if self.config.channels_last else torch.contiguous_format
        logits: Tensor = model(x.contiguous(memory_format=wanted))
        return logits

    def _splits(self) -> dict[str, Split]:
        return {TRAINING: self.data.train, VALIDATION: self.data.validation}

    def _shares(self, chosen: Indices) -> tuple[list[Indices], int]:
        """This process's part of each batch, and how many images a batch has. A part has at least one image, that is -1
        and not counted where there are fewer than processes."""
        size = (self.config.evaluation.batch_size or self._at_once) * self.group.ranks
        batches = (chosen[start : start + size] for start in range(0, len(chosen), size))
        parts = (share(batch, self.group.rank, self.group.ranks) for batch in batches)
        return [part if len(part) else np.array([-1]) for part in parts], size

    def _workers(self) -> int:
        from supervised.preflight import data_workers

        return data_workers(self.config, self, self.group)

    def _merge_bad(self) -> None:
        """What the other processes could not read, each from its own share: the limit is of them all together."""
        mine = self.skipped()
        everyones = self.group.merged({(split, index): True for split, found in mine.items() for index in found})
        for name, split in self._splits().items():
            if split.bad is not None:
                split.bad.merge(np.array([index for of, index in everyones if of == name], np.int64))

    def _tell_bad(self) -> None:
        for split, instead in ((self.data.train, "another takes its place"), (self.data.validation, "left out")):
            if split.bad is not None:
                split.bad.tell(self.message, instead)
