"""Batches by tokens: every pair once, never too many tokens, and the tensors of a batch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import pad_sequence

from supervised.text.batches import collate, make_batches
from supervised.text.subwords import BOS, EOS, PAD

lengths = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=120)


def size(pair: tuple[int, int]) -> int:
    return max(pair) + 1


@settings(max_examples=200, derandomize=True, deadline=None)
@given(lengths, st.integers(1, 200), st.integers(0, 3))
def test_batches_as_their_definition_says(pairs: list[tuple[int, int]], tokens: int, seed: int) -> None:
    source, target = (np.array([pair[side] for pair in pairs], dtype=np.int64) for side in (0, 1))
    batches = make_batches(source, target, tokens, seed)
    assert sorted(int(one) for batch in batches for one in batch) == list(range(len(pairs)))
    assert all(len(batch) for batch in batches)
    for batch in batches:
        padded = max(int(source[batch].max()), int(target[batch].max())) + 1
        assert padded * len(batch) <= tokens or len(batch) == 1
    flat = [pairs[one] for batch in batches for one in batch]
    assert [size(one) for one in flat] == sorted(map(size, pairs)), "like lengths together"
    keys = [(size(one), one[0] - one[1]) for one in flat]
    assert keys == sorted(keys)
    for batch, later in itertools.pairwise(batches):  # a batch ends where one more pair would be too many
        following = size(pairs[later[0]])
        assert (len(batch) + 1) * following > tokens
    again = make_batches(source, target, tokens, seed)
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))


def test_the_seed_draws_which_of_equal_pairs_come_together() -> None:
    same = np.full(1000, 9)
    one, other = (make_batches(same, same, 100, seed) for seed in (0, 1))
    assert [len(batch) for batch in one] == [10] * 100
    assert not np.array_equal(np.concatenate(one), np.concatenate(other))
    assert len({tuple(sorted(batch)) for batch in one} & {tuple(sorted(batch)) for batch in other}) == 0
    assert all(batch.dtype == np.int64 for batch in one)


def test_little_padding_in_batches_of_text_as_it_is() -> None:
    draw = np.random.default_rng(0)
    source = draw.lognormal(3.1, 0.6, 20_000).astype(np.int64).clip(1, 250)
    target = (source * draw.lognormal(0.05, 0.2, len(source))).astype(np.int64).clip(1, 250)
    batches = make_batches(source, target, 4096, 0)
    padded = sum(len(one) * (source[one].max() + target[one].max() + 2) for one in batches)
    assert (source + target + 2).sum() / padded > 0.9


def test_lengths_that_do_not_fit() -> None:
    assert make_batches(np.array([]), np.array([]), 10, 0) == []
    with pytest.raises(ValueError, match="1 sources and 2 targets"):
        make_batches(np.array([1]), np.array([1, 2]), 10, 0)
    with pytest.raises(ValueError, match="0 tokens"):
        make_batches(np.array([1]), np.array([1]), 0, 0)


sentences = st.lists(st.lists(st.integers(4, 65535), max_size=6).map(lambda one: np.array(one, np.uint16)), min_size=1)


@settings(max_examples=40, derandomize=True, deadline=None)
@given(sentences, st.sampled_from([PAD, 7]), st.data())
def test_collate_pads_as_torch_does(sources: list[np.ndarray], pad: int, data: st.DataObject) -> None:
    targets = data.draw(st.lists(sentences.map(lambda one: one[0]), min_size=len(sources), max_size=len(sources)))

    def padded(rows: list[list[int]]) -> torch.Tensor:
        return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=pad)

    batch = collate(sources, targets, pad)
    assert torch.equal(batch.source, padded([[*one.tolist(), EOS] for one in sources]))
    assert torch.equal(batch.target_input, padded([[BOS, *one.tolist()] for one in targets]))
    assert torch.equal(batch.target_output, padded([[*one.tolist(), EOS] for one in targets]))
    assert {tensor.dtype for tensor in batch} == {torch.int64}
