"""GPU path of ASGC: one multi-tensor step in Triton for all layers of all groups.

``unsupported(opt)`` says why it cannot serve an optimizer, ``step(opt)`` does the work of ``ASGC.step``. One launch of
the main kernel serves all layers of the same types and options, whatever their number and sizes; two small launches
around it turn sums into statistics and statistics into coefficients (``rows.py``), and norm mode and noise have one
more for the sums. Value mode without noise reads the gradient once (28 bytes of memory traffic a parameter with adam),
the others twice (32). See ``kernels.py`` for all figures.

Everything a step depends on lives on the device: statistics, ``state["step"]``, ``state["noise_step"]``, options, and
the addresses of all tensors. A step never waits for the device (``nonfinite="skip"`` and ``"raise"`` do, see
``asgc.nonfinite``), and a change of an option is a copy of a few bytes, not a new kernel. Sums have a fixed order that
depends on the shapes only. triton is imported with the first optimizer that uses it. With TRITON_INTERPRET=1 in the
environment before that, the kernels run in Triton's interpreter on CPU tensors: for tests, and slowly.
"""

from .triton_step import step, unsupported

__all__ = ["step", "unsupported"]
