"""ADOPT (Taniguchi et al. 2024, arXiv 2411.02853), a peer: Adam that divides by the second moment of the steps before,
before it takes the mean. It is no rule of ASGC."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["ADOPT"]


class ADOPT(Optimizer):
    """Algorithm 2 of arXiv 2411.02853v3, with its clip at t^(1/4)::

        v_0 = g_0^2, no step is taken
        m_t = beta1 m_(t-1) + (1 - beta1) clamp(g_t / max(sqrt(v_(t-1)), eps), -t^(1/4), t^(1/4))
        w_t = w_(t-1) - lr m_t
        v_t = beta2 v_(t-1) + (1 - beta2) g_t^2

    Args:
        params, lr, weight_decay, decoupled_weight_decay, maximize: as of ``torch.optim.Adam``.
        betas, eps: defaults of the authors.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.9999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        chosen = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, {**chosen, "decoupled_weight_decay": decoupled_weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of all parameters that have a gradient; the closure, if there is one, is called first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._update(param, group)
        return loss

    def _update(self, param: Tensor, group: dict[str, Any]) -> None:
        lr, (beta1, beta2), decay = group["lr"], group["betas"], group["weight_decay"]
        state, grad = self.state[param], param.grad
        assert grad is not None
        if group["maximize"]:
            grad = -grad
        if decay != 0 and not group["decoupled_weight_decay"]:
            grad = grad.add(param, alpha=decay)
        if not state:
            state["step"] = torch.tensor(0.0, dtype=torch.float32, device="cpu")
            state["exp_avg"] = torch.zeros_like(param)
            state["exp_avg_sq"] = grad.square()
            return
        state["step"] += 1
        if decay != 0 and group["decoupled_weight_decay"]:
            param.mul_(1 - lr * decay)
        limit = float(state["step"]) ** 0.25
        scaled = grad / state["exp_avg_sq"].sqrt().clamp_(min=group["eps"])
        state["exp_avg"].lerp_(scaled.clamp_(-limit, limit), 1 - beta1)
        param.add_(state["exp_avg"] * -lr)
        state["exp_avg_sq"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
