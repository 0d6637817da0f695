"""The vocabulary: nothing is unknown, the same text gives the same one, and what is no vocabulary is told."""

from __future__ import annotations

import pickle
import re
import unicodedata
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.cli.errors import UserError
from supervised.text.subwords import BOS, EOS, PAD, UNK, Subwords
from tests.supervised.text.written import pairs

TEXTS = [text for pair in pairs(300) for text in pair]
SUBWORDS = Subwords.train(TEXTS, 400)


def test_special_subwords_and_size() -> None:
    assert (PAD, BOS, EOS, UNK) == (0, 1, 2, 3)
    assert len(SUBWORDS) == 400
    assert SUBWORDS.decode(SUBWORDS.encode(TEXTS)) == TEXTS
    encoded = SUBWORDS.encode(TEXTS)
    assert min(min(one) for one in encoded) > UNK
    assert sum(map(len, encoded)) < sum(map(len, TEXTS)) / 3, "whole words, not letters"
    assert SUBWORDS.decode([[BOS, *encoded[0], EOS, PAD, PAD]]) == TEXTS[:1]
    assert "".join(SUBWORDS.pieces(encoded[0])).replace("▁", " ").strip() == TEXTS[0]


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), max_size=30))
def test_nothing_is_unknown(text: str) -> None:
    (encoded,) = SUBWORDS.encode([text])
    assert UNK not in encoded
    once = SUBWORDS.decode([encoded])[0]
    # sentencepiece knows an older Unicode than Python: where both agree the text comes back in its normal form.
    normal = unicodedata.normalize("NFKC", text)
    if normal.isascii() or normal == text == once:
        assert once == " ".join(normal.replace("▁", " ").split())
    assert SUBWORDS.decode(SUBWORDS.encode([once])) == [once]


def test_training_and_files_are_repeatable(tmp_path: Path) -> None:
    again = Subwords.train(iter(TEXTS), 400)
    assert again.digest == SUBWORDS.digest
    assert Subwords.train(TEXTS[:400], 400).digest != SUBWORDS.digest
    again.save(tmp_path / "model")
    loaded = Subwords.load(tmp_path / "model")
    assert loaded.digest == SUBWORDS.digest == pickle.loads(pickle.dumps(loaded)).digest
    assert loaded.encode(TEXTS) == SUBWORDS.encode(TEXTS)
    own = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "model"))
    assert own.encode(TEXTS[:5]) == SUBWORDS.encode(TEXTS[:5])


def test_sizes_that_do_not_fit_the_text_name_the_one_that_does() -> None:
    with pytest.raises(UserError, match="too few words for 5000 subwords: ") as high:
        Subwords.train(TEXTS, 5000)
    most = int(re.findall(r"(\d+) at most", str(high.value))[0])
    assert len(Subwords.train(TEXTS, most)) == most
    with pytest.raises(UserError, match="too few for the text's letters: ") as low:
        Subwords.train(TEXTS, 100)
    least = int(re.findall(r"(\d+) at least", str(low.value))[0])
    assert len(Subwords.train(TEXTS, least + 1)) == least + 1
    with pytest.raises(UserError, match="cannot be learned"):
        Subwords.train([], 400)


def test_what_is_wrong_with_the_text_is_told_as_it_is() -> None:
    def text() -> object:
        yield TEXTS[0]
        raise UserError("the text ends here")

    with pytest.raises(UserError, match="the text ends here"):
        Subwords.train(text(), 400)  # type: ignore[arg-type]


def test_what_is_no_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with pytest.raises(UserError, match="cannot be read: No such file"):
        Subwords.load(path)
    for data in (b"", b"something else" * 20):
        path.write_bytes(data)
        with pytest.raises(UserError, match="is no vocabulary of"):
            Subwords.load(path)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_prefix=str(tmp_path / "other"), vocab_size=45, minloglevel=2
    )
    with pytest.raises(UserError, match="its pad, bos, eos and unk are"):
        Subwords.load(tmp_path / "other.model")
