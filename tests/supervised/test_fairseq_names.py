"""The names of the plug-in's optimizers, without fairseq."""

from __future__ import annotations

from asgc import optimizers
from supervised.fairseq_names import fairseq_name

# fairseq 0.12's own, which it refuses to register again.
FAIRSEQS = {"adadelta", "adafactor", "adagrad", "adam", "adamax", "composite", "cpu_adam", "lamb", "nag", "sgd"}


def test_no_name_is_fairseqs() -> None:
    found = [fairseq_name(name) for name in optimizers.names()]
    assert not FAIRSEQS & set(found)
    assert len(set(found)) == len(found)
