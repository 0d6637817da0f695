"""Where pairs come from: plain text, Hugging Face datasets, the dictionary; and what is said where they are not."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

import pytest

from evaluation.cli.errors import UserError
from supervised.text.corpora import open_corpus
from supervised.text.corpus import SPLITS, Corpus, Row, fault
from tests.supervised.text.written import dictionary, pairs, parallel, small

WMT14 = {"train": "train", "validation": "valid", "test": "test"}  # its splits and ours


def whole(corpus: Corpus, split: str) -> list[Row]:
    return corpus.block(split, 0, corpus.rows(split))


@pytest.mark.parametrize("packed", [False, True])
def test_parallel_text_by_folder_and_by_prefix(tmp_path: Path, packed: bool) -> None:
    rows = {"train": pairs(100), "valid": pairs(5, 1), "test": pairs(7, 2)}
    folder = parallel(tmp_path / "text", rows, packed=packed)
    for path in list(folder.iterdir()):
        path.with_name(f"wmt.{path.name}").write_bytes(path.read_bytes())
    for data in (folder, folder / "wmt"):
        corpus = open_corpus(str(data))
        assert {split: whole(corpus, split) for split in SPLITS} == rows
        assert [corpus.rows(split) for split in SPLITS] == [100, 5, 7]
        blocks = [corpus.block("train", start, stop) for start, stop in ((10, 20), (30, 31), (0, 5), (90, 100))]
        assert blocks == [rows["train"][10:20], rows["train"][30:31], rows["train"][:5], rows["train"][90:]]
    turned = open_corpus(str(folder), source="de", target="en")
    assert whole(turned, "valid") == [(de, en) for en, de in rows["valid"]]
    assert len({open_corpus(str(folder)).fingerprint(), turned.fingerprint(), corpus.fingerprint()}) == 2


def test_only_a_line_feed_ends_a_line(tmp_path: Path) -> None:
    folder = small(tmp_path)
    (folder / "valid.en").write_bytes("\ufeffone\u2028half\r\ntwo\x0c\x85\nthree".encode())
    (folder / "valid.de").write_bytes(b"eins\nzwei\xff\n\n")
    corpus = open_corpus(str(folder))
    expected = [("one\u2028half", "eins"), ("two\x0c\x85", "zwei\udcff"), ("three", "")]
    assert corpus.rows("valid") == 3
    assert whole(corpus, "valid") == expected
    assert [fault(row) for row in expected] == [None, "invalid UTF-8", "empty"]
    assert fault(("a\0b", "c")) == "NUL"
    assert fault((" \u3000", "c")) == "empty"


def test_faults_of_parallel_text_are_told(tmp_path: Path) -> None:
    folder = small(tmp_path / "text")
    with (folder / "train.de").open("a") as file:
        file.write("noch eine\nund noch eine")
    with pytest.raises(UserError, match=r"train\.en has 300 and .*train\.de has 302 lines"):
        open_corpus(str(folder)).rows("train")
    (folder / "valid.en").write_bytes(b"")
    (folder / "valid.de").write_bytes(b"")
    with pytest.raises(UserError, match=r"valid\.en is empty"):
        open_corpus(str(folder)).rows("valid")
    (folder / "test.en").unlink()
    with pytest.raises(UserError, match=r"there is no .*test\.en: --data takes dict-ende, wmt14, a folder"):
        open_corpus(str(folder)).identity()
    (folder / "test.en.gz").write_bytes(gzip.compress(b"one\n" * 5000)[:-12])
    with pytest.raises(UserError, match=r"test\.en\.gz cannot be read: Compressed file ended"):
        open_corpus(str(folder)).rows("test")
    (folder / "test.en.gz").write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"test\.en\.gz cannot be read: Not a gzipped file"):
        open_corpus(str(folder)).rows("test")
    (folder / "train.en").write_bytes(b"x" * (1 << 21))
    with pytest.raises(UserError, match=r"line of more than 1\.0 MB"):
        open_corpus(str(folder)).block("train", 0, 1)


def test_names_and_languages(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="both en"):
        open_corpus("dict-ende", target="en")
    with pytest.raises(UserError, match="English and German"):
        open_corpus("dict-ende", target="fr")
    with pytest.raises(UserError, match="is for dict-ende and wmt14"):
        open_corpus(str(tmp_path), path=tmp_path)
    with pytest.raises(UserError, match=r"there is no .*typo\.train\.en: --data takes"):
        open_corpus(str(tmp_path / "typo")).identity()


def test_the_dictionary_as_a_corpus(tmp_path: Path) -> None:
    path = dictionary(tmp_path / "de-en", 3000)
    corpus = open_corpus("dict-ende", path=tmp_path)
    assert corpus.identity()["bytes"] == path.stat().st_size
    assert corpus.licence.startswith("GPL-2+")
    turned = open_corpus("dict-ende", path=path, source="de", target="en")
    for split in SPLITS:
        rows = whole(corpus, split)
        assert rows
        assert all("Hund" not in en and "dog" not in de for en, de in rows)
        assert whole(turned, split) == [(de, en) for en, de in rows]
    with pytest.raises(UserError, match=r"no dictionary at .*nowhere: `apt install trans-de-en` puts it at /usr/share"):
        open_corpus("dict-ende", path=tmp_path / "nowhere").identity()
    path.write_text("a list :: of something else\n")
    with pytest.raises(UserError, match="it is not the dictionary of trans-de-en"):
        open_corpus("dict-ende", path=path).rows("train")
    path.write_bytes("Größe zwei :: size two\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"de-en cannot be read: 'utf-8' codec"):
        open_corpus("dict-ende", path=path).rows("train")


def test_wmt14_as_hugging_face_has_it(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    rows = {"train": [*pairs(50), ("", "leer")], "valid": pairs(5, 1), "test": pairs(7, 2)}
    features = datasets.Features({"translation": datasets.Translation(languages=["de", "en"])})
    data = datasets.DatasetDict(
        {
            theirs: datasets.Dataset.from_dict(
                {"translation": [{"de": de, "en": en} for en, de in rows[ours]]}, features=features
            )
            for theirs, ours in WMT14.items()
        }
    )
    data.save_to_disk(str(tmp_path / "saved"))
    for name, split in data.items():
        split.to_parquet(str(tmp_path / "copy" / "de-en" / f"{name}-00000-of-00001.parquet"))
    corpora = [
        open_corpus("wmt14", path=tmp_path / "saved"),
        open_corpus(str(tmp_path / "saved")),
        open_corpus("wmt14", path=tmp_path / "copy"),
    ]
    for corpus in corpora:
        assert {split: whole(corpus, split) for split in SPLITS} == rows
        assert corpus.block("train", 49, 51) == [rows["train"][49], ("", "leer")]
        assert corpus.identity()["rows"] == {"train": 51, "valid": 5, "test": 7}
    assert len({corpus.fingerprint() for corpus in corpora}) == 1
    turned = open_corpus("wmt14", path=tmp_path / "saved", source="de", target="en")
    assert whole(turned, "test") == [(de, en) for en, de in rows["test"]]

    with pytest.raises(UserError, match="has no pairs of en and fr"):
        open_corpus(str(tmp_path / "saved"), target="fr").rows("train")
    del data["test"]
    data.save_to_disk(str(tmp_path / "two"))
    with pytest.raises(UserError, match="has no split 'test', only 'train', 'validation'"):
        open_corpus("wmt14", path=tmp_path / "two").rows("train")
    data["train"].save_to_disk(str(tmp_path / "one"))
    for arguments in ({"data": "wmt14", "path": tmp_path / "one"}, {"data": str(tmp_path / "one")}):
        with pytest.raises(
            UserError, match=r"is one split of a dataset: save the whole of it, .*save_to_disk\('wmt14'"
        ):
            open_corpus(**arguments).identity()
    with pytest.raises(UserError, match=r"nowhere cannot be loaded \(there is no such folder\).*save_to_disk"):
        open_corpus("wmt14", path=tmp_path / "nowhere").identity()


def test_wmt14_without_a_network(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    program = (
        "from evaluation.cli.errors import UserError\nfrom supervised.text.corpora import open_corpus\n"
        "try:\n    open_corpus('wmt14').identity()\nexcept UserError as error:\n    print(error)"
    )
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "-c", program]
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert said.startswith("wmt/wmt14 (de-en) cannot be loaded (")
    assert "where there is a network run python -c" in said
    assert "and give that folder to `train --data.root`" in said
