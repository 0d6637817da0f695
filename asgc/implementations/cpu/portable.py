"""CPU kernels that run on other machines than the one that compiled them: for images and folders that machines share.

A kernel that a machine compiles for itself uses all its instructions and runs on its like only. Portable ones are
compiled for the levels of the x86-64 psABI; where there is no kernel of its own, a machine loads the highest level that
its CPU has. Elsewhere, and below x86-64-v3, the plain code of the architecture serves.
"""

from __future__ import annotations

import platform

__all__ = ["LEVELS", "compile_flags", "supported"]

# In the words of /proc/cpuinfo. No level for v2: the kernel gains nothing from it.
_V2 = frozenset(["cx16", "lahf_lm", "pni", "popcnt", "sse4_1", "sse4_2", "ssse3"])
_V3 = _V2 | frozenset(["abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"])
_V4 = _V3 | frozenset(["avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"])
_X86 = {"x86-64-v4": _V4, "x86-64-v3": _V3}
_PLAIN: dict[str, frozenset[str]] = {"plain": frozenset()}
LEVELS = (
    {**_X86, **_PLAIN} if platform.machine() in ("x86_64", "AMD64") else _PLAIN
)  # and what they need; fastest first


def compile_flags(level: str) -> list[str]:
    """The compiler's flags for a level of ``LEVELS``."""
    march = [] if level == "plain" else [f"-march={level}"]
    wide = ["-mprefer-vector-width=512"] if level == "x86-64-v4" else []
    return ["-O3", "-fopenmp", *march, *wide]


def supported(cpu: str) -> list[str]:
    """The levels that a CPU of these features (words) can run, the fastest first; always the plain one."""
    features = set(cpu.split())
    return [level for level, needed in LEVELS.items() if needed <= features]
