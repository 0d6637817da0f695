"""From sentences to sentences with a trained model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from supervised.text.batches import collate, make_batches
from supervised.text.beam_search import MORE, PER_SOURCE, beam_search
from supervised.text.subwords import PAD, Subwords
from supervised.text.transformer import Transformer

BATCH_TOKENS = 4_000  # of sources at once


def translate_tokens(model: nn.Module, sources: Sequence[Any], beam: int, length_penalty: float) -> list[list[int]]:
    """The best translation of each sentence of subwords, all without begin and end. Another library's model searches
    itself."""
    source = collate(sources, sources, PAD).source.to(next(model.parameters()).device)
    if not isinstance(model, Transformer):
        limits = {"max_ratio": PER_SOURCE, "max_more": MORE}
        found: list[list[int]] = model.translate(source, beam=beam, length_penalty=length_penalty, **limits)  # type: ignore[operator]
        return found
    return [found[0].tokens for found in beam_search(model, source, beam=beam, alpha=length_penalty)]


@torch.inference_mode()
def translate_lines(
    model: nn.Module,
    subwords: Subwords,
    lines: Sequence[str],
    beam: int,
    length_penalty: float,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """Translations of lines of text, in order; those of empty lines are empty."""
    sources = [np.array(ids, dtype=np.int64) for ids in subwords.encode(lines)]
    filled = [k for k, source in enumerate(sources) if len(source)]
    lengths = np.array([len(sources[k]) for k in filled], dtype=np.int64)
    found: dict[int, list[int]] = {}
    for batch in make_batches(lengths, lengths, BATCH_TOKENS, 0):
        chosen = [filled[k] for k in batch]
        translated = translate_tokens(model, [sources[k] for k in chosen], beam, length_penalty)
        found |= zip(chosen, translated, strict=True)
        tell(len(found), len(filled))
    return subwords.decode(found.get(k, []) for k in range(len(sources)))
