"""torch.set_default_device and set_default_dtype change nothing: every tensor that asgc makes names both."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch.utils._device import _device_constructors

import asgc
from asgc.implementations.cpu import build

ROOT = Path(asgc.__file__).parent
FACTORIES = {function.__name__ for function in _device_constructors()}
ALWAYS_THE_DEFAULTS = {"Tensor", "FloatTensor", "DoubleTensor", "HalfTensor", "BFloat16Tensor"}


def unnamed(source: str) -> Iterator[str]:
    """Calls that make a tensor of torch's default device or type."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "torch":
            yield from (f"from torch import {a.name}" for a in node.names if a.name in FACTORIES)
        if isinstance(node, ast.arguments):
            pairs = [*zip(node.args[::-1], node.defaults[::-1], strict=False)]
            pairs += [(arg, default) for arg, default in zip(node.kwonlyargs, node.kw_defaults, strict=True) if default]
            for arg, default in pairs:
                if arg.arg in ("device", "dtype") and isinstance(default, ast.Constant) and default.value is None:
                    yield f"line {arg.lineno}: {arg.arg}=None"
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if not isinstance(node.func.value, ast.Name) or node.func.value.id != "torch":
            continue
        name, given = node.func.attr, {keyword.arg for keyword in node.keywords}
        if name in ALWAYS_THE_DEFAULTS or (name in FACTORIES and not {"device", "dtype"} <= given):
            yield f"line {node.lineno}: {ast.unparse(node)}"


def test_every_factory_call_names_device_and_type() -> None:
    assert {"tensor", "as_tensor", "zeros", "ones", "empty", "full", "arange", "linspace", "randn"} <= FACTORIES
    files = sorted(ROOT.rglob("*.py"))
    assert len(files) > 30
    assert [f"{file.relative_to(ROOT)} {call}" for file in files for call in unnamed(file.read_text())] == []


@pytest.mark.parametrize(
    "line",
    [
        "x = torch.zeros(3)",
        "f(torch.tensor([1.0], dtype=torch.float64).sum())",
        "torch.arange(3, device='cpu')",
        "torch.Tensor(3)",
        "from torch import empty",
        "def f(size, device=None): ...",
        "def f(size, *, device: str | None = None): ...",
    ],
)
def test_one_that_does_not_is_found(line: str) -> None:
    assert len(list(unnamed(line))) == 1
    assert list(unnamed("torch.zeros(3, dtype=torch.float32, device='cpu'); torch.zeros_like(x); x.new_zeros(3)")) == []


def test_the_same_bits_under_other_defaults() -> None:
    """Before, "meta" and "cuda" ended in a segmentation fault, float64 in a crash after the kernel was built anew."""
    pytest.importorskip("triton")
    build.load_kernel()  # so that it is in the cache
    command = [sys.executable, "-m", "tests.asgc.default_types"]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "compiling" not in done.stderr  # no kernel was called damaged
    found: dict[str, dict[str, str]] = {}
    for line in done.stdout.splitlines():
        default, case, result = line.split("\t")
        found.setdefault(default, {})[case] = result
    assert list(found) == ["plain", "meta", "float64", "cuda and bfloat16"]
    plain = found.pop("plain")
    assert len(plain) > 60
    assert all(len(result) == 64 for result in plain.values()), plain
    wrong = {
        (default, case): result
        for default, own in found.items()
        for case, result in own.items()
        if result != plain[case]
    }
    assert wrong == {}
    assert all(len(own) == len(plain) for own in found.values())
