"""Fast CPU path of ASGC: one compiled, vectorized, multi-threaded pass for all layers, fp32, with every option.

``unsupported(opt)`` says why it cannot serve an optimizer, ``step(opt)`` does the work of ``ASGC.step``. In value mode
the gradient is read once (28 bytes of memory traffic a parameter with adam), in norm mode once from memory and once
from the cache. Results equal the reference up to rounding and do not depend on the number of threads.
With granularity="unit" the units must lie one after the other in memory, as in row-major and channels_last order.
"""

from .compiled_step import step, unsupported

__all__ = ["step", "unsupported"]
