"""WMT14 and datasets of its form out of Hugging Face `datasets`: rows {"translation": {"de": ..., "en": ...}}."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from pathlib import Path
from typing import Any

from evaluation.cli.errors import DISK_FULL, UserError, reason
from supervised.data_names import is_saved
from supervised.text.corpus import Corpus, Row

HUB = "wmt/wmt14"  # validation is newstest2013, test newstest2014
ON_DISK = {"train": "train", "valid": "validation", "test": "test"}
SAMPLED = 997  # rows for the fingerprint, spread over a split


class HuggingFace(Corpus):
    """A dataset of the hub, as it was saved on disk, or a folder of its files (Parquet, JSON)."""

    lines = "row"

    def __init__(self, path: Path | None, source: str, target: str, *, name: str = "wmt14") -> None:
        self.name, self.source, self.target = name, source, target
        self.licence = "see statmt.org/wmt14: Europarl, Common Crawl, News Commentary" if name == "wmt14" else ""
        self._path, self.remote = path, path is None

    def identity(self) -> dict[str, Any]:
        rows = {split: self.rows(split) for split in ON_DISK}
        return {"corpus": self.name, "source": self.source, "target": self.target, "rows": rows}

    @functools.cache  # noqa: B019 - one corpus a process
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for split in ON_DISK:
            rows = self.rows(split)
            for index in range(0, rows, max(1, rows // SAMPLED)):
                digest.update(repr(self.block(split, index, index + 1)).encode(errors="surrogateescape"))
        return digest.hexdigest()

    def rows(self, split: str) -> int:
        return len(self._data[ON_DISK[split]])

    def block(self, split: str, start: int, stop: int) -> list[Row]:
        rows = self._data[ON_DISK[split]][start:stop]["translation"]
        return [(row[self.source] or "", row[self.target] or "") for row in rows]

    @property
    def _config(self) -> str:
        """WMT14's pairs are all with English: "de-en"."""
        return f"{self.source if self.target == 'en' else self.target}-en"

    @functools.cached_property
    def _data(self) -> Any:
        if importlib.util.find_spec("datasets") is None:
            raise UserError("Hugging Face `datasets` is not installed: pip install 'asgc[supervised]'")
        try:
            data = self._load()
        except Exception as error:  # of its many libraries
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                raise
            raise UserError(f"{self._what} cannot be loaded ({reason(error)}): {self._remedy}") from error
        if not isinstance(data, dict):
            raise UserError(f"{self._what} is one split of a dataset: save the whole of it, {self._remedy}")
        missing = [split for split in ON_DISK.values() if split not in data]
        if missing:
            raise UserError(f"{self._what} has no split {missing[0]!r}, only {', '.join(map(repr, data))}")
        for split in ON_DISK.values():
            row = data[split][0].get("translation") if len(data[split]) else {self.source: "", self.target: ""}
            languages = row if isinstance(row, dict) else {}
            if not {self.source, self.target} <= set(languages):
                raise UserError(
                    f"{self._what} has no pairs of {self.source} and {self.target}: expected rows of the form "
                    f'{{"translation": {{"{self.source}": ..., "{self.target}": ...}}}}'
                )
        return data

    def _load(self) -> Any:
        import datasets

        if self._path is None:
            return datasets.load_dataset(HUB, self._config)
        if not self._path.is_dir():
            raise FileNotFoundError("there is no such folder")
        if is_saved(self._path):
            return datasets.load_from_disk(str(self._path))
        if (self._path / self._config).is_dir():  # a copy of the hub's files
            return datasets.load_dataset(str(self._path / self._config))
        return datasets.load_dataset(str(self._path))

    @property
    def _what(self) -> str:
        return f"{self.name} at {self._path}" if self._path else f"{HUB} ({self._config})"

    @property
    def _remedy(self) -> str:
        load = f"datasets.load_dataset('{HUB}', '{self._config}').save_to_disk('wmt14')"
        given = "`train --data.root` or `data prepare --path`"
        return f'where there is a network run python -c "import datasets; {load}", and give that folder to {given}'
