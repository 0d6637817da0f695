"""The base rules, as pure functions: transformed gradient and old state in, new parameter and new state out.

They apply the operations of ``torch.optim``'s single-tensor forms in the same order, out of place, so that without
clipping and noise the results equal ``torch.optim`` (foreach=False) to the last bit. Options may be tensors that
require gradients: then the products are written in their differentiable form.

``noise`` (Langevin form, ``noise_at="update"``) enters after the rule, ``w -= lr (u + noise)``: c_t s eps with
s = level / max(level, D), ``level`` that of ``gradient_statistics.noise_level`` and D (``denominator``) the root mean
square, over the unit, of what the rule divides by, as the steps before have left it. So s is at most 1, also where the
gradient has just grown a millionfold; divided by each element's own denominator the noise is unbounded where that is
small. For sgd, which divides by nothing, s = level. (adagrad: lr decayed by lr_decay.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .gradient_statistics import safe_sqrt

__all__ = ["RULES", "decayed_lr", "denominator", "element_rms", "init", "sensitivity", "squares", "step"]

State = dict[str, Any]
Options = Mapping[str, Any]


def _traced(x: object) -> bool:
    """A tensor that derivatives are taken by, or of which vmap holds several: it cannot become a number."""
    return isinstance(x, Tensor) and (x.requires_grad or torch._C._functorch.is_batchedtensor(x))


def _root(x: Tensor) -> Tensor:
    """Square root. Where derivatives may be taken, that at 0, where no gradient has come by, is 0, not infinite."""
    if not torch.is_grad_enabled():
        return x.sqrt()
    return torch.where(x > 0, safe_sqrt(x), x.detach().sqrt())


def _scalar(x: Any) -> Any:
    """A one-element tensor as a 0-dimensional one, as torch.optim does."""
    return x.squeeze() if isinstance(x, Tensor) and x.dim() != 0 else x


def _add(x: Tensor, y: Tensor, alpha: Any) -> Tensor:
    return x + alpha * y if _traced(alpha) else x.add(y, alpha=alpha)


def _add_product(x: Tensor, y: Tensor, z: Tensor, value: Any) -> Tensor:
    return x + value * (y * z) if _traced(value) else x.addcmul(y, z, value=value)


def _add_quotient(x: Tensor, y: Tensor, z: Tensor, value: Any) -> Tensor:
    return x + value * (y / z) if _traced(value) else x.addcdiv(y, z, value=value)


def _signed(param: Tensor, grad: Tensor, options: Options) -> Tensor:
    """Ascent where asked for, and weight decay coupled to the gradient."""
    if options["maximize"]:
        grad = -grad
    weight_decay = options["weight_decay"]
    if _traced(weight_decay) or weight_decay != 0:
        grad = _add(grad, param, weight_decay)
    return grad


def sgd(param: Tensor, grad: Tensor, state: State, options: Options) -> tuple[Tensor, State]:
    lr, momentum = _scalar(options["lr"]), options["momentum"]
    new: State = {}
    grad = _signed(param, grad, options)
    if momentum != 0:
        buffer = state.get("momentum_buffer")
        buffer = grad.clone() if buffer is None else _add(buffer.mul(momentum), grad, 1 - options["dampening"])
        new["momentum_buffer"] = buffer
        grad = _add(grad, buffer, momentum) if options["nesterov"] else buffer
    return _add(param, grad, -lr), new


def adam(param: Tensor, grad: Tensor, state: State, options: Options) -> tuple[Tensor, State]:
    lr, eps, weight_decay = _scalar(options["lr"]), options["eps"], options["weight_decay"]
    beta1, beta2 = (_scalar(beta) for beta in options["betas"])
    step = float(state["step"]) + 1
    if options.get("decoupled_weight_decay", False):
        if options["maximize"]:
            grad = -grad
        if _traced(weight_decay) or weight_decay != 0:
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
    denominator = (_root(second) / bias_correction2_sqrt).add(eps)
    return _add_quotient(param, exp_avg, denominator, -step_size), new


def adamw(param: Tensor, grad: Tensor, state: State, options: Options) -> tuple[Tensor, State]:
    return adam(param, grad, state, {**options, "decoupled_weight_decay": True})


def rmsprop(param: Tensor, grad: Tensor, state: State, options: Options) -> tuple[Tensor, State]:
    lr, alpha, momentum = _scalar(options["lr"]), options["alpha"], options["momentum"]
    grad = _signed(param, grad, options)
    square_avg = _add_product(state["square_avg"].mul(alpha), grad, grad, 1 - alpha)
    new: State = {"square_avg": square_avg}
    if options["centered"]:
        grad_avg = state["grad_avg"].lerp(grad, 1 - alpha)
        new["grad_avg"] = grad_avg
        average = _root(square_avg.addcmul(grad_avg, grad_avg, value=-1))
    else:
        average = _root(square_avg)
    average = average.add(options["eps"])
    if momentum > 0:
        buffer = state["momentum_buffer"].mul(momentum).addcdiv(grad, average)
        new["momentum_buffer"] = buffer
        param = _add(param, buffer, -lr)
    else:
        param = _add_quotient(param, grad, average, -lr)
    return param, new


def adagrad(param: Tensor, grad: Tensor, state: State, options: Options) -> tuple[Tensor, State]:
    grad = _signed(param, grad, options)
    total = state["sum"].addcmul(grad, grad, value=1)
    denominator = _root(total).add(options["eps"])
    return _add_quotient(param, grad, denominator, -decayed_lr(state, options)), {"sum": total}


def decayed_lr(state: State, options: Options) -> Any:
    """lr, in this step of adagrad lowered by lr_decay."""
    return _scalar(options["lr"]) / (1 + float(state["step"]) * options.get("lr_decay", 0.0))


RULES: dict[str, Callable[[Tensor, Tensor, State, Options], tuple[Tensor, State]]] = {
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
        noise: for ``noise_at="update"``, see above, same shape, or None.

    Returns:
        The new parameter and the new state; nothing is changed in place.
    """
    new_param, new_state = RULES[options["rule"]](param, grad, state, options)
    if noise is not None:
        new_param = _add(new_param, noise, -decayed_lr(state, options))
    new_state["step"] = state["step"] + 1
    return new_param, new_state


def squares(state: State, options: Options, units: int) -> Tensor | None:
    """Sum, over each unit, of what the rule's denominators are the roots of, as the steps before have left it: fp64,
    shape (1, units); None for sgd, which has none."""
    rule = options["rule"]
    if rule == "sgd":
        return None
    if rule in ("adam", "adamw"):
        second = state["max_exp_avg_sq" if options["amsgrad"] else "exp_avg_sq"].to(torch.float64)
    else:
        second = state["square_avg" if rule == "rmsprop" else "sum"].to(torch.float64)
    if options.get("centered", False):
        second = second - state["grad_avg"].to(torch.float64).square()
    total: Tensor = second.reshape(units, second.numel() // max(1, units)).sum(1).unsqueeze(0)
    return total


def denominator(total: Tensor | None, size: int, state: State, options: Options) -> Tensor | None:
    """Root mean square of the rule's denominators in each unit, fp64, (units,): eps in a layer that has no step yet.

    Args:
        total: ``squares`` of the whole units.
        size: elements a unit.
    """
    if total is None:
        return None
    mean = (total[0] / size).clamp(min=0)  # centered: below zero by a rounding
    if "betas" in options:
        mean = mean / (1 - _scalar(options["betas"][1]) ** (float(state["step"]) + 1))
    return safe_sqrt(mean).add(options["eps"])


def element_rms(state: Mapping[str, Any], options: Options) -> Tensor | None:
    """Root mean square of each element's gradients so far, by the second moment that the rule keeps (without its bias
    at the start); 0 where there were none, None before the first step.

    The moment is of transformed gradients, so that of a clipped element, too, feeds it: at ``clip_factor`` times it
    at most, from where it grows by (1 - beta2) (clip_factor^2 - 1) a step.
    """
    adams = "betas" in options
    second = state.get("exp_avg_sq" if adams else "square_avg")
    if second is None:
        return None
    step = float(state["step"])
    decay = _scalar(options["betas"][1]) if adams else options["alpha"]
    mean = second / (1 - decay**step) if step > 0 and decay < 1 else second
    return safe_sqrt(mean)


def sensitivity(param: Tensor, grad: Tensor, state: State, options: Options) -> Tensor:
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
    # The update is step_size a / (correction sqrt(v) + eps); da, dv: derivatives by grad.
    if rule == "adagrad":
        step_size = decayed_lr(state, options)
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
    update = step_size * a
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
