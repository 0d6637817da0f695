"""The real compiler takes the kernels, down to machine code: no GPU is needed for that."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton")
ROOT = Path(__file__).parents[3]
PTXAS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"


@pytest.mark.skipif(not os.access(PTXAS, os.X_OK), reason="this triton brings no ptxas")
@pytest.mark.parametrize("capability", [pytest.param(80, marks=pytest.mark.slow), 90])
def test_kernels_compile_without_a_gpu(capability: int, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "tests.asgc.implementations.triton_ptx", str(capability)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    made: dict[str, str] = json.loads(done.stdout)
    assert len(made) == 14
    for name, ptx in made.items():
        assert f".target sm_{capability}" in ptx
        # Sums have a fixed order: nothing is added to memory by several programs.
        assert not re.search(r"\b(atom|red)\.", ptx), name
    for name in ("adam value", "adam norm", "sgd", "nesterov", "adagrad"):
        assert not re.search(r"\bfma\.rn\S*\.f32\b", made[name]), name  # the reference rounds every product
    for name, read, written in (("adam value", 4, 3), ("adam norm", 4, 3), ("adagrad", 3, 2), ("nesterov", 3, 2)):
        # Whole tiles go through memory 16 bytes at a time, at least once for each tensor.
        assert len(re.findall(r"\bld\.global\S*\.v4\.", made[name])) >= read, name
        assert len(re.findall(r"\bst\.global\S*\.v4\.", made[name])) >= written, name
