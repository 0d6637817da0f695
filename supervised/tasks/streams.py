"""Regression on a stream whose optimum is known (`supervised.regression_stream`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from evaluation.cli.errors import UserError
from evaluation.cli.values import suggestion
from supervised.distributed import Group
from supervised.order import Indices, share
from supervised.regression_stream import INPUTS, KINDS, OUTPUTS, SPREAD, RegressionStream, StreamOrder
from supervised.tasks.task import Batch, Loss, Scores, Task

if TYPE_CHECKING:
    from supervised.config import TrainConfig

MODELS = ("linear", "mlp")
HIDDEN = 64
LEAST, MOST = 1e-12, 20.0  # excess risks that are told apart: as good as none; some three times that of a model of 0
MEASURED = 4_096  # inputs that the excess risk is the mean over, the same in all runs


class Streams(Task):
    """The score is -log10 of the excess risk, half the mean squared distance to what the optimum of the update says: 2
    is a hundredth of the noise's variance of 1, -0.9 a model that says 0, and -1.3 the lowest, so that one burst in a
    mean does not count for more than all the rest; NaN once the model itself is no number."""

    item = things = "samples"

    def __init__(self, config: TrainConfig, group: Group, message: Callable[[str], None]) -> None:
        super().__init__(config, group, message)
        kind, updates = config.data.name or "", config.total_steps
        if kind not in KINDS:
            raise UserError(f"--data {kind}: no such stream{suggestion(kind, KINDS)}")
        if updates is None:
            raise UserError("--total-steps: a stream has no epochs: say how many updates")
        if config.batch_size < group.ranks:
            raise UserError(f"--batch-size {config.batch_size}: fewer samples than the {group.ranks} processes")
        if config.evaluation.train_subset:
            raise UserError("--evaluation.train-subset: a stream has no training samples to go back to: give 0")
        self.stream = RegressionStream(kind, config.seed, config.batch_size)
        self.order = StreamOrder(config.batch_size, updates)

    @staticmethod
    def build(config: TrainConfig, facts: Mapping[str, Any]) -> nn.Module:
        if config.model.name == "linear":
            return nn.Linear(INPUTS, OUTPUTS)
        if config.model.name == "mlp":
            hidden = nn.Linear(INPUTS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh()
            return nn.Sequential(*hidden, nn.Linear(HIDDEN, OUTPUTS))
        raise UserError(
            f"--model {config.model.name}: no model of streams{suggestion(config.model.name or '', MODELS)}"
        )

    def facts(self) -> dict[str, Any]:
        return {"stream": self.stream.kind}

    def fetch(self, indices: Indices, epoch: int) -> Batch:
        """Inputs (samples, INPUTS) and targets (samples, OUTPUTS), fp32."""
        x, y = self.stream.samples(indices)
        return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(y.astype(np.float32))

    def passes(self, indices: Indices) -> int:
        of_a_process = len(share(indices, 0, self.group.ranks))
        return -(-of_a_process // (self.config.device_batch or of_a_process))

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        x, y = batch
        return Loss((model(x).float() - y).square().sum() / 2)

    def evaluate(self, model: nn.Module, split: str, *, final: bool, tell: Callable[[int, int], None]) -> Scores:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(MEASURED, INPUTS, generator=generator, dtype=torch.float64) * torch.from_numpy(SPREAD)
        last = max(0, self.updates - 1)  # that the model has learned from: of the next one it can know nothing
        best = x @ torch.from_numpy(self.stream.optimum(last)).T
        device = next(model.parameters()).device
        found = model(x.float().to(device)).double().cpu()
        excess = float((found - best).square().sum(1).mean() / 2)
        tell(MEASURED, MEASURED)
        score = -math.log10(min(max(excess, LEAST), MOST)) if math.isfinite(excess) else math.nan
        return Scores(score, {"excess_risk": excess}, f"-log10 of the excess risk on {MEASURED:,} inputs")

    def size(self, split: str) -> int:
        return MEASURED

    def signature(self) -> dict[str, Any]:
        return {"score": "-log10 of the excess risk", "batch_size": self.config.batch_size}
