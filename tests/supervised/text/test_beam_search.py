"""Beam search against all targets there are, and against a plain one that never stops early and has no cache."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from supervised.text.beam_search import Hypothesis, beam_search, length_penalty
from supervised.text.subwords import BOS, EOS, PAD
from supervised.text.transformer import Transformer, TransformerSize

WORDS = (3, 4, 5, 6)
VOCABULARY = 7
ALPHAS = st.sampled_from([-0.5, 0.0, 0.6, 1.0, 3.0])
SENTENCES = st.lists(st.lists(st.sampled_from(WORDS), max_size=4), min_size=1, max_size=3)


def tiny(seed: int) -> Transformer:
    """Sharp enough that its choices differ from sentence to sentence; in double precision, so that ties are none."""
    torch.manual_seed(seed)
    model = Transformer(TransformerSize(1, 8, 2, 16, 0.0), VOCABULARY, PAD).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.6)
    return model


def padded(*sentences: list[int]) -> Tensor:
    width = max(map(len, sentences)) + 1
    return torch.tensor([[*words, EOS, *[PAD] * (width - len(words) - 1)] for words in sentences])


@torch.inference_mode()
def next_words(model: Transformer, source: Tensor, targets: list[list[int]]) -> Tensor:
    """Log-probabilities of what comes after each of some targets of one length, without the cache."""
    before = torch.tensor([[BOS, *target] for target in targets])
    logits = model(source.expand(len(targets), -1), before)
    assert isinstance(logits, Tensor)
    return logits[:, -1].log_softmax(-1)


def log_probability(model: Transformer, source: Tensor, target: list[int]) -> float:
    """Of a target and its end."""
    whole = [*target, EOS]
    return sum(float(next_words(model, source, [whole[:k]])[0, whole[k]]) for k in range(len(whole)))


def of_all_targets(model: Transformer, source: Tensor, longest: int, alpha: float) -> list[Hypothesis]:
    """The best first."""
    scored, totals = [], {(): 0.0}
    for length in range(longest + 1):
        targets = [list(target) for target in itertools.product(WORDS, repeat=length)]
        steps = next_words(model, source, targets)
        for target, step in zip(targets, steps, strict=True):
            total = totals[tuple(target)]
            scored.append(Hypothesis(target, (total + float(step[EOS])) / ((5 + length + 1) / 6) ** alpha))
            totals |= {(*target, word): total + float(step[word]) for word in WORDS}
    return sorted(scored, key=lambda one: -one.score)


def plain_search(model: Transformer, source: Tensor, longest: int, beam: int, alpha: float) -> list[Hypothesis]:
    """The same search in a few lines, on to the longest target; all that have ended, the best first."""
    live, ended = [(0.0, [])], []
    for length in range(longest + 1):
        steps = next_words(model, source, [target for _, target in live])
        allowed = (EOS,) if length == longest else (EOS, *WORDS)
        following = [
            (total + float(step[word]), [*target, word])
            for (total, target), step in zip(live, steps, strict=True)
            for word in allowed
        ]
        following = sorted(following, reverse=True)[:beam]
        ended += [
            Hypothesis(target[:-1], total / ((5 + len(target)) / 6) ** alpha)
            for total, target in following
            if target[-1] == EOS
        ]
        live = [one for one in following if one[1][-1] != EOS]
        if not live:
            break
    return sorted(ended, key=lambda one: -one.score)


def same(found: list[Hypothesis], expected: list[Hypothesis]) -> None:
    assert [one.tokens for one in found] == [one.tokens for one in expected]
    assert [one.score for one in found] == pytest.approx([one.score for one in expected], abs=1e-5)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), alpha=ALPHAS, sentences=SENTENCES, best=st.sampled_from([1, 3, 64]))
def test_a_beam_as_wide_as_all_prefixes_finds_the_best_of_all_targets(
    seed: int, alpha: float, sentences: list[list[int]], best: int
) -> None:
    model, longest = tiny(seed), 3
    found = beam_search(model, padded(*sentences), beam=5 * 4**2, alpha=alpha, per_source=0, more=longest, best=best)
    for words, hypotheses in zip(sentences, found, strict=True):
        same(hypotheses, of_all_targets(model, padded(words), longest, alpha)[:best])


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    alpha=ALPHAS,
    sentences=SENTENCES,
    beam=st.integers(1, 5),
    best=st.integers(1, 5),
    per_source=st.sampled_from([0.0, 0.5, 1.5]),
    more=st.integers(0, 4),
)
def test_stopping_early_and_company_change_nothing(
    seed: int, alpha: float, sentences: list[list[int]], beam: int, best: int, per_source: float, more: int
) -> None:
    model, best = tiny(seed), min(beam, best)
    found = beam_search(model, padded(*sentences), beam=beam, alpha=alpha, per_source=per_source, more=more, best=best)
    for words, hypotheses in zip(sentences, found, strict=True):
        longest = int(len(words) * per_source + more)
        same(hypotheses, plain_search(model, padded(words), longest, beam, alpha)[:best])
        for one in hypotheses:
            assert len(one.tokens) <= longest
            assert set(one.tokens) <= set(WORDS)
            total = log_probability(model, padded(words), one.tokens)
            assert one.score == pytest.approx(total / length_penalty(len(one.tokens) + 1, alpha), abs=1e-5)


def greedy(model: Transformer, source: Tensor, longest: int) -> list[int]:
    target: list[int] = []
    while len(target) < longest:
        step = next_words(model, source, [target])[0].clone()
        step[[PAD, BOS]] = -math.inf
        word = int(step.argmax())
        if word == EOS:
            break
        target.append(word)
    return target


@pytest.mark.parametrize("seed", range(8))
def test_a_beam_of_one_is_greedy(seed: int) -> None:
    model = tiny(seed)
    sentences = [[4, 5], [6], [5, 5, 4, 6, 4]]
    found = beam_search(model, padded(*sentences), beam=1, alpha=0.6, per_source=1.0, more=2)
    for words, hypotheses in zip(sentences, found, strict=True):
        assert [one.tokens for one in hypotheses] == [greedy(model, padded(words), len(words) + 2)]


def test_greedy_search_is_not_always_right() -> None:
    """The cache follows each hypothesis: a wider beam finds what greedy search misses in some sentence of many."""
    better = 0
    for seed in range(12):
        model, source = tiny(seed), padded([4, 5, 6, 4])
        narrow, wide = (beam_search(model, source, beam=k, alpha=0.0)[0][0] for k in (1, 8))
        better += wide.score > narrow.score + 1e-4
    assert better > 0


def test_it_stops_as_soon_as_nothing_can_become_better(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is sure of its end is asked once, however long a target may be."""
    model = tiny(0)
    steps = 0

    def sure(tokens: Tensor, state: object) -> Tensor:
        nonlocal steps
        steps += 1
        return torch.zeros(len(tokens), VOCABULARY).index_fill_(1, torch.tensor([EOS]), 30.0)

    monkeypatch.setattr(model, "next", sure)
    assert beam_search(model, padded([4], [5, 6]), beam=1, alpha=0.6, more=500)[0][0].tokens == []
    assert steps == 1


def test_the_longest_target_has_its_end_though_the_model_wants_none(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(0)
    endless = torch.zeros(VOCABULARY).index_fill_(0, torch.tensor([EOS]), -50.0)
    monkeypatch.setattr(model, "project", lambda hidden: endless.expand(*hidden.shape[:-1], -1))
    found = beam_search(model, padded([4], [5, 6, 4]), beam=2, alpha=1.0, per_source=2.0, more=1)
    assert [len(one.tokens) for (one,) in found] == [3, 7]
    (empty,) = beam_search(model, padded([4]), beam=2, alpha=1.0, per_source=0, more=0)
    assert empty[0].tokens == []


def test_a_model_of_nan_translates_to_nothing() -> None:
    """As those do whose training has diverged: an evaluation goes on."""
    model = tiny(0)
    nn.init.constant_(model.embedding.weight, math.nan)
    assert beam_search(model, padded([4], [5, 6]), beam=3, alpha=0.6) == 2 * [[Hypothesis([], -math.inf)]]


def test_a_source_of_nothing_is_translated_as_well() -> None:
    model = tiny(0)
    same(beam_search(model, padded([]), beam=2, alpha=0.6)[0], plain_search(model, padded([]), 10, 2, 0.6)[:1])


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="eval"):
        beam_search(tiny(0).train(), padded([4]), beam=2, alpha=0.6)
    with pytest.raises(ValueError, match="best"):
        beam_search(tiny(0), padded([4]), beam=2, alpha=0.6, best=3)
