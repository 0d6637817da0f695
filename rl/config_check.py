"""The checks of a whole configuration: each option alone, then what options must be to each other."""

from __future__ import annotations

import re
from collections.abc import Iterator

from evaluation.cli.errors import UserError
from evaluation.cli.values import check_range, coerce, show, suggestion
from rl import config_io, tasks
from rl.config import NetworkConfig, OptimizerConfig, TrainConfig, flag, leaves


def check(config: TrainConfig) -> None:
    """Raise UserError with the first of `faults`; write canonical values (the game's name, whole floats) back."""
    for fault in faults(config):
        raise UserError(fault)


def faults(config: TrainConfig, together: bool = True) -> Iterator[str]:
    """Everything wrong with a configuration, a line each that names the flag; writes canonical values back.

    What options must be to each other is looked at only with `together`, and where each alone is right.
    """
    alone = list(_faults_alone(config))
    yield from alone
    try:
        config.game = tasks.find(config.game).name
    except UserError as error:
        yield str(error)
        alone.append(str(error))
    if together and not alone:
        yield from _faults_of_game(config)
        yield from _faults_of_steps(config)
        if len(tasks.find(config.game).observation(config.env).shape) == 3:
            yield from _faults_of_network(config.network, config.env.height, config.env.width)
    try:
        check_optimizer(config.optimizer)
    except UserError as error:
        yield str(error)


def _faults_alone(config: TrainConfig) -> Iterator[str]:
    for path, item, value in leaves(config):
        group, _, name = path.rpartition(".")
        owner = getattr(config, group) if group else config
        try:
            result = coerce(value, config_io.field_types(type(owner))[name])
            check_range(result, item.metadata["allowed"])
        except ValueError as error:
            yield f"{flag(path)} {show(value)}: {error}"
            continue
        setattr(owner, name, result)
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", config.device):
        yield f"--device {config.device}: must be auto, cpu, cuda or cuda:N"


def _faults_of_game(config: TrainConfig) -> Iterator[str]:
    """What only the other kind of games has: frames in a control task, an MLP on Atari."""
    family = tasks.find(config.game).family
    a_task = f"{config.game} is {family.title}"
    own = [protocol.name for protocol in family.protocols]
    if config.env.protocol not in own:
        yield (
            f"--env.protocol {config.env.protocol}: {a_task}: its protocol is {' or '.join(own)} "
            f"(--preset {family.preset})"
        )
    for path, item, value in leaves(config):
        if item.metadata["only"] not in ("", family.name) and value != _default(path):
            yield f"{flag(path)} {show(value)}: {a_task} and has no such option"


def _default(path: str) -> object:
    group, _, name = path.rpartition(".")
    config = TrainConfig()
    return getattr(getattr(config, group) if group else config, name)


def _faults_of_steps(config: TrainConfig) -> Iterator[str]:
    if config.batch_size > config.replay_size:
        yield f"--batch-size {config.batch_size}: must be at most --replay-size {config.replay_size}"
    if config.learning_starts >= config.total_steps:
        yield (
            f"--learning-starts {config.learning_starts}: must be below --total-steps {config.total_steps}, "
            "or nothing is learned"
        )
    if config.exploration.end > config.exploration.start:
        yield (
            f"--exploration.end {config.exploration.end}: must be at most "
            f"--exploration.start {config.exploration.start}"
        )
    stack = tasks.find(config.game).observation(config.env).stack
    needed = config.env.num_envs * (stack + config.n_step + 1)
    if config.replay_size < needed:
        yield (
            f"--replay-size {config.replay_size}: must be at least {needed} for {config.env.num_envs} environments, "
            f"{stack} stacked frames and {config.n_step}-step returns"
        )


def _faults_of_network(network: NetworkConfig, height: int, width: int) -> Iterator[str]:
    count = len(network.channels)
    for name in ("kernels", "strides"):
        given = getattr(network, name)
        if len(given) != count:
            yield (
                f"--network.{name} {show(given)}: must be {count} numbers, one for each of "
                f"--network.channels {show(network.channels)}"
            )
            return
    size = (height, width)
    for kernel, stride in zip(network.kernels, network.strides, strict=True):
        size = ((size[0] - kernel) // stride + 1, (size[1] - kernel) // stride + 1)
        if min(size) < 1:
            yield f"--network.kernels {show(network.kernels)}: too large for frames of {height}x{width} pixels"
            return


def check_optimizer(optimizer: OptimizerConfig) -> None:
    """Build the optimizer for one number: it knows best which name, options and values it takes."""
    import torch

    from asgc import optimizers

    if optimizer.name not in optimizers.names():
        raise UserError(f"unknown optimizer {optimizer.name!r}{suggestion(optimizer.name, optimizers.names())}")
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
