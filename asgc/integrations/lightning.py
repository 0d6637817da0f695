"""``lightning.pytorch``: a Trainer that clips the gradients of ASGC a second time is stopped, with the reason."""

from __future__ import annotations

from . import refuse_double_clipping, torchvision_fault

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning_utilities.core.overrides import is_overridden
except RuntimeError as error:
    raise ImportError(torchvision_fault() or str(error)) from error

__all__ = ["DoubleClippingCheck", "callbacks"]


class DoubleClippingCheck(Callback):
    """See ``asgc.integrations.refuse_double_clipping``; runs once, before the first step."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        own = is_overridden("configure_gradient_clipping", pl_module, LightningModule)
        refuse_double_clipping(trainer, own)


def callbacks() -> list[Callback]:
    """For the entry point ``lightning.pytorch.callbacks_factory``."""
    return [DoubleClippingCheck()]
