"""``python -m benchmarks.translation_speed``: target tokens per second of training a Transformer, beside fairseq's own.

All contestants (same size, optimizer, precision and dropout) take turns in one process on the same batches, in an order
that turns round from round to round, so that a machine whose speed drifts slows all of them alike. A round's time
covers everything of an update: forward and backward pass, step of the optimizer, and with fairseq what its Trainer does
beside these. The ratio is the median over the rounds of the ratio within a round, to the fastest way to train with
fairseq.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from asgc import optimizers
from evaluation.cli.errors import UserError, main_guard
from evaluation.runs.hardware import keep_freed_memory, select_device, select_precision, select_threads, torch_threads
from supervised import backends
from supervised.text.batches import TextBatch, collate, make_batches
from supervised.text.losses import TokenLoss, label_smoothed_loss
from supervised.text.subwords import PAD, UNK
from supervised.text.transformer import SIZES, Transformer

BURN_IN = 2  # updates
LABEL_SMOOTHING = 0.1
LR = 1e-4


@dataclass(frozen=True)
class Setting:
    """What is the same for all.

    Attributes:
        size: one of `supervised.text.transformer.SIZES`.
        vocabulary: subwords.
        optimizer: registered name, with its defaults.
        precision: fp32, or bf16: autocast.
        device: where.
    """

    size: str
    vocabulary: int
    optimizer: str
    precision: str
    device: torch.device


@dataclass(frozen=True)
class Contestant:
    """Somebody who trains.

    Attributes:
        update: learns from one batch.
        model: what learns.
        fairseq: whether it is a way to train with fairseq.
    """

    name: str
    update: Callable[[TextBatch], Any]
    model: nn.Module
    fairseq: bool = False


@dataclass(frozen=True)
class Turn:
    """What a round took: wall seconds, seconds of all cores."""

    seconds: float
    cpu_seconds: float


def in_our_loop(
    name: str, model: nn.Module, loss: Callable[[nn.Module, TextBatch], TokenLoss], setting: Setting
) -> Contestant:
    """A model in this toolkit's kind of update."""
    model = model.to(setting.device).train()
    optimizer = optimizers.build(setting.optimizer, model.parameters(), lr=LR)

    def update(batch: TextBatch) -> None:
        with torch.autocast(setting.device.type, torch.bfloat16, enabled=setting.precision == "bf16"):
            sums = loss(model, batch)
        (sums.total / sums.tokens).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return Contestant(name, update, model)


def ours(setting: Setting) -> Contestant:
    """This toolkit's model."""
    model = Transformer(SIZES[setting.size], setting.vocabulary, PAD)
    return in_our_loop("asgc-sup", model, lambda model, batch: model(*batch, LABEL_SMOOTHING), setting)


def fairseq_model(setting: Setting) -> Contestant:
    """fairseq's model without its Trainer: what of a difference is the Trainer's."""

    def loss(model: nn.Module, batch: TextBatch) -> TokenLoss:
        logits = model(batch.source, batch.target_input)
        return label_smoothed_loss(logits, batch.target_output, LABEL_SMOOTHING, PAD)

    return in_our_loop("fairseq's model in our loop", _engine(setting, "fp32").model, loss, setting)


def _engine(setting: Setting, precision: str) -> Any:
    fairseq = backends.load("fairseq")
    return fairseq.Engine(
        setting.vocabulary,
        SIZES[setting.size],
        optimizer=setting.optimizer,
        lr=LR,
        label_smoothing=LABEL_SMOOTHING,
        device=setting.device,
        precision=precision,
    )


def fairseqs(setting: Setting) -> list[Contestant]:
    """fairseq's model in fairseq's Trainer; in bf16 also with its own kind of that, a model in bf16."""
    found = []
    for precision in [setting.precision, *(["bf16-weights"] if setting.precision == "bf16" else [])]:
        engine = _engine(setting, precision)
        update = _updates(engine)
        found.append(Contestant(f"fairseq, {precision}", update, engine.model, fairseq=True))
    return found


def _updates(engine: Any) -> Callable[[TextBatch], Any]:
    return lambda batch: engine.update([batch])


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def made_up(pairs: int, vocabulary: int, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Sentence pairs as long as WMT14's are (a mean of 29 subwords, up to 100), of subwords drawn at random."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(3.2, 0.6, pairs), 2, 100)
    targets = np.clip(lengths * rng.lognormal(0.0, 0.15, pairs), 2, 100)
    sentences = [[rng.integers(UNK + 1, vocabulary, size=round(n)) for n in side] for side in (lengths, targets)]
    return sentences[0], sentences[1]


def prepared(folder: Path, pairs: int) -> tuple[list[np.ndarray], list[np.ndarray], int]:
    """The first pairs of a folder of `asgc-sup data prepare`, and its subwords. `UserError` where it holds none."""
    from supervised.text.token_files import TokenPairs, read_vocabulary

    train = TokenPairs(folder, "train")
    chosen = range(min(pairs, len(train)))
    return [train.source(i) for i in chosen], [train.target(i) for i in chosen], len(read_vocabulary(folder))


def batches_of(
    sources: Sequence[np.ndarray], targets: Sequence[np.ndarray], tokens: int, count: int, seed: int = 0
) -> list[TextBatch]:
    """`count` batches of so many tokens, of all lengths."""
    source_lengths, target_lengths = (np.array([len(one) for one in side]) for side in (sources, targets))
    made = make_batches(source_lengths, target_lengths, tokens, seed)
    if len(made) < count:
        raise UserError(
            f"{len(sources)} pairs give {len(made)} batches of {tokens} tokens: fewer --updates or --tokens"
        )
    chosen = np.random.default_rng(seed).choice(len(made), count, replace=False)
    return [collate([sources[i] for i in made[k]], [targets[i] for i in made[k]]) for k in chosen]


def measure(
    contestants: Sequence[Contestant], batches: Sequence[TextBatch], rounds: int, device: torch.device
) -> list[list[Turn]]:
    """What each contestant took in each round; a round is one update on each batch."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for contestant in contestants:
        for batch in batches[:BURN_IN]:
            contestant.update(batch)
    turns: list[list[Turn]] = [[] for _ in contestants]
    for number in range(rounds):
        first = number % len(contestants)
        for i in [*range(first, len(contestants)), *range(first)]:
            wait()
            cpu, start = time.process_time(), time.perf_counter()
            for batch in batches:
                contestants[i].update(batch)
            wait()
            turns[i].append(Turn(time.perf_counter() - start, time.process_time() - cpu))
    return turns


def report(contestants: Sequence[Contestant], turns: Sequence[Sequence[Turn]], tokens: int) -> str:
    """The table of medians, and the ratio of everyone else to the fastest fairseq, the last contestant's last.

    On a machine with other work, processor time tells more than time: it does not count while others have the core.
    """
    rates = [[tokens / turn.seconds for turn in row] for row in turns]
    width = max(len(contestant.name) for contestant in contestants)
    lines = [
        f"{contestant.name:{width}}  {statistics.median(rate):9,.0f} tokens/s  (min {min(rate):,.0f}, "
        f"max {max(rate):,.0f})  {_count(contestant.model) / 1e6:.1f}M parameters"
        for contestant, rate in zip(contestants, rates, strict=True)
    ]
    theirs = [row for contestant, row in zip(contestants, turns, strict=True) if contestant.fairseq]
    best = min(theirs, key=lambda row: statistics.median(turn.seconds for turn in row))
    for contestant, row in zip(contestants, turns, strict=True):
        if not contestant.fairseq:
            wall = statistics.median(b.seconds / a.seconds for a, b in zip(row, best, strict=True))
            cpu = statistics.median(b.cpu_seconds / a.cpu_seconds for a, b in zip(row, best, strict=True))
            lines.append(f"{contestant.name}: {cpu:.2f}x by processor time; ratio: {wall:.2f}x")
    return "\n".join(lines)


@main_guard
def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.translation_speed", description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="small", help="of the Transformer [small]")
    parser.add_argument("--tokens", type=int, default=2048, help="of a batch [2048]")
    parser.add_argument("--vocabulary", type=int, default=8000, help="subwords, without --data [8000]")
    parser.add_argument("--data", type=Path, help="folder of `asgc-sup data prepare`; else pairs are made up")
    parser.add_argument("--optimizer", choices=optimizers.names(), default="asgc", help="of all [asgc]")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N [auto]")
    parser.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="auto", help="[auto]")
    parser.add_argument("--threads", type=int, help="torch's [free cores]")
    parser.add_argument("--updates", type=int, default=4, help="of each in a round [4]")
    parser.add_argument("--rounds", type=int, default=5, help="in turns [5]")
    options = parser.parse_args(argv)
    device = select_device(options.device)
    precision = select_precision(options.precision, device)
    pairs = 40 * options.updates * max(1, options.tokens // 20)
    if options.data is None:
        vocabulary = options.vocabulary
        sources, targets = made_up(pairs, vocabulary)
    else:
        sources, targets, vocabulary = prepared(options.data, pairs)
    setting = Setting(options.size, vocabulary, options.optimizer, precision, device)
    batches = batches_of(sources, targets, options.tokens, options.updates)
    there = [TextBatch(*(tensor.to(device) for tensor in batch)) for batch in batches]
    keep_freed_memory()  # in all of them
    threads = select_threads(options.threads)
    with torch_threads(threads):
        where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {threads} threads"
        tokens = sum(int(batch.target_output.ne(PAD).sum()) for batch in batches)
        print(
            f"Transformer {options.size}, {vocabulary} subwords, {options.optimizer}, {precision}; torch "
            f"{torch.__version__}, {where}; {options.rounds} rounds of {options.updates} updates on {tokens:,} target "
            "tokens in all",
            flush=True,
        )
        contestants = [*fairseqs(setting), fairseq_model(setting), ours(setting)]
        print(report(contestants, measure(contestants, there, options.rounds, device), tokens))


if __name__ == "__main__":
    sys.exit(main())
