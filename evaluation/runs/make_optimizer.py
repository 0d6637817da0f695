"""The optimizer of a run."""

from __future__ import annotations

from typing import Any

import torch

from asgc import optimizers
from evaluation.cli.errors import UserError
from evaluation.cli.optimizer_group import OptimizerGroup
from evaluation.runs import seeding


def make_optimizer(group: OptimizerGroup, seed: int, parameters: Any) -> torch.optim.Optimizer:
    """The optimizer that a configuration's group names, for parameters as `torch.optim` takes them.

    Args:
        seed: of the run; the noise of an optimizer that draws some is its own in every run.

    Raises:
        UserError: options that do not go together.
    """
    name, options = group.name, group.options()
    try:
        if "seed" in optimizers.options(name, options.get("rule", "adam")):
            options.setdefault("seed", seeding.derive(seed, "optimizer"))
        return optimizers.build(name, parameters, lr=group.lr, **options)
    except (TypeError, ValueError) as error:
        raise UserError(f"--optimizer {name}: {error}") from error
