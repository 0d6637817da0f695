"""What the extras bring, and that what is installed goes together."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import asgc
from evaluation.cli.config_file import SHIPPED

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def brought_by(extra: str) -> set[str]:
    """Distributions that an extra brings, as far as they are installed, with what these need."""
    found: set[str] = set()
    waiting = [Requirement(line) for line in EXTRAS[extra]]
    while waiting:
        one = waiting.pop()
        if one.name == "asgc":
            waiting += [Requirement(line) for name in one.extras for line in EXTRAS[name]]
            continue
        if one.name.lower() in found or (one.marker and not one.marker.evaluate({"extra": ""})):
            continue
        try:
            needed = importlib.metadata.requires(one.name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(one.name.lower())
        waiting += map(Requirement, needed)
    return found


def test_the_version_is_one() -> None:
    assert asgc.__version__ == importlib.metadata.version("asgc")


@pytest.mark.parametrize("extra", ["dev", "study", "cluster", "tracking"])
def test_no_extra_brings_a_torchvision(extra: str) -> None:
    """It comes from another index than a CPU build of torch, and then Lightning cannot be imported."""
    found = brought_by(extra)
    assert "optuna" in found or extra in ("cluster", "tracking")
    assert not found & {"torchvision", "torchaudio"}


def test_ci_installs_what_tests_are_skipped_without() -> None:
    """All but Tianshou, whose numba compiles for long, and fairseq, which compiles itself and brings torchaudio."""
    waiting, named = [*PROJECT["dependencies"], *EXTRAS["dev"]], {}
    while waiting:
        one = Requirement(waiting.pop())
        named[one.name.lower().replace("_", "-")] = one.specifier
        waiting += [line for extra in one.extras if one.name == "asgc" for line in EXTRAS[extra]]
    text = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    modules = set(re.findall(r'importorskip\("(\w+)', text)) - {"tianshou", "fairseq", "asgc"}
    assert {"ale_py", "stable_baselines3", "imageio_ffmpeg"} <= modules
    distributions = {"PIL": "pillow", "mlflow": "mlflow-skinny", "sklearn": "scikit-learn"}
    for module in modules:
        assert distributions.get(module, module.replace("_", "-")) in named, module


def test_a_torchvision_that_does_not_match_torch_is_said_in_one_line() -> None:
    program = "from asgc.integrations import torchvision_fault\nprint(torchvision_fault())"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    program = "import importlib.util\nif importlib.util.find_spec('torchvision'): import torchvision\nimport lightning"
    imported = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (said == "") == (imported.returncode == 0), imported.stderr
    if said:  # left over from something else: see above
        assert said.startswith("torchvision ")
        assert "does not match torch" in said
        assert "pip uninstall torchvision" in said
        program = "import asgc.integrations.lightning"
        error = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False).stderr
        assert error.strip().splitlines()[-1] == f"ImportError: {said}"


def test_a_package_of_the_users_that_is_called_configs_hides_no_preset(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "__init__.py").touch()
    program = (
        "import sys\nsys.path.insert(0, '.')\nimport configs\nassert '__init__' in configs.__file__\n"
        "from evaluation.study.spec import find\nfrom rl.config import TrainConfig\n"
        "print(TrainConfig.preset('control').total_steps > 0, find('smoke'))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["True", str(SHIPPED / "studies" / "smoke.yaml")], done.stderr
