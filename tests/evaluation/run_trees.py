"""Studies and folders of runs with scores that a test chooses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow
import pyarrow.parquet
import yaml

from benchmarks.load_runs import write_run
from evaluation.analysis.data.run_rows import GRADIENTS


@dataclass
class Planned:
    """A run of a study: its labels, and the scores of its evaluations (None: never run)."""

    optimizer: str
    seed: int
    scores: Sequence[float] | None = (10.0, 20.0, 30.0)
    task: str = "CartPole"
    setting: str = "plain"
    variant: str = "default"
    part: str = "comparison"
    kind: str = "compare"
    lr: float = 1e-3
    target: float | None = 25.0
    signature: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return f"{self.part}/{self.task}/{self.setting}/{self.optimizer}/{self.variant}/s{self.seed}"


def write_study(folder: Path, runs: Sequence[Planned]) -> Path:
    """The study's folder with its index and its run folders."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump({"name": "tiny", "question": "which?"}))
    labels = ("part", "kind", "task", "setting", "optimizer", "variant", "seed")
    lines = []
    for run in runs:
        entry = {name: getattr(run, name) for name in labels} | {"id": run.path, "path": run.path}
        purpose = "tune" if run.kind == "search" else "test"
        lines.append(json.dumps(entry | {"purpose": purpose, "options": {"optimizer.lr": run.lr}}) + "\n")
        if run.scores is not None:
            with mock.patch("os.fsync"):  # fast: no power failure is tested here
                write_run(
                    folder / run.path,
                    seed=run.seed,
                    scores=run.scores,
                    rows=5 * len(run.scores),
                    optimizer=run.optimizer,
                    lr=run.lr,
                    game=run.task,
                    target=run.target,
                    **run.signature,
                )
    (folder / "runs.jsonl").write_text("".join(lines))
    return folder


def write_gradients(run: Path, *, update_to_weight: float = 1e-3, updates: int = 4, number: int = 0) -> Path:
    """One part of a run's gradient record, two layers."""
    rows = []
    generator = np.random.default_rng([number, *"/".join(run.parts[-3:]).encode()])
    for update in range(1, updates + 1):
        for layer in ("hidden.weight", "head.weight"):
            row: dict[str, Any] = {name: float(generator.random()) for name in GRADIENTS}
            row |= {"step": update * 100, "update": update, "event": "interval", "since_shift": -1, "layer": layer}
            row |= {"numel": 8, "threshold": float("inf"), "update_to_weight": update_to_weight}
            row["update_rms"] = row["weight_rms"] * update_to_weight
            rows.append(row | {"before": [0, 3, 5], "after": [1, 3, 4]})
    path = run / "gradients" / f"part-{number:06d}.parquet"
    path.parent.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path
