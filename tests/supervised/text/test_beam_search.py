"""Beam search against all sequences there are, on a model whose next token depends on source and prefix."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from supervised.text.beam_search import Hypothesis, beam_search, length_penalty
from supervised.text.subwords import BOS, EOS, PAD
from supervised.text.transformer import Transformer, TransformerSize

VOCABULARY = 7  # four special ones and three words
TINY = TransformerSize(2, 8, 2, 16, 0.0)


def tiny(seed: int) -> Transformer:
    """Sharp enough that its choices differ from sentence to sentence."""
    torch.manual_seed(seed)
    model = Transformer(TINY, VOCABULARY, PAD).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.6)
    return model


def padded(*sentences: list[int]) -> Tensor:
    width = max(map(len, sentences)) + 1
    return torch.tensor([[*words, EOS, *[PAD] * (width - len(words) - 1)] for words in sentences])


@torch.no_grad()
def log_probability(model: Transformer, source: Tensor, target: list[int]) -> float:
    """Of a target and its end, without the cache."""
    before, after = torch.tensor([[BOS, *target]]), torch.tensor([*target, EOS])
    logits = model(source, before)
    assert isinstance(logits, Tensor)
    return float(logits[0].log_softmax(-1).gather(1, after[:, None]).sum())


def all_targets(most: int) -> list[list[int]]:
    words = [token for token in range(VOCABULARY) if token not in (PAD, BOS, EOS)]
    return [list(target) for length in range(most + 1) for target in itertools.product(words, repeat=length)]


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), alpha=st.sampled_from([0.0, 0.6, 1.0, 3.0]))
def test_a_beam_as_wide_as_all_prefixes_finds_the_best_of_all_targets(seed: int, alpha: float) -> None:
    model, most = tiny(seed), 3
    source = padded([4, 5, 6, 4])
    (found,) = beam_search(model, source, beam=4**most, alpha=alpha, per_source=0, more=most)
    scored = [
        (log_probability(model, source, target) / ((5 + len(target) + 1) / 6) ** alpha, target)
        for target in all_targets(most)
    ]
    scored.sort(reverse=True)
    assert found[0].tokens == scored[0][1]
    assert found[0].score == pytest.approx(scored[0][0], abs=1e-4)


def greedy(model: Transformer, source: Tensor, most: int) -> list[int]:
    """One word after the other, the whole prefix read anew each time."""
    target: list[int] = []
    while len(target) < most:
        logits = model(source, torch.tensor([[BOS, *target]]))
        assert isinstance(logits, Tensor)
        last = logits[0, -1].clone()
        last[[PAD, BOS]] = -float("inf")
        word = int(last.argmax())
        if word == EOS:
            break
        target.append(word)
    return target


@pytest.mark.parametrize("seed", range(6))
def test_a_beam_of_one_is_greedy_and_ends_at_the_longest_target(seed: int) -> None:
    model = tiny(seed)
    sentences = [[4, 5], [6], [5, 5, 4, 6, 4]]
    found = beam_search(model, padded(*sentences), beam=1, alpha=0.6, per_source=1.0, more=2)
    for words, hypotheses in zip(sentences, found, strict=True):
        assert [one.tokens for one in hypotheses] == [greedy(model, padded(words), len(words) + 2)]
        one = hypotheses[0]
        total = log_probability(model, padded(words), one.tokens)
        assert one.score == pytest.approx(total / length_penalty(len(one.tokens) + 1, 0.6), abs=1e-4)


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 1_000),
    beam=st.integers(1, 5),
    sentences=st.lists(st.lists(st.integers(4, 6), min_size=1, max_size=5), min_size=1, max_size=5),
)
def test_a_sentence_is_translated_the_same_alone_and_in_company(
    seed: int, beam: int, sentences: list[list[int]]
) -> None:
    model = tiny(seed)
    together = beam_search(model, padded(*sentences), beam=beam, alpha=0.6)
    for words, found in zip(sentences, together, strict=True):
        (alone,) = beam_search(model, padded(words), beam=beam, alpha=0.6)
        assert [one.tokens for one in found] == [one.tokens for one in alone]
        assert [one.score for one in found] == pytest.approx([one.score for one in alone], abs=1e-4)


def test_hypotheses_are_targets_of_words_the_best_first_and_no_two_the_same() -> None:
    for found in beam_search(tiny(3), padded([4, 5, 6], [6, 6]), beam=4, alpha=1.0):
        assert 1 <= len(found) <= 4
        assert all(token not in (PAD, BOS, EOS) for one in found for token in one.tokens)
        assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
        assert len({tuple(one.tokens) for one in found}) == len(found)


def test_a_wider_beam_is_needed_where_the_best_begins_badly() -> None:
    """The cache follows each hypothesis: a wider beam finds what greedy search misses in some sentence of many."""
    better = 0
    for seed in range(12):
        model, source = tiny(seed), padded([4, 5, 6, 4])
        narrow, wide = (beam_search(model, source, beam=k, alpha=0.0)[0][0] for k in (1, 8))
        assert wide.score == pytest.approx(log_probability(model, source, wide.tokens), abs=1e-4)
        better += wide.score > narrow.score + 1e-4
    assert better > 0


def test_a_source_of_nothing_is_translated_as_well() -> None:
    assert isinstance(beam_search(tiny(0), padded([]), beam=2, alpha=0.6)[0][0], Hypothesis)
