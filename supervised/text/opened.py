"""The text of a run: prepared before, or when it is first used."""

from __future__ import annotations

from pathlib import Path

from evaluation.cli.errors import UserError
from evaluation.cores import usable_cores
from supervised.option_groups import DataConfig
from supervised.text.corpora import open_corpus
from supervised.text.prepare import folder_below, prepare_below
from supervised.text.progress import Silent, make_progress
from supervised.text.token_files import INFO, TokenPairs, read_info, read_vocabulary


class PreparedText:
    """A folder of prepared text.

    Attributes:
        info: what it is.
        subwords: its vocabulary.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.info = folder, read_info(folder)
        self.subwords = read_vocabulary(folder, self.info)

    @property
    def direction(self) -> str:
        """ "en-de"."""
        return f"{self.info['source']}-{self.info['target']}"

    def pairs(self, split: str) -> TokenPairs:
        """A split: train, valid or test."""
        return TokenPairs(self.folder, split)


def open_text(data: DataConfig) -> PreparedText:
    """The text that a run's options name; it is prepared below `data.prepared` unless it is.

    Raises:
        UserError: there is none: says what to get and where to put it. Prepared text of another vocabulary or direction
            than the options ask for.
    """
    name = data.name or ""
    if Path(name, INFO).is_file():
        text = PreparedText(Path(name))
        if data.vocabulary not in (None, len(text.subwords)):
            has = f"{name} was prepared with {len(text.subwords)} subwords"
            raise UserError(f"--data.vocabulary {data.vocabulary}: {has}: leave it out, or prepare another folder")
        if text.direction != f"{data.source}-{data.target}":
            wanted = f"--data.source {data.source} --data.target {data.target}"
            raise UserError(f"{wanted}: {name} was prepared for {text.direction}")
        return text
    corpus = open_corpus(name, path=data.root, source=data.source, target=data.target)
    there = (folder_below(data.prepared, corpus, data.vocabulary) / INFO).is_file()
    folder = prepare_below(
        data.prepared,
        corpus,
        vocab_size=data.vocabulary,
        max_length=data.max_length,
        skip_limit=data.bad_share,
        processes=1 if name == "dict-ende" else usable_cores(),  # of which each one starts for longer than that takes
        progress=Silent() if there else make_progress(),
    )
    return PreparedText(folder)
