"""Prepared data on disk: memory-mapped subwords of every split, and what they are.

info.json                 corpus, languages, licence, settings, counts, skipped rows, the vocabulary's digest, versions
vocabulary.model          sentencepiece's
train.source.tokens       subwords of all sources, one behind the other, without begin and end (uint16 or uint32)
train.source.offsets      int64: sentence i is tokens[offsets[i]:offsets[i + 1]]
train.target.*            the same of the targets; valid.* and test.* of the other splits
valid.source.txt, ...     of valid and test: the text itself, a sentence a line, for BLEU
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evaluation.cli.errors import UserError, reason
from evaluation.files import read_json
from supervised.data_names import PREPARED
from supervised.text.corpus import SPLITS
from supervised.text.subwords import Subwords

INFO, VOCABULARY = PREPARED, "vocabulary.model"
FORMAT = 1
SIDES = ("source", "target")
WITH_TEXT = ("valid", "test")
OFFSET = np.dtype("<i8")


class Texts(NamedTuple):
    """Sentences as they were, by number: the sources and the references."""

    source: list[str]
    target: list[str]


def token_type(vocab_size: int) -> np.dtype[Any]:
    """Type of a token on disk."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def file_of(folder: Path, split: str, side: str, kind: str) -> Path:
    """A file of prepared data; `kind` is "tokens", "offsets" or "txt"."""
    return folder / f"{split}.{side}.{kind}"


def read_info(folder: Path) -> dict[str, Any]:
    """What `info.json` says. Raises `UserError` where the folder holds no prepared data of this format."""
    path = folder / INFO
    try:
        info = read_json(path)
    except FileNotFoundError as error:
        raise UserError(f"{folder} holds no prepared text: run asgc-sup data prepare --out {folder}") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} cannot be read: {reason(error)}") from error
    if not isinstance(info, dict) or info.get("kind") != "text" or info.get("format") != FORMAT:
        raise UserError(f"{path} is not of `asgc-sup data prepare` for text in this version: prepare another folder")
    return info


def read_vocabulary(folder: Path, info: Mapping[str, Any] | None = None) -> Subwords:
    """The vocabulary of prepared data. Raises `UserError` where it is not the one that the tokens were made with."""
    info = read_info(folder) if info is None else info
    subwords = Subwords.load(folder / VOCABULARY)
    if subwords.digest != info["vocabulary"]["digest"]:
        raise UserError(f"{folder / VOCABULARY} is another vocabulary than the one of {folder}: prepare the text again")
    return subwords


class TokenPairs:
    """The sentence pairs of a split, as tokens without begin and end.

    Reading takes no memory but the file system's cache; a copy in another process (pickle) opens the files again.

    Attributes:
        info: what `info.json` says.
        source_lengths, target_lengths: tokens of each sentence, int64.

    Raises:
        UserError: no prepared data, a split or files that are not there, or not of the size that `info.json` says.
    """

    def __init__(self, folder: str | Path, split: str) -> None:
        self.folder, self.split = Path(folder), split
        self.info = read_info(self.folder)
        if split not in SPLITS:
            raise UserError(f"there is no split {split!r}, only {', '.join(SPLITS)}")
        self._tokens, self._offsets = zip(*(self._side(side) for side in SIDES), strict=True)
        self.source_lengths, self.target_lengths = (np.diff(offsets) for offsets in self._offsets)

    def __len__(self) -> int:
        return len(self.source_lengths)

    def __reduce__(self) -> tuple[type[TokenPairs], tuple[Path, str]]:
        return TokenPairs, (self.folder, self.split)

    def source(self, index: int) -> np.ndarray:
        """Tokens of a source sentence: a view of the file, not to be written."""
        return self._sentence(0, index)

    def target(self, index: int) -> np.ndarray:
        """Tokens of a target sentence: a view of the file, not to be written."""
        return self._sentence(1, index)

    @property
    def texts(self) -> Texts:
        """Sources and references as they were, of valid or test; read at each call."""
        if self.split not in WITH_TEXT:
            raise ValueError(f"text is kept of {' and '.join(WITH_TEXT)} only")
        return Texts(*(self._text(side) for side in SIDES))

    def _sentence(self, side: int, index: int) -> np.ndarray:
        if not 0 <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        offsets = self._offsets[side]
        sentence: np.ndarray = self._tokens[side][offsets[index] : offsets[index + 1]]
        return sentence

    def _side(self, side: str) -> tuple[np.ndarray, np.ndarray]:
        counts = self.info["splits"][self.split]
        pairs, total = counts["pairs"], counts[f"{side}_tokens"]
        offsets = self._map(file_of(self.folder, self.split, side, "offsets"), OFFSET, pairs + 1)
        if offsets[0] != 0 or offsets[-1] != total or (np.diff(offsets) < 0).any():
            raise self._damaged(file_of(self.folder, self.split, side, "offsets"), "its numbers do not fit")
        kind = np.dtype(self.info["vocabulary"]["type"])
        return self._map(file_of(self.folder, self.split, side, "tokens"), kind, total), offsets

    def _map(self, path: Path, kind: np.dtype[Any], count: int) -> np.ndarray:
        try:
            size = path.stat().st_size
            if size != count * kind.itemsize:
                raise self._damaged(path, f"{size:,} bytes instead of {count * kind.itemsize:,}")
            # An ndarray and no memmap, which would make every sentence an object of its own class, ten times slower.
            return np.asarray(np.memmap(path, kind, "r")) if count else np.empty(0, kind)
        except OSError as error:
            raise self._damaged(path, reason(error)) from error

    def _text(self, side: str) -> list[str]:
        path = file_of(self.folder, self.split, side, "txt")
        try:
            lines = path.read_bytes().decode().split("\n")[:-1]
        except (OSError, UnicodeDecodeError) as error:
            raise self._damaged(path, reason(error)) from error
        if len(lines) != len(self):
            raise self._damaged(path, f"{len(lines):,} lines instead of {len(self):,}")
        return lines

    def _damaged(self, path: Path, why: str) -> UserError:
        return UserError(
            f"{path} is damaged or not of this folder's data ({why}): remove {self.folder}, prepare it again"
        )
