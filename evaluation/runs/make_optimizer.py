"""The optimizer of a run."""

from __future__ import annotations

from typing import Any

import torch

from asgc import optimizers
from evaluation.cli.errors import UserError
from evaluation.cli.optimizer_group import OptimizerGroup
from evaluation.runs import seeding


def options_of(group: OptimizerGroup, seed: int) -> dict[str, Any]:
    """The keyword arguments that a configuration's group sets; `seed`: the run's."""
    options = group.options()
    if "seed" in optimizers.options(group.name, options.get("rule", "adam")):
        options.setdefault("seed", seeding.derive(seed, "optimizer"))
    return options


def trained(group: OptimizerGroup, model: torch.nn.Module) -> list[Any]:
    """The parameters of a model that learn; with their names, which go into checkpoints, where a preset is to know
    embeddings by them."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return named if group.preset else [parameter for _, parameter in named]


def make_optimizer(group: OptimizerGroup, seed: int, parameters: Any) -> torch.optim.Optimizer:
    """The optimizer that a configuration's group names, for parameters as `torch.optim` takes them.

    Args:
        seed: of the run; the noise of an optimizer that draws some is its own in every run.

    Raises:
        UserError: options that do not go together.
    """
    try:
        return optimizers.build(group.name, parameters, lr=group.lr, **options_of(group, seed))
    except (TypeError, ValueError) as error:
        raise UserError(f"--optimizer {group.name}: {error}") from error
