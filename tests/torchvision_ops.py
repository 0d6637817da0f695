"""torchvision beside a torch of another build: Lightning imports it where it is installed, and would fail with it."""

import contextlib
import importlib.util

import pytest

from evaluation.cli.errors import UserError
from supervised.vision import torchvision_import


def import_torchvision() -> None:
    """Import torchvision if it is installed, see `supervised.vision.torchvision_import`."""
    with contextlib.suppress(UserError):
        torchvision_import.import_torchvision()


needs_torchvision = pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="needs torchvision")
