"""Meta-learning ASGC's own parameters: over a distribution of tasks instead of by hand for each.

space    what is learned: options of ASGC by kind of layer, as a vector without bounds
preset   the result: a file with the options and their provenance, and the optimizer made from it
"""

from __future__ import annotations

from .preset import Preset
from .space import KINDS, PARAMETERS, Space, kinds_of

__all__ = ["KINDS", "PARAMETERS", "Preset", "Space", "kinds_of"]
