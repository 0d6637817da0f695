"""ASGC: Adaptive Stochastic Gradient Clipping for PyTorch.

``ASGC`` is the optimizer, ``wrap`` puts the same gradient transform in front of any other one, ``functional`` holds the
pure functions, ``optimizers`` is a registry of ASGC and its baselines by name.
"""

from . import functional, optimizers
from .optimizer import ASGC
from .wrap import wrap

__all__ = ["ASGC", "functional", "optimizers", "wrap"]
__version__ = "0.1.0"
