"""The base rules, as pure functions: transformed gradient and old state in, new parameter and new state out.

They apply the operations of ``torch.optim``'s single-tensor forms in the same order, out of place, so that without
clipping and noise the results equal ``torch.optim`` (foreach=False) to the last bit. Options may be tensors that
require gradients: then the products are written in their differentiable form.

``noise`` (Langevin form, ``noise_at="update"``) is c_t sigma eps; it enters after the rule, divided by the rule's own
denominator: ``w -= lr (u + noise / denominator)``; for sgd the denominator is 1. (adagrad: lr decayed by lr_decay.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["RULES", "init", "sensitivity", "step"]

State = dict[str, Any]
Options = Mapping[str, Any]


def _differentiable(x: object) -> bool:
    return isinstance(x, Tensor) and x.requires_grad


def _scalar(x: Any) -> Any:
    """A one-element tensor as a 0-dimensional one, as torch.optim does."""
    return x.squeeze() if isinstance(x, Tensor) and x.dim() != 0 else x


def _add(x: Tensor, y: Tensor, alpha: Any) -> Tensor:
    return x + alpha * y if _differentiable(alpha) else x.add(y, alpha=alpha)


def _add_product(x: Tensor, y: Tensor, z: Tensor, value: Any) -> Tensor:
    return x + value * (y * z) if _differentiable(value) else x.addcmul(y, z, value=value)


def _add_quotient(x: Tensor, y: Tensor, z: Tensor, value: Any) -> Tensor:
    return x + value * (y / z) if _differentiable(value) else x.addcdiv(y, z, value=value)


def _signed(param: Tensor, grad: Tensor, options: Options) -> Tensor:
    """Ascent where asked for, and weight decay coupled to the gradient."""
    if options["maximize"]:
        grad = -grad
    weight_decay = options["weight_decay"]
    if _differentiable(weight_decay) or weight_decay != 0:
        grad = _add(grad, param, weight_decay)
    return grad


def sgd(param: Tensor, grad: Tensor, state: State, options: Options, noise: Tensor | None) -> tuple[Tensor, State]:
    lr, momentum = _scalar(options["lr"]), options["momentum"]
    new: State = {}
    grad = _signed(param, grad, options)
    if momentum != 0:
        buffer = state.get("momentum_buffer")
        buffer = grad.clone() if buffer is None else _add(buffer.mul(momentum), grad, 1 - options["dampening"])
        new["momentum_buffer"] = buffer
        grad = _add(grad, buffer, momentum) if options["nesterov"] else buffer
    param = _add(param, grad, -lr)
    if noise is not None:
        param = _add(param, noise, -lr)
    return param, new


def adam(param: Tensor, grad: Tensor, state: State, options: Options, noise: Tensor | None) -> tuple[Tensor, State]:
    lr, eps, weight_decay = _scalar(options["lr"]), options["eps"], options["weight_decay"]
    beta1, beta2 = (_scalar(beta) for beta in options["betas"])
    step = float(state["step"]) + 1
    if options.get("decoupled_weight_decay", False):
        if options["maximize"]:
            grad = -grad
        if _differentiable(weight_decay) or weight_decay != 0:
            param = param.mul(1 - lr * weight_decay)
    else:
        grad = _signed(param, grad, options)

    exp_avg = state["exp_avg"].lerp(grad, 1 - beta1)
    exp_avg_sq = _add_product(state["exp_avg_sq"].mul(beta2), grad, grad, 1 - beta2)
    new: State = {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
    step_size = lr / (1 - beta1**step)
    bias_correction2_sqrt = (1 - beta2**step) ** 0.5
    second = exp_avg_sq
    if options["amsgrad"]:
        second = torch.maximum(state["max_exp_avg_sq"], exp_avg_sq)
        new["max_exp_avg_sq"] = second
    denominator = (second.sqrt() / bias_correction2_sqrt).add(eps)
    param = _add_quotient(param, exp_avg, denominator, -step_size)
    return langevin(param, noise, denominator, lr), new


def adamw(param: Tensor, grad: Tensor, state: State, options: Options, noise: Tensor | None) -> tuple[Tensor, State]:
    return adam(param, grad, state, {**options, "decoupled_weight_decay": True}, noise)


def rmsprop(param: Tensor, grad: Tensor, state: State, options: Options, noise: Tensor | None) -> tuple[Tensor, State]:
    lr, alpha, momentum = _scalar(options["lr"]), options["alpha"], options["momentum"]
    grad = _signed(param, grad, options)
    square_avg = _add_product(state["square_avg"].mul(alpha), grad, grad, 1 - alpha)
    new: State = {"square_avg": square_avg}
    if options["centered"]:
        grad_avg = state["grad_avg"].lerp(grad, 1 - alpha)
        new["grad_avg"] = grad_avg
        average = square_avg.addcmul(grad_avg, grad_avg, value=-1).sqrt()
    else:
        average = square_avg.sqrt()
    average = average.add(options["eps"])
    if momentum > 0:
        buffer = state["momentum_buffer"].mul(momentum).addcdiv(grad, average)
        new["momentum_buffer"] = buffer
        param = _add(param, buffer, -lr)
    else:
        param = _add_quotient(param, grad, average, -lr)
    return langevin(param, noise, average, lr), new


def adagrad(param: Tensor, grad: Tensor, state: State, options: Options, noise: Tensor | None) -> tuple[Tensor, State]:
    step = float(state["step"]) + 1
    grad = _signed(param, grad, options)
    lr = _scalar(options["lr"]) / (1 + (step - 1) * options["lr_decay"])
    total = state["sum"].addcmul(grad, grad, value=1)
    denominator = total.sqrt().add(options["eps"])
    param = _add_quotient(param, grad, denominator, -lr)
    return langevin(param, noise, denominator, lr), {"sum": total}


def langevin(param: Tensor, noise: Tensor | None, denominator: Tensor, lr: Any) -> Tensor:
    """``param - lr noise / denominator``: the noise of the Langevin form, where there is any."""
    if noise is None:
        return param
    # Elements without noise may have a zero denominator (eps = 0).
    denominator = torch.where(noise == 0, 1.0, denominator)
    return _add_quotient(param, noise, denominator, -lr)


RULES: dict[str, Callable[[Tensor, Tensor, State, Options, Tensor | None], tuple[Tensor, State]]] = {
    "sgd": sgd,
    "adam": adam,
    "adamw": adamw,
    "rmsprop": rmsprop,
    "adagrad": adagrad,
}


def step(
    param: Tensor, grad: Tensor, state: State, options: Options, noise: Tensor | None = None
) -> tuple[Tensor, State]:
    """One step of ``options["rule"]``.

    Args:
        param, grad: tensors of one shape and dtype.
        state: the rule's tensors under torch.optim's names (see ``init``) and ``step``, the steps done so far.
        options: the rule's options and ``lr``.
        noise: c_t sigma eps for ``noise_at="update"``, same shape, or None.

    Returns:
        The new parameter and the new state; nothing is changed in place.
    """
    new_param, new_state = RULES[options["rule"]](param, grad, state, options, noise)
    new_state["step"] = state["step"] + 1
    return new_param, new_state


def sensitivity(param: Tensor, grad: Tensor, state: State, options: Options, noise: Tensor | None = None) -> Tensor:
    """-d(new parameter) / d(grad) of ``step``, element by element, through all moments that this step updates.

    Args: as of ``step``. Where a second moment is zero its part is left out (its derivative is infinite there).

    Returns:
        Tensor of grad's shape.
    """
    rule, lr = options["rule"], _scalar(options["lr"])
    sign = -1.0 if options["maximize"] else 1.0
    if rule == "sgd":
        buffer = 1.0 if state.get("momentum_buffer") is None else 1 - options["dampening"]
        if options["momentum"] == 0:
            return torch.full_like(grad, sign * lr)
        return torch.full_like(grad, sign * lr * (1 + options["momentum"] * buffer if options["nesterov"] else buffer))
    decoupled = rule == "adamw" or options.get("decoupled_weight_decay", False)
    g = _signed(param, grad, {**options, "weight_decay": 0} if decoupled else options)
    # The update is (step_size a + lr noise) / (correction sqrt(v) + eps); da, dv: derivatives by grad.
    if rule == "adagrad":
        step_size = lr = lr / (1 + float(state["step"]) * options["lr_decay"])
        a, da, v, dv, correction = g, 1.0, state["sum"] + g * g, 2 * g, 1.0
    elif rule == "rmsprop":
        fresh, step_size, correction = 1 - options["alpha"], lr, 1.0
        a, da, v, dv = g, 1.0, options["alpha"] * state["square_avg"] + fresh * g * g, 2 * fresh * g
        if options["centered"]:
            mean = state["grad_avg"].lerp(g, fresh)
            v, dv = v - mean * mean, dv - 2 * fresh * mean
    else:
        beta1, beta2 = (_scalar(beta) for beta in options["betas"])
        step = float(state["step"]) + 1
        step_size, correction = lr / (1 - beta1**step), (1 - beta2**step) ** -0.5
        a, da = state["exp_avg"].lerp(g, 1 - beta1), 1 - beta1
        v, dv = beta2 * state["exp_avg_sq"] + (1 - beta2) * g * g, 2 * (1 - beta2) * g
        if options["amsgrad"]:
            v, dv = torch.maximum(v, state["max_exp_avg_sq"]), torch.where(v >= state["max_exp_avg_sq"], dv, 0.0)
    root = v.sqrt()
    denominator = correction * root + options["eps"]
    update = step_size * a if noise is None else step_size * a + lr * noise
    slope = torch.where(root > 0, correction * dv / torch.where(root > 0, 2 * root, 1.0), 0.0)
    usable = denominator > 0
    denominator = torch.where(usable, denominator, 1.0)
    return torch.where(usable, sign * (step_size * da - update * slope / denominator) / denominator, 0.0)


def init(param: Tensor, options: Options) -> State:
    """State of ``options["rule"]`` before its first step, under torch.optim's names and with its shapes.

    It is kept in fp32 for parameters of a lower precision. sgd's ``momentum_buffer`` appears with the first step.
    """
    rule = options["rule"]
    dtype = torch.float64 if param.dtype == torch.float64 else torch.float32

    def full(value: float = 0.0) -> Tensor:
        return torch.full_like(param, value, dtype=dtype, memory_format=torch.preserve_format, requires_grad=False)

    state: State = {"step": torch.tensor(0.0, dtype=torch.float32, device="cpu")}
    if rule in ("adam", "adamw"):
        state |= {"exp_avg": full(), "exp_avg_sq": full()}
        if options["amsgrad"]:
            state["max_exp_avg_sq"] = full()
    elif rule == "rmsprop":
        state["square_avg"] = full()
        if options["momentum"] > 0:
            state["momentum_buffer"] = full()
        if options["centered"]:
            state["grad_avg"] = full()
    elif rule == "adagrad":
        state["sum"] = full(options["initial_accumulator_value"])
    return state
