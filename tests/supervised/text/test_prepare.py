"""Prepared text: what is in the files, and what becomes of bad input, other settings and other processes."""

from __future__ import annotations

import json
import pickle
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.cli.errors import UserError
from evaluation.runs.lock import FolderLock
from supervised.text.corpora import open_corpus
from supervised.text.corpus import SPLITS, Row
from supervised.text.prepare import folder_below, prepare, prepare_below
from supervised.text.progress import PlainProgress
from supervised.text.subwords import Subwords
from supervised.text.token_files import TokenPairs, read_vocabulary, token_type
from tests.supervised.text.written import pairs, parallel, small

SIZE = 400
BAD = {7: ("", "leer"), 40: ("a\0b", "c"), 41: ("gut", "schlecht\udcff"), 90: ("\u200b", "nichts")}


def files(folder: Path) -> dict[str, bytes]:
    """All files by name, but the lock, which tells who had it last."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def with_bad(rows: list[Row]) -> list[Row]:
    return [BAD.get(number, row) for number, row in enumerate(rows, start=1)]


def test_the_files_hold_every_pair(tmp_path: Path) -> None:
    rows = {"train": with_bad(pairs(500)), "valid": pairs(20, 1), "test": [("two\r\x85lines ", " zwei"), *pairs(9, 2)]}
    folder = tmp_path / "out"
    corpus = open_corpus(str(parallel(tmp_path / "text", rows)))
    info = prepare(corpus, folder, vocab_size=SIZE, max_length=10, shard_rows=64)
    subwords = read_vocabulary(folder)
    assert len(subwords) == info["vocabulary"]["size"] == SIZE
    for split in SPLITS:
        good = [row for number, row in enumerate(rows[split], 1) if split != "train" or number not in BAD]
        expected = list(zip(*(subwords.encode([row[side] for row in good]) for side in (0, 1)), strict=True))
        kept = [both for both in expected if split != "train" or max(map(len, both)) <= 10]
        found = TokenPairs(folder, split)
        assert len(found) == len(kept) == info["splits"][split]["pairs"]
        for index, (source, target) in enumerate(kept):
            assert found.source(index).tolist() == source
            assert found.target(index).tolist() == target
        assert found.source_lengths.tolist() == [len(source) for source, _ in kept]
        assert found.target_lengths.tolist() == [len(target) for _, target in kept]
        assert found.source(0).dtype == np.uint16
        assert not found.source(0).flags.owndata
        with pytest.raises(IndexError):
            found.source(len(found))
        counts = info["splits"][split]
        assert counts["too_long"] == len(expected) - len(kept)
        assert counts["source_tokens"] == found.source_lengths.sum()
        assert counts["rows"] == len(rows[split])
    assert info["splits"]["train"]["too_long"] > 0
    assert info["splits"]["train"]["skipped"] == {"NUL": 1, "empty": 2, "invalid UTF-8": 1}
    assert info["splits"]["train"]["first_skipped"] == [[7, "empty"], [40, "NUL"], [41, "invalid UTF-8"], [90, "empty"]]
    texts = TokenPairs(folder, "test").texts
    assert texts.source == ["two  lines ", *(row[0] for row in rows["test"][1:])]
    assert texts.target == [row[1] for row in rows["test"]]
    with pytest.raises(ValueError, match="valid and test only"):
        _ = TokenPairs(folder, "train").texts
    again = pickle.loads(pickle.dumps(found))
    assert again.source(3).tolist() == found.source(3).tolist()
    assert len(pickle.dumps(found)) < 500
    assert set(files(folder)) == {
        *("info.json", "vocabulary.model"),
        *(
            f"{split}.{side}.{kind}"
            for split in SPLITS
            for side in ("source", "target")
            for kind in ("tokens", "offsets")
        ),
        *(f"{split}.{side}.txt" for split in ("valid", "test") for side in ("source", "target")),
    }


def test_large_vocabularies_take_four_bytes() -> None:
    assert token_type(65536) == np.uint16
    assert token_type(65537) == np.uint32


@pytest.mark.parametrize("shard_rows", [1000, 64, 23])
def test_the_files_do_not_depend_on_shards_and_processes(tmp_path: Path, shard_rows: int) -> None:
    rows = {"train": with_bad(pairs(450)), "valid": pairs(20, 1), "test": pairs(30, 2)}
    corpus = open_corpus(str(parallel(tmp_path / "text", rows)))
    options: dict[str, Any] = {"vocab_size": SIZE, "vocabulary_pairs": 100, "max_length": 10}
    prepare(corpus, tmp_path / "one", **options, shard_rows=100)
    prepare(corpus, tmp_path / "other", **options, shard_rows=shard_rows, processes=2 if shard_rows == 64 else 1)
    assert files(tmp_path / "one") == files(tmp_path / "other")


def test_too_many_broken_pairs(tmp_path: Path) -> None:
    rows = {"train": with_bad(pairs(300)), "valid": pairs(20, 1), "test": pairs(30, 2)}
    data = str(parallel(tmp_path / "text", rows))
    with pytest.raises(UserError) as error:
        prepare(open_corpus(data), tmp_path / "out", vocab_size=SIZE)
    assert str(error.value).startswith("4 of the first 300 pairs of train cannot be used, more than 0.01 of all 300: ")
    assert "line 7: empty; line 40: NUL; line 41: invalid UTF-8; line 90: empty; mend the text" in str(error.value)
    info = prepare(open_corpus(data), tmp_path / "out", vocab_size=SIZE, skip_limit=0.02)
    assert info["splits"]["train"]["pairs"] == 296
    with pytest.raises(UserError, match=r"no pair of train can be used: .*296 are too long"):
        prepare(open_corpus(data), tmp_path / "short", vocab_size=SIZE, skip_limit=1, max_length=1)


def test_text_that_was_mended_is_taken_anew(tmp_path: Path) -> None:
    folder, rows = tmp_path / "out", {"valid": pairs(20, 1), "test": pairs(30, 2)}
    data = str(parallel(tmp_path / "text", {"train": with_bad(pairs(300)), **rows}))
    with pytest.raises(UserError, match="cannot be used"):
        prepare(open_corpus(data), folder, vocab_size=SIZE, shard_rows=50)
    said: list[str] = []
    same_size = [(en.replace("dog", "god"), de) for en, de in with_bad(pairs(300))]
    parallel(tmp_path / "text", {"train": same_size})
    with pytest.raises(UserError, match="cannot be used"):
        prepare(open_corpus(data), folder, vocab_size=SIZE, shard_rows=50, progress=PlainProgress(said.append))
    assert said[0] == "the text of text has changed since: starting over"
    assert "god" in "".join(Subwords.load(folder / "vocabulary.model").pieces(range(SIZE)))
    parallel(tmp_path / "text", {"train": pairs(300)})
    with pytest.raises(
        UserError, match=r"was begun with other settings \(bytes of train\.en \d+, not \d+, bytes of train"
    ):
        prepare(open_corpus(data), folder, vocab_size=SIZE)


def test_a_folder_that_is_prepared_already(tmp_path: Path) -> None:
    data, folder = small(tmp_path / "text"), tmp_path / "out"
    said: list[str] = []
    first = prepare(open_corpus(str(data)), folder, vocab_size=SIZE)
    before = files(folder), (folder / "info.json").stat().st_mtime_ns

    def again(**options: Any) -> dict[str, Any]:
        progress = PlainProgress(said.append)
        return prepare(open_corpus(str(data)), folder, **{"vocab_size": SIZE, "progress": progress, **options})

    assert again() == first
    assert said == [f"{folder} is prepared already: 300 pairs to train on"]
    with pytest.raises(UserError, match=r"prepared with other settings \(vocab_size 400, not 401\): choose another"):
        again(vocab_size=401)
    with pytest.raises(UserError, match=r"max_length 256, not 9, vocabulary_pairs 500000, not 4"):
        again(max_length=9, vocabulary_pairs=4)
    (data / "train.en").write_text("longer " + (data / "train.en").read_text())
    with pytest.raises(UserError, match=r"other settings \(bytes of train\.en \d+, not \d+\):"):
        again()
    (data / "train.en").unlink()  # the folder does not need it any more
    assert again() == first
    assert (files(folder), (folder / "info.json").stat().st_mtime_ns) == before
    assert prepare_below(tmp_path / "root", open_corpus(str(small(data))), vocab_size=SIZE).name == "text-en-de-400"
    assert folder_below("data", open_corpus("dict-ende")) == Path("data/dict-ende-en-de-4000")


def test_a_folder_with_something_else(tmp_path: Path) -> None:
    corpus = open_corpus(str(small(tmp_path / "text")))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("do not touch")
    with pytest.raises(UserError, match=r"mine holds something else \(thesis\.tex\): choose a new folder"):
        prepare(corpus, tmp_path / "mine", vocab_size=SIZE)
    assert set(files(tmp_path / "mine")) == {"thesis.tex"}
    with pytest.raises(UserError, match="is a file: choose another folder"):
        prepare(corpus, tmp_path / "mine" / "thesis.tex", vocab_size=SIZE)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "info.json").write_text('{"kind": "something"}')
    with pytest.raises(UserError, match="is not of `asgc-sup data prepare`"):
        prepare(corpus, tmp_path / "run", vocab_size=SIZE)


def test_a_folder_that_another_process_prepares(tmp_path: Path) -> None:
    corpus, folder = open_corpus(str(small(tmp_path / "text"))), tmp_path / "out"
    folder.mkdir()
    lock = FolderLock(folder / "lock")
    said: list[str] = []
    with pytest.raises(UserError, match=r"out is in use by process \d+"):
        prepare(corpus, folder, vocab_size=SIZE)
    waiting = threading.Thread(
        target=prepare,
        args=(corpus, folder),
        kwargs={"vocab_size": SIZE, "wait": True, "progress": PlainProgress(said.append)},
    )
    waiting.start()
    while not said:
        time.sleep(0.01)
    assert said == [f"waiting for another process that prepares {folder}"]
    assert files(folder) == {}
    lock.release()
    waiting.join(timeout=30)
    assert len(TokenPairs(folder, "train")) == 300


def test_damaged_and_foreign_files(tmp_path: Path) -> None:
    corpus, folder = open_corpus(str(small(tmp_path / "text"))), tmp_path / "out"
    with pytest.raises(UserError, match="holds no prepared text: run asgc-sup data prepare --out"):
        TokenPairs(folder, "train")
    prepare(corpus, folder, vocab_size=SIZE)
    whole = files(folder)
    with pytest.raises(UserError, match="there is no split 'dev', only train, valid, test"):
        TokenPairs(folder, "dev")

    def refused(name: str, data: bytes | None, match: str) -> None:
        if data is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(data)
        with pytest.raises(UserError, match=match):
            _ = TokenPairs(folder, "test").texts, read_vocabulary(folder)
        (folder / name).write_bytes(whole[name])

    tokens, offsets = whole["test.source.tokens"], whole["test.target.offsets"]
    refused("test.source.tokens", tokens[:-2], f"damaged .*{len(tokens) - 2} bytes instead of {len(tokens)}")
    refused("test.source.tokens", b"", "0 bytes instead of")
    refused("test.source.tokens", None, "damaged or not of this folder's data .No such file")
    refused("test.target.offsets", offsets[8:], "bytes instead of")
    refused("test.target.offsets", offsets[:8] + offsets[16:24] + offsets[8:16] + offsets[24:], "do not fit")
    refused("test.target.txt", whole["test.target.txt"][:-1], "29 lines instead of 30")
    refused("info.json", b"{", "info.json cannot be read")
    refused("info.json", json.dumps({**json.loads(whole["info.json"]), "format": 99}).encode(), "in this version")
    prepare(corpus, tmp_path / "other", vocab_size=SIZE + 1)
    refused("vocabulary.model", (tmp_path / "other" / "vocabulary.model").read_bytes(), "is another vocabulary")
    refused("vocabulary.model", None, "cannot be read: No such file")
    (folder / "valid.source.tokens").write_bytes(b"")
    with pytest.raises(UserError, match="damaged"):
        prepare(corpus, folder, vocab_size=SIZE)
