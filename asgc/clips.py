"""Clipping in front of another optimizer, as baselines do it: by the global norm, by value, or by a rule of a paper.

A clip is one small class with its formula in ``apply`` and its options in the table of ``asgc.options``; ``Clipped``
puts it in front of any optimizer, and the registry (``asgc.optimizers``) has it by its name. ``asgc.peers`` has those
of papers.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

from .options import resolve_clip
from .preview import Preview
from .proxy import OptimizerProxy

__all__ = [
    "EPS",
    "Bound",
    "Clip",
    "Clipped",
    "GlobalNormClip",
    "LayerGradient",
    "NormClip",
    "ValueClip",
    "average",
    "norms",
]

EPS = 1e-6  # of clip_grad_norm_, and of the authors' code of ZClip

Scalar = float | Tensor
State = dict[str, Any]


class LayerGradient(NamedTuple):
    """A parameter with a gradient, and its place among all parameters of the optimizer."""

    number: int
    param: Tensor
    grad: Tensor  # changed in place
    lr: Scalar


class Bound(NamedTuple):
    """What a layer was held to. Only ``preview`` looks at it, so it costs no pass over the gradients."""

    threshold: Scalar = math.inf  # on the layer's root mean square; on its elements where ``by_value``
    ratio: Scalar | None = None  # in place of a threshold: its ratio to the layer's root mean square
    clipped: Scalar | None = None  # share of the layer; None: what is above the threshold
    by_value: bool = False
    noise_std: float = 0.0


class Clip:
    """One way to change gradients before a base rule.

    Args:
        **options: of ``asgc.options.CLIPS`` under its name, which has their defaults and ranges; they are attributes.

    Raises:
        TypeError, ValueError: an option that it does not have; a wrong value.
    """

    name: ClassVar[str]
    # What it remembers from step to step, as attributes: their values before the first.
    fresh: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    def __init__(self, **options: Any) -> None:
        self.__dict__.update(resolve_clip(self.name, options), **copy.deepcopy(dict(self.fresh)))

    def apply(self, layers: Sequence[LayerGradient]) -> list[Bound]:
        """Change the gradients in place and the clip's own state; returns a ``Bound`` for each layer."""
        raise NotImplementedError

    def begin(self, params: Sequence[Tensor]) -> None:
        """Look at all parameters of the optimizer, in its order, before the first step and when some are added."""

    def state(self) -> State:
        """What has to be saved beside the options: numbers, tensors, dicts of them; lists of numbers as tensors."""
        own = {name: copy.copy(getattr(self, name)) for name in self.fresh}
        return {
            k: torch.tensor(v, dtype=torch.float64, device="cpu") if isinstance(v, list) else v for k, v in own.items()
        }

    def load(self, state: State) -> None:
        """Inverse of ``state``."""
        for name, value in self.fresh.items():
            setattr(self, name, state[name].tolist() if isinstance(value, list) else copy.copy(state[name]))


def norms(layers: Sequence[LayerGradient]) -> Tensor:
    """2-norm of each gradient, (layers,)."""
    return torch.stack(torch._foreach_norm([layer.grad for layer in layers]))


def average(x: Tensor) -> Tensor:
    """Mean of all elements; 0 of none."""
    return x.sum() / max(1, x.numel())


class GlobalNormClip(Clip):
    """Scales all gradients together where their norm is above a bound, as ``torch.nn.utils.clip_grad_norm_``."""

    def bound(self, total: Tensor) -> Scalar:
        """The largest norm allowed in this step, given the norm of all gradients together."""
        raise NotImplementedError

    def apply(self, layers: Sequence[LayerGradient]) -> list[Bound]:
        grads = [layer.grad for layer in layers]
        total = torch.nn.utils.get_total_norm(grads)
        largest = self.bound(total)
        scale = torch.clamp(largest / (total + EPS), max=1.0)
        torch._foreach_mul_(grads, scale)
        return [Bound(ratio=largest / total, clipped=scale < 1)] * len(layers)


class NormClip(GlobalNormClip):
    """``clip_grad_norm_`` (Pascanu et al. 2013)."""

    name = "clip"
    max_norm: float

    def bound(self, total: Tensor) -> Scalar:
        return self.max_norm


class ValueClip(Clip):
    """``clip_grad_value_``: every element within +-clip_value."""

    name = "clip-value"
    clip_value: float

    def apply(self, layers: Sequence[LayerGradient]) -> list[Bound]:
        grads = [layer.grad for layer in layers]
        torch._foreach_clamp_min_(grads, -self.clip_value)
        torch._foreach_clamp_max_(grads, self.clip_value)
        return [Bound(self.clip_value, by_value=True)] * len(layers)


class Clipped(OptimizerProxy):
    """A clip, then the inner optimizer's step, as one optimizer. The gradients stay as they were changed.

    Args:
        inner: the optimizer to step.
        clip: what is done to the gradients first.
    """

    def __init__(self, inner: Optimizer, clip: Clip) -> None:
        super().__init__(inner)
        self.clip = clip
        clip.begin(self._params())

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "clip": self.clip}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters to the inner optimizer."""
        super().add_param_group(param_group)
        self.clip.begin(self._params())

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Evaluate the closure, change the gradients, step."""
        loss = self._evaluate(closure)
        with torch.no_grad():
            if layers := self._layers():
                self.clip.apply(layers)
        self.inner.step()
        return loss

    @torch.no_grad()
    def preview(self) -> list[Preview]:
        """What the inner optimizer will see in the coming ``step()``; see ``asgc.preview``. Changes nothing."""
        layers = self._layers()
        if not layers:
            return []
        copies = [layer._replace(grad=layer.grad.clone()) for layer in layers]
        bounds = copy.deepcopy(self.clip).apply(copies)
        before, after = norms(layers).tolist(), norms(copies).tolist()
        result = []
        for (_, param, grad, _), copy_, bound, norm, left in zip(layers, copies, bounds, before, after, strict=True):
            rms = norm / math.sqrt(max(1, grad.numel()))
            threshold = float(bound.threshold)
            if bound.ratio is not None:
                threshold = rms * float(bound.ratio) if rms > 0 else math.inf
            clipped = bound.clipped
            if clipped is None:
                clipped = average((grad.abs() > threshold).float()) if bound.by_value else rms > threshold
            attenuation = min(1.0, left / norm) if norm > 0 else 1.0  # noise may have added to it
            result.append(Preview(param, copy_.grad, threshold, float(clipped), attenuation, bound.noise_std))
        return result

    def _params(self) -> list[Tensor]:
        return [param for group in self.param_groups for param in group["params"]]

    def _layers(self) -> list[LayerGradient]:
        members = [(param, group["lr"]) for group in self.param_groups for param in group["params"]]
        return [LayerGradient(n, p, p.grad, lr) for n, (p, lr) in enumerate(members) if p.grad is not None]

    def state_dict(self) -> dict[str, Any]:
        """The inner optimizer's state_dict; a clip with a state of its own has it in the entry ``"clip"``."""
        own = self.clip.state()
        return {**self.inner.state_dict(), **({"clip": own} if own else {})}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what ``state_dict()`` returned.

        Raises:
            ValueError: the state of an optimizer without this clip; nothing has changed then.
        """
        wanted = self.clip.state()
        own = state_dict.get("clip", {})
        if set(own) != set(wanted):
            raise ValueError(f"this is not a state_dict of {type(self.clip).__name__}: its clip has {sorted(own)}")
        super().load_state_dict({name: value for name, value in state_dict.items() if name != "clip"})
        self.clip.load(copy.deepcopy(own))
