"""torchvision's classifiers by their names."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from evaluation.cli.errors import UserError, reason
from supervised.vision.torchvision_import import import_torchvision

_AUXILIARY = ("googlenet", "inception_v3")  # have classifiers in the middle as well, of which we train none
_FIXED = ("vit_", "maxvit_")  # are made for one size of images


def make(name: str, side: int, classes: int) -> nn.Module:
    """A classifier of torchvision without trained weights, for colour images.

    Args:
        name: as `torchvision.models.list_models` has it.
        side: pixels of the images' sides; only vision transformers are made for one.

    Raises:
        UserError: torchvision has none of this name, or none for images of this size.
    """
    models = import_torchvision("torchvision.models")
    known = models.list_models(module=models)
    if name not in known:
        from supervised.vision.models import SMALL_CNN

        near = difflib.get_close_matches(name.lower().replace("-", "_"), [*known, SMALL_CNN], n=3, cutoff=0.5)
        meant = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UserError(f"--model {name or 'null'}: must be {SMALL_CNN} or a classifier of torchvision{meant}")
    options: dict[str, Any] = {"aux_logits": False, "init_weights": True} if name in _AUXILIARY else {}
    if name.startswith("vit_"):
        options["image_size"] = side
    if name.startswith("maxvit_"):
        options["input_size"] = (side, side)
    try:
        model: nn.Module = models.get_model(name, weights=None, num_classes=classes, **options)
    except (ValueError, RuntimeError, AssertionError) as error:  # a size that its patches do not divide
        raise UserError(f"--data.resolution {side}: {name} takes no images of this size ({reason(error)})") from error
    return model


def check_sides(name: str, sides: Sequence[int]) -> None:
    """Refuse sizes of images that a model cannot take; nothing is computed.

    Args:
        sides: pixels of the images' sides in training, at its end first.

    Raises:
        UserError: says which size, and what to do.
    """
    if name.startswith(_FIXED) and len(set(sides)) > 1:
        raise UserError(
            f"--model {name} takes images of one size: leave out --data.start-resolution and --data.eval-resolution"
        )
    with torch.random.fork_rng(devices=[]), torch.device("meta"), torch.no_grad():
        model = make(name, sides[0], 2).eval()
        for side in sorted(set(sides)):
            try:
                model(torch.empty(1, 3, side, side))
            except (RuntimeError, AssertionError, ValueError) as error:
                raise UserError(
                    f"{side} pixels are too few or do not fit {name} ({reason(error)}): choose another "
                    "--data.resolution; images are scaled to it"
                ) from error
