"""A joint vocabulary of subwords: byte-pair encoding (Sennrich et al., arXiv 1508.07909) by sentencepiece."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from evaluation.cli.errors import UserError, reason
from evaluation.files import atomic_path

PAD, BOS, EOS, UNK = range(4)  # in every vocabulary
BYTES = 256  # subwords that stand for a byte, for letters that have none of their own
COVERAGE = 0.9999  # of the text's letters have a subword of their own
FLAGS = "`train --data.vocabulary`, `data prepare --vocab-size`"
THREADS = 2  # a setting of sentencepiece that is written into the model: always the same


class Subwords:
    """Text to numbers of subwords and back. Nothing is unknown: a letter without a subword becomes its UTF-8 bytes.

    Attributes:
        digest: SHA-256 of the model file: equal for equal vocabularies.
    """

    def __init__(self, model: bytes) -> None:
        self._model, self._processor = model, _sentencepiece().SentencePieceProcessor(model_proto=model)
        self.digest = hashlib.sha256(model).hexdigest()
        special = tuple(getattr(self._processor, f"{name}_id")() for name in ("pad", "bos", "eos", "unk"))
        if special != (PAD, BOS, EOS, UNK):
            raise ValueError(f"its pad, bos, eos and unk are {special}, not {(PAD, BOS, EOS, UNK)}")

    @classmethod
    def train(cls, sentences: Iterable[str], size: int) -> Subwords:
        """The vocabulary of `size` subwords, special ones and bytes included, of sentences of both languages. The same
        sentences in the same order give the same vocabulary.

        Raises:
            UserError: the text has too few different words for so many subwords, or too many letters for so few.
        """
        model = io.BytesIO()
        try:
            _sentencepiece().SentencePieceTrainer.train(
                sentence_iterator=iter(sentences),
                model_writer=model,
                model_type="bpe",
                vocab_size=size,
                character_coverage=COVERAGE,
                byte_fallback=True,
                pad_id=PAD,
                bos_id=BOS,
                eos_id=EOS,
                unk_id=UNK,
                num_threads=THREADS,
                minloglevel=2,
            )
        except RuntimeError as error:
            text = str(error)
            if (most := re.search(r"Vocabulary size too high.*<= (\d+)", text)) is not None:
                many = f"the text has too few words for {size} subwords: {most[1]} at most ({FLAGS})"
                raise UserError(many) from error
            if (least := re.search(r"required_chars\. \d+ vs (\d+)", text)) is not None:
                few = f"{size} subwords are too few for the text's letters: {least[1]} at least ({FLAGS})"
                raise UserError(few) from error
            raise UserError(f"the subwords cannot be learned: {reason(error)}") from error
        return cls(model.getvalue())

    @classmethod
    def load(cls, path: Path) -> Subwords:
        """Read a model file. Raises `UserError` where there is none or it is no vocabulary that `save` wrote."""
        try:
            return cls(path.read_bytes())
        except OSError as error:
            raise UserError(f"the vocabulary {path} cannot be read: {reason(error)}") from error
        except (RuntimeError, ValueError) as error:
            raise UserError(f"{path} is no vocabulary of `asgc-sup data prepare`: {reason(error)}") from error

    def save(self, path: Path) -> None:
        """Write the model file, atomically. sentencepiece's own programs read it as well."""
        with atomic_path(path) as temporary:
            temporary.write_bytes(self._model)

    def __len__(self) -> int:
        return int(self._processor.get_piece_size())

    def __reduce__(self) -> tuple[type[Subwords], tuple[bytes]]:
        return Subwords, (self._model,)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Numbers of the subwords of each text, without begin and end. Text is normalized (NFKC, single spaces)."""
        return self._processor.encode(list(texts), num_threads=1)  # type: ignore[no-any-return]

    def decode(self, ids: Iterable[Iterable[int]]) -> list[str]:
        """The texts of numbers, a line each, though a model may well say the byte of a line's end; special ones say
        nothing."""
        texts = (self._processor.decode([int(one) for one in text if one > UNK]) for text in ids)
        return [text.replace("\n", " ").replace("\r", " ") for text in texts]

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """The subwords themselves, "▁" for a space."""
        return [self._processor.id_to_piece(int(one)) for one in ids]


def _sentencepiece() -> Any:
    if importlib.util.find_spec("sentencepiece") is None:
        raise UserError("sentencepiece is not installed: pip install 'asgc[supervised]'")
    import sentencepiece

    return sentencepiece
