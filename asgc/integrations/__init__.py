"""Where another library needs to know something of ASGC. Nothing here is imported by ``asgc`` itself.

``asgc.integrations.lightning`` and ``asgc.integrations.pytorch_lightning`` (the same library under its two names) hold
a callback that every Trainer gets by an entry point of this distribution.
"""

from __future__ import annotations

import math
from typing import Any

from torch.optim import Optimizer

from ..optimizer import ASGC
from ..wrapped import Wrapped

__all__ = ["clips", "refuse_double_clipping"]


def clips(optimizer: Optimizer) -> bool:
    """Whether an optimizer is ASGC, or wrapped by it, with a threshold that is not infinite."""
    if isinstance(optimizer, ASGC):
        options = optimizer.param_groups
    elif isinstance(optimizer, Wrapped):
        options = [optimizer.options]
    else:
        return False
    return any(math.isfinite(o["clip_factor"] if o["threshold"] is None else o["threshold"]) for o in options)


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
