"""Online adaptation by hypergradients: ``adapt="hypergradient"``.

Every layer's clip_factor k and clip_sharpness p follow the gradient of the loss with respect to them, as the learning
rate does in Baydin et al. 2018, "Online Learning Rate Adaptation with Hypergradient Descent" (arXiv 1703.04782), here
with theta = log k or log p. With x = phi(h) the transformed gradient and J = -d w_{t+1} / d x the rule's sensitivity
(elementwise, through all its moments, ``rules.sensitivity``)::

    d w_{t+1} / d theta = -J x a,   a_k = s dlog(tau)/dlog(k),   a_p = H(s) / p,   s = (|x| / tau)^p in [0, 1]

s = z / (1 + z) with z = |h / tau|^p is the share of an element that its threshold decides, H(s) = -s ln s -
(1 - s) ln(1 - s). In norm mode s is one number, phi(r) / tau in place of |x| / tau. One update measures the direction,
``adapt_every`` (m) updates later the then present gradient is laid against it::

    D = J x (a - e),   hypergradient = d loss_{t+m} / d theta_t = -g_{t+m} . D

e is the compensation for scale. adam, adamw, rmsprop and adagrad divide by what they remember of x^2, so a change that
shrinks all of a layer's x alike is undone; the derivative of one step does not see that, and without e it asked for
less (or more) of everything, clipped or not: in simulations with heavy tails its sign was arbitrary. e is the mean of a
over past updates, weighted by x^2 and forgotten as the rule's second moment is. For sgd e = 0: the plain derivative.

The step of theta is free of units. With D's relevance rho = |D| / |J x| and q = hypergradient / rho::

    theta -= adapt_lr c rho q / rms(q) + PULL (theta - start),   c = max(0, 1 - (SIGNIFICANCE nu / r)^2)

where r = mean(q) / rms(q) in [-1, 1] over the last measurements (exponential, MEMORY) and nu is its standard deviation
were q pure noise (for a self-normalized mean that holds under heavy tails, too). So any gradient scale gives the same
path, a threshold that decides nothing does not wander (rho), and neither does one in pure noise (c); what is left
returns to the given value (PULL). k stays within a factor RANGE of the given one, p within SHARPNESS (or the given p
where that lies outside). In use is p rounded to the given one times a power of two: any other power than 1, 2, 4, 8 and
16 costs two logarithms and two exponentials an element in every step, and its effect lies between theirs.

Kept for each parameter: D for both thetas at half precision, together one tensor more; and a few numbers.
Layers (parameter tensors) adapt as wholes, also with granularity="unit": one output unit has too few elements to tell.

Known bias. The hypergradient is short-sighted: it credits theta with one update's effect, through the rule's moments
but not through the parameters. Such estimates prefer what lowers the loss at once (Wu et al. 2018, "Understanding
Short-Horizon Bias in Stochastic Meta-Optimization", arXiv 1803.02021): near a minimum the noise in an update costs
more at once than its progress brings, so sgd's thresholds, which are step sizes there, sink towards the bound.
PULL and RANGE limit that; noise_scale and what only a longer horizon shows are left to meta-learning.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from . import gradient_statistics as statistics
from . import rules
from .smooth_clip import clip

__all__ = [
    *("ADAPTED", "DERIVATIVES", "bounds", "coming", "follow", "forget", "hypergradient", "in_use", "in_use_over_given"),
    *("init", "is_due", "measure", "momentum", "second_moment_decay"),
]

# Rows of state["adapted"], fp64: log of the value in use over the given one; relevance of D (0: there is none yet);
# means of q and of q^2 over the measurements, their number; sums of x^2 a and of x^2; sum of (J x)^2.
ADAPTED = (
    *("log_factor", "log_sharpness", "relevance_factor", "relevance_sharpness"),
    *("mean_factor", "mean_sharpness", "square_factor", "square_sharpness", "count"),
    *("elasticity_factor", "elasticity_sharpness", "weight", "length"),
)
LOG, RELEVANCE, MEAN, SQUARE = slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 8)
COUNT, ELASTICITY, WEIGHT, LENGTH = 8, slice(9, 11), 11, 12
DERIVATIVES = ("factor_derivative", "sharpness_derivative")

MEMORY = 0.9  # decay of the means of q and q^2, per measurement
PULL = 0.03  # of the way back to the given value, per measurement
OUTLIER = 3.0  # times rms(q), to which q is bounded: one heavy tail must not silence the measurements after it
SIGNIFICANCE = 2.0  # standard deviations below which a mean counts as noise
RANGE = 8.0
SHARPNESS = (1.0, 16.0)

State = Mapping[str, Any]
Options = Mapping[str, Any]


def init(param: Tensor) -> dict[str, Tensor]:
    """What the state of one layer holds for the adaptation: nothing measured, the given values in use."""
    half = torch.float32 if param.dtype == torch.float64 else torch.bfloat16
    derivatives = {
        name: torch.zeros_like(param, dtype=half, memory_format=torch.preserve_format, requires_grad=False)
        for name in DERIVATIVES
    }
    return {"adapted": torch.zeros(len(ADAPTED), dtype=torch.float64, device=param.device), **derivatives}


def is_due(state: State, options: Options) -> bool:
    """Whether the coming step measures: every ``adapt_every``-th of this layer."""
    return options["adapt"] is not None and int(state["noise_step"]) % options["adapt_every"] == 0


def in_use_over_given(adapted: Tensor) -> tuple[Tensor, Tensor]:
    """What clip_factor and clip_sharpness are to be multiplied by, two fp64 scalars."""
    log_factor, log_sharpness = adapted[LOG].unbind()
    return log_factor.exp(), torch.exp2((log_sharpness / _LN2).round())


def in_use(options: Options, adapted: Tensor) -> dict[str, Any]:
    """The options with this layer's own clip_factor and clip_sharpness, fp64 tensors."""
    factor, sharpness = in_use_over_given(adapted)
    own = {"clip_factor": options["clip_factor"] * factor, "clip_sharpness": options["clip_sharpness"] * sharpness}
    return {**options, **own}


def coming(grad: Tensor, state: State, options: Options) -> Options:
    """The options, as numbers, that the coming step with this gradient will use; changes nothing."""
    if options["adapt"] is None or "adapted" not in state:
        return options
    adapted = follow(grad, state, options) if is_due(state, options) else state["adapted"]
    own = in_use(options, adapted)
    return {**own, **{name: float(own[name]) for name in ("clip_factor", "clip_sharpness")}}


def bounds(options: Options) -> tuple[list[float], list[float]]:
    """Least and largest log_factor and log_sharpness, the latter whole octaves as the sharpness in use is."""
    sharpness = float(options["clip_sharpness"])
    low, high = (math.log2(limit / sharpness) if math.isfinite(sharpness) else 0.0 for limit in SHARPNESS)
    return [-math.log(RANGE), _LN2 * min(0, math.ceil(low))], [math.log(RANGE), _LN2 * max(0, math.floor(high))]


def hypergradient(grad: Tensor, state: State) -> Tensor:
    """d loss / d log(clip_factor) and d log(clip_sharpness) of what was measured, by this gradient: fp64, (2,)."""
    g = grad.to(torch.float64)
    return torch.stack([-(g * state[name].to(torch.float64)).sum() for name in DERIVATIVES])


@torch.no_grad()
def follow(grad: Tensor, state: State, options: Options) -> Tensor:
    """``state["adapted"]`` after this gradient was laid against the direction measured last.

    A gradient that is not finite changes nothing.
    """
    old: Tensor = state["adapted"]
    found = hypergradient(grad, state)
    relevance = old[RELEVANCE]
    measured = (relevance > 0) & torch.isfinite(found)
    q = torch.where(measured, found, 0.0) / torch.where(measured, relevance, 1.0)
    reach = OUTLIER * (old[SQUARE] / (1 - MEMORY ** old[COUNT]).clamp(min=_TINY)).sqrt()
    reach = torch.where(reach > 0, reach, math.inf)
    q = q.clamp(-reach, reach)
    mean = MEMORY * old[MEAN] + (1 - MEMORY) * q
    square = MEMORY * old[SQUARE] + (1 - MEMORY) * q.square()
    count = old[COUNT] + 1
    weight = 1 - MEMORY**count
    noise = (1 - MEMORY) / (1 + MEMORY) * (1 - MEMORY ** (2 * count)) / weight.square()  # nu^2
    r2 = mean.square() / (square * weight).clamp(min=_TINY)
    confidence = (1 - SIGNIFICANCE**2 * noise / r2.clamp(min=_TINY)).clamp(min=0)
    move = options["adapt_lr"] * confidence * relevance * q / (square / weight).sqrt().clamp(min=_TINY)
    low, high = (torch.tensor(limit, dtype=old.dtype, device=old.device) for limit in bounds(options))
    log = (old[LOG] - move - PULL * old[LOG]).clamp(low, high)

    new = old.clone()
    for rows, value in ((LOG, log), (MEAN, mean), (SQUARE, square)):
        new[rows] = torch.where(measured, value, old[rows])
    new[COUNT] = torch.where(measured.any(), count, old[COUNT])
    return new


_LN2 = math.log(2)
_TINY = torch.finfo(torch.float64).tiny


def elasticities(grad: Tensor, x: Tensor, stats: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    """a_k and a_p: d log|x| / d log(clip_factor) and d log(clip_sharpness), shapes that broadcast to x.

    Args:
        grad, x: the layer's gradient, raw and transformed (before the base rule).
        stats: its statistics before the step.
        options: with the clip_factor and clip_sharpness in use.
    """
    rows = stats.shape[1]
    p = torch.as_tensor(options["clip_sharpness"], dtype=torch.float64, device=x.device)
    tau = statistics.threshold(stats, options["mode"], options["clip_factor"])
    if options["mode"] == "value":
        tau = tau.to(x.dtype).to(torch.float64)  # as x was bounded by it: the hard clip's share needs |x| = tau
    bounded = torch.isfinite(tau) & (tau > 0)
    tau = torch.where(bounded, tau, 1.0)
    if options["mode"] == "value":
        size = x.reshape(rows, -1).abs().to(torch.float64) / tau.unsqueeze(1)
        by_factor = (1 - stats[statistics.MEAN].to(torch.float64).abs() / tau).unsqueeze(1)
    else:
        r = statistics.safe_sqrt(statistics.measure(grad, stats[statistics.MEAN]).square)
        size = (clip(r, tau, p) / tau).unsqueeze(1)
        by_factor = torch.ones(1, 1, dtype=torch.float64, device=x.device)
    share = torch.where(bounded.unsqueeze(1), size.clamp(max=1) ** p, 0.0)
    entropy = -torch.xlogy(share, share) - torch.special.xlog1py(1 - share, -share)
    shape = x.shape if options["mode"] == "value" else (rows,) + (1,) * (x.dim() - 1) if x.dim() else ()
    return (share * by_factor).reshape(shape), (entropy / p).reshape(shape)


def second_moment_decay(options: Options) -> float | None:
    """How much of its second moment the rule keeps from one step to the next; None: it has none."""
    rule = options["rule"]
    if rule in ("adam", "adamw"):
        return float(options["betas"][1])
    return float(options["alpha"]) if rule == "rmsprop" else 1.0 if rule == "adagrad" else None


def momentum(options: Options) -> float:
    """How much of its first moment the rule keeps from one step to the next."""
    return float(options["betas"][0]) if "betas" in options else float(options.get("momentum", 0.0))


@torch.no_grad()
def measure(param: Tensor, grad: Tensor, x: Tensor, state: State, options: Options) -> dict[str, Tensor]:
    """Add the direction of this step to D: the new ``adapted`` and derivatives.

    A gradient that is not finite, the first of a unit (it makes its own threshold), and for the rules with a second
    moment the layer's first measurement (there is no e yet) add nothing.

    Args:
        param, state: before the step.
        grad, x: the raw and the transformed gradient.
        options: with the clip_factor and clip_sharpness in use.
    """
    stats: Tensor = state["stats"]
    seen = stats[statistics.N] > 0
    finite = torch.isfinite(grad).all()
    x = torch.where(seen.view((-1,) + (1,) * (x.dim() - 1)) if x.dim() else seen.view(()), x, 0.0)
    x = torch.where(finite, x, 0.0)
    a = elasticities(grad, x, stats, options)
    new = state["adapted"].clone()
    decay = second_moment_decay(options)
    e, known = torch.zeros(2, dtype=torch.float64, device=x.device), torch.ones_like(finite)
    if decay is not None:
        known = new[WEIGHT] > 0
        e = torch.where(known, new[ELASTICITY] / torch.where(known, new[WEIGHT], 1.0), 0.0)
        keep, add = (1.0, 1.0) if decay == 1 else (decay ** options["adapt_every"], 1 - decay ** options["adapt_every"])
        square = x.to(torch.float64).square()
        sums = torch.stack([(square * a_j).sum() for a_j in a])
        new[ELASTICITY] = torch.where(finite, keep * new[ELASTICITY] + add * sums, new[ELASTICITY])
        new[WEIGHT] = torch.where(finite, keep * new[WEIGHT] + add * square.sum(), new[WEIGHT])

    kept = momentum(options) ** options["adapt_every"]
    scaled = (rules.sensitivity(param, x, dict(state), options) * x).to(torch.float64)
    scaled = torch.where(known, scaled, 0.0)
    directions = [
        kept * state[name].to(torch.float64) + scaled * (a_j - e_j)
        for name, a_j, e_j in zip(DERIVATIVES, a, e, strict=True)
    ]
    new[LENGTH] = kept**2 * new[LENGTH] + scaled.square().sum()
    relevance = torch.stack([d.square().sum() for d in directions]) / new[LENGTH].clamp(min=_TINY)
    new[RELEVANCE] = torch.where(torch.isfinite(relevance), relevance.sqrt(), 0.0)
    stored = {name: d.to(state[name].dtype) for name, d in zip(DERIVATIVES, directions, strict=True)}
    return {"adapted": new, **stored}


def forget(state: dict[str, Any]) -> None:
    """Drop D, in place: the loss has changed."""
    state["adapted"][RELEVANCE] = state["adapted"][LENGTH] = 0.0
    for name in DERIVATIVES:
        state[name].zero_()
