"""What registered optimizers are called in fairseq, which has an `adam` and a `lamb` of its own."""

from __future__ import annotations

from asgc.options import LIBRARY_CLASSES, TORCH_CLASSES

TORCH, LIBRARY = "torch-", "library-"


def fairseq_name(name: str) -> str:
    """The name of `asgc.optimizers`, with whose it is in front where fairseq may have one of its own."""
    return TORCH + name if name in TORCH_CLASSES else LIBRARY + name if name in LIBRARY_CLASSES else name
