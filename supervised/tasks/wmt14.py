"""Translation: WMT14 English-German, or any parallel text, with the Transformer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from evaluation.cli.errors import UserError
from evaluation.cli.values import suggestion
from evaluation.runs import seeding
from evaluation.runs.watchers import Column
from supervised.config import TrainConfig
from supervised.distributed import Group
from supervised.order import BatchOrder, Indices, share
from supervised.tasks.task import Batch, Loss, Scores, Task
from supervised.text import opened
from supervised.text.batches import collate, make_batches
from supervised.text.beam_search import beam_search
from supervised.text.bleu import scores as bleu_scores
from supervised.text.subwords import PAD
from supervised.text.token_files import TokenPairs
from supervised.text.transformer import SIZES, Transformer, label_smoothed_loss

SUBSET = "train_subset"
FILES = {"validation": "valid", SUBSET: "train", "test": "test"}
MAX_RATIO, MAX_MORE = 1.2, 10  # of a translation's subwords to its source's


class WMT14(Task):
    """Translates sentences of one language to the other. `batch_size` and `device_batch` are target tokens."""

    item = "target tokens"
    things = "sentences"
    columns: ClassVar[tuple[Column, ...]] = (Column("accuracy", "accuracy", "right subwords", ".1%"),)
    others = ("test",)

    def __init__(self, config: TrainConfig, group: Group, message: Callable[[str], None]) -> None:
        super().__init__(config, group, message)
        self._data = opened.open_data(config, group, message)
        self._train = self._data.pairs("train", limit=config.data.train_size)
        source, target = self._train.source_lengths, self._train.target_lengths
        batches = make_batches(source, target, config.batch_size, seeding.derive(config.seed, "batches"))
        self.order = BatchOrder(batches, [int(target[batch].sum()) for batch in batches], config.seed)

    @staticmethod
    def build(config: TrainConfig, facts: Mapping[str, Any]) -> nn.Module:
        name = config.model.name or ""
        if name not in SIZES:
            raise UserError(f"--model {name}: no size of the Transformer{suggestion(name, tuple(SIZES))}")
        size = dataclasses.replace(SIZES[name], pre_norm=config.model.pre_norm)
        if config.model.dropout is not None:
            size = dataclasses.replace(size, dropout=config.model.dropout)
        return Transformer(size, facts["vocabulary_size"])

    def facts(self) -> dict[str, Any]:
        return {"vocabulary_size": self._data.vocabulary_size, "vocabulary": self._data.vocabulary_digest}

    # Training -------------------------------------------------------------------------------------------------------

    def fetch(self, indices: Indices, epoch: int) -> Batch:
        return _batch(self._train, indices)

    def passes(self, indices: Indices) -> int:
        limit = self.config.device_batch
        if limit is None:
            return 1
        mine = share(indices, 0, self.group.ranks)
        widest = int(max(self._train.source_lengths[indices].max(), self._train.target_lengths[indices].max()))
        return max(1, min(-(-len(mine) * widest // limit), len(indices) // self.group.ranks))

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        source, before, after = batch
        smoothed = label_smoothed_loss(model(source, before), after, self.config.label_smoothing, PAD)
        return Loss(smoothed.total, {"nll": smoothed.nll, "accuracy": smoothed.correct})

    # Evaluation -----------------------------------------------------------------------------------------------------

    def size(self, split: str) -> int:
        return len(self._chosen(split, final=True))

    def evaluate(self, model: nn.Module, split: str, *, final: bool, tell: Callable[[int, int], None]) -> Scores:
        chosen, settings = self._chosen(split, final), self.config.evaluation
        sums = self._forced(model, split, chosen, tell)
        total, nll, correct, tokens = sums.tolist()
        values = {"nll": nll / tokens, "perplexity": float(np.exp(min(nll / tokens, 700.0)))}
        values["accuracy"] = 100 * correct / tokens
        count = f"{len(chosen):,} sentences"
        if settings.metric == "accuracy":
            return Scores(values["accuracy"], values, f"% of right subwords, {count}")
        if settings.metric == "likelihood":
            return Scores(-values["nll"], values, f"log-likelihood of a subword, {count}")
        translations, references = self._translated(model, split, chosen, tell)
        found = bleu_scores(translations, references)
        signatures = {"bleu_signature": found.bleu_signature, "chrf_signature": found.chrf_signature}
        return Scores(found.bleu, values | {"chrf": found.chrf}, f"BLEU of {count}", signatures)

    def signature(self) -> dict[str, Any]:
        settings = self.config.evaluation
        about = {"direction": self._data.direction, "metric": settings.metric}
        about |= {"subwords": self._data.vocabulary_size, "sentences": self.size("validation")}
        return about | ({"beam": settings.beam, "length_penalty": settings.length_penalty} if self._translates else {})

    @property
    def _translates(self) -> bool:
        return self.config.evaluation.metric == "bleu"

    @cached_property
    def _splits(self) -> dict[str, TokenPairs]:
        return {split: self._train if file == "train" else self._data.pairs(file) for split, file in FILES.items()}

    def _chosen(self, split: str, final: bool) -> Indices:
        """The sentences of a split that an evaluation takes."""
        pairs = self._splits[split]
        limit = self.config.evaluation.train_subset if split == SUBSET else self.config.evaluation.sentences
        if limit is None or (final and split != SUBSET):
            limit = len(pairs)
        if split == SUBSET:  # the same in all runs
            return np.sort(np.random.default_rng(0).permutation(len(pairs))[:limit])
        return np.arange(min(limit, len(pairs)))

    def _forced(self, model: nn.Module, split: str, chosen: Indices, tell: Callable[[int, int], None]) -> Tensor:
        """Sums of loss, negative log-likelihood and right subwords over the target tokens, and their number."""
        pairs, device = self._splits[split], next(model.parameters()).device
        lengths = pairs.source_lengths[chosen], pairs.target_lengths[chosen]
        sums, done = torch.zeros(4, dtype=torch.float64, device=device), 0
        batches = make_batches(*lengths, self._evaluation_tokens, 0)
        for batch in batches[self.group.rank :: self.group.ranks]:
            source, before, after = (tensor.to(device) for tensor in _batch(pairs, chosen[batch]))
            one = label_smoothed_loss(model(source, before), after, 0.0, PAD)
            sums += torch.stack([one.total, one.nll, one.correct, one.tokens]).double()
            done += len(batch) * self.group.ranks
            tell(min(done, len(chosen)), len(chosen))
        return self.group.sum(sums)

    def _translated(
        self, model: nn.Module, split: str, chosen: Indices, tell: Callable[[int, int], None]
    ) -> tuple[list[str], list[str]]:
        """Translations of sentences and their references, in order, in every process."""
        assert isinstance(model, Transformer)
        pairs, settings = self._splits[split], self.config.evaluation
        lengths = pairs.source_lengths[chosen]
        found: dict[int, list[int]] = {}
        for batch in make_batches(lengths, lengths, self._evaluation_tokens, 0)[self.group.rank :: self.group.ranks]:
            sources = [pairs.source(i) for i in chosen[batch]]
            found |= zip(
                batch.tolist(), translate_ids(model, sources, settings.beam, settings.length_penalty), strict=True
            )
            tell(min(len(found) * self.group.ranks, len(chosen)), len(chosen))
        found = self.group.merged(found)
        texts = self._data.decode([found[k] for k in range(len(chosen))])
        return texts, self._data.references(FILES[split], chosen)

    @property
    def _evaluation_tokens(self) -> int:
        return self.config.evaluation.batch_size or self.config.device_batch or self.config.batch_size


def translate_ids(model: Transformer, sources: Sequence[Any], beam: int, length_penalty: float) -> list[list[int]]:
    """Translations of sentences of subwords (each ends with the end's), without begin and end."""
    device = next(model.parameters()).device
    source, _, _ = collate(sources, sources, PAD)
    found = beam_search(
        model,
        source.to(device),
        beam=beam,
        length_penalty=length_penalty,
        max_ratio=MAX_RATIO,
        max_more=MAX_MORE,
    )
    return [one.tokens for one in found]


def _batch(pairs: TokenPairs, indices: Indices) -> Batch:
    return collate([pairs.source(i) for i in indices], [pairs.target(i) for i in indices], PAD)
