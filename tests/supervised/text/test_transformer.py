"""The Transformer beside torch's layers, its cache beside whole passes, what it must not see, and that it learns."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from supervised.text.beam_search import beam_search
from supervised.text.losses import TokenLoss
from supervised.text.subwords import BOS, EOS, PAD
from supervised.text.transformer import (
    SIZES,
    CrossAttention,
    DecoderLayer,
    EncoderLayer,
    Residual,
    SelfAttention,
    Transformer,
    TransformerSize,
    sinusoids,
)

VOCABULARY = 11


def model_of(pre_norm: bool, seed: int = 0, dtype: torch.dtype = torch.float64) -> Transformer:
    """A small one in evaluation mode whose every parameter is random, biases and norms as well."""
    torch.manual_seed(seed)
    model = Transformer(TransformerSize(2, 16, 2, 24, 0.1, pre_norm), VOCABULARY, PAD).to(dtype).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model


def sentences(lengths: list[int], width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(4, VOCABULARY, (len(lengths), width), generator=generator)
    return tokens.masked_fill(torch.arange(width) >= torch.tensor(lengths)[:, None], PAD)


def logits_of(model: Transformer, source: Tensor, target: Tensor) -> Tensor:
    logits = model(source, target)
    assert isinstance(logits, Tensor)
    return logits


def copy_layer(layer: EncoderLayer | DecoderLayer, pre_norm: bool) -> nn.Module:
    """torch's layer with the parameters of ours."""
    options = {"dropout": 0.0, "batch_first": True, "norm_first": pre_norm, "dtype": torch.float64}
    decoder = isinstance(layer, DecoderLayer)
    theirs = (nn.TransformerDecoderLayer if decoder else nn.TransformerEncoderLayer)(16, 2, 24, **options).eval()

    def norm(name: str, ours: Residual) -> None:
        theirs.get_submodule(name).load_state_dict(ours.norm.state_dict())

    def attention(name: str, ours: SelfAttention | CrossAttention) -> None:
        into = theirs.get_submodule(name)
        parts = [ours.query_key_value] if isinstance(ours, SelfAttention) else [ours.query, ours.key_value]
        into.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        into.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        into.out_proj.load_state_dict(ours.output.state_dict())

    with torch.no_grad():
        attention("self_attn", layer.attention)
        norm("norm1", layer.attention_residual)
        if isinstance(layer, DecoderLayer):
            attention("multihead_attn", layer.cross_attention)
            norm("norm2", layer.cross_residual)
        norm("norm3" if decoder else "norm2", layer.feed_forward_residual)
        theirs.linear1.load_state_dict(layer.feed_forward[0].state_dict())
        theirs.linear2.load_state_dict(layer.feed_forward[3].state_dict())
    return theirs


def positions(length: int, width: int) -> Tensor:
    """Section 3.5 of the paper, sines and cosines side by side instead of interleaved."""
    rates = [10_000 ** (-k / (width // 2 - 1)) for k in range(width // 2)]
    rows = [[f(p * r) for f in (math.sin, math.cos) for r in rates] for p in range(length)]
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("pre_norm", [False, True])
@torch.no_grad()
def test_it_computes_what_torchs_layers_compute(pre_norm: bool) -> None:
    model = model_of(pre_norm)
    source, target = sentences([7, 4, 1], 7), sentences([5, 5, 2], 5, seed=1)

    def embedded(tokens: Tensor) -> Tensor:
        return model.embedding.weight[tokens] * 4 + positions(tokens.shape[1], 16)

    memory, hidden = embedded(source), embedded(target)
    for layer in model.encoder:
        memory = copy_layer(layer, pre_norm)(memory, src_key_padding_mask=source == PAD)
    memory = model.encoder_norm(memory)
    causal = torch.ones(5, 5, dtype=torch.bool).triu(1)
    for layer in model.decoder:
        hidden = copy_layer(layer, pre_norm)(hidden, memory, causal, memory_key_padding_mask=source == PAD)
    expected = model.decoder_norm(hidden) @ model.embedding.weight.T
    torch.testing.assert_close(logits_of(model, source, target), expected, atol=1e-6, rtol=1e-6)


def test_positions_are_those_of_the_paper_from_any_start() -> None:
    table = sinusoids(0, 400, 16, torch.device("cpu"))
    torch.testing.assert_close(table.double(), positions(400, 16), atol=5e-5, rtol=0)
    torch.testing.assert_close(sinusoids(100, 3, 16, torch.device("cpu")), table[100:103])


@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4), pre_norm=st.booleans(), more=st.integers(1, 4))
def test_padding_changes_nothing(lengths: list[int], pre_norm: bool, more: int) -> None:
    """Neither that of a source nor that of a target, nor the sentences beside."""
    model = model_of(pre_norm)
    source, target = sentences(lengths, 6), sentences(lengths, 6, seed=1)
    wider = logits_of(model, nn.functional.pad(source, (0, more), value=PAD), nn.functional.pad(target, (0, more)))
    for row, length in enumerate(lengths):
        alone = logits_of(model, source[row : row + 1, :length], target[row : row + 1, :length])
        torch.testing.assert_close(wider[row : row + 1, :length], alone)


def test_no_position_sees_a_later_one_and_each_sees_the_source() -> None:
    model = model_of(False)
    source, target = sentences([5], 5), sentences([6], 6, seed=1)
    before = logits_of(model, source, target)
    changed = target.clone()
    changed[0, 3] = 4 if target[0, 3] != 4 else 5
    after = logits_of(model, source, changed)
    torch.testing.assert_close(after[:, :3], before[:, :3])
    assert (after[:, 3:] - before[:, 3:]).abs().amax(2).min() > 1e-3
    other = source.clone()
    other[0, 4] = 4 if source[0, 4] != 4 else 5
    assert (logits_of(model, other, target) - before).abs().amax(2).min() > 1e-6


@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@torch.inference_mode()
def test_decoding_with_the_cache_is_a_whole_pass(pre_norm: bool, dtype: torch.dtype) -> None:
    """Also where targets were exchanged, and sources dropped, on the way."""
    model = model_of(pre_norm, dtype=dtype)
    source, target = sentences([6, 3, 4], 6), sentences([12] * 3, 12, seed=1)
    state = model.start(source)
    rows = target  # the prefix of each target
    for step in range(12):
        if step == 2:  # two targets for each source, which differ from here on
            state.select(torch.tensor([0, 0, 1, 1, 2, 2]))
            rows, source = rows.repeat_interleave(2, 0), source.repeat_interleave(2, 0)
            rows[1::2, 2:] = rows[1::2, 2:].flip(1)
        if step == 5:
            state.select(torch.tensor([1, 0, 2, 2, 5, 4]))
            rows = rows[[1, 0, 2, 2, 5, 4]]
        if step == 8:
            state.select(torch.tensor([4, 5, 1, 0]), torch.tensor([2, 0]))
            rows, source = rows[[4, 5, 1, 0]], source[[4, 5, 1, 0]]
        expected = logits_of(model, source, rows[:, : step + 1])[:, -1]
        tolerance = 1e-9 if dtype == torch.float64 else 2e-4
        found = model.next(rows[:, step], state)
        torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


def test_a_loss_is_that_of_its_logits_under_autocast_as_well() -> None:
    model = model_of(True, dtype=torch.float32)
    source, target, labels = sentences([5, 2], 5), sentences([4, 3], 4, seed=1), sentences([4, 3], 4, seed=2)
    logits = logits_of(model, source, target)[labels != PAD].log_softmax(1)
    nll = -logits.gather(1, labels[labels != PAD][:, None]).sum()
    found = model(source, target, labels)
    assert isinstance(found, TokenLoss)
    torch.testing.assert_close(found.total, nll)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(source, target, labels, 0.1)
    assert isinstance(half, TokenLoss)
    assert half.total.dtype == torch.float32
    torch.testing.assert_close(half.nll, nll.detach(), rtol=0.05, atol=0.0)
    half.total.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


def test_compiled_it_is_the_same() -> None:
    model = Transformer(TransformerSize(1, 16, 2, 24), VOCABULARY, PAD).eval()
    source, target, labels = sentences([5, 2], 5), sentences([4, 3], 4, seed=1), sentences([4, 3], 4, seed=2)
    expected = model(source, target, labels, 0.1).total
    torch.testing.assert_close(torch.compile(model, backend="eager")(source, target, labels, 0.1).total, expected)


def test_it_starts_as_fairseqs_does() -> None:
    model = Transformer(SIZES["small"], 5000, PAD)
    assert model.embedding.weight[PAD].abs().max() == 0
    assert model.embedding.weight[1:].std().item() == pytest.approx(256**-0.5, rel=0.01)
    parts = model.encoder[0].attention.query_key_value.weight.chunk(3)  # type: ignore[union-attr]
    for part in (*parts, *model.decoder[1].cross_attention.key_value.weight.chunk(2)):  # type: ignore[union-attr]
        assert part.abs().max().item() == pytest.approx((6 / 512) ** 0.5 / 2**0.5, rel=0.01)
    assert model.decoder[1].attention.output.weight.abs().max().item() == pytest.approx((6 / 512) ** 0.5, rel=0.01)  # type: ignore[union-attr]
    assert all(not p.any() for name, p in model.named_parameters() if name.endswith("bias"))
    # The paper's table 3: 65 and 213 million, with 37,000 subwords.
    for name, millions in (("base", 65), ("big", 213)):
        with torch.device("meta"):
            count = sum(parameter.numel() for parameter in Transformer(SIZES[name], 37_000).parameters())
        assert count / 1e6 == pytest.approx(millions, rel=0.03)


def forward_operations(size: TransformerSize, vocabulary: int, source: int, target: int) -> int:
    """Of a pair, in matrix products: 2 for each multiplication and addition."""
    width, inner = size.width, size.feed_forward
    encoder = source * (8 * width**2 + 4 * width * inner) + 4 * source**2 * width
    projections = target * (12 * width**2 + 4 * width * inner) + 4 * source * width**2
    decoder = projections + 4 * target**2 * width + 4 * target * source * width
    return size.layers * (encoder + decoder) + 2 * target * width * vocabulary


def test_torchs_counter_knows_all_operations() -> None:
    """Also those of the operators that only CPUs have; a backward pass has twice as many as a forward pass."""
    size = SIZES["tiny"]
    model = Transformer(size, 1000, PAD)
    source, target = torch.randint(4, 1000, (8, 30)), torch.randint(4, 1000, (8, 25))
    with FlopCounterMode(display=False) as counter:
        model(source, target, target, 0.1).total.backward()
    expected = 3 * 8 * forward_operations(size, 1000, 30, 25)
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.03)


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple"):
        TransformerSize(2, 100, 8, 64)
    with pytest.raises(ValueError, match="at least 1"):
        TransformerSize(0, 64, 8, 64)
    with pytest.raises(ValueError, match="dropout"):
        TransformerSize(2, 64, 8, 64, 1.0)


@pytest.mark.parametrize("pre_norm", [True, False])
def test_it_learns_pairs_by_heart(pre_norm: bool) -> None:
    """Sentences turned round; and beam search gives back exactly what was learned."""
    torch.manual_seed(1)
    model = Transformer(TransformerSize(1, 48, 4, 96, 0.0, pre_norm), 16, PAD)
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(2, 6, (64,), generator=generator).tolist()
    words = [torch.randint(4, 16, (length,), generator=generator).tolist() for length in lengths]
    source, before, after = torch.zeros(64, 6, dtype=torch.int64), torch.zeros(64, 6, dtype=torch.int64), None
    after = torch.zeros(64, 6, dtype=torch.int64)
    for row, sentence in enumerate(words):
        turned = sentence[::-1]
        source[row, : len(sentence) + 1] = torch.tensor([*sentence, EOS])
        before[row, : len(sentence) + 1] = torch.tensor([BOS, *turned])
        after[row, : len(sentence) + 1] = torch.tensor([*turned, EOS])
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    loss = math.inf
    for _ in range(300):
        found = model(source, before, after)
        mean = found.total / found.tokens
        optimizer.zero_grad()
        mean.backward()
        optimizer.step()
        loss = mean.item()
        if loss < 0.02:
            break
    assert loss < 0.02
    assert found.correct == found.tokens
    hypotheses = beam_search(model.eval(), source, beam=3, alpha=0.6)
    assert [one[0].tokens for one in hypotheses] == [sentence[::-1] for sentence in words]
