"""ASGC: Adaptive Stochastic Gradient Clipping for PyTorch.

``ASGC`` is the optimizer, ``wrap`` puts the same gradient transform in front of any other one, ``functional`` holds the
pure functions, ``optimizers`` is a registry of ASGC and its baselines by name.
"""

from . import functional
from .optimizer import ASGC

__all__ = ["ASGC", "functional"]
__version__ = "0.1.0"
