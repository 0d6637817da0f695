"""What may be another at a resume and changes the numbers of some models: said in one line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from evaluation.cli.values import show
from supervised.config import TrainConfig

OPTIONS = ("device_batch", "sharded")
_RATES = ("p", "dropout", "attention_dropout")  # what modules call the share that they drop


def options_of(config: TrainConfig) -> dict[str, Any]:
    """What a checkpoint keeps of a configuration, to be compared with that of the session that goes on from it."""
    return {name: getattr(config, name) for name in OPTIONS}


def said(
    before: Mapping[str, Any], now: TrainConfig, processes_before: int, processes: int, model: nn.Module
) -> str | None:
    """The line for a session that goes on with a run of so many processes, where anything is to be said.

    Args:
        before: `options_of` the session that saved; {}: not known.
        model: where it has batch normalization or dropout, what a device takes at once changes the numbers, not only
            the order of sums.
    """
    settings = TrainConfig.settings()
    changed = [f"{processes_before} processes before, {processes} now"] if processes_before != processes else []
    changed += [
        f"{settings[name].flag} {show(before[name])} before, {show(getattr(now, name))} now"
        for name in OPTIONS
        if name in before and before[name] != getattr(now, name)
    ]
    reasons = " and ".join(_what_depends(model))
    if not changed or not (reasons or processes_before != processes):
        return None
    same = f"{'; '.join(changed)}: it goes on with the same samples"
    return f"{same}, but with {reasons} not with the numbers of the uninterrupted run" if reasons else same


def _what_depends(model: nn.Module) -> Iterator[str]:
    """What a model has whose numbers depend on the samples that a device takes at once."""
    modules = list(model.modules())
    if any(isinstance(one, nn.modules.batchnorm._BatchNorm) for one in modules):
        yield "batch normalization"
    rates = (getattr(one, name, 0) for one in modules for name in _RATES)
    if any(isinstance(rate, int | float) and rate > 0 for rate in rates):
        yield "dropout"
