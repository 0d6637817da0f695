"""Tasks whose loss is differentiable, for `asgc-meta` (`asgc.meta.unrolled.DifferentiableTask`): small, in one process.

The trainers' own runs are tasks of the evolution learner; these are what training can be differentiated through.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from evaluation.runs import seeding
from supervised.regression_stream import INPUTS, KINDS, OUTPUTS, RegressionStream
from supervised.vision.small_data import load_digits

__all__ = ["Digits", "Stream"]


class _Perceptron:
    """A network of tanh layers: parameters by name, and its function."""

    def __init__(self, inputs: int, hidden: Sequence[int] | int, outputs: int) -> None:
        self._sizes = (inputs, *([hidden] if isinstance(hidden, int) else hidden), outputs)

    def start(self, seed: int) -> dict[str, Tensor]:
        """Weights (outputs, inputs) and biases (outputs,), uniform within 1/sqrt(inputs) as torch's own layers."""
        generator = torch.Generator().manual_seed(seeding.derive(seed, "start") % (1 << 63))
        found = {}
        for number, (inputs, outputs) in enumerate(zip(self._sizes[:-1], self._sizes[1:], strict=True)):
            for name, shape in (("weight", (outputs, inputs)), ("bias", (outputs,))):
                uniform = torch.rand(shape, generator=generator)
                found[f"layer{number}.{name}"] = (2 * uniform - 1) / math.sqrt(inputs)
        return found

    def __call__(self, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        for number in range(len(self._sizes) - 1):
            x = F.linear(x, params[f"layer{number}.weight"], params[f"layer{number}.bias"])
            x = torch.tanh(x) if number < len(self._sizes) - 2 else x
        return x


class Digits:
    """Scikit-learn's 1,797 digits of 8 x 8, a perceptron, cross entropy.

    Args:
        hidden: units of its hidden layers.
        batch_size: images of a step, drawn with replacement.
        steps: of a run.
        label_noise: share of the labels that are drawn anew, the same in a run.
        scale: what the loss is multiplied by: gradients of another size.
    """

    def __init__(
        self,
        hidden: Sequence[int] | int = 32,
        batch_size: int = 32,
        steps: int = 200,
        label_noise: float = 0.0,
        scale: float = 1.0,
    ) -> None:
        data = load_digits()
        self._x = torch.from_numpy((data.data / 8 - 1).astype(np.float32))
        self._y = torch.from_numpy(data.target.astype(np.int64))
        self._network = _Perceptron(64, hidden, 10)
        self._size, self.steps, self._noise, self._scale = batch_size, steps, label_noise, scale
        self.start = self._network.start

    def batch(self, step: int, seed: int) -> tuple[Tensor, Tensor]:
        """Images (batch, 64) and labels (batch,)."""
        rng = np.random.default_rng(seeding.derive(seed, "batch", step))
        chosen = rng.integers(len(self._x), size=self._size)
        wrong = np.random.default_rng(seeding.derive(seed, "labels"))
        drawn, anew = wrong.integers(10, size=len(self._x)), wrong.random(len(self._x)) < self._noise
        labels = torch.where(torch.from_numpy(anew), torch.from_numpy(drawn), self._y)
        return self._x[chosen], labels[chosen]

    def loss(self, params: Mapping[str, Tensor], *batch: Tensor) -> Tensor:
        """Mean cross entropy in nats, times `scale`."""
        images, labels = batch
        return self._scale * F.cross_entropy(self._network(params, images), labels)


class Stream:
    """A stream of regression samples (`supervised.regression_stream`), a perceptron, half the squared error.

    Args:
        kind: gaussian, heavy-tailed, bursts, jumps, drifting.
        hidden, batch_size, steps: as of `Digits`.
        scale: what targets are multiplied by.
    """

    def __init__(
        self, kind: str, hidden: Sequence[int] | int = 32, batch_size: int = 16, steps: int = 300, scale: float = 1.0
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"no stream {kind!r}: there are {', '.join(KINDS)}")
        self._kind, self._size, self.steps, self._scale = kind, batch_size, steps, scale
        self._network = _Perceptron(INPUTS, hidden, OUTPUTS)
        self.start = self._network.start

    def batch(self, step: int, seed: int) -> tuple[Tensor, Tensor]:
        """Inputs (batch, INPUTS) and targets (batch, OUTPUTS)."""
        stream = RegressionStream(self._kind, seed, self._size)
        x, y = stream.samples(np.arange(step * self._size, (step + 1) * self._size))
        return torch.from_numpy(x.astype(np.float32)), torch.from_numpy((self._scale * y).astype(np.float32))

    def loss(self, params: Mapping[str, Tensor], *batch: Tensor) -> Tensor:
        """Half the mean squared error, summed over the outputs."""
        x, y = batch
        return (self._network(params, x) - y).square().sum(-1).mean() / 2
