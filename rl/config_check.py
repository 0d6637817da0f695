"""The checks of a whole configuration: each option alone, then what options must be to each other."""

from __future__ import annotations

import re

from evaluation.errors import UserError
from evaluation.values import check_range, coerce, did_you_mean, show
from rl import config_io, games
from rl.config import NetworkConfig, OptimizerConfig, TrainConfig, flag, leaves


def check(config: TrainConfig) -> None:
    """Raise UserError with one line that names a flag; write canonical values (the game's name, whole floats) back."""
    for path, item, value in leaves(config):
        group, _, name = path.rpartition(".")
        owner = getattr(config, group) if group else config
        try:
            result = coerce(value, config_io.field_types(type(owner))[name])
            check_range(result, item.metadata["allowed"])
        except ValueError as error:
            raise UserError(f"{flag(path)} {show(value)}: {error}") from error
        setattr(owner, name, result)
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", config.device):
        raise UserError(f"--device {config.device}: must be auto, cpu, cuda or cuda:N")
    _check_steps(config)
    _check_network(config.network, config.env.height, config.env.width)
    config.game = games.resolve(config.game)
    check_optimizer(config.optimizer)


def _check_steps(config: TrainConfig) -> None:
    if config.batch_size > config.replay_size:
        raise UserError(f"--batch-size {config.batch_size}: must be at most --replay-size {config.replay_size}")
    if config.learning_starts >= config.total_steps:
        raise UserError(
            f"--learning-starts {config.learning_starts}: must be below --total-steps {config.total_steps}, "
            "or nothing is learned"
        )
    if config.exploration.end > config.exploration.start:
        raise UserError(
            f"--exploration.end {config.exploration.end}: must be at most "
            f"--exploration.start {config.exploration.start}"
        )
    needed = config.env.num_envs * (config.env.stack + config.n_step + 1)
    if config.replay_size < needed:
        raise UserError(
            f"--replay-size {config.replay_size}: must be at least {needed} for {config.env.num_envs} environments, "
            f"{config.env.stack} stacked frames and {config.n_step}-step returns"
        )


def _check_network(network: NetworkConfig, height: int, width: int) -> None:
    count = len(network.channels)
    for name in ("kernels", "strides"):
        given = getattr(network, name)
        if len(given) != count:
            raise UserError(
                f"--network.{name} {show(given)}: must be {count} numbers, one for each of "
                f"--network.channels {show(network.channels)}"
            )
    size = (height, width)
    for kernel, stride in zip(network.kernels, network.strides, strict=True):
        size = ((size[0] - kernel) // stride + 1, (size[1] - kernel) // stride + 1)
        if min(size) < 1:
            raise UserError(
                f"--network.kernels {show(network.kernels)}: too large for frames of {height}x{width} pixels"
            )


def check_optimizer(optimizer: OptimizerConfig) -> None:
    """Build the optimizer for one number: it knows best which name, options and values it takes."""
    import torch

    from asgc import optimizers

    if optimizer.name not in optimizers.names():
        hint = did_you_mean(optimizer.name, tuple(optimizers.names()))
        raise UserError(f"unknown optimizer {optimizer.name!r}{hint or '; there are ' + ', '.join(optimizers.names())}")
    taken = optimizers.options(optimizer.name, optimizer.rule or "adam")
    unknown = [name for name in optimizer.options() if name not in taken]
    if unknown:
        rule = f" with rule {optimizer.rule or 'adam'!r}" if "rule" in taken else ""
        raise UserError(f"{flag('optimizer.' + unknown[0])}: {optimizer.name}{rule} has no such option")
    options = optimizer.options()
    if "implementation" in options:
        options["implementation"] = "reference"  # whether a fast path is there shows when training starts
    try:
        optimizers.build(optimizer.name, [torch.zeros(1, requires_grad=True)], lr=optimizer.lr, **options)
    except (TypeError, ValueError) as error:
        raise UserError(f"--optimizer {optimizer.name}: {error}") from error
