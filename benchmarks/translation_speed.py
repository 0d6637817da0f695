"""Target tokens per second of training a Transformer, beside fairseq's own.

All contestants (same size, optimizer, precision and dropout) take turns in one process on the same batches. A round's
time covers everything of an update: forward and backward pass, step of the optimizer, and with fairseq what its Trainer
does beside these. The ratio is the median over the rounds of the ratio within a round, to the fastest way to train with
fairseq.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from asgc import optimizers
from benchmarks import turns
from benchmarks.made_up import sentences
from benchmarks.turns import Turn
from evaluation.cli.errors import UserError, tell
from evaluation.cli.values import suggestion
from evaluation.runs.hardware import keep_freed_memory, select_device, select_precision, select_threads, torch_threads
from supervised import backends
from supervised.text.batches import TextBatch, collate, make_batches
from supervised.text.losses import TokenLoss, label_smoothed_loss
from supervised.text.subwords import PAD
from supervised.text.transformer import SIZES, Transformer

BURN_IN = 2  # updates
LABEL_SMOOTHING = 0.1
LR = 1e-4
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "mkldnn::_linear_pointwise")  # as the profiler calls them
VOCABULARY = 8000  # subwords, where none are asked for


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
        update: learns from one batch of so many target tokens.
        model: what learns.
        fairseq: whether it is a way to train with fairseq.
    """

    name: str
    update: Callable[[TextBatch, int], Any]
    model: nn.Module
    fairseq: bool = False


def in_our_loop(
    name: str, model: nn.Module, loss: Callable[[nn.Module, TextBatch], TokenLoss], setting: Setting
) -> Contestant:
    """A model in this toolkit's kind of update."""
    model = model.to(setting.device).train()
    optimizer = optimizers.build(setting.optimizer, model.parameters(), lr=LR)

    def update(batch: TextBatch, _: int) -> None:
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


def _updates(engine: Any) -> Callable[[TextBatch, int], Any]:
    return lambda batch, tokens: engine.update([batch], [tokens])


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


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
        few = f"{len(sources)} pairs give {len(made)} batches of {tokens} tokens"
        raise UserError(f"{few}: fewer --updates or a smaller --batch-size")
    chosen = np.random.default_rng(seed).choice(len(made), count, replace=False)
    return [collate([sources[i] for i in made[k]], [targets[i] for i in made[k]]) for k in chosen]


def measure(
    contestants: Sequence[Contestant],
    batches: Sequence[TextBatch],
    tokens: Sequence[int],
    rounds: int,
    device: torch.device,
) -> list[list[Turn]]:
    """What each contestant took in each round; a round is one update on each batch, of so many target tokens."""

    def job(contestant: Contestant, count: int) -> Callable[[int], None]:
        def train(_: int) -> None:
            for batch, its in zip(batches[:count], tokens, strict=False):
                contestant.update(batch, its)

        return train

    for contestant in contestants:
        job(contestant, BURN_IN)(0)
    return turns.take_turns([job(contestant, len(batches)) for contestant in contestants], rounds, device)


def products(contestant: Contestant, batches: Sequence[TextBatch], tokens: Sequence[int], device: torch.device) -> str:
    """What share of a round's time, of the operators of torch, is that of matrix products: in words."""
    activity = torch.profiler.ProfilerActivity
    of_gpu = [activity.CUDA] if device.type == "cuda" else []
    with torch.profiler.profile(activities=[activity.CPU, *of_gpu]) as profile:
        for batch, its in zip(batches, tokens, strict=True):
            contestant.update(batch, its)
    times: dict[str, float] = {}
    for event in profile.key_averages():
        times[event.key] = event.self_device_time_total if of_gpu else event.self_cpu_time_total
    share = sum(times.get(name, 0.0) for name in PRODUCTS) / sum(times.values())
    return f"{contestant.name}: {share:.0%} of the time is matrix products (of an update under the profiler)"


def report(contestants: Sequence[Contestant], found: Sequence[Sequence[Turn]], tokens: int) -> str:
    """The table of medians, and the ratio of everyone else to the fastest fairseq, the last contestant's last.

    Args:
        tokens: of a round.
    """
    width = max(len(contestant.name) for contestant in contestants)
    lines = [
        f"{one.name:{width}}  {turns.rate(row, tokens, 'tokens')}  {_count(one.model) / 1e6:.1f}M parameters"
        for one, row in zip(contestants, found, strict=True)
    ]
    others = [row for one, row in zip(contestants, found, strict=True) if one.fairseq]
    lines += [
        f"{one.name}: {turns.ratios(row, others)}"
        for one, row in zip(contestants, found, strict=True)
        if not one.fairseq
    ]
    return "\n".join(lines)


def compare(
    *,
    data: Path | None,
    size: str,
    optimizer: str,
    batch_size: int,
    vocabulary: int | None,
    precision: str,
    device: str,
    threads: int | None,
    updates: int,
    rounds: int,
    profile: bool = False,
) -> None:
    """Measure so many rounds of so many updates of each and print; the last line ends with `ratio: N.NNx`.

    Args:
        data: folder of `asgc-sup data prepare`; None: pairs are made up.
        size: of the Transformer.
        optimizer: of all, with its defaults.
        batch_size: tokens.
        vocabulary: subwords of what is made up.
        profile: whether to tell the share of matrix products.

    Raises:
        UserError: fairseq is missing, or the data; no such size.
    """
    if importlib.util.find_spec("fairseq") is None:
        raise UserError("translation is measured beside fairseq, which is not installed: pip install 'asgc[fairseq]'")
    if size not in SIZES:
        raise UserError(f"--model {size}: no size of the Transformer{suggestion(size, tuple(SIZES))}")
    where = select_device(device)
    count = 40 * updates * max(1, batch_size // 20)
    if data is None:
        vocabulary = vocabulary or VOCABULARY
        sources, targets = sentences(count, vocabulary)
    else:
        sources, targets, vocabulary = prepared(data, count)
    setting = Setting(size, vocabulary, optimizer, select_precision(precision, where), where)
    batches = batches_of(sources, targets, batch_size, updates)
    there = [TextBatch(*(tensor.to(where) for tensor in batch)) for batch in batches]
    keep_freed_memory()  # in all of them
    count = select_threads(threads)
    with torch_threads(count):
        machine = torch.cuda.get_device_name(where) if where.type == "cuda" else f"CPU, {count} threads"
        tokens = [int(batch.target_output.ne(PAD).sum()) for batch in batches]
        print(
            f"Transformer {size}, {vocabulary} subwords, {optimizer}, {setting.precision}; torch {torch.__version__}, "
            f"{machine}; {rounds} rounds of {updates} updates in turns on {sum(tokens):,} target tokens in all",
            flush=True,
        )
        loaded = turns.load(count)
        contestants = [*fairseqs(setting), fairseq_model(setting), ours(setting)]
        found = measure(contestants, there, tokens, rounds, where)
        for one in contestants if profile else ():
            print(products(one, there, tokens, where))
    print(report(contestants, found, sum(tokens)))
    if loaded:
        tell(loaded)
