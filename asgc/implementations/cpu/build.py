"""Compile the CPU kernel once with the system's C++ compiler, keep it on disk and load it with ctypes.

The kernel has a plain C interface and needs no headers of torch. The file's name holds a hash of everything that
shapes the machine code (source, flags, $CXX, CPU) and a digest of its content: another machine or source builds its
own, and a damaged file is noticed and built again. No compiler is needed where a kernel is kept (``kernel_cache``): one
of this CPU, or one that ``build_portable`` made for CPUs like it (``portable``).

OpenMP's symbols are left open at link time and found in the runtime that torch has loaded: one pool of threads.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import torch  # loads the OpenMP runtime the kernel is bound to

from ...noise import noise
from . import kernel_cache as cache
from . import portable

__all__ = ["BuildError", "build_portable", "load_kernel", "unavailable"]

_log = logging.getLogger("asgc")
_SOURCE = "kernel.cpp"
# Not -ffast-math: infinities and NaN are handled. Its two harmless parts let sqrt and comparisons vectorize.
_COMMON = ("-std=c++17", "-fPIC", "-fno-math-errno", "-fno-trapping-math")
_TIMEOUT = 300  # seconds, for one call of the compiler

_lock = threading.Lock()
_library: ctypes.CDLL | None = None
_failure: str | None = None


class BuildError(RuntimeError):
    """The kernel cannot be compiled or loaded here; the message says why."""


def load_kernel() -> ctypes.CDLL:
    """The loaded kernel, compiled first where the cache has none for this machine.

    Raises:
        BuildError: no compiler, or none of its results works. Later calls say the same without trying again.
    """
    global _library, _failure
    with _lock:
        if _failure is not None:
            raise BuildError(_failure)
        if _library is None:
            try:
                _library = _load_or_build()
            except BuildError as error:
                _failure = str(error)
                raise
        return _library


def unavailable() -> str | None:
    """Why there is no kernel on this machine, or None once it is loaded."""
    try:
        load_kernel()
    except BuildError as error:
        return str(error)
    return None


def _compiler() -> list[str]:
    """Command of the C++ compiler: $CXX (with its arguments), or the first of the usual names."""
    own = shlex.split(os.environ.get("CXX", ""))
    for command in [own] if own else [["c++"], ["g++"], ["clang++"]]:
        if shutil.which(command[0]):
            return command
    raise BuildError(f"$CXX is {own[0]}, which is not there" if own else "no C++ compiler (c++, g++, clang++)")


def _cpu() -> str:
    """Model and features of the CPU, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    wanted = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    found = {line.split(":")[0].strip(): line for line in reversed(lines) if line.startswith(wanted)}
    return platform.machine() + "".join(found[name] for name in sorted(found))


def _variants(cpu: str) -> list[tuple[list[str], list[str]]]:
    """(compile flags, link flags) from the fastest to the plainest."""
    wide = ["-mprefer-vector-width=512"] if "avx512bw" in cpu else []
    return [
        (["-O3", "-march=native", "-fopenmp", *wide], []),
        (["-O3", "-march=native", "-fopenmp"], []),
        (["-O3", "-march=native", "-fopenmp", *wide], ["-fopenmp"]),  # a runtime of its own, where torch's is another
        (["-O3", "-fopenmp"], []),
        (["-O3", "-march=native", "-fopenmp-simd", *wide], []),  # one thread
        (["-O3", "-fopenmp-simd"], []),
        (["-O2"], []),
    ]


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        raise BuildError(f"{command[0]} failed: {done.stderr.strip()[-400:]}")
    return done.stdout


def _load_or_build() -> ctypes.CDLL:
    cpu = _cpu()
    key = _key(cpu, os.environ.get("CXX", ""), repr((_COMMON, _variants(cpu))))
    for usable in (key, *map(_portable_key, portable.supported(cpu))):
        kept = _cached(usable)
        if kept is not None:
            return kept
    compiler = _compiler()
    folder = cache.folder_to_build_in()
    if folder is None:
        return _build(compiler, cpu, None, key)
    with cache.turn(folder, key):
        return _cached(key) or _build(compiler, cpu, folder, key)


def _key(*shaped_by: str) -> str:
    """Hash of the kernel's source and of what else shapes the machine code."""
    sources = Path(__file__).parent
    parts = [file.read_text() for file in (sources / _SOURCE, *sorted(sources.glob("*.h")))]
    return hashlib.sha256("\0".join([*parts, *shaped_by]).encode()).hexdigest()[:24]


def _portable_key(level: str) -> str:
    return _key(platform.machine(), repr((_COMMON, portable.compile_flags(level))))


def build_portable() -> list[str]:
    """Compile a kernel for every level of ``portable.LEVELS`` into the cache, and return the levels.

    For an image, or a folder that many machines share: none of them needs a compiler then. They load the highest level
    that they have, where the cache has no kernel of their own.

    Raises:
        BuildError: no compiler, none that knows these levels, or no folder to keep them in.
    """
    compiler, runs_here = _compiler(), portable.supported(_cpu())
    folder = cache.folder_to_build_in()
    if folder is None:
        raise BuildError("there is no folder to keep the CPU kernels in")
    with tempfile.TemporaryDirectory(prefix="building-", dir=folder) as name:
        for level in portable.LEVELS:
            built = Path(name) / f"{level}.so"
            _compile(compiler, Path(__file__).parent / _SOURCE, built, portable.compile_flags(level), [])
            if level in runs_here:
                _open(built)  # the others are checked when they are loaded
            cache.keep(built, folder, _portable_key(level))
    return list(portable.LEVELS)


def _cached(key: str) -> ctypes.CDLL | None:
    """A kernel from the cache, if one of them works here."""
    for file in cache.found(key):
        try:
            return _open(file)
        except BuildError as error:  # made for another system or torch that shares the folder
            cache.say(f"{error} ({file}): another one is built")
    return None


def _build(compiler: list[str], cpu: str, folder: Path | None, key: str) -> ctypes.CDLL:
    """Compile with the first flags that work, in the folder where the kernel is kept (None: nowhere)."""
    version = _run([*compiler, "--version"]).partition("\n")[0]
    begin = time.monotonic()
    _log.warning("compiling the CPU kernel once, with %s: %s", version, cache.seen(folder))
    try:
        scratch = tempfile.TemporaryDirectory(prefix="building-", dir=folder)
    except OSError as error:
        raise BuildError(f"there is no folder to compile the CPU kernel in: {error}") from error
    with scratch as name:
        for compile_flags, link_flags in _variants(cpu):
            built = Path(name) / "kernel.so"
            try:
                _compile(compiler, Path(__file__).parent / _SOURCE, built, compile_flags, link_flags)
                loaded = _open(built)
            except BuildError as error:
                reason = error
                continue
            seconds = time.monotonic() - begin
            _log.warning("the CPU kernel was compiled in %.0f s", seconds)
            if "-fopenmp" not in compile_flags:
                _log.warning("the CPU kernel was compiled without OpenMP and uses one thread")
            if folder is not None:
                cache.note_seconds(folder, seconds)
                cache.keep(built, folder, key)
            return loaded
    raise BuildError(f"the CPU kernel does not compile: {reason}")


def _compile(compiler: list[str], source: Path, built: Path, compile_flags: list[str], link_flags: list[str]) -> None:
    compiled = built.with_suffix(".o")
    _run([*compiler, *_COMMON, *compile_flags, "-c", str(source), "-o", str(compiled)])
    built.unlink(missing_ok=True)  # a loaded file must not be written over
    undefined = ["-undefined", "dynamic_lookup"] if platform.system() == "Darwin" else []
    _run([*compiler, "-shared", *undefined, *link_flags, str(compiled), "-o", str(built)])


def _open(file: Path) -> ctypes.CDLL:
    """Load a kernel and declare its functions; refuse one that does not compute the noise to the bit.

    Raises:
        BuildError: it does not load (symbols missing) or is wrong.
    """
    try:
        loaded = ctypes.CDLL(str(file))
        pointer, long, word = ctypes.c_void_p, ctypes.c_int64, ctypes.c_uint32
        loaded.asgc_step.argtypes = [pointer, pointer, long, pointer, ctypes.c_int32]
        loaded.asgc_adapt.argtypes = [pointer, pointer, long, pointer, pointer, ctypes.c_int32]
        loaded.asgc_noise.argtypes = [pointer, long, long, word, word, word]
        loaded.asgc_clip.argtypes = [pointer, pointer, long, ctypes.c_float, ctypes.c_double]
        loaded.asgc_step.restype = ctypes.c_int32
        for function in (loaded.asgc_adapt, loaded.asgc_noise, loaded.asgc_clip):
            function.restype = None
    except (OSError, AttributeError) as error:
        raise BuildError(f"the compiled CPU kernel does not load: {error}") from error
    probe = torch.empty(40, dtype=torch.float32, device="cpu")
    loaded.asgc_noise(probe.data_ptr(), 40, 7, 1, 2, 3)
    if not torch.equal(probe, noise(1, 2, 3, 7, 40)):
        raise BuildError("the compiled CPU kernel computes wrong noise")
    return loaded
