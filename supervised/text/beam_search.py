"""Beam search with a length penalty (Wu et al., arXiv 1609.08144, equation 14)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from supervised.text.subwords import BOS, EOS, PAD
from supervised.text.transformer import Transformer

PER_SOURCE, MORE = 1.5, 10  # longest target: so many subwords for each of the source, and so many more
NEVER = -float("inf")


@dataclass(frozen=True)
class Hypothesis:
    """A finished target.

    Attributes:
        tokens: without begin and end.
        score: log-probability, the end's included, over `length_penalty`.
    """

    tokens: list[int]
    score: float


def length_penalty(length: int, alpha: float) -> float:
    """What the log-probability of `length` tokens, the end included, is divided by: ((5 + length) / 6)^alpha."""
    return float(((5 + length) / 6) ** alpha)


@torch.no_grad()
def beam_search(
    model: Transformer,
    source: Tensor,
    *,
    beam: int,
    alpha: float,
    per_source: float = PER_SOURCE,
    more: int = MORE,
) -> list[list[Hypothesis]]:
    """The likeliest targets found for each source, at most `beam`, the best first.

    A hypothesis ends where the end is among the `beam` best continuations of its source, or where it is as long as it
    may be: its next token is then the end. A source is done when it has `beam` finished ones, or when none of those
    that go on can become better than its best: their log-probabilities only fall.

    Args:
        source: tokens, each sentence with its end, padded, (B, S), int64.
        beam: hypotheses that go on for each source; 1 is greedy search.
        alpha: exponent of the length penalty, at least 0: the larger, the longer.
        per_source, more: the longest target of a source of n tokens has n * per_source + more, without the end.
    """
    limits = (((source != PAD).sum(1) - 1) * per_source + more).long()  # tokens before the end
    finished: list[list[Hypothesis]] = [[] for _ in range(len(source))]
    rows = list(range(len(source)))  # sources that are not done, by their number
    state = model.start(source)
    scores = torch.zeros(len(rows), 1, device=source.device)  # (rows, hypotheses)
    tokens = torch.full((len(rows), 1, 1), BOS, device=source.device)  # (rows, hypotheses, length)
    while rows:
        logits = model.next(tokens[:, :, -1].flatten(), state).float().log_softmax(-1)
        step = logits.view(len(rows), -1, logits.shape[-1])
        length = tokens.shape[-1]  # of what ends now, its end included
        _forbid(step, limits < length)
        best, parent, token = _candidates(scores[:, :, None] + step, beam)
        ended = (token == EOS) & (best > NEVER) & (torch.arange(best.shape[1], device=best.device) < beam)
        for row, rank in ended.nonzero().tolist():
            one = tokens[row, parent[row, rank], 1:].tolist()
            finished[rows[row]].append(Hypothesis(one, best[row, rank].item() / length_penalty(length, alpha)))
        scores, chosen = best.masked_fill(token == EOS, NEVER).topk(min(beam, best.shape[1]), dim=1)
        parent, token = parent.gather(1, chosen), token.gather(1, chosen)
        width = tokens.shape[1]
        tokens = torch.cat([tokens.gather(1, parent[:, :, None].expand(-1, -1, length)), token[:, :, None]], 2)
        state.select((torch.arange(len(rows), device=parent.device)[:, None] * width + parent).flatten())
        goes_on = [
            row
            for row, (highest, limit) in enumerate(zip(scores[:, 0].tolist(), limits.tolist(), strict=True))
            if _goes_on(finished[rows[row]], highest, limit, beam, alpha)
        ]
        if len(goes_on) < len(rows):
            kept = torch.tensor(goes_on, dtype=torch.int64, device=source.device)
            rows = [rows[row] for row in goes_on]
            scores, tokens, limits = scores[kept], tokens[kept], limits[kept]
            state.keep(kept)
    return [sorted(found, key=lambda one: -one.score)[:beam] for found in finished]


def _forbid(step: Tensor, full: Tensor) -> None:
    """Of log-probabilities (rows, hypotheses, V), those of tokens that may not come next; where a row is `full`, of all
    but the end."""
    ends = step[full, :, EOS].clone()
    step[full] = NEVER
    step[full, :, EOS] = ends
    step[:, :, [PAD, BOS]] = NEVER


def _candidates(totals: Tensor, beam: int) -> tuple[Tensor, Tensor, Tensor]:
    """The 2 * beam best continuations of each row, enough for `beam` that do not end: their log-probabilities, which
    hypothesis they continue, and with which token, (rows, 2 * beam) each."""
    vocabulary = totals.shape[-1]
    flat = totals.flatten(1)
    best, index = flat.topk(min(2 * beam, flat.shape[1]), dim=1)
    return best, index // vocabulary, index % vocabulary


def _goes_on(found: list[Hypothesis], highest: float, limit: int, beam: int, alpha: float) -> bool:
    """Whether a source's best hypothesis, of log-probability `highest`, may still become the best of all."""
    if highest == NEVER or len(found) >= beam:
        return False
    return not found or highest / length_penalty(limit + 1, alpha) > max(one.score for one in found)
