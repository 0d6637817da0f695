"""Classification of images: ImageNet or any folder of classes, and small data sets that are held in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evaluation.runs.watchers import Column
from supervised import order
from supervised.distributed import Group
from supervised.order import Indices, ShuffledOrder
from supervised.tasks.task import Batch, Loss, Scores, Task
from supervised.vision import data_sets, models
from supervised.vision.label_noise import noisy
from supervised.vision.resolution import resolution_at
from supervised.vision.splits import first

if TYPE_CHECKING:
    from supervised.config import TrainConfig


class ImageNet(Task):
    """Images of one of several classes each; the score is top-1 accuracy in percent."""

    item = things = "images"
    columns = (Column("top1", "top1", "top-1 in training", ".2f"),)

    def __init__(self, config: TrainConfig, group: Group, message: Callable[[str], None]) -> None:
        super().__init__(config, group, message)
        self.data = data = data_sets.find(config, message)
        self.in_memory = data.train.in_memory and config.data.augment != "trivial"
        self._channels = models.channels(config.model.name or "", data.train.channels)
        self._samples = first(len(data.train), config.data.train_size, "train_size")
        self._labels = noisy(data.train.labels[self._samples], len(data.classes), config.data.label_noise)
        self.order = ShuffledOrder(len(self._samples), config.batch_size, config.seed)
        # What one device takes at once in training: evaluations take as much unless told otherwise.
        self._share = -(-min(config.batch_size, len(self._samples)) // group.ranks)
        self._at_once = min(config.device_batch or self._share, self._share)
        self._epochs = config.epochs or 1.0
        if config.total_steps is not None:
            self._epochs = config.total_steps / self.order.updates_per_epoch

    @staticmethod
    def build(config: TrainConfig, facts: Mapping[str, Any]) -> nn.Module:
        name = config.model.name or ""
        channels = models.channels(name, facts["channels"])
        return models.make(name, channels, config.data.resolution, len(facts["classes"]))

    def fetch(self, indices: Indices, epoch: int) -> Batch:
        """Bytes, shape (images, channels, side, side), and labels."""
        data = self.config.data
        side = resolution_at(epoch, self._epochs, data.start_resolution, data.resolution)
        images = self.data.train.augmented(self._samples[indices], self.config.seed, epoch, side)
        return images, torch.from_numpy(self._labels[indices])

    def passes(self, indices: Indices) -> int:
        return -(-len(order.share(indices, 0, self.group.ranks)) // self._at_once)

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        images, labels = batch
        logits = self._logits(model, images)
        total = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=self.config.label_smoothing)
        with torch.no_grad():
            return Loss(total, {"top1": 100.0 * (logits.argmax(1) == labels).sum()})

    def evaluate(self, model: nn.Module, split: str, *, final: bool, tell: Callable[[int, int], None]) -> Scores:
        """Over the images that can be read. Each process takes a share of every batch, so that all of them make the
        same passes, as sharded models need."""
        if split == "validation":
            images, labels = self.data.validation, self.data.validation.labels
            chosen = np.arange(len(labels))
        else:
            part = first(len(self._samples), self.config.evaluation.train_subset, "train_subset")
            images, chosen, labels = self.data.train, self._samples[part], np.zeros(len(self.data.train), np.int64)
            labels[chosen] = self._labels[part]
        batches = self._shares(chosen)
        sums = torch.zeros(4, dtype=torch.float64)  # top-1, top-5, loss, images
        device = next(model.parameters()).device
        for k, (pixels, readable) in enumerate(images.plain(batches)):
            counted = readable & torch.from_numpy(batches[k] >= 0)
            target = torch.from_numpy(labels[batches[k]])
            logits = self._logits(model, pixels.to(device, non_blocking=True)).float().cpu()
            right = logits.topk(min(5, logits.shape[1]), dim=1).indices == target[:, None]
            losses = F.cross_entropy(logits, target, reduction="none").double()
            sums += torch.stack(
                [(x * counted).sum().double() for x in (right[:, 0], right.any(1), losses, torch.ones(len(target)))]
            )
            tell(round(len(chosen) * (k + 1) / len(batches)), len(chosen))
        top1, top5, loss, count = self.group.sum(sums.to(device)).tolist()
        count = max(count, 1.0)
        which = "validation" if split == "validation" else "training"
        words = f"top-1 accuracy in percent on {count:,.0f} {which} images"
        return Scores(100.0 * top1 / count, {"top5": 100.0 * top5 / count, "loss": loss / count}, words)

    def signature(self) -> dict[str, Any]:
        data = self.config.data
        return {
            "score": "top-1 accuracy, percent",
            "data": self.data.name,
            "classes": len(self.data.classes),
            "training_images": len(self._samples),
            "validation_images": len(self.data.validation),
            "label_noise": data.label_noise,
            "eval_resolution": data.eval_resolution or data.resolution,
            "resize": data.resize,
        }

    def facts(self) -> dict[str, Any]:
        data = self.data
        normalization = {"mean": list(data.normalization.mean), "std": list(data.normalization.std)}
        return {"classes": list(data.classes), "channels": data.train.channels, **normalization}

    def size(self, split: str) -> int:
        limit = self.config.evaluation.train_subset
        return len(self.data.validation if split == "validation" else first(len(self._samples), limit, "train_subset"))

    @property
    def target(self) -> float | None:
        return self.data.target

    def _logits(self, model: nn.Module, images: Tensor) -> Tensor:
        x = self.data.normalization.apply(images)
        if x.shape[1] != self._channels:  # grey images for a model that takes colours
            x = x.expand(-1, self._channels, -1, -1)
        if self.config.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        logits: Tensor = model(x)
        return logits

    def _shares(self, chosen: Indices) -> list[Indices]:
        """This process's part of each batch; at least one image, which is not counted if it is -1."""
        size = (self.config.evaluation.batch_size or self._at_once) * self.group.ranks
        parts = (
            order.share(chosen[k : k + size], self.group.rank, self.group.ranks) for k in range(0, len(chosen), size)
        )
        return [part if len(part) else np.array([-1]) for part in parts]
