"""Studies of the small trainer `descent`, for the tests of evaluation.study."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import yaml

from evaluation.study import spec
from evaluation.study.spec import Study

DESCENT = [sys.executable, str(Path(__file__).parents[1] / "runs" / "descent.py")]

DEFINITION: dict[str, Any] = {
    "name": "tiny",
    "question": "Does momentum help in a valley?",
    "program": DESCENT,
    "options": {"steps": 20},
    "tasks": {"bowl": {"task": "bowl"}, "valley": {"task": "valley"}},
    "optimizers": {"plain": {"method": "plain"}, "heavy": {"method": "heavy", "momentum": 0.9}},
    "seconds": {"bowl": 1, "valley": 2},
    "parts": {
        "tuning": {
            "kind": "search",
            "tasks": ["valley"],
            "trials": 4,
            "startup": 2,
            "batch": 1,
            "seeds": [1, 2],
            "space": {
                "lr": {"low": "1e-3", "high": 1},
                "momentum": {"low": 0.1, "high": 0.99, "log": False, "optimizers": ["heavy"]},
            },
        },
        "comparison": {"kind": "compare", "tasks": ["valley"], "tuned": "tuning", "seeds": "11-12"},
        "rates": {
            "kind": "grid",
            "tasks": ["valley"],
            "optimizers": ["heavy"],
            "tuned": "tuning",
            "seeds": [11],
            "multiply": {"lr": [0.1, 3]},
        },
    },
}


def definition(**changes: Any) -> dict[str, Any]:
    """The definition above with top-level keys replaced; those of None are left out."""
    values = {**copy.deepcopy(DEFINITION), **changes}
    return {key: value for key, value in values.items() if value is not None}


def study(**changes: Any) -> Study:
    """The checked study of `definition`."""
    return spec.parse(definition(**changes), name="tiny", where="tiny.yaml")


def write(path: Path, **changes: Any) -> Path:
    """The definition as a file."""
    path.write_text(yaml.safe_dump(definition(**changes), sort_keys=False))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """What the runs of a study folder gave: index, metrics and summaries, by name."""
    names = ("runs.jsonl", "metrics.jsonl", "summary.json")
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.name in names
    }
