"""Beam search with a length penalty (Wu et al. 2016, arXiv 1609.08144, equation 14)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from supervised.text.subwords import BOS, EOS, PAD
from supervised.text.transformer import Transformer

PER_SOURCE, MORE = 1.5, 10  # longest target: so many subwords for each of the source, and so many more


class Hypothesis(NamedTuple):
    """A finished target.

    Attributes:
        tokens: without begin and end.
        score: log-probability, the end's included, over `length_penalty`; -inf: the model gave nothing but NaN.
    """

    tokens: list[int]
    score: float


def length_penalty(length: int, alpha: float) -> float:
    """What the log-probability of `length` tokens, the end included, is divided by: ((5 + length) / 6)^alpha. It is not
    fairseq's `lenpen`, which is length^alpha."""
    return float(((5 + length) / 6) ** alpha)


@torch.inference_mode()
def beam_search(
    model: Transformer,
    source: Tensor,
    *,
    beam: int,
    alpha: float,
    per_source: float = PER_SOURCE,
    more: float = MORE,
    best: int = 1,
) -> list[list[Hypothesis]]:
    """The likeliest targets found for each source, the best first.

    In each step the `beam` likeliest continuations of a source's live hypotheses are kept; those that end are finished,
    the others live on. A source is done when nothing that lives can become better than the worst of the `best` finished
    ones that are kept: log-probabilities only fall, so a live one is bounded by its own over the greatest penalty that
    it may get. So stopping changes no result; nor do the other sources of the batch.

    Args:
        model: in evaluation mode.
        source: tokens, each sentence with its end, padded on the right, (B, S), int64.
        beam: hypotheses that go on for each source; 1 is greedy search.
        alpha: exponent of the length penalty: the larger, the longer; 0: none.
        per_source, more: the longest target of a source of n tokens has n * per_source + more, neither end counted;
            one that is so long has its end next.
        best: how many to find, at most `beam`; the more, the longer it takes.

    Returns:
        For each source from 1 to `best` hypotheses.
    """
    if model.training:
        raise ValueError("beam search needs model.eval(): with dropout its results are random")
    if not 1 <= best <= beam:
        raise ValueError(f"best is {best}, not from 1 to the beam of {beam}")
    limits = ((source != PAD).sum(1).cpu() - 1) * per_source + more
    return _Search(model, source, beam, alpha, best).run(limits.long().clamp(min=0) + 1)


class _Search:
    """The sources that are not done are in a row. What is known of hypotheses is on the CPU, but the model's state."""

    def __init__(self, model: Transformer, source: Tensor, beam: int, alpha: float, best: int) -> None:
        self._model, self._device = model, source.device
        self._beam, self._alpha, self._best = beam, alpha, best
        self._tokens = torch.full((len(source), 1, 1), BOS)  # sources, hypotheses, positions
        self._scores = torch.zeros(len(source), 1)  # log-probabilities; -inf: a place without a live hypothesis
        self._state = model.start(source)
        self._finished: list[list[Hypothesis]] = [[] for _ in range(len(source))]

    def run(self, limits: Tensor) -> list[list[Hypothesis]]:
        """Search until all sources are done, with so many tokens at most in their targets, ends included."""
        alive = torch.arange(len(limits))
        while len(alive):
            length = self._tokens.shape[2]  # of what ends now, its end included, the begin not
            parents, ended = self._advance(limits[alive] == length)
            for row, place in ended.nonzero().tolist():
                found = self._finished[int(alive[row])]
                score = float(self._scores[row, place]) / length_penalty(length, self._alpha)
                found.append(Hypothesis(self._tokens[row, place, 1:-1].tolist(), score))
                found.sort(key=lambda one: -one.score)
                del found[self._best :]
            self._scores[ended] = -math.inf
            highest, longest = self._scores.amax(1).tolist(), limits[alive].tolist()
            goes_on = torch.tensor(
                [
                    self._can_improve(self._finished[source], highest[row], length + 1, longest[row])
                    for row, source in enumerate(alive.tolist())
                ]
            )
            self._go_on(parents, goes_on)
            alive = alive[goes_on]
        return [found or [Hypothesis([], -math.inf)] for found in self._finished]

    def _advance(self, full: Tensor) -> tuple[Tensor, Tensor]:
        """Replace hypotheses by their likeliest continuations, those of `full` sources by their ends; returns whose
        they are, and which of them have ended, (sources, hypotheses) each."""
        sources, hypotheses, _ = self._tokens.shape
        logits = self._model.next(self._tokens[..., -1].flatten().to(self._device), self._state)
        wide = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
        steps = wide.log_softmax(1).nan_to_num_(nan=-math.inf, neginf=-math.inf).view(sources, hypotheses, -1)
        steps[..., [PAD, BOS]] = -math.inf
        no_end = torch.arange(steps.shape[2], device=self._device) != EOS
        steps.masked_fill_(full.to(self._device)[:, None, None] & no_end, -math.inf)
        steps += self._scores.to(steps)[..., None]
        flat = steps.flatten(1)
        scores, indices = flat.topk(min(self._beam, flat.shape[1]), dim=1)
        self._scores, indices = scores.cpu(), indices.cpu()
        parents, chosen = indices // steps.shape[2], indices % steps.shape[2]
        before = self._tokens.gather(1, parents[..., None].expand(-1, -1, self._tokens.shape[2]))
        self._tokens = torch.cat([before, chosen[..., None]], dim=2)
        return parents, (chosen == EOS) & (self._scores > -math.inf)

    def _can_improve(self, found: list[Hypothesis], highest: float, shortest: int, longest: int) -> bool:
        """Whether what lives, of this log-probability at most, may still be among the best, with so many tokens in the
        end."""
        if highest == -math.inf or len(found) < self._best:
            return highest > -math.inf
        penalty = max(length_penalty(shortest, self._alpha), length_penalty(longest, self._alpha))
        return highest / penalty > found[-1].score

    def _go_on(self, parents: Tensor, goes_on: Tensor) -> None:
        """Bring the model's state to the hypotheses that there are now, of the sources that go on."""
        before = self._state.cache.shape[2] // len(parents)
        rows = (torch.arange(len(parents))[:, None] * before + parents)[goes_on].flatten()
        if not goes_on.all():
            self._state.select(rows.to(self._device), goes_on.nonzero()[:, 0].to(self._device))
            self._tokens, self._scores = self._tokens[goes_on], self._scores[goes_on]
        elif not torch.equal(rows, torch.arange(self._state.cache.shape[2])):
            self._state.select(rows.to(self._device))
