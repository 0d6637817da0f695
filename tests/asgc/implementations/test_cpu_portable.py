"""Kernels for machines without a compiler, made for levels of the instruction set: the highest of a CPU serves."""

from __future__ import annotations

import platform
import re
import subprocess
from pathlib import Path

import pytest
import torch

from asgc import ASGC
from asgc.implementations.cpu import build, kernel_cache, portable
from tests.asgc.implementations.kernel_files import forget, kernels

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="levels of x86-64")

# The compiler's macro for a feature, where it is not the word of /proc/cpuinfo.
MACROS = {
    "abm": "__LZCNT__",
    "bmi1": "__BMI__",
    "cx16": "__GCC_HAVE_SYNC_COMPARE_AND_SWAP_16",
    "lahf_lm": "__LAHF_SAHF__",
    "pni": "__SSE3__",
}


def loaded_from() -> str:
    return Path(build.load_kernel()._name).name


@pytest.mark.parametrize("level", ["x86-64-v4", "x86-64-v3"])
def test_a_level_needs_what_the_compiler_may_use_there(level: str) -> None:
    def macros(march: str) -> set[str]:
        command = [*build._compiler(), f"-march={march}", "-dM", "-E", "-x", "c++", "/dev/null"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return {line.split()[1] for line in done.stdout.splitlines()}

    gained = macros(level) - macros("x86-64")
    instructions = {name for name in gained if re.fullmatch(r"__[A-Z0-9_]+__", name) and "_MATH_" not in name}
    instructions -= {"__CRC32__", "__EVEX256__", "__EVEX512__"}  # parts of others here
    instructions |= gained & set(MACROS.values())
    assert instructions == {MACROS.get(word, f"__{word.upper()}__") for word in portable.LEVELS[level]}


def test_the_highest_level_of_a_cpu_serves_without_a_compiler(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert build.build_portable() == ["x86-64-v4", "x86-64-v3", "plain"]
    files = {file.name.split("-")[1]: file.name for file in kernels(quick)}
    assert len(files) == 3
    monkeypatch.setenv("CXX", "/no/such/compiler")
    v3 = " ".join(portable.LEVELS["x86-64-v3"])
    v4 = " ".join(portable.LEVELS["x86-64-v4"])
    for features, level in [
        (v4, "x86-64-v4"),
        (v4.replace("avx512bw", ""), "x86-64-v3"),
        (v3, "x86-64-v3"),
        (v3.replace("fma", ""), "plain"),
        ("another CPU", "plain"),
    ]:
        monkeypatch.setattr(build, "_cpu", lambda features=features: f"x86_64 flags : {features}")
        forget()
        assert loaded_from() == files[build._portable_key(level)]


def test_a_kernel_of_the_machines_own_goes_before_portable_ones(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build.load_kernel()
    (own,) = kernels(quick)
    build.build_portable()
    forget()
    assert loaded_from() == own.name
    forget()
    monkeypatch.setattr(build, "_key", lambda *shaped_by: "0" * 24)  # another source: none of them fits
    monkeypatch.setattr(build, "_compile", lambda *arguments: (_ for _ in ()).throw(build.BuildError("compiles")))
    with pytest.raises(build.BuildError, match="compiles"):
        build.load_kernel()


def test_a_damaged_one_is_passed_over(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build.build_portable()
    monkeypatch.setattr(build, "_cpu", lambda: " ".join(portable.LEVELS["x86-64-v3"]))
    monkeypatch.setenv("CXX", "/no/such/compiler")
    (damaged,) = [file for file in kernels(quick) if build._portable_key("x86-64-v3") in file.name]
    content = damaged.read_bytes()
    damaged.unlink()
    damaged.write_bytes(content[: len(content) // 2])
    forget()
    assert build._portable_key("plain") in loaded_from()


def test_without_a_folder_none_are_built(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_cache, "folder_to_build_in", lambda: None)
    with pytest.raises(build.BuildError, match="no folder"):
        build.build_portable()


@pytest.mark.slow
@pytest.mark.parametrize("level", portable.supported(build._cpu()))
def test_every_level_steps_as_the_reference_does(fresh: Path, level: str, tmp_path: Path) -> None:
    built = tmp_path / "kernel.so"
    source = Path(build.__file__).parent / build._SOURCE
    build._compile(build._compiler(), source, built, portable.compile_flags(level), [])
    build._library = build._open(built)

    def weights(mode: str, rule: str, implementation: str) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1)
        param = torch.randn(70, 33, generator=generator)
        opt = ASGC([param], 0.01, rule=rule, mode=mode, implementation=implementation)
        for _ in range(30):
            param.grad = torch.randn(70, 33, generator=generator)
            opt.step()
        return param

    for mode in ("value", "norm"):
        for rule in ("adam", "sgd"):
            expected = weights(mode, rule, "reference")
            torch.testing.assert_close(weights(mode, rule, "cpu"), expected, rtol=1e-5, atol=1e-6)
