"""fairseq's task `prepared_text`: it trains and generates on a folder of `asgc-sup data prepare`, subword by subword
the same data, without tokenizing again and without files of its own."""

# No `from __future__ import annotations`: fairseq reads the types of its dataclasses.
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from fairseq.data import Dictionary, FairseqDataset, LanguagePairDataset
from fairseq.dataclass import FairseqDataclass
from fairseq.tasks import FairseqTask, register_task

from supervised.text.subwords import BOS, EOS, PAD, UNK
from supervised.text.token_files import TokenPairs, read_vocabulary


class Pairs(Protocol):
    """Sentence pairs as subwords, without begin and end: `supervised.text.token_files.TokenPairs`."""

    source_lengths: np.ndarray
    target_lengths: np.ndarray

    def __len__(self) -> int: ...

    def source(self, index: int) -> np.ndarray: ...

    def target(self, index: int) -> np.ndarray: ...


class SubwordDictionary(Dictionary):  # type: ignore[misc]
    """A dictionary whose symbol number i is subword number i of ours: fairseq's own puts its special ones elsewhere."""

    def __init__(self, subwords: Sequence[str]) -> None:
        super().__init__(add_special_symbols=False)
        for subword in subwords:
            self.add_symbol(subword)
        if len(self) != len(subwords):
            raise ValueError("some subwords are equal")
        self.pad_index, self.bos_index, self.eos_index, self.unk_index = PAD, BOS, EOS, UNK
        self.pad_word, self.bos_word, self.eos_word, self.unk_word = (subwords[i] for i in (PAD, BOS, EOS, UNK))
        self.nspecial = UNK + 1

    @classmethod
    def numbered(cls, size: int) -> "SubwordDictionary":
        """Of subwords that have no other name than their number."""
        return cls([f"<{i}>" for i in range(size)])


class _Side(torch.utils.data.Dataset[torch.Tensor]):
    """The sources or the targets, each with its end, as fairseq keeps sentences."""

    def __init__(self, pairs: Pairs, side: str) -> None:
        self._pairs, self._side = pairs, side

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> torch.Tensor:
        tokens = getattr(self._pairs, self._side)(int(index))
        sentence = torch.full((len(tokens) + 1,), EOS, dtype=torch.int64)
        sentence[:-1] = torch.from_numpy(tokens.astype(np.int64))
        return sentence


def pair_dataset(pairs: Pairs, dictionary: SubwordDictionary) -> FairseqDataset:
    """fairseq's dataset of our pairs."""
    source, target = (_Side(pairs, side) for side in ("source", "target"))
    return LanguagePairDataset(
        source, pairs.source_lengths + 1, dictionary, target, pairs.target_lengths + 1, dictionary
    )


@dataclass
class PreparedTextConfig(FairseqDataclass):
    """What the task takes; fairseq's model reads the two lengths as well."""

    data: str = field(default="", metadata={"help": "folder of `asgc-sup data prepare`"})
    max_source_positions: int = field(default=1024, metadata={"help": "longest source, its end counted"})
    max_target_positions: int = field(default=1024, metadata={"help": "longest target, its end counted"})


@register_task("prepared_text", dataclass=PreparedTextConfig)
class PreparedText(FairseqTask):  # type: ignore[misc]
    """See the module."""

    def __init__(self, cfg: Any, dictionary: SubwordDictionary) -> None:
        super().__init__(cfg)
        self._dictionary = dictionary

    @classmethod
    def setup_task(cls, cfg: Any, **_: Any) -> "PreparedText":
        """The task of a folder. `UserError` where it holds no prepared text."""
        subwords = read_vocabulary(Path(cfg.data))
        return cls(cfg, SubwordDictionary(subwords.pieces(range(len(subwords)))))

    def load_dataset(self, split: str, combine: bool = False, task_cfg: Any = None, **_: Any) -> None:
        """Open a split: "train", "valid" or "test"."""
        self.datasets[split] = pair_dataset(TokenPairs(self.cfg.data, split), self._dictionary)

    @property
    def source_dictionary(self) -> SubwordDictionary:
        return self._dictionary

    @property
    def target_dictionary(self) -> SubwordDictionary:
        return self._dictionary

    def max_positions(self) -> tuple[int, int]:
        return self.cfg.max_source_positions, self.cfg.max_target_positions
