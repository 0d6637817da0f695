"""The recipes of asgc/README.md do what they say: every Python block runs, but those that need processes."""

import re
import warnings
from pathlib import Path

import pytest

from tests.torchvision_ops import import_torchvision

README = Path(__file__).parents[2] / "asgc" / "README.md"
RECIPES = re.findall(r"^### (.+?)\n.*?```python\n(.*?)```", README.read_text(), re.DOTALL | re.MULTILINE)


def test_all_are_there() -> None:
    names = [name for name, _ in RECIPES]
    assert names == [
        "Plain PyTorch", "Mixed precision", "Gradient accumulation", "Learning-rate schedules", "torch.compile",
        "Lightning", "Accelerate", "Stable-Baselines3", "Tianshou", "Several processes (DDP)",
        "In front of another optimizer", "A step in the backward pass",
        "Optimizer states over several processes (ZeRO)",
        "Saving and resuming",
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "code"), RECIPES, ids=[name for name, _ in RECIPES])
def test_recipe(name: str, code: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    block = compile(code, f"recipe: {name}", "exec")
    if "processes" in name:  # ZeRO: a check of test_parallel.py
        return
    for library in ("stable_baselines3", "tianshou"):
        if f"from {library}" in code:
            pytest.importorskip(library)
    if "lightning" in code:
        import_torchvision()
    monkeypatch.chdir(tmp_path)
    setting: dict[str, object] = {}
    exec(RECIPES[0][1].split("\nfor ")[0], setting)  # the model and the imports of the first one
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        exec(block, setting)
