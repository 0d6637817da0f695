"""torchvision beside a torch of another build (CPU and CUDA): its operators do not load, so its import fails.

That takes Lightning with it, which imports what is installed. With the operators' schemas defined the import succeeds;
nothing here calls them.
"""

import importlib.util
import re

from torch import library

_kept: list[library.Library] = []  # a library that is collected takes its operators with it


def import_torchvision() -> None:
    """Import torchvision if it is installed, with the schemas of operators it could not load."""
    if importlib.util.find_spec("torchvision") is None:
        return
    for _ in range(5):
        try:
            import torchvision  # noqa: F401
        except RuntimeError as error:
            missing = re.search(r"operator torchvision::(\w+) does not exist", str(error))
            if missing is None:
                raise
            fragment = library.Library("torchvision", "FRAGMENT")
            fragment.define(f"{missing[1]}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _kept.append(fragment)
        else:
            return
