"""The encoder-decoder Transformer (Vaswani et al. 2017, arXiv 1706.03762), for training and for step by step decoding.

Shapes: B sentences, S source and T target positions, D width, H heads, d = D / H, V vocabulary. Sentences are padded
on the right. Source, target and output embeddings are one matrix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supervised.text.fast_cpu import Linear, add_dropped, dropped, linear
from supervised.text.losses import TokenLoss, projected_loss

Heads = tuple[Tensor, Tensor]  # keys and values, (B, H, positions, d) each


@dataclass(frozen=True)
class TransformerSize:
    """What a Transformer is made of.

    Attributes:
        layers: of the encoder, and as many of the decoder.
        width: of embeddings and hidden states.
        heads: of attention; they divide the width.
        feed_forward: inner width of the feed-forward blocks.
        dropout: of embeddings and of what each block adds to the residual stream.
        pre_norm: layer normalization before each block and at the end, which trains at higher rates and without
            warm-up; False: after each residual sum, as in the paper.
        attention_dropout: of attention weights.
        relu_dropout: of the inner activations of the feed-forward blocks.
    """

    layers: int
    width: int
    heads: int
    feed_forward: int
    dropout: float = 0.1
    pre_norm: bool = False
    attention_dropout: float = 0.0
    relu_dropout: float = 0.0

    def __post_init__(self) -> None:
        if min(self.layers, self.width, self.heads, self.feed_forward) < 1:
            raise ValueError(f"layers, width, heads and feed_forward are at least 1: {self}")
        rates = self.dropout, self.attention_dropout, self.relu_dropout
        if not all(0 <= rate < 1 for rate in rates):
            raise ValueError(f"rates of dropout are at least 0 and less than 1: {self}")
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} is not a multiple of twice the {self.heads} heads")


# base and big are the paper's (table 3).
SIZES = MappingProxyType(
    {
        "tiny": TransformerSize(2, 128, 4, 256, 0.1, pre_norm=True),
        "small": TransformerSize(3, 256, 4, 1024, 0.1, pre_norm=True),
        "base": TransformerSize(6, 512, 8, 2048, 0.1),
        "big": TransformerSize(6, 1024, 16, 4096, 0.3),
    }
)


class Transformer(nn.Module):
    """A Transformer over one joint vocabulary.

    Args:
        size: its dimensions.
        vocabulary: number of tokens V.
        pad: the token that fills up sentences; as a source it is not attended to, as a label it is not learned.
    """

    def __init__(self, size: TransformerSize, vocabulary: int, pad: int = 0) -> None:
        super().__init__()
        self.size, self.pad = size, pad
        self.embedding = nn.Embedding(vocabulary, size.width)
        self.encoder = nn.ModuleList(EncoderLayer(size) for _ in range(size.layers))
        self.decoder = nn.ModuleList(DecoderLayer(size) for _ in range(size.layers))
        self.encoder_norm = nn.LayerNorm(size.width) if size.pre_norm else nn.Identity()
        self.decoder_norm = nn.LayerNorm(size.width) if size.pre_norm else nn.Identity()
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """As fairseq: Xavier's uniform distribution for projections (those of queries, keys and values each by itself,
        with gain 1/sqrt(2)), embeddings N(0, 1/D) with 0 for padding; all biases 0."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
                nn.init.xavier_uniform_(module.weight)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        for module in self.modules():
            if isinstance(module, SelfAttention | CrossAttention):
                module.reset_parameters()
        nn.init.normal_(self.embedding.weight, std=self.size.width**-0.5)
        nn.init.zeros_(self.embedding.weight[self.pad])

    def forward(
        self, source: Tensor, target: Tensor, labels: Tensor | None = None, smoothing: float = 0.0
    ) -> Tensor | TokenLoss:
        """Logits of the token after each target position; with labels, their loss instead, which never holds all logits
        at once.

        Args:
            source: tokens, (B, S), int64.
            target: tokens that the decoder reads, (B, T): a begin, then the sentence.
            labels: tokens that it should predict, (B, T): the sentence, then an end; padding is not counted.
            smoothing: of the labels, see `losses`.

        Returns:
            Logits, (B, T, V), or the sums of `TokenLoss`.
        """
        memory, mask = self.encode(source)
        x = self._embed(target)
        for layer in self.decoder:
            x = layer(x, memory, mask)
        x = self.decoder_norm(x)
        if labels is None:
            return self.project(x)
        return projected_loss(x, self.embedding.weight, labels, smoothing, self.pad)

    def encode(self, source: Tensor) -> tuple[Tensor, Tensor | None]:
        """Hidden states of the source, (B, S, D), and where they may be attended to, (B, 1, 1, S), or None: everywhere.

        With a mask `scaled_dot_product_attention` has no flash kernel on a GPU and takes the memory-efficient one, for
        which a boolean mask is first turned into one of numbers; so there is none where it costs no synchronization to
        know that nothing is padded.
        """
        mask: Tensor | None = (source != self.pad)[:, None, None, :]
        if source.device.type == "cpu" and not torch.compiler.is_compiling() and bool(mask.all()):  # type: ignore[union-attr]
            mask = None
        x = self._embed(source)
        for layer in self.encoder:
            x = layer(x, mask)
        return self.encoder_norm(x), mask

    def project(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states."""
        return linear(hidden, self.embedding.weight)

    def start(self, source: Tensor) -> DecoderState:
        """Read sources (B, S), to decode one target for each of them."""
        memory, mask = self.encode(source)
        heads = [layer.cross_attention.heads_of(memory) for layer in self.decoder]  # type: ignore[union-attr, operator]
        shape = (len(self.decoder), 2, len(source), self.size.heads, 0, self.size.width // self.size.heads)
        return DecoderState(heads, mask, memory.new_empty(shape, dtype=heads[0][0].dtype), 0)

    def next(self, tokens: Tensor, state: DecoderState) -> Tensor:
        """Logits (N, V) of the token after `tokens` (N,), the next ones of the state's N targets, which it takes in."""
        x = self._embed(tokens[:, None], state.length)
        state.grow()
        for index, layer in enumerate(self.decoder):
            x = layer(x, state.memory[index], state.mask, state.slot(index))
        state.length += 1
        return self.project(self.decoder_norm(x))[:, 0]

    def _embed(self, tokens: Tensor, start: int = 0) -> Tensor:
        x = self.embedding(tokens) * math.sqrt(self.size.width)
        positions = sinusoids(start, tokens.shape[1], self.size.width, tokens.device)
        x = x + positions.to(x.dtype)
        return dropped(x, self.size.dropout) if self.training and self.size.dropout else x


class DecoderState:
    """What was decoded of N targets, N / B in a row for each of the B sources.

    Attributes:
        memory: of each layer, heads of the sources.
        mask: as `Transformer.encode` gives it.
        cache: keys and values of the target positions, with room for more, (layers, 2, N, H, room, d).
        length: target positions that are taken in.
    """

    def __init__(self, memory: list[Heads], mask: Tensor | None, cache: Tensor, length: int) -> None:
        self.memory, self.mask, self.cache, self.length = memory, mask, cache, length

    def select(self, rows: Tensor, sources: Tensor | None = None) -> None:
        """Go on with these targets, in this order, and with these sources alone.

        Args:
            rows: an index for each target to go on with: as many for each source, and those of a source in a row.
            sources: indices of the sources that stay; None: all.
        """
        self.cache = self.cache[..., : self.length, :].index_select(2, rows)
        if sources is not None:
            self.memory = [(keys[sources], values[sources]) for keys, values in self.memory]
            self.mask = None if self.mask is None else self.mask[sources]

    def grow(self) -> None:
        """Make room for another position: not for each one anew."""
        if self.length == self.cache.shape[-2]:
            self.cache = F.pad(self.cache, (0, 0, 0, 8 + self.length // 2))

    def slot(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer up to the position that comes next, (N, H, length + 1, d) each, to write into."""
        keys, values = self.cache[layer, ..., : self.length + 1, :]
        return keys, values


class SelfAttention(nn.Module):
    """Attention of a sequence to itself, with one projection for queries, keys and values."""

    def __init__(self, size: TransformerSize) -> None:
        super().__init__()
        self.heads, self.dropout = size.heads, size.attention_dropout
        self.query_key_value = Linear(size.width, 3 * size.width)
        self.output = Linear(size.width, size.width)

    def reset_parameters(self) -> None:
        _xavier_parts(self.query_key_value.weight, 3)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, causal: bool = False, slot: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Attention over x (B, T, D); with a slot x is the next position alone, and is written there."""
        queries, keys, values = _split(self.query_key_value(x), 3, self.heads)
        if slot is not None:
            slot[0][..., -1:, :], slot[1][..., -1:, :] = keys, values
            keys, values = slot
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(queries, keys, values, mask, dropout, is_causal=causal)
        return self.output(y.transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Attention of the decoder to the encoder's hidden states, with one projection for keys and values."""

    def __init__(self, size: TransformerSize) -> None:
        super().__init__()
        self.heads, self.dropout = size.heads, size.attention_dropout
        self.query = Linear(size.width, size.width)
        self.key_value = Linear(size.width, 2 * size.width)
        self.output = Linear(size.width, size.width)

    def reset_parameters(self) -> None:
        _xavier_parts(self.query.weight, 1)
        _xavier_parts(self.key_value.weight, 2)

    def heads_of(self, memory: Tensor) -> Heads:
        """Keys and values of hidden states (B, S, D)."""
        keys, values = _split(self.key_value(memory), 2, self.heads)
        return keys, values

    def forward(self, x: Tensor, memory: Tensor | Heads, mask: Tensor | None) -> Tensor:
        """Attention of x (B, T, D), or of N targets' next positions (N, 1, D), where N / B targets have a source."""
        keys, values = self.heads_of(memory) if isinstance(memory, Tensor) else memory
        # The targets of a source are like positions of one: its keys and values are not copied for each of them.
        (queries,) = _split(self.query(x).view(len(keys), -1, x.shape[-1]), 1, self.heads)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(queries, keys, values, mask, dropout)
        return self.output(y.transpose(1, 2).reshape(x.shape))


class FeedForward(nn.Sequential):
    """Two projections with a ReLU between them."""

    def __init__(self, size: TransformerSize) -> None:
        inner, outer = Linear(size.width, size.feed_forward), Linear(size.feed_forward, size.width)
        super().__init__(inner, nn.ReLU(inplace=True), nn.Dropout(size.relu_dropout), outer)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = super().forward(x.flatten(0, -2))  # a matrix, so that no view is changed in place
        return y.view(x.shape)


class Residual(nn.Module):
    """What is around each block: dropout, the residual sum, layer normalization."""

    def __init__(self, size: TransformerSize) -> None:
        super().__init__()
        self.pre_norm = size.pre_norm
        self.norm = nn.LayerNorm(size.width)
        self.dropout = size.dropout

    def before(self, x: Tensor) -> Tensor:
        """What the block gets."""
        return self.norm(x) if self.pre_norm else x

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        """The sum of x and the block's output y."""
        x = add_dropped(x, y, self.dropout) if self.training and self.dropout else x + y
        return x if self.pre_norm else self.norm(x)


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward."""

    def __init__(self, size: TransformerSize) -> None:
        super().__init__()
        self.attention, self.attention_residual = SelfAttention(size), Residual(size)
        self.feed_forward, self.feed_forward_residual = FeedForward(size), Residual(size)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        around = self.attention_residual
        x = around.after(x, self.attention(around.before(x), mask))
        around = self.feed_forward_residual
        return around.after(x, self.feed_forward(around.before(x)))


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the source, feed-forward.

    Padding of the target needs no mask: it comes last, so what counts does not see it.
    """

    def __init__(self, size: TransformerSize) -> None:
        super().__init__()
        self.attention, self.attention_residual = SelfAttention(size), Residual(size)
        self.cross_attention, self.cross_residual = CrossAttention(size), Residual(size)
        self.feed_forward, self.feed_forward_residual = FeedForward(size), Residual(size)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | Heads,
        mask: Tensor | None,
        slot: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        around = self.attention_residual
        x = around.after(x, self.attention(around.before(x), causal=slot is None, slot=slot))
        around = self.cross_residual
        x = around.after(x, self.cross_attention(around.before(x), memory, mask))
        around = self.feed_forward_residual
        return around.after(x, self.feed_forward(around.before(x)))


def sinusoids(start: int, length: int, width: int, device: torch.device) -> Tensor:
    """Encodings of the positions from `start` (section 3.5), (length, width): sines, then cosines, of wavelengths from
    2 pi to 20000 pi. Computed when needed, so that no length is too great."""
    half = width // 2
    rates = torch.exp(torch.arange(half, device=device) * (-math.log(10_000.0) / max(1, half - 1)))
    angles = torch.arange(start, start + length, device=device)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def _split(x: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """(B, T, parts D) as `parts` tensors (B, H, T, d), without a copy."""
    return tuple(part.transpose(1, 2) for part in x.unflatten(-1, (parts, heads, -1)).unbind(2))


def _xavier_parts(weight: Tensor, parts: int) -> None:
    for part in weight.chunk(parts):
        nn.init.xavier_uniform_(part, gain=2**-0.5)
