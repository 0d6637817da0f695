"""Vectorized eager path of ASGC, for CPUs without a C++ compiler: no loop over layers does more than bookkeeping.

The gradients of a group are gathered in one flat buffer, which is walked in chunks that stay in the cache: sums in
fp64, then noise (the hash on int32 words, in place), clip and the norms for the diagnostics. Where a chunk holds parts
of several layers, their scalars (threshold, key, noise scale) are spread over the elements first. The base rule is
torch.optim's own functional form (fused where torch has that), fed with the transformed gradients.

Cost: about a dozen reads of each chunk from the cache instead of one, and one copy of the gradients in memory (with
noise_at="update" also one of the noise). It serves fp32 parameters on the CPU and statistics by layer, without
``adapt``.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
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
from .base import Stepped

__all__ = ["step", "unsupported"]

State = dict[str, Any]
Group = dict[str, Any]
CHUNK = 1 << 16  # elements; six buffers of 256 KiB


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


class _Part(NamedTuple):
    """Elements begin..end of a chunk: a piece of one layer, starting at its element ``first``."""

    layer: int
    begin: int
    end: int
    first: int


class _Plan:
    """Where the layers of one group lie in the flat buffer, for the shapes of this step."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self.sizes = sizes
        self.flat = torch.empty(sum(sizes))
        self.noise: Tensor | None = None  # of the flat buffer, for noise after the rule
        self.parts: list[list[_Part]] = [[] for _ in range(0, self.flat.numel(), CHUNK)]
        start = 0
        for layer, size in enumerate(sizes):
            first = 0
            while first < size:
                chunk, begin = divmod(start + first, CHUNK)
                # A piece ends with its layer, its chunk, and where the high word of the index changes.
                length = min(size - first, CHUNK - begin, (1 << 32) - first % (1 << 32))
                self.parts[chunk].append(_Part(layer, begin, begin + length, first))
                first += length
            start += size

    def chunks(self) -> list[tuple[Tensor, list[_Part]]]:
        return list(zip(torch.split(self.flat, CHUNK), self.parts, strict=True)) if self.flat.numel() else []


class _Buffers:
    """Work space of one chunk; made anew for each step, since optimizers may step in several threads at once."""

    def __init__(self, size: int) -> None:
        self.index = torch.arange(size, dtype=torch.int32)
        self.words = [torch.empty(size, dtype=torch.int32) for _ in range(3)]
        self.floats = [torch.empty(size) for _ in range(3)]
        self.spread = torch.empty(size)
        self.mask = torch.empty(size, dtype=torch.bool)
        self.doubles = torch.empty(size, dtype=torch.float64)


_plans: WeakKeyDictionary[Stepped, dict[int, _Plan]] = WeakKeyDictionary()


@torch.compiler.disable  # type: ignore[untyped-decorator]
def step(opt: Stepped) -> None:
    """One step of every parameter that has a gradient. Called by ``ASGC.step`` under ``no_grad``."""
    plans = _plans.setdefault(opt, {})
    for index, group in enumerate(opt.param_groups):
        params = [param for param in group["params"] if param.grad is not None]
        if not params:
            continue
        states = [opt.layer_state(param, group) for param in params]
        sizes = tuple(param.numel() for param in params)
        plan = plans.get(index)
        if plan is None or plan.sizes != sizes:
            plan = plans[index] = _Plan(sizes)
        torch.cat([param.grad.reshape(-1).to(torch.float32) for param in params], out=plan.flat)
        after = group["noise_at"] == "update" and group["noise_scale"] != 0
        plan.noise = torch.zeros_like(plan.flat) if after else None
        _transform(plan, states, group, _Buffers(min(CHUNK, plan.flat.numel())))
        grads = [h.view(param.shape) for h, param in zip(torch.split(plan.flat, list(sizes)), params, strict=True)]
        _rule(params, grads, states, group)
        if plan.noise is not None:
            _langevin(params, torch.split(plan.noise, list(sizes)), states, group)
        torch.autograd.graph.increment_version(params)  # torch's fused rules do not
        for state in states:
            state["noise_step"] += 1


def _sums(plan: _Plan, center: Tensor, buffers: _Buffers) -> statistics.Sums:
    """Moments of every layer's gradient, fp64, shape (layers,)."""
    total = torch.zeros(len(plan.sizes), dtype=torch.float64)
    square = torch.zeros(len(plan.sizes), dtype=torch.float64)
    for chunk, parts in plan.chunks():
        x = buffers.doubles[: chunk.numel()].copy_(chunk)
        for part in parts:
            piece = x[part.begin : part.end]
            total[part.layer] += piece.sum()
            square[part.layer] += piece.dot(piece)
    size = torch.tensor(plan.sizes, dtype=torch.float64).clamp(min=1)
    mean, square, mu = total / size, square / size, center.to(torch.float64)
    # sum (g - mu)^2 from the other two: in fp64 the cancellation costs nothing that fp32 statistics could hold
    deviation = (square - 2 * mu * mean + mu * mu).clamp(min=0)
    return statistics.Sums(mean, square, deviation, sys.maxsize)


class _Scalars(NamedTuple):
    """Of every layer in this step, on the host."""

    tau: list[float]  # elementwise threshold (inf: none)
    factor: list[float]  # on the whole layer, norm mode
    noise: list[float]  # c_t sigma
    keys: list[tuple[int, int, int]]  # (seed, t, layer)


def _transform(plan: _Plan, states: list[State], group: Group, buffers: _Buffers) -> None:
    """``functional.transform`` for all layers of a group; ``plan.flat`` becomes the transformed gradient."""
    layers = len(states)
    by_value = group["mode"] == "value"
    stats = torch.cat([state["stats"] for state in states], dim=1)
    sums = _sums(plan, stats[statistics.MEAN], buffers)
    finite = torch.isfinite(sums.square)
    infinite: list[tuple[int, Tensor, Tensor]] = []
    quiet: Tensor | None = None
    measured = sums
    if not finite.all():
        quiet = ~torch.isfinite(plan.flat)
        infinite = _contain(plan, finite, by_value)
        measured = _sums(plan, stats[statistics.MEAN], buffers)
    current, first = statistics.start(stats, sums)
    unseen = current[statistics.N] == 0
    if group["threshold"] is not None:
        tau = torch.full((layers,), group["threshold"], dtype=torch.float64)
    else:
        tau = statistics.threshold(current, group["mode"], group["clip_factor"])
        tau = torch.where(~finite & unseen, math.inf, tau)

    times = [int(state["noise_step"]) for state in states]
    c_t = [group["noise_scale"] * (1 + t) ** (-group["noise_decay"] / 2) for t in times]
    sigma = current[statistics.VAR].to(torch.float64).sqrt()
    r = torch.where(finite, sums.square, 0.0).sqrt()
    factor = torch.ones(layers, dtype=torch.float64)
    if not by_value:
        factor = torch.where(finite, functional.shrinkage(r, tau, group["clip_sharpness"]), 0.0)
        sigma = torch.where(finite, sigma, 0.0)  # no noise after the rule either
    scalars = _Scalars(
        (tau if by_value else torch.full_like(tau, math.inf)).to(torch.float32).tolist(),
        factor.tolist(),
        (torch.tensor(c_t, dtype=torch.float64) * sigma).to(torch.float32).tolist(),
        [(group["seed"], t, state["layer"]) for t, state in zip(times, states, strict=True)],
    )
    clipped, after = _pass(plan, scalars, group, quiet, buffers)
    for layer, where, sign in infinite:
        if math.isfinite(scalars.tau[layer]) and not unseen[layer]:
            plan.flat[where] = sign * scalars.tau[layer]
            clipped[layer] += where.numel()
            after[layer] += scalars.tau[layer] ** 2 * where.numel()

    size = torch.tensor(plan.sizes, dtype=torch.float64).clamp(min=1)
    # The sampling term 3 sqrt(2/d) depends on the layer, so it goes in with outlier_share; the one in `update` is 0.
    share = 1 / (1 / group["outlier_share"] + 3 * (2 / size).sqrt())
    new = statistics.update(current, sums, first, group["stats_decay"], share)
    new[statistics.NONFINITE] = (new[statistics.NONFINITE] + (~finite).to(new.dtype)).clamp(max=float(1 << 23))
    new[statistics.THRESHOLD] = tau.to(new.dtype)
    new[statistics.CLIPPED] = ((clipped / size) if by_value else (r > tau)).to(new.dtype)
    before = measured.square * size
    ratio = torch.where(before > 0, (after / torch.where(before > 0, before, 1.0)).sqrt(), 1.0)
    new[statistics.ATTENUATION] = ratio.to(new.dtype)
    torch._foreach_copy_([state["stats"] for state in states], [row.unsqueeze(1) for row in new.unbind(1)])


def _contain(plan: _Plan, finite: Tensor, by_value: bool) -> list[tuple[int, Tensor, Tensor]]:
    """Take the non-finite elements out of the flat gradient (in norm mode the whole layer).

    Returns:
        For each layer with infinite elements (value mode): its number, their flat indices and their signs.
    """
    infinite: list[tuple[int, Tensor, Tensor]] = []
    start = 0
    for layer, (size, good) in enumerate(zip(plan.sizes, finite.tolist(), strict=True)):
        piece = plan.flat[start : start + size]
        if not good and not by_value:
            piece.zero_()
        elif not good:
            where = torch.isinf(piece).nonzero().view(-1)
            if where.numel():
                infinite.append((layer, where + start, piece[where].sign()))
            piece.nan_to_num_(0.0, 0.0, 0.0)
        start += size
    return infinite


def _pass(
    plan: _Plan, scalars: _Scalars, group: Group, quiet: Tensor | None, buffers: _Buffers
) -> tuple[Tensor, Tensor]:
    """Noise (none where ``quiet``), clip and scale, chunk by chunk in place.

    Returns:
        The number of clipped elements and the sum of phi^2 of each layer.
    """
    clipped = torch.zeros(len(plan.sizes), dtype=torch.float64)
    after = torch.zeros(len(plan.sizes), dtype=torch.float64)
    for number, (chunk, parts) in enumerate(plan.chunks()):
        if any(scalars.noise[part.layer] for part in parts):
            added = _noise(chunk, parts, scalars, group["noise_zeros"], buffers)
            if quiet is not None:
                added.masked_fill_(quiet[number * CHUNK : number * CHUNK + chunk.numel()], 0.0)
            if plan.noise is None:
                chunk.add_(added)
            else:
                plan.noise[number * CHUNK : number * CHUNK + chunk.numel()] = added
        bounded = any(math.isfinite(scalars.tau[part.layer]) for part in parts)
        if bounded:
            beyond = _clip(chunk, parts, scalars.tau, group["clip_sharpness"], buffers)
        if group["mode"] == "norm":
            chunk.mul_(_spread(scalars.factor, parts, buffers.spread, chunk.numel()))
        x = buffers.doubles[: chunk.numel()].copy_(chunk)
        for part in parts:
            piece = x[part.begin : part.end]
            after[part.layer] += piece.dot(piece)
            if bounded:
                clipped[part.layer] += beyond[part.begin : part.end].count_nonzero()
    return clipped, after


def _spread(values: list[float], parts: list[_Part], out: Tensor, length: int) -> Any:
    """The layers' values over the elements of a chunk: one number where it holds one layer only."""
    if len(parts) == 1:
        return values[parts[0].layer]
    for part in parts:
        out[part.begin : part.end] = values[part.layer]
    return out[:length]


def _clip(chunk: Tensor, parts: list[_Part], tau: list[float], sharpness: float, buffers: _Buffers) -> Tensor:
    """Smooth clip in place; returns where |h| > tau."""
    length = chunk.numel()
    limit = _spread(tau, parts, buffers.spread, length)
    high, ratio = (buffer[:length] for buffer in buffers.floats[:2])
    torch.abs(chunk, out=high)
    beyond = torch.gt(high, limit, out=buffers.mask[:length])
    torch.maximum(high, torch.as_tensor(limit, dtype=torch.float32), out=high)
    chunk.clamp_(-limit, limit)
    if math.isinf(sharpness):
        return beyond
    high.clamp_(min=1e-45)  # 0/0 in a layer without a scale
    torch.div(chunk, high, out=ratio)
    if sharpness == 4:
        ratio.square_().square_().add_(1).sqrt_().rsqrt_()
    else:
        ratio.abs_().pow_(sharpness).add_(1).pow_(-1 / sharpness)
    chunk.mul_(ratio)
    return beyond


def _signed(word: int) -> int:
    """A 32-bit word as the signed integer of the same bits."""
    word &= 0xFFFFFFFF
    return word - (1 << 32) if word >= 1 << 31 else word


def _mix(x: Tensor, scratch: Tensor) -> Tensor:
    """``noise.mix`` in place on int32 words: shifts are arithmetic there, so the copied sign bits are masked away."""
    x.bitwise_xor_(torch.bitwise_right_shift(x, 16, out=scratch).bitwise_and_(0xFFFF))
    x.mul_(0x7FEB352D)
    x.bitwise_xor_(torch.bitwise_right_shift(x, 15, out=scratch).bitwise_and_(0x1FFFF))
    x.mul_(_signed(0x846CA68B))
    return x.bitwise_xor_(torch.bitwise_right_shift(x, 16, out=scratch).bitwise_and_(0xFFFF))


def _gaussians(parts: list[_Part], keys: list[tuple[int, int, int]], buffers: _Buffers, length: int) -> Tensor:
    """eps of the elements of a chunk, the same bits as ``noise.noise``."""
    a, b, scratch = (words[:length] for words in buffers.words)
    for part in parts:
        high, low = divmod(part.first, 1 << 32)
        k0, k1 = noise._keys(*keys[part.layer], high)
        piece = a[part.begin : part.end]
        torch.add(buffers.index[: part.end - part.begin], _signed(low), out=piece)
        piece.bitwise_xor_(_signed(k0))
        b[part.begin : part.end] = _signed(k1)
    _mix(a, scratch)
    _mix(b.add_(a), scratch)
    bytes_ = 0x00FF00FF
    torch.bitwise_right_shift(a, 8, out=scratch).bitwise_and_(bytes_)
    a.bitwise_and_(bytes_).add_(scratch)
    torch.bitwise_right_shift(b, 8, out=scratch).bitwise_and_(bytes_)
    a.add_(b.bitwise_and_(bytes_)).add_(scratch)
    torch.bitwise_right_shift(a, 16, out=scratch)
    a.bitwise_and_(0xFFFF).add_(scratch).sub_(1020)
    return buffers.floats[0][:length].copy_(a).mul_(noise.SCALE)


def _noise(chunk: Tensor, parts: list[_Part], scalars: _Scalars, zeros: bool, buffers: _Buffers) -> Tensor:
    """c_t sigma eps of the elements of a chunk; none for exact zeros unless asked for."""
    length = chunk.numel()
    eps = _gaussians(parts, scalars.keys, buffers, length)
    eps.mul_(_spread(scalars.noise, parts, buffers.spread, length))
    return eps if zeros else eps.mul_(torch.ne(chunk, 0, out=buffers.mask[:length]))


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


def _langevin(params: list[Tensor], noises: Sequence[Tensor], states: list[State], group: Group) -> None:
    """Noise after the rule, divided by the rule's own denominator (from its new state); see ``asgc.rules``."""
    rule, lr = group["rule"], float(group["lr"])
    for param, flat, state in zip(params, noises, states, strict=True):
        noise, step = flat.view(param.shape), float(state["step"])
        if rule == "sgd":
            denominator = torch.ones(())
        elif rule in ("adam", "adamw"):
            second = state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"]
            denominator = second.sqrt() / (1 - float(group["betas"][1]) ** step) ** 0.5
        elif rule == "rmsprop":
            denominator = (state["square_avg"] - (state["grad_avg"].square() if group["centered"] else 0.0)).sqrt()
        else:
            denominator = state["sum"].sqrt()
            lr = float(group["lr"]) / (1 + (step - 1) * group["lr_decay"])
        param.copy_(rules.langevin(param, noise, denominator.add_(group.get("eps", 0.0)), lr))
