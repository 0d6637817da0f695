"""Corpora by name: `dict-ende`, `wmt14`, or the path of plain parallel text or of a saved Hugging Face dataset."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

from evaluation.cli.errors import UserError, reason
from supervised.data_names import is_saved
from supervised.text import dict_ende
from supervised.text.corpus import Corpus, Row
from supervised.text.hugging_face import HuggingFace
from supervised.text.parallel_text import ParallelText

NAMES = ("dict-ende", "wmt14")
DICTIONARIES = (Path("/usr/share/trans/de-en"), Path("/usr/local/share/trans/de-en"))


def open_corpus(data: str, *, path: str | Path | None = None, source: str = "en", target: str = "de") -> Corpus:
    """The corpus that `data` names.

    Args:
        data: "dict-ende" (Debian's dictionary `trans-de-en`), "wmt14" (Hugging Face's `wmt/wmt14`), or a path: a
            folder with train.en, train.de, valid.en, ..., a prefix of such names, a dataset saved by `save_to_disk`.
        path: where the data of a name is: the dictionary's file; a saved dataset or a folder of its files. None: where
            the system has it.
        source, target: languages to translate from and to.

    Raises:
        UserError: no such corpus, a language that it does not have; missing data is told by `Corpus.identity`.
    """
    if source == target:
        raise UserError(f"source and target are both {source}: choose two languages")
    if data not in NAMES and path is not None:
        raise UserError(f"--data.root (of data prepare: --path) is for {' and '.join(NAMES)}: {data} is a path itself")
    place = None if path is None else Path(path)
    if data == "dict-ende":
        return DictEnDe(place, source, target)
    if data == "wmt14":
        return HuggingFace(place, source, target)
    if is_saved(Path(data)):
        return HuggingFace(Path(data), source, target, name=Path(data).resolve().name)
    return ParallelText(Path(data), source, target)


class DictEnDe(Corpus):
    """The pairs of the dictionary, split without leakage (see `dict_ende`)."""

    licence = dict_ende.LICENCE
    lines = "pair"
    vocab_size = 4_000

    def __init__(self, path: Path | None = None, source: str = "en", target: str = "de") -> None:
        if {source, target} != {"de", "en"}:
            raise UserError(f"dict-ende has English and German (en, de), not {source} and {target}")
        self.name, self.source, self.target = "dict-ende", source, target
        self._wanted = path

    def identity(self) -> dict[str, Any]:
        names = {"corpus": self.name, "source": self.source, "target": self.target}
        return {**names, "bytes": self._path().stat().st_size, "cleaning": dict_ende.CLEANING}

    @functools.cache  # noqa: B019 - one corpus a process
    def fingerprint(self) -> str:
        return hashlib.sha256(self._path().read_bytes()).hexdigest()

    def rows(self, split: str) -> int:
        return len(self._splits[split])

    def block(self, split: str, start: int, stop: int) -> list[Row]:
        german_first = self.source == "de"
        return [(de, en) if german_first else (en, de) for de, en, _ in self._splits[split][start:stop]]

    @functools.cached_property
    def _splits(self) -> dict[str, list[dict_ende.Pair]]:
        path = self._path()
        try:
            with path.open(encoding="utf-8", newline="\n") as file:
                pairs = dict_ende.parse(file)
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"the dictionary {path} cannot be read: {reason(error)}") from error
        splits = dict_ende.split(pairs)
        if not all(splits.values()):
            raise UserError(f"{path} has {len(pairs)} pairs, too few: it is not the dictionary of trans-de-en")
        return splits

    def _path(self) -> Path:
        wanted = self._wanted
        if wanted is not None and wanted.is_dir():
            wanted = wanted / "de-en"
        found = next((path for path in ((wanted,) if wanted else DICTIONARIES) if path.is_file()), None)
        if found is None:
            where = wanted or DICTIONARIES[0]
            raise UserError(
                f"no dictionary at {where}: `apt install trans-de-en` puts it at {DICTIONARIES[0]}, or give the file "
                "`de-en` out of that package to `train --data.root` or `data prepare --path`"
            )
        return found
