"""Other libraries' models and training in the place of this package's: `--backend fairseq`.

The same data, order of samples, learning rates, optimizer, evaluations and run folder. Nothing of a library is imported
before it is needed.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from evaluation.cli.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from supervised.config import TrainConfig
    from supervised.learner import Learner
    from supervised.text.transformer import Transformer

NATIVE = "native"


def faults(config: TrainConfig) -> Iterator[str]:
    """What the backend cannot do of a configuration, a line each."""
    if config.backend == NATIVE:
        return
    whose = f"the backend {config.backend}"
    for path, only in {"compile": False, "sharded": False}.items():
        if getattr(config, path) != only:
            yield config.wrong(path, f"{whose} has no such option")
    if config.curvature.every is not None:
        yield config.wrong("curvature.every", f"{whose} has no second derivatives")
    if config.optimizer.preset is not None:
        yield config.wrong("optimizer.preset", f"{whose} knows no names of layers, which a preset needs")
    if config.no_decay and config.optimizer.options().get("weight_decay"):
        yield config.wrong("no_decay", f"{whose} decays all weights: give --no-decay false to have it so")


def learner_class(config: TrainConfig) -> type[Learner]:
    """What trains the model of a configuration. `UserError` as `load`."""
    if config.backend == NATIVE:
        from supervised.learner import Learner

        return Learner
    found: type[Learner] = load(config.backend).FairseqLearner
    return found


def model_like(name: str, native: Transformer) -> nn.Module:
    """A backend's model of the size of one of this package's, as it is saved in a run folder. `UserError` as `load`."""
    model: nn.Module = load(name).model_like(native)
    return model


def load(name: str) -> Any:
    """The module of a backend.

    Raises:
        UserError: its library is not installed.
    """
    if importlib.util.find_spec(name) is None:
        raise UserError(f"--backend {name}: {name} is not installed: pip install 'asgc[{name}]'")
    logging.getLogger(name).setLevel(logging.WARNING)
    with own_logging():
        return importlib.import_module(f"supervised.backends.{name}")


@contextmanager
def own_logging() -> Iterator[None]:
    """Keep logging as it is: libraries set it up for the program when they are imported."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
