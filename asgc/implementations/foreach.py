"""Vectorized eager path of ASGC, for CPUs without a C++ compiler.

Each layer's gradient is copied and walked in chunks that stay in the cache: sums in fp64, then noise, clip, and in
value mode norms for the diagnostics; what is one number a layer is computed for all layers at once. The base rule is
torch.optim's own functional form (fused where torch has that), fed with the transformed gradients.

Cost: about a dozen reads of each chunk from the cache instead of one, and one copy of the gradients in memory (with
noise_at="update" also one of the noise). It serves fp32 parameters on the CPU and statistics by layer, without
``adapt``.
"""

from __future__ import annotations

import math
import sys
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.optim.adagrad import adagrad
from torch.optim.adam import adam
from torch.optim.rmsprop import rmsprop
from torch.optim.sgd import sgd

from .. import functional, noise, rules
from .. import gradient_statistics as statistics
from .implementation import Stepped

__all__ = ["step", "unsupported"]

State = dict[str, Any]
Group = dict[str, Any]
CHUNK = 1 << 16  # elements; buffers of 256 KiB


def unsupported(opt: Stepped) -> str | None:
    """Why this path cannot serve an optimizer, or None if it can."""
    for group in opt.param_groups:
        if group["adapt"] is not None:
            return f"adapt={group['adapt']!r} (not done by foreach)"
        if group["granularity"] != "layer":
            return f"granularity={group['granularity']!r} (only 'layer' is done by foreach)"
        for param in group["params"]:
            if type(param) not in (Tensor, torch.nn.Parameter):
                return f"a parameter is a {type(param).__name__}, not a plain tensor"
            if param.dtype != torch.float32 or param.layout != torch.strided:
                return f"a parameter of shape {tuple(param.shape)} is not a dense float32 tensor"
            if param.device.type != "cpu":
                return f"a parameter of shape {tuple(param.shape)} is on {param.device}, not on the CPU"
    return None


class _Buffers:
    """Work space of one chunk; made anew for each step, since optimizers may step in several threads at once."""

    def __init__(self, size: int) -> None:
        self.floats = [torch.empty(size, dtype=torch.float32, device="cpu") for _ in range(2)]
        self.mask = torch.empty(size, dtype=torch.bool, device="cpu")
        self.doubles = torch.empty(size, dtype=torch.float64, device="cpu")


_kept: WeakKeyDictionary[Stepped, dict[Tensor, Tensor]] = WeakKeyDictionary()  # memory for the copies, not their values


def _copy(param: Tensor, kept: dict[Tensor, Tensor]) -> Tensor:
    """The gradient in row-major order, flat, fp32; memory that is new in every step would cost a third of it."""
    assert param.grad is not None
    if param not in kept or kept[param].numel() != param.numel():
        kept[param] = torch.empty(param.numel(), dtype=torch.float32, device="cpu")
    return kept[param].copy_(param.grad.reshape(-1))


@torch.compiler.disable  # type: ignore[untyped-decorator]
def step(opt: Stepped) -> None:
    """One step of every parameter that has a gradient. Called by ``ASGC.step`` under ``no_grad``."""
    kept = _kept.setdefault(opt, {})
    for group in opt.param_groups:
        params = [param for param in group["params"] if param.grad is not None]
        if not params:
            continue
        states = [opt.layer_state(param, group) for param in params]
        flat = [_copy(param, kept) for param in params]
        after = group["noise_at"] == "update" and group["noise_scale"] != 0
        noises = [torch.zeros_like(g) for g in flat] if after else None
        _transform(flat, noises, states, group)
        lrs = [rules.decayed_lr(state, group) for state in states]
        _rule(params, [h.view(param.shape) for h, param in zip(flat, params, strict=True)], states, group)
        for param, lr, noise_after in zip(params, lrs, noises or (), strict=False):
            param.sub_(noise_after.view(param.shape).mul_(float(lr)))
        torch.autograd.graph.increment_version(params)  # torch's fused rules do not
        for state in states:
            state["noise_step"] += 1


def _chunks(flat: Tensor) -> tuple[Tensor, ...]:
    return torch.split(flat, CHUNK) if flat.numel() else ()


def _sums(flat: list[Tensor], center: Tensor, buffers: _Buffers) -> statistics.Sums:
    """Moments of every layer's gradient, fp64, shape (layers,)."""
    total = torch.zeros(len(flat), dtype=torch.float64, device="cpu")
    square = torch.zeros(len(flat), dtype=torch.float64, device="cpu")
    for layer, g in enumerate(flat):
        for chunk in _chunks(g):
            x = buffers.doubles[: chunk.numel()].copy_(chunk)
            total[layer] += x.sum()
            square[layer] += x.dot(x)
    size = torch.tensor([g.numel() for g in flat], dtype=torch.float64, device="cpu").clamp(min=1)
    mean, square, mu = total / size, square / size, center.to(torch.float64)
    # sum (g - mu)^2 from the other two: in fp64 the cancellation costs nothing that fp32 statistics could hold
    deviation = (square - 2 * mu * mean + mu * mu).clamp(min=0)
    return statistics.Sums(mean, square, deviation, sys.maxsize)


class _Scalars(NamedTuple):
    """Of one layer in this step, on the host."""

    tau: float  # elementwise threshold (inf: none)
    factor: float  # on the whole layer, norm mode
    noise: float  # standard deviation
    key: tuple[int, int, int]  # (seed, t, layer)


def _transform(flat: list[Tensor], noises: list[Tensor] | None, states: list[State], group: Group) -> None:
    """``functional.transform`` for all layers of a group: ``flat``, their gradients, become the transformed ones.

    ``noises`` (zeros) take up the noise for after the rule.
    """
    by_value = group["mode"] == "value"
    buffers = _Buffers(min(CHUNK, max(g.numel() for g in flat)))
    stats = torch.cat([state["stats"] for state in states], dim=1)
    sums = _sums(flat, stats[statistics.MEAN], buffers)
    finite = torch.isfinite(sums.square)
    infinite: dict[int, tuple[Tensor, Tensor]] = {}  # indices of infinite elements (value mode), and their signs
    for layer in (~finite).nonzero().view(-1).tolist():
        g = flat[layer]
        if not by_value:  # the whole layer counts as zero
            g.zero_()
            continue
        where = torch.isinf(g).nonzero().view(-1)
        infinite[layer] = where, g[where].sign()
        g.nan_to_num_(0.0, 0.0, 0.0)
    current, first = statistics.start(stats, sums)
    unseen = current[statistics.N] == 0
    if group["threshold"] is not None:
        tau = torch.full_like(sums.square, group["threshold"])
    else:
        tau = statistics.threshold(current, group["mode"], group["clip_factor"])
        tau = torch.where(~finite & unseen, math.inf, tau)

    times = [int(state["noise_step"]) for state in states]
    scales = [group["noise_scale"] * (1 + t) ** (-group["noise_decay"] / 2) for t in times]
    c_t = torch.tensor(scales, dtype=torch.float64, device="cpu")
    level = statistics.noise_level(current, sums, group["noise_zeros"])
    noise_std = c_t * level
    r = torch.where(finite, sums.square, 0.0).sqrt()
    factor = torch.ones_like(r)
    if not by_value:
        factor = torch.where(finite, functional.shrinkage(r, tau, group["clip_sharpness"]), 0.0)
    limits = (tau if by_value else torch.full_like(tau, math.inf)).to(torch.float32).tolist()
    added = noise_std
    if noises is not None and group["rule"] != "sgd":
        added = c_t * functional.relative(level, _denominators(flat, states, group))
    deviations = added.to(torch.float32).tolist()
    clipped, after, before = (torch.zeros_like(r) for _ in range(3))
    for layer, (g, state) in enumerate(zip(flat, states, strict=True)):
        key = (group["seed"], times[layer], state["layer"])
        scalars = _Scalars(limits[layer], float(factor[layer]), deviations[layer], key)
        noise_after = None if noises is None else noises[layer]
        clipped[layer], after[layer], before[layer] = _pass(g, scalars, group, noise_after, buffers)
        if layer in infinite and math.isfinite(limits[layer]) and not unseen[layer]:
            where, sign = infinite[layer]
            g[where] = sign * limits[layer]
            clipped[layer] += where.numel()

    size = torch.tensor([g.numel() for g in flat], dtype=torch.float64, device="cpu").clamp(min=1)
    # The sampling term 3 sqrt(2/d) depends on the layer, so it goes in with outlier_share; the one in `update` is 0.
    share = 1 / (1 / group["outlier_share"] + 3 * (2 / size).sqrt())
    new = statistics.update(current, sums, first, group["stats_decay"], share)
    new = statistics.count_nonfinite(new, ~finite)
    new[statistics.THRESHOLD], new[statistics.NOISE] = tau.to(new.dtype), noise_std.to(new.dtype)
    if by_value:
        figures = torch.stack([clipped / size, after, before])
    else:
        figures = torch.stack([(r > tau).to(torch.float64), factor.square(), (r > 0).to(torch.float64)])
    new = statistics.complete(new, figures, 1)
    torch._foreach_copy_([state["stats"] for state in states], [row.unsqueeze(1) for row in new.unbind(1)])


def _denominators(flat: list[Tensor], states: list[State], group: Group) -> Tensor:
    """``rules.denominator`` of every layer, fp64, (layers,)."""
    found: list[Tensor] = []
    for g, state in zip(flat, states, strict=True):
        denominator = rules.denominator(rules.squares(state, group, 1), max(1, g.numel()), state, group)
        assert denominator is not None
        found.append(denominator)
    return torch.cat(found)


def _pass(
    flat: Tensor, scalars: _Scalars, group: Group, noise_after: Tensor | None, buffers: _Buffers
) -> tuple[int, float, float]:
    """Noise, clip and scale of one layer, chunk by chunk in place.

    Returns:
        In value mode the number of clipped elements, and the sums of squares after and before the clip.
    """
    clipped, after, before = 0, 0.0, 0.0

    def square(chunk: Tensor) -> float:
        x = buffers.doubles[: chunk.numel()].copy_(chunk)
        return float(x.dot(x))

    for number, chunk in enumerate(_chunks(flat)):
        first, length = number * CHUNK, chunk.numel()
        if scalars.noise:
            added = noise.noise(*scalars.key, first, length).mul_(scalars.noise)
            if not group["noise_zeros"]:
                added.mul_(torch.ne(chunk, 0, out=buffers.mask[:length]))
            if noise_after is None:
                chunk.add_(added)
            else:
                noise_after[first : first + length] = added
        if math.isfinite(scalars.tau):
            before += square(chunk)
            clipped += int(_clip(chunk, scalars.tau, group["clip_sharpness"], buffers).count_nonzero())
            after += square(chunk)
        if group["mode"] == "norm":
            chunk.mul_(scalars.factor)
    return clipped, after, before


def _clip(chunk: Tensor, tau: float, sharpness: float, buffers: _Buffers) -> Tensor:
    """Smooth clip in place; returns where |h| > tau."""
    length = chunk.numel()
    high, ratio = (buffer[:length] for buffer in buffers.floats)
    torch.abs(chunk, out=high)
    beyond = torch.gt(high, tau, out=buffers.mask[:length])
    chunk.clamp_(-tau, tau)
    if math.isinf(sharpness):
        return beyond
    high.clamp_(min=max(tau, 1e-45))  # 0/0 in a layer without a scale
    torch.div(chunk, high, out=ratio)
    if sharpness == 4:
        ratio.square_().square_().add_(1).sqrt_().rsqrt_()
    else:
        ratio.abs_().pow_(sharpness).add_(1).pow_(-1 / sharpness)
    chunk.mul_(ratio)
    return beyond


def _rule(params: list[Tensor], grads: list[Tensor], states: list[State], group: Group) -> None:
    """The base rule by torch.optim's functional forms; these count ``step``, except sgd's."""
    rule, lr = group["rule"], float(group["lr"])
    plain = all(param.is_contiguous() for param in params)  # torch's fused kernels walk memory, not indices
    fused, foreach = plain, not plain
    steps = [state["step"] for state in states]
    shared = {"lr": lr, "weight_decay": float(group["weight_decay"]), "maximize": group["maximize"]}

    def of(name: str, used: bool = True) -> list[Tensor]:
        return [state[name] for state in states] if used else []

    if rule in ("adam", "adamw"):
        beta1, beta2 = (float(beta) for beta in group["betas"])
        adam(
            params, grads, of("exp_avg"), of("exp_avg_sq"), of("max_exp_avg_sq", group["amsgrad"]), steps,
            fused=fused, foreach=foreach, amsgrad=group["amsgrad"], beta1=beta1, beta2=beta2, eps=group["eps"],
            decoupled_weight_decay=rule == "adamw" or group.get("decoupled_weight_decay", False), **shared,
        )  # fmt: skip
    elif rule == "rmsprop":
        rmsprop(
            params, grads, of("square_avg"), of("grad_avg", group["centered"]),
            of("momentum_buffer", group["momentum"] > 0), steps, foreach=True, alpha=group["alpha"], eps=group["eps"],
            momentum=group["momentum"], centered=group["centered"], **shared,
        )  # fmt: skip
    elif rule == "adagrad":
        adagrad(
            params, grads, of("sum"), steps, fused=fused, foreach=foreach, lr_decay=group["lr_decay"],
            eps=group["eps"], **shared,
        )  # fmt: skip
    else:
        momentum = group["momentum"]
        buffers = [state.get("momentum_buffer") if momentum != 0 else None for state in states]
        sgd(
            params, grads, buffers, foreach=True, momentum=momentum, dampening=group["dampening"],
            nesterov=group["nesterov"], **shared,
        )  # fmt: skip
        for state, buffer in zip(states, buffers, strict=True):
            if buffer is not None:
                state["momentum_buffer"] = buffer
            state["step"] += 1
