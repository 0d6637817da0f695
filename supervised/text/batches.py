"""Batches by tokens in length buckets (Vaswani et al., arXiv 1706.03762, section 5.1), and their tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from supervised.text.subwords import BOS, EOS, PAD


class TextBatch(NamedTuple):
    """A padded batch of B pairs, int64; S and T are the longest source and target and one more."""

    source: torch.Tensor  # (B, S): tokens, end
    target_input: torch.Tensor  # (B, T): begin, tokens
    target_output: torch.Tensor  # (B, T): tokens, end: what is to be predicted


def make_batches(source_lengths: np.ndarray, target_lengths: np.ndarray, tokens: int, seed: int) -> list[np.ndarray]:
    """Put sentence pairs of like lengths together; every pair is in one batch. A pure function of its arguments.

    A batch of B pairs, padded to the longest source S and the longest target T, its begin or end counted, has
    B * max(S, T) tokens: `tokens` at most, but that a pair which is longer is a batch alone. Pairs go by their longer
    side, then by the difference of the sides (a walk along which neither side jumps); which of equal pairs come
    together is drawn from `seed`. The batches are in ascending order of length: shuffle them for each epoch.

    Args:
        source_lengths, target_lengths: tokens of each sentence without begin and end, (N,).

    Returns:
        Indices of the pairs of each batch, int64.
    """
    if len(source_lengths) != len(target_lengths):
        raise ValueError(f"{len(source_lengths)} sources and {len(target_lengths)} targets")
    if tokens < 1:
        raise ValueError(f"a batch of {tokens} tokens holds nothing")
    count = len(source_lengths)
    if not count:
        return []
    source, target = (np.asarray(lengths, dtype=np.int64) + 1 for lengths in (source_lengths, target_lengths))
    longer = np.maximum(source, target)
    span = int(longer.max())
    drawn = np.random.default_rng(seed).permutation(count)
    key = longer * (2 * span + 1) + (source - target + span)
    order = drawn[np.argsort(key[drawn], kind="stable")]
    lengths = longer[order]
    batches, start = [], 0
    while start < count:
        # Of the first B pairs the last one is the longest: the most pairs of which B * length fits, by bisection.
        fewest, most = 1, int(min(count - start, max(1, tokens // lengths[start])))
        while fewest < most:
            middle = (fewest + most + 1) // 2
            if middle * lengths[start + middle - 1] <= tokens:
                fewest = middle
            else:
                most = middle - 1
        batches.append(order[start : start + fewest])
        start += fewest
    return batches


def collate(sources: Sequence[np.ndarray], targets: Sequence[np.ndarray], pad: int = PAD) -> TextBatch:
    """Pad the tokens of B pairs with `pad`, and add begin and end."""
    return TextBatch(
        _padded(sources, pad, end=True), _padded(targets, pad, begin=True), _padded(targets, pad, end=True)
    )


def _padded(sentences: Sequence[np.ndarray], pad: int, *, begin: bool = False, end: bool = False) -> torch.Tensor:
    lengths = np.array([len(sentence) for sentence in sentences], dtype=np.int64)
    width = int(lengths.max(initial=0)) + 1
    rows = np.full((len(lengths), width), pad, dtype=np.int64)
    if len(lengths):
        columns = np.arange(width) - begin
        rows[(columns >= 0) & (columns < lengths[:, None])] = np.concatenate(sentences)
    if begin:
        rows[:, 0] = BOS
    if end:
        rows[np.arange(len(lengths)), lengths] = EOS
    return torch.from_numpy(rows)
