"""The smooth clip, a pure function; ``asgc.functional`` has it too."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["clip", "shrinkage"]

Scalar = float | Tensor


def clip(g: Tensor, tau: Scalar, sharpness: Scalar) -> Tensor:
    """Smooth clip phi_p(g; tau) = g (1 + |g/tau|^p)^(-1/p), element by element.

    Beyond the threshold it is computed as sign(g) tau (1 + |tau/g|^p)^(-1/p), so nothing overflows: +-inf gives +-tau.
    tau = 0 gives 0, tau = inf the identity, sharpness = inf the hard clip; NaN stays NaN.

    Args:
        g: real floating-point tensor. Half precision is computed in fp32.
        tau: threshold >= 0, a number or a tensor that broadcasts to g.
        sharpness: exponent p > 0, the same.

    Returns:
        Tensor of g's shape and dtype, |result| <= min(|g|, tau). Differentiable in g, tau and sharpness.
    """
    x = g if g.dtype == torch.float64 else g.to(torch.float32)
    tau = torch.as_tensor(tau, dtype=x.dtype, device=x.device)
    size = x.abs()
    outside = size > tau
    base = torch.where(outside, x.sign() * tau, x)
    if not isinstance(sharpness, Tensor) and math.isinf(sharpness):
        return base.to(g.dtype)
    p = torch.as_tensor(sharpness, dtype=x.dtype, device=x.device)
    hard = torch.isinf(p)
    p = torch.where(hard, 1.0, p)
    low, high = torch.where(outside, tau, size), torch.where(outside, size, tau)
    usable = (high > 0) & torch.isfinite(high)
    ratio = torch.where(usable, low, 0.0) / torch.where(usable, high, 1.0)
    smooth = base * (1 + ratio**p) ** (-1 / p)
    return torch.where(hard, base, smooth).to(g.dtype)


def shrinkage(r: Tensor, tau: Scalar, sharpness: Scalar) -> Tensor:
    """Factor phi_p(r; tau) / r by which the norm mode scales a layer of root mean square r >= 0; at r = 0 its limit."""
    positive = r > 0
    ratio = clip(r, tau, sharpness) / torch.where(positive, r, 1.0)
    limit = (torch.as_tensor(tau, dtype=r.dtype, device=r.device) > 0).to(r.dtype)
    return torch.where(positive, ratio, limit)
