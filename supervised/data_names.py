"""What `--data` names, as far as the name and a look at the folder say, and which options then do nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from supervised.config import TrainConfig

SMALL = {
    "imagenet": ("fashion-mnist", "digits"),
    "wmt14": ("dict-ende",),
    "streams": ("heavy-tailed", "bursts"),
}  # by task, what a laptop has
HUGGING_FACE = "hf:"
SAVED = ("dataset_dict.json", "dataset_info.json", "state.json")  # files that `save_to_disk` of Hugging Face writes
PREPARED = "info.json"  # in a folder of prepared text


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` of Hugging Face wrote it."""
    return any((folder / file).exists() for file in SAVED)


def idle(config: TrainConfig) -> Iterator[str]:
    """Options that were given and cannot act on the data that is named, a line each."""
    name = config.data.name or ""
    paths: tuple[str, ...] = ()
    why = ""
    if config.task == "imagenet" and name in SMALL["imagenet"]:
        paths, why = ("data.resize", "data.bad_share"), "which is held in memory"
        if name == "digits":
            paths, why = (*paths, "data.root"), "which comes with scikit-learn and is held in memory"
    elif config.task == "imagenet" and name.startswith(HUGGING_FACE):
        saved = is_saved(Path(name.removeprefix(HUGGING_FACE)))
        paths, why = ("data.root",) if saved else (), "a folder itself"
    elif config.task == "streams":
        paths, why = ("data.root", "data.train_size", "data.bad_share", "data.workers", "label_smoothing"), "made up"
        paths = (*paths, "evaluation.batch_size")
    elif config.task == "wmt14" and name and Path(name, PREPARED).is_file():
        paths, why = ("data.root", "data.prepared", "data.max_length", "data.bad_share"), "which is prepared already"
    for path in paths:
        yield from config.unused(path, f"on {name}, {why}: leave it out")
