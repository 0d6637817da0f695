"""Translation: WMT14 English-German, or any parallel text, with the Transformer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
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
from supervised.order import BatchOrder, Indices, first, share
from supervised.tasks.task import TRAIN_SUBSET, VALIDATION, Batch, Loss, Scores, Task
from supervised.text.batches import collate, make_batches
from supervised.text.losses import TokenLoss, label_smoothed_loss
from supervised.text.opened import PreparedText, open_text
from supervised.text.subwords import PAD
from supervised.text.token_files import VOCABULARY, TokenPairs
from supervised.text.transformer import SIZES, Transformer, TransformerSize

TEST = "test"
FILES = {VALIDATION: "valid", TRAIN_SUBSET: "train", TEST: "test"}  # of a run's splits, those of prepared text


class WMT14(Task):
    """Translates sentences of one language to the other. `batch_size` and `device_batch` are target tokens."""

    item = "target tokens"
    things = "sentences"
    columns: ClassVar[tuple[Column, ...]] = (Column("accuracy", "accuracy", "right subwords", ".1f"),)
    others: tuple[str, ...] = (TEST,)

    def __init__(self, config: TrainConfig, group: Group, message: Callable[[str], None]) -> None:
        super().__init__(config, group, message)
        size_of(config)  # before text is prepared, which takes its time
        self._text = self.open()
        files = FILES | {VALIDATION: config.evaluation.split}
        self.others = () if files[VALIDATION] == files[TEST] else (TEST,)
        self._splits = {split: self._text.pairs(file) for split, file in files.items()}
        if config.evaluation.metric == "bleu":
            self._check_what_bleu_needs()
        train = self._splits[TRAIN_SUBSET]
        if len(train) == 0:
            raise UserError(f"{self._text.folder} has no pairs to train on")
        self._chosen = first(len(train), config.data.train_size, "train_size")
        source, target = train.source_lengths[self._chosen], train.target_lengths[self._chosen]
        batches = make_batches(source, target, config.batch_size, seeding.derive(config.seed, "batches"))
        items = [int((target[batch] + 1).sum()) for batch in batches]  # with the end, which is learned, too
        self.order = BatchOrder([self._chosen[batch] for batch in batches], items, config.seed)

    def open(self) -> PreparedText:
        """The data that the options name."""
        return open_text(self.config.data)

    @staticmethod
    def build(config: TrainConfig, facts: Mapping[str, Any]) -> nn.Module:
        return Transformer(size_of(config), facts["subwords"], PAD)

    def facts(self) -> dict[str, Any]:
        return {
            "subwords": len(self._text.subwords),
            "vocabulary": self._text.subwords.digest,
            "direction": self._text.direction,
        }

    def keep(self, run: Path) -> None:
        if not (run / VOCABULARY).is_file():
            self._text.subwords.save(run / VOCABULARY)

    # Training -------------------------------------------------------------------------------------------------------

    def fetch(self, indices: Indices, epoch: int) -> Batch:
        return _batch(self._splits[TRAIN_SUBSET], indices)

    def passes(self, indices: Indices) -> int:
        limit = self.config.device_batch
        if limit is None:
            return 1
        mine = share(indices, 0, self.group.ranks)
        train = self._splits[TRAIN_SUBSET]
        widest = 1 + int(max(train.source_lengths[indices].max(), train.target_lengths[indices].max()))
        return max(1, min(-(-len(mine) * widest // limit), len(indices) // self.group.ranks))

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        found: TokenLoss = model(*batch, self.config.label_smoothing)
        return Loss(found.total, {"nll": found.nll, "accuracy": 100.0 * found.correct})

    # Evaluation -----------------------------------------------------------------------------------------------------

    def size(self, split: str) -> int:
        return len(self._part(split))

    def evaluate(self, model: nn.Module, split: str, *, final: bool, tell: Callable[[int, int], None]) -> Scores:
        chosen, settings = self._part(split), self.config.evaluation
        sums = self._forced(model, split, chosen, tell)
        nll, correct, tokens = self.group.sum(sums).tolist()
        values = {"nll": nll / tokens, "perplexity": float(np.exp(min(nll / tokens, 700.0)))}
        values["accuracy"] = 100 * correct / tokens
        count = f"{len(chosen):,} sentences"
        if settings.metric == "accuracy":
            return Scores(values["accuracy"], values, f"% of right subwords, {count}")
        if settings.metric == "likelihood":
            return Scores(-values["nll"], values, f"log-likelihood of a subword, {count}")
        from supervised.text.bleu import scores as bleu_scores

        translations = self._translated(model, split, chosen, tell)
        found = bleu_scores(translations, self._references(split, chosen))
        compared = None
        if split == VALIDATION and settings.train_subset:
            compared = bleu_scores(translations, self._spoken(split, chosen)).bleu
        signatures = {"bleu_signature": found.bleu_signature, "chrf_signature": found.chrf_signature}
        return Scores(found.bleu, values | {"chrf": found.chrf}, f"BLEU of {count}", signatures, compared)

    def signature(self) -> dict[str, Any]:
        settings = self.config.evaluation
        about = {"direction": self._text.direction, "metric": settings.metric, "subwords": len(self._text.subwords)}
        about |= {"split": settings.split, "backend": self.config.backend}
        about |= {"sentences": len(self._part(VALIDATION)), "training_pairs": len(self._chosen)}
        translated = {"beam": settings.beam, "length_penalty": settings.length_penalty}
        return about | (translated if settings.metric == "bleu" else {})

    def _part(self, split: str) -> Indices:
        """The sentences of a split that an evaluation takes."""
        settings = self.config.evaluation
        if split == TRAIN_SUBSET:
            return self._chosen[first(len(self._chosen), settings.train_subset, "train_subset")]
        return first(len(self._splits[split]), settings.sentences if split == VALIDATION else None, "sentences")

    def _forced(self, model: nn.Module, split: str, chosen: Indices, tell: Callable[[int, int], None]) -> Tensor:
        """Sums of negative log-likelihood and right subwords over this process's target tokens, and their number."""
        pairs, device = self._splits[split], next(model.parameters()).device
        lengths = pairs.source_lengths[chosen], pairs.target_lengths[chosen]
        sums, done = torch.zeros(3, dtype=torch.float64, device=device), 0
        batches = make_batches(*lengths, self._evaluation_tokens, 0)
        for batch in batches[self.group.rank :: self.group.ranks]:
            source, before, after = (tensor.to(device) for tensor in _batch(pairs, chosen[batch]))
            if isinstance(model, Transformer):
                one: TokenLoss = model(source, before, after)
            else:  # another library's, which knows no labels
                one = label_smoothed_loss(model(source, before), after, 0.0, PAD)
            sums += torch.stack([one.nll.double(), one.correct.double(), one.tokens.double()])
            done += len(batch) * self.group.ranks
            tell(min(done, len(chosen)), len(chosen))
        return sums

    def _translated(self, model: nn.Module, split: str, chosen: Indices, tell: Callable[[int, int], None]) -> list[str]:
        """Translations of sentences in order, in every process."""
        from supervised.text.translate import translate_tokens

        pairs, settings = self._splits[split], self.config.evaluation
        lengths = pairs.source_lengths[chosen]
        batches = make_batches(lengths, lengths, self._evaluation_tokens, 0)
        mine: dict[int, list[int]] = {}
        for batch in batches[self.group.rank :: self.group.ranks]:
            sources = [pairs.source(i) for i in chosen[batch]]
            found = translate_tokens(model, sources, settings.beam, settings.length_penalty)
            mine |= zip(batch.tolist(), found, strict=True)
            tell(min(len(mine) * self.group.ranks, len(chosen)), len(chosen))
        everyone = self.group.merged(mine)
        return self._text.subwords.decode(everyone[k] for k in range(len(chosen)))

    def _references(self, split: str, chosen: Indices) -> list[str]:
        """The text of the targets; of training pairs, of which none is kept, that of their subwords."""
        if split == TRAIN_SUBSET:
            return self._spoken(split, chosen)
        texts = self._splits[split].texts.target
        return [texts[i] for i in chosen]

    def _spoken(self, split: str, chosen: Indices) -> list[str]:
        """The targets as their subwords say them. Those are normalized, and so are a model's translations: beside such
        references it scores higher than beside text as it is written."""
        pairs = self._splits[split]
        return self._text.subwords.decode(pairs.target(i) for i in chosen)

    def _check_what_bleu_needs(self) -> None:
        """Before a run, not after it, when the test set's turn comes."""
        from supervised.text.bleu import check_installed

        check_installed()
        for split in (VALIDATION, *self.others):
            self._splits[split].texts  # noqa: B018 - says what is wrong

    @property
    def _evaluation_tokens(self) -> int:
        return self.config.evaluation.batch_size or self.config.device_batch or self.config.batch_size


def size_of(config: TrainConfig) -> TransformerSize:
    """The size of a run's Transformer.

    Raises:
        UserError: there is none of this name.
    """
    name, options = config.model.name or "", config.model
    if name not in SIZES:
        raise UserError(f"--model {name}: no size of the Transformer{suggestion(name, tuple(SIZES))}")
    given: dict[str, Any] = {"dropout": options.dropout, "pre_norm": options.pre_norm}
    return dataclasses.replace(SIZES[name], **{key: value for key, value in given.items() if value is not None})


def _batch(pairs: TokenPairs, indices: Indices) -> Batch:
    return collate([pairs.source(i) for i in indices], [pairs.target(i) for i in indices], PAD)
