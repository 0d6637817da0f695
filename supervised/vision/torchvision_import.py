"""torchvision, imported so that it also works beside a torch of another build.

Its wheels hold operators that were compiled against one build of torch (CUDA's). Beside another build (CPU's) they do
not load, and the import fails on the first of them that it registers a function for: `torchvision::nms`, `qnms`, ... .
With the schemas of these operators defined the import succeeds. Nothing of ours calls them: they are of detection.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from types import ModuleType

from torch import library

from evaluation.cli.errors import UserError

_OPERATORS = 8  # at most, that an import may miss
_kept: list[library.Library] = []  # a library that is collected takes its operators with it


def import_torchvision(module: str = "torchvision") -> ModuleType:
    """torchvision, or a module of it.

    Raises:
        UserError: it is not installed.
    """
    if importlib.util.find_spec("torchvision") is None:
        raise UserError("images and torchvision's models need torchvision: pip install 'asgc[supervised]'")
    for _ in range(_OPERATORS):
        try:
            return importlib.import_module(module)
        except RuntimeError as error:
            missing = re.search(r"operator torchvision::(\w+) does not exist", str(error))
            if missing is None:
                raise
            fragment = library.Library("torchvision", "FRAGMENT")
            fragment.define(f"{missing[1]}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _kept.append(fragment)
    return importlib.import_module(module)
