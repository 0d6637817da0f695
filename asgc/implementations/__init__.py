"""How a step is executed: compiled for CPUs, Triton kernels for GPUs, sharded over processes."""
