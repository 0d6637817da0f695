"""Prepare a corpus once: learn its vocabulary, turn every pair into tokens, write memory-mapped files.

The work is cut into shards of rows. Each is written atomically and, once there, not done again, so a preparation goes
on where it was after Ctrl-C, kill -9 or a full disk. Shards are put together in their order, so the files do not depend
on the number of processes, nor on interruptions; `info.json`, written last, says that all is there.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import importlib.metadata
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any

import asgc
from evaluation.cli.errors import DISK_FULL, UserError, reason
from evaluation.files import atomic_path, folder_name, read_json, write_json
from evaluation.runs.lock import FolderLock, is_held
from supervised.text.corpus import SPLITS, Corpus, Row, fault
from supervised.text.progress import Silent
from supervised.text.shards import Counts, read_array, read_counts, write_shard
from supervised.text.subwords import Subwords
from supervised.text.token_files import (
    FORMAT,
    INFO,
    OFFSET,
    SIDES,
    VOCABULARY,
    WITH_TEXT,
    TokenPairs,
    file_of,
    read_info,
    read_vocabulary,
    token_type,
)

MAX_LENGTH, SKIP_LIMIT = 256, 0.01
VOCABULARY_PAIRS = 500_000  # that the vocabulary is learned from: more change little and take memory
SHARD_ROWS = 25_000  # a second or two of work
LOCK, BEGUN, SHARDS = "lock", "preparing.json", "shards"
WAIT_S = 0.5


def folder_below(root: str | Path, corpus: Corpus, vocab_size: int | None = None) -> Path:
    """Where `prepare_below` puts it: ROOT/dict-ende-en-de-4000."""
    size = corpus.vocab_size if vocab_size is None else vocab_size
    return Path(root) / folder_name(f"{corpus.name}-{corpus.source}-{corpus.target}-{size}")


def prepare_below(root: str | Path, corpus: Corpus, *, vocab_size: int | None = None, **options: Any) -> Path:
    """The folder below `root` that is called after corpus, languages and vocabulary, prepared on first use. A process
    that comes while another one prepares it waits. `options` are those of `prepare`."""
    folder = folder_below(root, corpus, vocab_size)
    prepare(corpus, folder, vocab_size=vocab_size, wait=True, **options)
    return folder


def prepare(
    corpus: Corpus,
    folder: str | Path,
    *,
    vocab_size: int | None = None,
    max_length: int = MAX_LENGTH,
    processes: int = 1,
    skip_limit: float = SKIP_LIMIT,
    vocabulary_pairs: int = VOCABULARY_PAIRS,
    shard_rows: int = SHARD_ROWS,
    wait: bool = False,
    progress: Silent | None = None,
) -> dict[str, Any]:
    """Fill `folder` with the files that `TokenPairs` reads, or find it filled; returns what `info.json` says.

    Args:
        vocab_size: subwords, special ones and bytes included; None: as goes with the corpus.
        max_length: most tokens of a side of a training pair; longer pairs are left out and counted. Pairs of valid and
            test all stay.
        processes: that encode side by side. More than one are started afresh (spawn): a script that asks for them
            needs the usual `if __name__ == "__main__"`.
        skip_limit: share of a split's rows that may be empty or broken; these are skipped, counted and named.
        vocabulary_pairs: training pairs that the vocabulary is learned from, spread evenly, at most.
        shard_rows: rows of a shard; no matter for the result.
        wait: where another process is at it, wait until it is done, instead of raising.

    Raises:
        UserError: missing or unfit data, a folder with something else or with other settings, in use, a full disk.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # it would wait for its own parent
        raise UserError(
            "a script that prepares text in several processes is run again in each of them: put what it does below "
            '`if __name__ == "__main__":`'
        )
    folder, progress = Path(folder), progress or Silent()
    vocab_size = corpus.vocab_size if vocab_size is None else vocab_size
    own = {"vocab_size": vocab_size, "max_length": max_length, "vocabulary_pairs": vocabulary_pairs}
    try:
        if (found := _finished(folder, corpus, own, progress)) is not None:
            return found
        settings = {**corpus.identity(), **own}
        with _locked(folder, wait, progress):
            if (found := _finished(folder, corpus, own, progress)) is not None:  # while this one waited
                return found
            with contextlib.closing(_Preparation(folder, corpus, settings, processes, skip_limit, progress)) as work:
                return work.run(shard_rows)
    except BrokenProcessPool as error:
        raise UserError(
            "a process that encoded was ended (for want of memory? fewer --processes take less): run it again; what is "
            "done stays done"
        ) from error
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise UserError(
            f"{reason(error)} writing {folder}: free some space and run it again; what is done stays done"
        ) from error
    finally:
        progress.close()


class _Preparation:
    """The stages of one call, in a folder that is locked."""

    def __init__(
        self,
        folder: Path,
        corpus: Corpus,
        settings: dict[str, Any],
        processes: int,
        skip_limit: float,
        progress: Silent,
    ) -> None:
        self._folder, self._corpus, self._settings = folder, corpus, settings
        self._processes, self._skip_limit, self._progress = processes, skip_limit, progress
        self._shards = folder / SHARDS
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)  # shards that are being written are still finished

    def run(self, shard_rows: int) -> dict[str, Any]:
        self._rows = {split: self._corpus.rows(split) for split in SPLITS}  # both sides of all splits, before the work
        self._begin()
        self._subwords = self._vocabulary()
        counts = {split: self._encode(split, shard_rows) for split in SPLITS}
        for split in SPLITS:
            self._join(split, shard_rows)
        write_json(self._folder / INFO, self._info(counts))
        _tidy(self._folder)
        return read_info(self._folder)

    def _begin(self) -> None:
        """Start, or go on with what is there if it was begun with these settings and this text."""
        begun = {"settings": self._settings, "fingerprint": self._corpus.fingerprint()}
        path = self._folder / BEGUN
        if path.exists():
            before = read_json(path)
            _refuse_others(self._folder, before["settings"], self._settings, "was begun")
            if before != begun:
                self._progress.message(f"the text of {self._corpus.name} has changed since: starting over")
                shutil.rmtree(self._shards, ignore_errors=True)
                (self._folder / VOCABULARY).unlink(missing_ok=True)
        elif foreign := sorted(one.name for one in self._folder.iterdir() if one.name != LOCK and not _left_over(one)):
            raise UserError(f"{self._folder} holds something else ({foreign[0]}): choose a new folder")
        write_json(path, begun)
        self._shards.mkdir(exist_ok=True)
        for one in (*self._folder.iterdir(), *self._shards.iterdir()):
            if _left_over(one):
                one.unlink(missing_ok=True)

    def _vocabulary(self) -> Subwords:
        path, size = self._folder / VOCABULARY, self._settings["vocab_size"]
        if not path.exists():
            Subwords.train(self._sample(), size).save(path)
        return Subwords.load(path)

    def _sample(self) -> Iterator[str]:
        """Both sides of every n-th training pair."""
        rows = self._rows["train"]
        every = -(-rows // self._settings["vocabulary_pairs"])
        self._progress.start("learning the vocabulary", rows)
        for start, stop in _blocks(rows, every * 1000):
            for row in self._corpus.block("train", start, stop)[::every]:
                if fault(row) is None:
                    yield from row
            self._progress.advance(stop)

    def _shard(self, split: str, start: int, stop: int) -> Path:
        return self._shards / f"{split}-{start}-{stop}.npz"

    def _encode(self, split: str, shard_rows: int) -> Counts:
        """Write the shards of a split that are not there yet."""
        rows, total = self._rows[split], Counts()
        self._progress.start(f"encoding {split}", rows)
        longest = self._settings["max_length"] if split == "train" else None
        waiting: set[concurrent.futures.Future[Counts]] = set()
        for start, stop in _blocks(rows, shard_rows):
            path = self._shard(split, start, stop)
            if (counts := read_counts(path)) is not None:
                total = self._checked(split, total + counts)
                continue
            block = self._corpus.block(split, start, stop)
            arguments = path, block, start, longest, split in WITH_TEXT
            if self._processes == 1 or rows <= shard_rows:
                total = self._checked(split, total + write_shard(arguments[0], self._subwords, *arguments[1:]))
                continue
            if len(waiting) >= 2 * self._processes:  # that the blocks in memory are few
                total, waiting = self._gather(split, total, waiting, concurrent.futures.FIRST_COMPLETED)
            waiting.add(self._workers().submit(_work, *arguments))
        total, _ = self._gather(split, total, waiting, concurrent.futures.ALL_COMPLETED)
        if not total.pairs:
            raise UserError(f"no pair of {split} can be used: {_named(total)}{total.too_long:,} are too long")
        return total

    def _gather(
        self, split: str, total: Counts, waiting: set[concurrent.futures.Future[Counts]], when: str
    ) -> tuple[Counts, set[concurrent.futures.Future[Counts]]]:
        """Add what workers have done, and what they have still to do."""
        done, waiting = concurrent.futures.wait(waiting, return_when=when)
        for one in done:
            total = self._checked(split, total + one.result())
        return total, waiting

    def _workers(self) -> concurrent.futures.ProcessPoolExecutor:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")  # no threads, locks or devices of this process
            self._pool = concurrent.futures.ProcessPoolExecutor(
                self._processes, context, _start_worker, (self._folder / VOCABULARY,)
            )
        return self._pool

    def _checked(self, split: str, counts: Counts) -> Counts:
        self._progress.advance(counts.rows)
        rows = self._rows[split]
        if counts.all_skipped > self._skip_limit * rows:
            raise UserError(
                f"{counts.all_skipped:,} of the first {counts.rows:,} pairs of {split} cannot be used, more than "
                f"{self._skip_limit:.3g} of all {rows:,}: {_named(counts, self._corpus.lines)}mend the text, or raise "
                "`train --data.bad-share`, `data prepare --skip-limit`"
            )
        return counts

    def _join(self, split: str, shard_rows: int) -> None:
        """Put the shards of a split behind each other."""
        shards = [self._shard(split, *block) for block in _blocks(self._rows[split], shard_rows)]
        for side in SIDES:
            for kind in ("tokens", "txt") if split in WITH_TEXT else ("tokens",):
                with atomic_path(file_of(self._folder, split, side, kind)) as path, path.open("wb") as file:
                    for shard in shards:
                        file.write(read_array(shard, f"{side}_{kind}").tobytes())
            with atomic_path(file_of(self._folder, split, side, "offsets")) as path, path.open("wb") as file:
                end = OFFSET.type(0)
                file.write(end.tobytes())
                for shard in shards:
                    ends = end + read_array(shard, f"{side}_lengths").cumsum(dtype=OFFSET)
                    file.write(ends.astype(OFFSET).tobytes())
                    end = ends[-1] if len(ends) else end

    def _info(self, counts: dict[str, Counts]) -> dict[str, Any]:
        size = len(self._subwords)
        kind = token_type(size).str
        packages = {name: importlib.metadata.version(name) for name in ("numpy", "sentencepiece")}
        return {
            "kind": "text",
            "format": FORMAT,
            "corpus": self._corpus.name,
            "source": self._corpus.source,
            "target": self._corpus.target,
            "licence": self._corpus.licence,
            "fingerprint": self._corpus.fingerprint(),
            "settings": self._settings,
            "vocabulary": {"size": size, "digest": self._subwords.digest, "type": kind},
            "rows_are": self._corpus.lines,
            "splits": {split: asdict(one) for split, one in counts.items()},
            "versions": {"asgc": asgc.__version__, **packages},
        }


def _finished(folder: Path, corpus: Corpus, own: dict[str, Any], progress: Silent) -> dict[str, Any] | None:
    """What `info.json` says where the folder is filled and its settings are these; None where it is not filled yet.

    The text need not be there any more; where it is, it must be the same.
    """
    if not (folder / INFO).exists():
        return None
    info = read_info(folder)
    names = {"corpus": corpus.name, "source": corpus.source, "target": corpus.target}
    identity = {key: value for key, value in info["settings"].items() if key not in own}
    if not corpus.remote:
        with contextlib.suppress(UserError):
            identity = corpus.identity()
    _refuse_others(folder, info["settings"], {**identity, **names, **own}, "is prepared")
    read_vocabulary(folder, info)
    for split in SPLITS:
        TokenPairs(folder, split)
    if (folder / BEGUN).exists() and not is_held(folder / LOCK):  # it was killed when all was done
        _tidy(folder)
    progress.message(f"{folder} is prepared already: {info['splits']['train']['pairs']:,} pairs to train on")
    return info


def _refuse_others(folder: Path, before: dict[str, Any], now: dict[str, Any], what: str) -> None:
    before, now = _flat(before), _flat(now)
    differing = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if differing:
        pairs = ", ".join(f"{key} {before.get(key)}, not {now.get(key)}" for key in differing)
        raise UserError(f"{folder} {what} with other settings ({pairs}): choose another folder, or remove this one")


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """{"bytes": {"train.en": 5}} as {"bytes of train.en": 5}."""
    inner = {key: value if isinstance(value, dict) else {"": value} for key, value in settings.items()}
    return {f"{key} of {name}" if name else key: one for key, some in inner.items() for name, one in some.items()}


def _named(counts: Counts, lines: str = "row") -> str:
    return "".join(f"{lines} {number}: {why}; " for number, why in counts.first_skipped)


def _tidy(folder: Path) -> None:
    shutil.rmtree(folder / SHARDS, ignore_errors=True)
    (folder / BEGUN).unlink(missing_ok=True)


def _left_over(path: Path) -> bool:
    """Whether it is what a killed process had begun to write."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def _blocks(rows: int, size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, rows, size):
        yield start, min(rows, start + size)


@contextlib.contextmanager
def _locked(folder: Path, wait: bool, progress: Silent) -> Iterator[None]:
    """This process alone in the folder, made if need be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise UserError(f"{folder} is a file: choose another folder") from error
    told = False
    while True:
        try:
            lock = FolderLock(folder / LOCK)
            break
        except UserError as error:
            if not wait or not isinstance(error.__cause__, BlockingIOError):
                raise
        if not told:
            progress.message(f"waiting for another process that prepares {folder}")
            told = True
        time.sleep(WAIT_S)
    try:
        yield
    finally:
        lock.release()


# In a worker process.


def _start_worker(vocabulary: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that leads
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _own_subwords(vocabulary)


def _end_with_parent() -> None:
    """However it goes: the pipes of a pool are open in its workers as well, which would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL)


@functools.cache
def _own_subwords(vocabulary: Path) -> Subwords:
    return Subwords.load(vocabulary)


def _work(path: Path, rows: list[Row], first: int, longest: int | None, texts: bool) -> Counts:
    return write_shard(path, _own_subwords(path.parents[1] / VOCABULARY), rows, first, longest, texts)
