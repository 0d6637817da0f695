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

from evaluation.analysis.data.run_rows import GRADIENTS
from evaluation.files import to_json, write_json
from evaluation.runs.analysis_row import ROW, analysis_row
from evaluation.runs.metrics_file import MetricRow
from evaluation.runs.run_folder import CONFIG, METRICS, PROVENANCE, SUMMARY
from evaluation.runs.run_metrics import (
    EVALUATION,
    EVALUATION_SECONDS,
    SCORE,
    SCORE_STD,
    evaluations_from_rows,
    summarize,
)

NAMES = ("loss", "grad_norm", "epsilon", "return", "q", "steps_per_s", "episodes", "lr")  # of the training rows
LAST_K = 5
_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # ten times as fast, where it is


def write_run(
    folder: Path,
    *,
    seed: int,
    scores: Sequence[float],
    rows: int = 0,
    optimizer: str = "adam",
    lr: float = 1e-3,
    game: str = "CartPole",
    target: float | None = 475.0,
    row: bool = False,
    **signature: Any,
) -> None:
    """A finished run's folder as a trainer leaves it, with made-up numbers.

    `scores` are those of its evaluations, one every 1,000 steps; training rows fill it up to `rows` rows of metrics.
    `signature` goes into that of the scores. Without `row` it is a folder of a version before row.json.
    """
    folder.mkdir(parents=True)
    lines = [
        MetricRow(step * 1000, step * 4000, step * 0.123456789, EVALUATION, name, value)
        for step, score in enumerate(scores, start=1)
        for name, value in ((SCORE, score), (SCORE_STD, 12.5), (EVALUATION_SECONDS, 0.01))
    ]
    values = np.random.default_rng(seed).normal(size=rows).tolist()
    with (folder / METRICS).open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(to_json(row._asdict())) + "\n" for row in lines)
        file.writelines(
            f'{{"step": {i // len(NAMES) * 100}, "samples": {i * 500}, "wall_s": {i * 0.00123456789}, '
            f'"split": "train", "name": "{NAMES[i % len(NAMES)]}", "value": {values[i]}}}\n'
            for i in range(rows - len(lines))
        )
    config: dict[str, Any] = {
        "game": game,
        "seed": seed,
        "total_steps": len(scores) * 1000,
        "optimizer": {"name": optimizer, "lr": lr} | dict.fromkeys([f"option_{i}" for i in range(30)]),
        "network": {f"option_{i}": i for i in range(20)},
        "evaluation": {"interval": 1000, "episodes": 10, "last_k": LAST_K},
    }
    (folder / CONFIG).write_text(yaml.dump(config, Dumper=_DUMPER, sort_keys=False), encoding="utf-8")
    provenance: dict[str, Any] = {
        "code": {"commit": "0" * 40, "dirty": False},
        "versions": {"torch": "2"},
        "device": "cpu",
    }
    provenance |= {"command": ["asgc-rl", "train", "--seed", str(seed)]}
    write_json(folder / PROVENANCE, provenance)
    how = {"game": game, "protocol": "made up", "episodes": 10, "seed": seed, "version": "0", "envpool": "0"}
    evaluations = evaluations_from_rows(lines, EVALUATION, SCORE)
    summary = summarize(evaluations, target=target, last_k=LAST_K, signature=how | signature)
    summary |= {"wall_s": evaluations[-1].wall_s, "mean_score": float(scores[-1])}
    write_json(folder / SUMMARY, summary)
    if row:
        write_json(folder / ROW, analysis_row(config, summary, provenance))


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
    options: dict[str, Any] = field(default_factory=dict)  # beside the learning rate

    @property
    def path(self) -> str:
        return f"{self.part}/{self.task}/{self.setting}/{self.optimizer}/{self.variant}/s{self.seed}"


def write_study(folder: Path, runs: Sequence[Planned], row: bool = False, **definition: Any) -> Path:
    """The study's folder with its index and its run folders, with or without their row.json; `definition` goes into
    study.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump({"name": "tiny", "question": "which?"} | definition))
    labels = ("part", "kind", "task", "setting", "optimizer", "variant", "seed")
    lines = []
    for run in runs:
        entry = {name: getattr(run, name) for name in labels} | {"id": run.path, "path": run.path}
        purpose = "tune" if run.kind == "search" else "test"
        lines.append(json.dumps(entry | {"purpose": purpose, "options": {"optimizer.lr": run.lr} | run.options}) + "\n")
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
                    row=row,
                    **run.signature,
                )
    (folder / "runs.jsonl").write_text("".join(lines))
    return folder


def write_gradients(
    run: Path, *, update_to_weight: float = 1e-3, updates: int = 4, number: int = 0, first: int = 1
) -> Path:
    """One part of a run's gradient record, two layers: updates from the `first` on, one every 100 steps."""
    rows = []
    generator = np.random.default_rng([number, *"/".join(run.parts[-3:]).encode()])
    for update in range(first, first + updates):
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
