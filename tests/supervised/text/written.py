"""Small texts that tests write: parallel text, a dictionary, WMT14 as Hugging Face `datasets` has it."""

from __future__ import annotations

import gzip
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from supervised.text.corpus import Row

NOUNS = ("Hund", "Katze", "Haus", "Baum", "Vogel", "Garten", "Straße", "Brücke", "Schule", "Woche")
ENGLISH = ("dog", "cat", "house", "tree", "bird", "garden", "street", "bridge", "school", "week")


def pairs(count: int, seed: int = 0) -> list[Row]:
    """English and German sentences of 3 to 12 words."""
    draw = random.Random(seed)
    chosen = [draw.choices(range(len(NOUNS)), k=draw.randint(3, 12)) for _ in range(count)]
    return [(" ".join(ENGLISH[n] for n in one) + ".", " ".join(NOUNS[n] for n in one) + ".") for one in chosen]


def parallel(folder: Path, splits: Mapping[str, Sequence[Row]], *, packed: bool = False) -> Path:
    """Write SPLIT.en and SPLIT.de; lone surrogates are bytes that are no UTF-8."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        for side, language in enumerate(("en", "de")):
            data = "".join(f"{row[side]}\n" for row in rows).encode("utf-8", "surrogateescape")
            path = folder / f"{split}.{language}{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(data, mtime=0) if packed else data)
    return folder


def small(folder: Path, train: int = 300) -> Path:
    """Parallel text that is prepared in a moment."""
    return parallel(folder, {"train": pairs(train), "valid": pairs(20, 1), "test": pairs(30, 2)})


def dictionary(path: Path, lines: int = 400, seed: int = 0) -> Path:
    """A file in the form of trans-de-en: lines share sentences, alternatives and sub-entries are several."""
    draw = random.Random(seed)
    known = pairs(lines, seed)
    written = ["# License :: GPL Version 2 or later"]
    for _ in range(lines):
        entries = [draw.sample(known, draw.randint(1, 2)) for _ in range(draw.randint(1, 3))]
        german = " | ".join("; ".join(f"{de} {{m}} [x.]" for _, de in entry) for entry in entries)
        english = " | ".join("; ".join(f"{en} (so; so)" for en, _ in entry) for entry in entries)
        written.append(f"{german} :: {english}")
    path.write_text("\n".join(written) + "\n", encoding="utf-8")
    return path
