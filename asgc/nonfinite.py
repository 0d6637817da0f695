"""Non-finite gradients: ``nonfinite="skip"`` and ``"raise"`` look at all gradients before anything changes; ``Watch``
warns when they do not end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from . import gradient_statistics as statistics
from .layers import layer_name

__all__ = ["STREAK", "Watch", "found_nonfinite"]

Group = dict[str, Any]
STREAK = 10  # non-finite gradients in a row at which it is said
_EVERY = 50  # steps from one look at a GPU's counters to the next

_log = logging.getLogger("asgc")


def found_nonfinite(
    groups: list[Group],
    options_of: Callable[[Group], Mapping[str, Any]],
    state_of: Callable[[Tensor, Group], dict[str, Any]],
) -> bool:
    """Whether this step must be skipped: a gradient of a group with nonfinite="skip" has an infinite element or NaN.

    The layers concerned count it in their statistics' ``nonfinite``; nothing else changes.

    Raises:
        RuntimeError: the same in a group with nonfinite="raise", with the parameter's name.
    """
    layers: list[tuple[str, Tensor, Group, str]] = []
    for gi, group in enumerate(groups):
        policy = options_of(group)["nonfinite"]
        if policy != "contain":
            for pi, param in enumerate(group["params"]):
                if param.grad is not None:
                    layers.append((policy, param, group, layer_name(groups, gi, pi)))
    if not layers:
        return False
    grads = [param.grad for _, param, _, _ in layers if param.grad is not None]
    flags = [not finite for finite in torch.stack([torch.isfinite(g).all().cpu() for g in grads]).tolist()]
    for bad, (policy, _, _, name) in zip(flags, layers, strict=True):
        if bad and policy == "raise":
            raise RuntimeError(f"{name} has a non-finite gradient (nonfinite='raise')")
    for bad, grad, (_, param, group, _) in zip(flags, grads, layers, strict=True):
        if bad:
            stats = state_of(param, group)["stats"]
            stats.copy_(statistics.count_nonfinite(stats, ~torch.isfinite(grad.reshape(stats.shape[1], -1)).all(1)))
    return any(flags)


class Watch:
    """Says once, with a parameter's name, that its gradient (that of one of its units) was not finite in ``STREAK``
    steps in a row.

    The statistics count them, on the device and in CUDA graphs, too. The counters of a GPU are looked at every
    ``_EVERY`` steps, by a copy for which nobody waits. Replays of a graph do not come by here: steps outside of it do,
    and so does ``diagnostics()``, which looks at once.
    """

    def __init__(self) -> None:
        self.said = False
        self._steps = 0
        self._asked: tuple[list[str], Tensor, torch.cuda.Event] | None = None

    def look(self, groups: list[Group], states: Mapping[Tensor, dict[str, Any]], now: bool = False) -> None:
        """After a step. now: wait for the devices."""
        if self.said:
            return
        self._take_answer()
        self._steps += not now
        due = now or (self._steps % _EVERY == 0 and not _capturing())
        if not due and not any(param.is_cpu for group in groups for param in group["params"][:1]):
            return  # which saves a microsecond a layer
        by_device: dict[torch.device, list[tuple[int, int, Tensor]]] = {}
        for gi, group in enumerate(groups):
            for pi, param in enumerate(group["params"]):
                stats = states.get(param, {}).get("stats")
                if stats is not None and stats.numel() and (due or stats.is_cpu):
                    by_device.setdefault(stats.device, []).append((gi, pi, stats[statistics.STREAK].max()))
        for device, layers in by_device.items():
            counts = torch.stack([count for *_, count in layers])
            if now or device.type == "cpu":
                if bool((counts >= STREAK).any()):
                    self._say([layer_name(groups, gi, pi) for gi, pi, _ in layers], counts)
            elif device.type == "cuda":
                answer = torch.empty(counts.shape, dtype=counts.dtype, device="cpu", pin_memory=True)
                answer.copy_(counts, non_blocking=True)
                event = torch.cuda.Event()
                event.record(torch.cuda.current_stream(device))
                self._asked = [layer_name(groups, gi, pi) for gi, pi, _ in layers], answer, event

    def _take_answer(self) -> None:
        if self._asked is None or _capturing():
            return
        names, answer, event = self._asked
        if event.query():
            self._asked = None
            self._say(names, answer)

    def _say(self, names: list[str], counts: Tensor) -> None:
        for name, count in zip(names, counts.tolist(), strict=True):
            if count >= STREAK and not self.said:
                self.said = True
                _log.warning(
                    f"{name} has had a gradient with infinite or NaN elements in {count:.0f} steps in a row and may "
                    "not be learning: look at the loss and the learning rate; nonfinite='raise' stops at the first. "
                    "(Said once.)"
                )


def _capturing() -> bool:
    started: bool = torch.cuda.is_initialized()
    return started and torch.cuda.is_current_stream_capturing()
