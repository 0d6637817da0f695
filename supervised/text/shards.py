"""A shard: some thousand rows of a split turned into tokens, written whole or not at all."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.files import atomic_path
from supervised.text.corpus import Row, fault
from supervised.text.subwords import Subwords
from supervised.text.token_files import SIDES, token_type

NAMED = 10  # skipped rows that are told one by one


@dataclass
class Counts:
    """What became of rows.

    Attributes:
        rows: all of them; pairs: those that were kept.
        too_long: left out, a side has too many tokens.
        skipped: rows that could not be used by reason; first_skipped: the first of them, number from 1 and reason.
    """

    rows: int = 0
    pairs: int = 0
    source_tokens: int = 0
    target_tokens: int = 0
    too_long: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    first_skipped: list[tuple[int, str]] = field(default_factory=list)

    @property
    def all_skipped(self) -> int:
        return sum(self.skipped.values())

    def __add__(self, later: Counts) -> Counts:
        return Counts(
            self.rows + later.rows,
            self.pairs + later.pairs,
            self.source_tokens + later.source_tokens,
            self.target_tokens + later.target_tokens,
            self.too_long + later.too_long,
            dict(sorted((Counter(self.skipped) + Counter(later.skipped)).items())),
            sorted((*self.first_skipped, *later.first_skipped))[:NAMED],
        )


def write_shard(
    path: Path, subwords: Subwords, rows: Sequence[Row], first: int, longest: int | None, texts: bool
) -> Counts:
    """Encode the rows and write the shard.

    Args:
        first: number of the first row in its split, from 0.
        longest: most tokens of a side, without begin and end; None: any number.
        texts: keep the text as well.
    """
    found = [fault(row) for row in rows]
    numbers = [number for number, why in enumerate(found) if why is None]
    faults = [(first + number + 1, why) for number, why in enumerate(found) if why is not None]
    encoded = [subwords.encode([rows[number][side] for number in numbers]) for side in range(2)]
    kept: list[int] = []
    too_long = 0
    for index, (source, target) in enumerate(zip(*encoded, strict=True)):
        if not source or not target:  # of letters that mean nothing, as a zero-width space
            faults.append((first + numbers[index] + 1, "empty"))
        elif longest is not None and max(len(source), len(target)) > longest:
            too_long += 1
        else:
            kept.append(index)
    arrays: dict[str, np.ndarray] = {}
    for side, name in enumerate(SIDES):
        sentences = [encoded[side][index] for index in kept]
        flat = [token for sentence in sentences for token in sentence]
        arrays[f"{name}_tokens"] = np.array(flat, dtype=token_type(len(subwords)))
        arrays[f"{name}_lengths"] = np.array([len(sentence) for sentence in sentences], dtype=np.uint32)
        if texts:
            lines = "".join(f"{' '.join(rows[numbers[index]][side].splitlines())}\n" for index in kept)
            arrays[f"{name}_txt"] = np.frombuffer(lines.encode(), dtype=np.uint8)
    counts = Counts(
        rows=len(rows),
        pairs=len(kept),
        source_tokens=len(arrays["source_tokens"]),
        target_tokens=len(arrays["target_tokens"]),
        too_long=too_long,
        skipped=dict(sorted(Counter(why for _, why in faults).items())),
        first_skipped=sorted(faults)[:NAMED],
    )
    report = np.frombuffer(json.dumps(asdict(counts)).encode(), dtype=np.uint8)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, report=report, **arrays)
    return counts


def read_counts(path: Path) -> Counts | None:
    """What a shard says of itself; None where there is none that is whole."""
    try:
        with np.load(path) as shard:
            values = json.loads(shard["report"].tobytes())
    except (FileNotFoundError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    return Counts(**{**values, "first_skipped": [(number, why) for number, why in values["first_skipped"]]})


def read_array(path: Path, name: str) -> np.ndarray[Any, Any]:
    """An array of a shard: "source_tokens", "source_lengths", "source_txt" (bytes), or of the target."""
    with np.load(path) as shard:
        array: np.ndarray = shard[name]
        return array
