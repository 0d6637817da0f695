"""Label-smoothed cross entropy, from logits or, without ever holding all of them, from hidden states.

fairseq's convention: the label has probability 1 - smoothing, each of the other V - 1 tokens smoothing / (V - 1).
(`torch.nn.functional.cross_entropy` spreads it over all V tokens; its `label_smoothing` times (V - 1) / V is this one.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from supervised.text.fast_cpu import product, usable

# Logits at once: in a CPU's cache, or as many as keep a GPU busy.
CPU_LOGITS, GPU_LOGITS = 1 << 21, 1 << 27


_often = False


@contextmanager
def differentiable_often() -> Iterator[None]:
    """In the block all losses are differentiable as often as one likes."""
    global _often
    before, _often = _often, True
    try:
        yield
    finally:
        _often = before


class TokenLoss(NamedTuple):
    """Sums over the labels that are not padding.

    Attributes:
        total: of the label-smoothed loss, differentiable; fp32 or better.
        nll: of the plain negative log-likelihood, in nats; perplexity is exp(nll / tokens).
        tokens: number of labels.
        correct: labels that have the highest logit; with a gradient those that share it, too.
    """

    total: Tensor
    nll: Tensor
    tokens: Tensor
    correct: Tensor


def label_smoothed_loss(logits: Tensor, labels: Tensor, smoothing: float, pad: int) -> TokenLoss:
    """Loss of logits (..., V) for labels (...); differentiable as often as one likes."""
    kept = labels != pad
    logits, labels = logits[kept], labels[kept]
    wide = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    log_probabilities = wide.log_softmax(1)
    nll = -log_probabilities.gather(1, labels[:, None]).sum()
    rest = smoothing / max(1, logits.shape[1] - 1)
    total = (1 - smoothing - rest) * nll - rest * log_probabilities.sum()
    with torch.no_grad():
        correct = (logits.argmax(1) == labels).sum()
    return TokenLoss(total, nll.detach(), kept.sum(), correct)


@torch.compiler.disable  # a loop over as many chunks as there are labels
def projected_loss(hidden: Tensor, weight: Tensor, labels: Tensor, smoothing: float, pad: int) -> TokenLoss:
    """`label_smoothed_loss` of the logits `hidden @ weight.T`, chunk by chunk, with the gradient made beside each
    chunk: faster, and a fraction of the memory; differentiable once, but for `differentiable_often`.

    Args:
        hidden: (..., D).
        weight: (V, D).
        labels: (...).
    """
    if _often:
        return label_smoothed_loss(F.linear(hidden, weight), labels, smoothing, pad)
    hidden, labels = hidden.flatten(0, -2), labels.flatten()
    kept = labels != pad
    factors: Tensor | None = kept
    if hidden.device.type == "cpu":  # elsewhere the number of labels is not known without waiting for the device
        rows = kept.nonzero()[:, 0]
        factors = None
        if len(rows) < len(labels):
            hidden, labels = hidden.index_select(0, rows), labels[rows]
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    total, nll, correct = _ProjectedLoss.apply(hidden, weight, labels, factors, smoothing, torch.is_grad_enabled())
    return TokenLoss(total, nll, kept.sum(), correct)


class _ProjectedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, kept: Tensor | None, smoothing: float, learns: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        vocabulary = len(weight)
        wide = torch.float32 if weight.dtype in (torch.float16, torch.bfloat16) else weight.dtype
        rest = smoothing / max(1, vocabulary - 1)
        confidence = 1 - smoothing - rest
        total, nll = hidden.new_zeros((), dtype=wide), hidden.new_zeros((), dtype=wide)
        correct = labels.new_zeros(())
        by_hidden = torch.empty_like(hidden) if learns else None
        by_weight = torch.zeros_like(weight, dtype=wide) if learns else None
        onednn = usable(hidden, weight)
        size = max(1, (CPU_LOGITS if hidden.device.type == "cpu" else GPU_LOGITS) // vocabulary)
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), size):
                chunk, label = hidden[start : start + size], labels[start : start + size, None]
                logits = (product(chunk, weight) if onednn else torch.mm(chunk, weight.t())).to(wide)
                most = logits.amax(1, keepdim=True)
                probabilities = logits.softmax(1)
                # log sum exp, from the greatest element: no second exp for all of them, no underflow.
                normalizer = most - probabilities.amax(1, keepdim=True).log()
                chosen = logits.gather(1, label)
                # argmax takes three times as long, and counts one of equal logits: evaluations have it.
                hit = chosen >= most if learns else logits.argmax(1, keepdim=True) == label
                chosen, everything = chosen - normalizer, logits.sum(1, keepdim=True) - vocabulary * normalizer
                if kept is not None:
                    counts = kept[start : start + size, None]
                    chosen, everything, hit = chosen * counts, everything * counts, hit & counts
                part = -chosen.sum()
                nll += part
                total += confidence * part - rest * everything.sum()
                correct += hit.sum()
                if by_hidden is None or by_weight is None:
                    continue
                # d loss / d logits = softmax - rest - confidence [token is the label]: softmax's factor is 1.
                gradient = probabilities.sub_(rest)
                gradient.scatter_add_(1, label, gradient.new_full((), -confidence).expand(len(label), 1))
                if kept is not None:
                    gradient *= counts
                gradient = gradient.to(weight.dtype)
                by_hidden[start : start + size] = (
                    product(gradient, weight.t()) if onednn else torch.mm(gradient, weight)
                )
                if wide == weight.dtype:
                    torch.addmm(by_weight, gradient.t(), chunk, out=by_weight)
                else:
                    by_weight += torch.mm(gradient.t(), chunk)
        if by_hidden is not None and by_weight is not None:
            ctx.save_for_backward(by_hidden, by_weight)
        ctx.dtype = weight.dtype
        ctx.mark_non_differentiable(nll, correct)
        return total, nll, correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        by_hidden, by_weight = ctx.saved_tensors
        return by_hidden * gradient.to(by_hidden.dtype), (by_weight * gradient).to(ctx.dtype), None, None, None, None
