"""Peers of papers that scale whole gradients by what they know of norms, where those of ``asgc.peers`` clip them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from .clips import Bound, Clip, LayerGradient, norms
from .layers import head_places
from .singular import first_vector, iterate

__all__ = ["CLASSES", "DivGrad", "GradientStabilizer", "ObGD"]


class GradientStabilizer(Clip):
    """GradientStabilizer (Huang et al. 2025, arXiv 2502.17055v3; "AdaGN" of Stable-SPAM, its first version): each
    tensor's gradient keeps its direction and gets the norm m / (sqrt(v) + eps), m and v the running means of its norm
    and of its square, this step's included, without their bias at the start (``norm_decay`` 0.7, ``square_decay`` 0.9).
    So norms are about 1, whatever the loss is measured in. A gradient that is not finite makes them NaN for good.
    """

    name = "gradient-stabilizer"
    norm_decay: float
    square_decay: float
    moments: dict[int, Tensor]  # steps, mean norm, mean square
    fresh = MappingProxyType({"moments": {}})
    eps = 1e-8

    def apply(self, layers: Sequence[LayerGradient]) -> list[Bound]:
        each = norms(layers)
        before = torch.stack([self.moments.get(layer.number, each.new_zeros(3)).to(each) for layer in layers])
        steps = before[:, 0] + 1
        mean = self.norm_decay * before[:, 1] + (1 - self.norm_decay) * each
        square = self.square_decay * before[:, 2] + (1 - self.square_decay) * each.square()
        self.moments.update(
            {layer.number: row for layer, row in zip(layers, torch.stack([steps, mean, square], dim=1), strict=True)}
        )
        largest = (mean / (1 - self.norm_decay**steps)) / ((square / (1 - self.square_decay**steps)).sqrt() + self.eps)
        scale = torch.where(each == 0, 0.0, largest / each)
        torch._foreach_mul_([layer.grad for layer in layers], list(scale.unbind()))
        sizes = [math.sqrt(max(1, layer.grad.numel())) for layer in layers]
        return [Bound(limit / size, clipped=one < 1) for limit, size, one in zip(largest, sizes, scale, strict=True)]


class DivGrad(Clip):
    """The spectral scheduler DivGrad (Gogianu et al. 2021, arXiv 2105.05246, section 4): all gradients divided by the
    product of the largest singular values of the layers, as normalizing these layers would do; here of all that have
    two or more dimensions (filters as rows) but the last one. One power iteration a step.
    """

    name = "divgrad"
    vectors: dict[int, Tensor]
    fresh = MappingProxyType({"vectors": {}})
    head = range(0)

    def begin(self, params: Sequence[Tensor]) -> None:
        self.head = head_places(params)

    def apply(self, layers: Sequence[LayerGradient]) -> list[Bound]:
        product = torch.ones((), dtype=torch.float64, device=layers[0].grad.device)
        for layer in layers:
            weights = layer.param.detach()
            if weights.dim() < 2 or layer.number in self.head or weights.numel() == 0:
                continue
            vector = self.vectors.get(layer.number)
            vector = first_vector(weights, layer.number) if vector is None else vector.to(weights.device)
            value, self.vectors[layer.number] = iterate(weights, vector)
            product = product * torch.where(value > 0, value, 1.0)
        torch._foreach_div_([layer.grad for layer in layers], product.to(layers[0].grad.dtype))
        return [Bound(ratio=1 / product, clipped=product > 1)] * len(layers)


class ObGD(Clip):
    """The bound of overshooting-bounded gradient descent (Elsayed et al. 2024, arXiv 2410.14606, algorithm 3), for the
    gradients of a batch instead of an error and its eligibility trace: all are divided by max(1, kappa lr |g|), |g| the
    sum of their absolute values. So a step of SGD changes the output of a linear model, of inputs up to 1, by at most
    1/kappa. (The paper multiplies |g| by max(1, 1/|error|): below an error of 1 its bound is a share of the error. A
    batch's gradient does not tell its errors.)
    """

    name = "obgd"
    kappa: float

    def apply(self, layers: Sequence[LayerGradient]) -> list[Bound]:
        sums = torch._foreach_norm([layer.grad for layer in layers], 1)
        reach = self.kappa * torch.stack([layer.lr * total for layer, total in zip(layers, sums, strict=True)]).sum()
        scale = 1 / torch.clamp(reach, min=1.0)
        torch._foreach_mul_([layer.grad for layer in layers], scale)
        return [Bound(ratio=1 / reach, clipped=scale < 1)] * len(layers)


CLASSES: dict[str, type[Clip]] = {cls.name: cls for cls in (GradientStabilizer, DivGrad, ObGD)}
