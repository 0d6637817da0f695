"""CPU kernels that run on other machines than the one that compiled them: for images and folders that machines share.

A kernel that a machine compiles for itself uses all its instructions and runs on its like only. Portable ones are
compiled for the levels of the x86-64 psABI; where there is no kernel of its own, a machine loads the highest level that
its CPU has. Elsewhere, and below x86-64-v3, the plain code of the architecture serves.
"""

from __future__ import annotations

import platform

__all__ = ["LEVELS", "compile_flags", "supported"]

_V3 = frozenset("avx avx2 bmi1 bmi2 f16c fma abm movbe xsave".split())
# Level: the features, in the words of /proc/cpuinfo, that make it; v2 has nothing that the kernel gains from.
_X86: dict[str, frozenset[str]] = {
    "x86-64-v4": _V3 | frozenset("avx512f avx512bw avx512cd avx512dq avx512vl".split()),
    "x86-64-v3": _V3,
}
_PLAIN: dict[str, frozenset[str]] = {"plain": frozenset()}
LEVELS = {**_X86, **_PLAIN} if platform.machine() in ("x86_64", "AMD64") else _PLAIN  # the fastest first


def compile_flags(level: str) -> list[str]:
    """The compiler's flags for a level of ``LEVELS``."""
    march = [] if level == "plain" else [f"-march={level}"]
    wide = ["-mprefer-vector-width=512"] if level == "x86-64-v4" else []
    return ["-O3", "-fopenmp", *march, *wide]


def supported(cpu: str) -> list[str]:
    """The levels that a CPU of these features (words) can run, the fastest first; always the plain one."""
    features = set(cpu.split())
    return [level for level, needed in LEVELS.items() if needed <= features]
