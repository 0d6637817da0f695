"""Where another library needs to know something of ASGC. Nothing here is imported by ``asgc`` itself.

``asgc.integrations.lightning`` and ``asgc.integrations.pytorch_lightning`` (the same library under its two names) hold
a callback that every Trainer gets by an entry point of this distribution.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
from typing import Any

import torch
from torch.optim import Optimizer

from ..optimizer import ASGC
from ..wrapped import Wrapped

__all__ = ["clips", "refuse_double_clipping", "torchvision_fault"]


def clips(optimizer: Optimizer) -> bool:
    """Whether an optimizer is ASGC, or wrapped by it, with a threshold that is not infinite."""
    if isinstance(optimizer, ASGC):
        options = optimizer.param_groups
    elif isinstance(optimizer, Wrapped):
        options = [optimizer.options]
    else:
        return False
    return any(math.isfinite(o["clip_factor"] if o["threshold"] is None else o["threshold"]) for o in options)


def torchvision_fault() -> str:
    """A line that says what is wrong where torchvision is installed and is of another build than torch (a CPU and a
    CUDA build, say): neither it nor Lightning, which imports what is there, can be imported then. "" if all is well.
    """
    if importlib.util.find_spec("torchvision") is None:
        return ""
    try:
        import torchvision  # type: ignore[import-not-found, import-untyped, unused-ignore]  # noqa: F401
    except (RuntimeError, ImportError, OSError) as error:
        return (
            f"torchvision {importlib.metadata.version('torchvision')} does not match torch {torch.__version__} "
            f"({str(error).splitlines()[0]}), and Lightning cannot be imported beside it: install both from the same "
            "package index, or, if nothing needs it, `pip uninstall torchvision`"
        )
    return ""


def refuse_double_clipping(trainer: Any, own_clipping: bool) -> None:
    """Stop a Lightning Trainer that clips gradients which ASGC clips as well.

    Args:
        trainer: the Trainer, its optimizers made.
        own_clipping: the module overrides ``configure_gradient_clipping``, so it has decided itself what is clipped.

    Raises:
        ValueError: Trainer(gradient_clip_val=...) beside an optimizer of ASGC that clips.
    """
    if not trainer.gradient_clip_val or own_clipping or not any(map(clips, trainer.optimizers)):
        return
    raise ValueError(
        f"Trainer(gradient_clip_val={trainer.gradient_clip_val}) clips the gradients before ASGC, whose thresholds "
        "would then be learned from clipped gradients. ASGC clips itself: leave gradient_clip_val out (to clip for "
        "other optimizers only, override LightningModule.configure_gradient_clipping)"
    )
