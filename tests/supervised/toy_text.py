"""A language that a tiny Transformer learns in seconds: the words of one are those of the other in capital letters."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from supervised import TrainConfig
from supervised.text.corpora import open_corpus
from supervised.text.corpus import Row
from supervised.text.prepare import prepare
from tests.supervised.text.written import parallel

LETTERS, SUBWORDS = "abcdefgh", 290


def sentences(count: int, seed: int, shortest: int = 3) -> list[Row]:
    """Pairs of up to 6 words of one letter."""
    draw = random.Random(seed)
    chosen = [" ".join(draw.choices(LETTERS, k=draw.randint(shortest, 6))) for _ in range(count)]
    return [(one, one.upper()) for one in chosen]


def prepared(folder: Path, train: int = 1000, subwords: int = SUBWORDS) -> Path:
    """Prepared text, at FOLDER/prepared."""
    splits = {"train": sentences(train, 0), "valid": sentences(30, 1, 4), "test": sentences(20, 2, 4)}
    text = parallel(folder / "text", splits)
    prepare(open_corpus(str(text), source="en", target="de"), folder / "prepared", vocab_size=subwords)
    return folder / "prepared"


def config_of(data: Path, run: Path | None = None, **options: Any) -> TrainConfig:
    """A run of a few seconds on one thread."""
    values: dict[str, Any] = {
        "data.name": str(data),
        "model": {"name": "tiny", "dropout": 0.0},
        "total_steps": 200,
        "batch_size": 200,
        "device": "cpu",
        "precision": "fp32",
        "threads": 1,
        "tensorboard": False,
        "log_interval": 10,
        "label_smoothing": 0.0,
        "optimizer": {"name": "adam", "lr": 3e-3},
        "lr_schedule": {"name": "cosine", "warmup": 20},
        "evaluation": {"interval": 100, "sentences": 20, "train_subset": 25, "beam": 2},
        "gradients": {"enabled": False},
        "run_dir": run,
    }
    return TrainConfig.preset("dict-ende", **(values | options))
