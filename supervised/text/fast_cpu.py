"""Linear layers and dropout as fast as a CPU has them; elsewhere, and in what is compiled, they are torch's own.

Measured on one core (AMD Zen 4, fp32, 2,000 x 256 by 256 x 1,024): torch's `linear` runs MKL at 85 GFLOP/s, oneDNN's at
100; dropout of 512,000 elements takes 4.8 ms, of which `bernoulli_` 3.5, the one here 1.2. Without AVX-512 (Zen 3)
the two are level, and what leads to oneDNN, 50 us and more a layer, makes a tiny Transformer take 1.4 times as long.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import flop_counter

FEWEST_PRODUCTS = 20_000_000  # of a layer: below, the way to oneDNN costs more than it brings
_FASTER = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"
_ONEDNN: Any = torch.ops.mkldnn._linear_pointwise if _FASTER else None


class Linear(nn.Linear):
    """`torch.nn.Linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`, differentiable as often."""
    if usable(x, weight):
        y: Tensor = _Linear.apply(x, weight, bias)
        return y
    return F.linear(x, weight, bias)


def usable(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN's linear layer is there for these, and worth its while."""
    return bool(
        _ONEDNN is not None
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() * weight.shape[0] >= FEWEST_PRODUCTS
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and torch.backends.mkldnn.enabled
    )


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`linear` without a gradient, for matrices that are `usable`."""
    y: Tensor = _ONEDNN(x, weight, bias, "none", [], "")
    return y


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return product(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        needed = ctx.needs_input_grad
        rows = gradient.flatten(0, -2)
        by_x = linear(gradient, weight.t()) if needed[0] else None
        by_weight = rows.t() @ x.flatten(0, -2) if needed[1] else None  # where MKL is the faster one
        return by_x, by_weight, rows.sum(0) if needed[2] else None


def add_dropped(x: Tensor, y: Tensor, p: float) -> Tensor:
    """x and y with dropout of probability p."""
    if y.device.type == "cpu" and not torch.compiler.is_compiling():
        return torch.addcmul(x, y, dropout_mask(y, p))
    return x + F.dropout(y, p)


def dropped(x: Tensor, p: float) -> Tensor:
    """Dropout with probability p, as in training."""
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        return x * dropout_mask(x, p)
    return F.dropout(x, p)


def dropout_mask(x: Tensor, p: float) -> Tensor:
    """What dropout multiplies x by: 0 with probability p, to 16 bits, else 1 / (1 - p). Of torch's own generator."""
    never = round(p * 65536)
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)  # 64 random bits each
    bits = words.view(torch.int16)[: x.numel()].view(x.shape)
    return (bits >= never - 32768).to(x.dtype).mul_(65536 / (65536 - never))


def _linear_flops(x: Any, weight: Any, *_: Any, **__: Any) -> int:
    return 2 * math.prod(x) * int(weight[0])


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return flop_counter.sdpa_flop_count(query, key, value)


def _attention_backward_flops(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return flop_counter.sdpa_backward_flop_count(gradient, query, key, value)


# Of shapes. torch's counter of operations (`asgc-sup train --dry-run`) does not know operators that only CPUs have.
_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_ATTENTION_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
for _operator, _formula in (
    (_ONEDNN, _linear_flops),
    (_ATTENTION, _attention_flops),
    (_ATTENTION_BACKWARD, _attention_backward_flops),
):
    if _operator is not None and _operator not in flop_counter.flop_registry:
        flop_counter.register_flop_formula(_operator)(_formula)
