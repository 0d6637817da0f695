"""How fast run folders become tables: ``python -m benchmarks.load_runs --runs 10000 --rows 1000``.

It writes run folders into a temporary place, loads them from there (`dataset.load`, with every row of every file
in a table), takes a mean over all rows, and prints seconds and rows a second; then the same sum with Python's
`json`, line by line, on the first of the folders, as a yardstick of what a notebook would do.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import yaml

from evaluation.analysis.data import dataset
from evaluation.analysis.data.run_rows import EVALUATION, SCORE, SCORE_STD
from evaluation.cli.errors import main_guard
from evaluation.files import to_json, write_json
from evaluation.runs.metrics_file import MetricRow
from evaluation.runs.run_folder import CONFIG, METRICS, PROVENANCE, SUMMARY
from evaluation.runs.run_metrics import EVALUATION_SECONDS, evaluations_from_rows, summarize

NAMES = ("loss", "grad_norm", "epsilon", "return", "q", "steps_per_s", "episodes", "lr")  # of the training rows
EVALUATIONS, LAST_K = 20, 5  # of a run
_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # ten times as fast, where it is
MEANS = "SELECT split, name, step, avg(value), count(*) FROM metrics GROUP BY ALL"


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
    **signature: Any,
) -> None:
    """A finished run's folder as a trainer leaves it, with made-up numbers.

    `scores` are those of its evaluations, one every 1,000 steps; training rows fill it up to `rows` rows of metrics.
    `signature` goes into that of the scores.
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
    config = {
        "game": game,
        "seed": seed,
        "total_steps": len(scores) * 1000,
        "optimizer": {"name": optimizer, "lr": lr} | dict.fromkeys([f"option_{i}" for i in range(30)]),
        "network": {f"option_{i}": i for i in range(20)},
        "evaluation": {"interval": 1000, "episodes": 10, "last_k": LAST_K},
    }
    (folder / CONFIG).write_text(yaml.dump(config, Dumper=_DUMPER, sort_keys=False), encoding="utf-8")
    provenance = {"code": {"commit": "0" * 40, "dirty": False}, "versions": {"torch": "2"}, "device": "cpu"}
    write_json(folder / PROVENANCE, provenance | {"command": ["asgc-rl", "train", "--seed", str(seed)]})
    how = {"game": game, "protocol": "made up", "episodes": 10, "seed": seed, "version": "0", "envpool": "0"}
    evaluations = evaluations_from_rows(lines, EVALUATION, SCORE)
    summary = summarize(evaluations, target=target, last_k=LAST_K, signature=how | signature)
    write_json(folder / SUMMARY, summary | {"wall_s": evaluations[-1].wall_s, "mean_score": float(scores[-1])})


def _write_tree(root: Path, runs: int, rows: int) -> int:
    """`runs` run folders; returns the bytes of their metrics."""
    with mock.patch("os.fsync"):  # nothing here has to survive a power failure
        for number in range(runs):
            optimizer, seed = ("adam", "asgc", "sgd")[number % 3], number
            lr = float(10 ** np.random.default_rng(number).uniform(-5, -2))
            scores = np.random.default_rng(seed).normal(20.0 * np.arange(EVALUATIONS), 30.0).tolist()
            write_run(root / f"{optimizer}-s{seed}", seed=seed, scores=scores, rows=rows, optimizer=optimizer, lr=lr)
    return sum(path.stat().st_size for path in root.glob(f"*/{METRICS}"))


def _python_means(root: Path, runs: int) -> int:
    """The same means, line by line, of the first `runs` folders; returns the number of rows."""
    sums: dict[tuple[str, str, int], list[float]] = defaultdict(lambda: [0.0, 0])
    for folder in sorted(root.iterdir())[:runs]:
        with (folder / METRICS).open(encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                entry = sums[row["split"], row["name"], row["step"]]
                entry[0] += float(row["value"])
                entry[1] += 1
    return int(sum(count for _, count in sums.values()))


@main_guard
def main(argv: list[str] | None = None) -> None:
    """Run the measurement and print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load_runs", description=__doc__)
    parser.add_argument("--runs", type=int, default=1000, help="run folders [1000]")
    parser.add_argument("--rows", type=int, default=1000, help="rows of metrics in each [1000]")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        size = _write_tree(root, arguments.runs, arguments.rows)
        os.sync()
        print(f"{arguments.runs} runs of {arguments.rows} rows, {size / 1e6:.0f} MB of metrics; {os.cpu_count()} CPUs")
        start, cpu = time.perf_counter(), time.process_time()
        with dataset.load(root) as data:
            loaded, loaded_cpu = time.perf_counter() - start, time.process_time() - cpu
            means = data.rows(MEANS)
            total = time.perf_counter() - start
            rows = sum(row["count_star()"] for row in means)
            left_out = len(data.problems)
        print(f"dataset.load      {loaded:7.2f} s ({loaded_cpu:.2f} s of CPU), {left_out} folders left out")
        print(f"load and means    {total:7.2f} s, {rows:,} rows, {rows / total:,.0f} rows/s")
        few = max(1, arguments.runs // 20)
        start = time.perf_counter()
        counted = _python_means(root, few)
        speed = counted / (time.perf_counter() - start)
        print(f"json, line by line: {counted:,} rows, {speed:,.0f} rows/s")
        print(f"load and means is {rows / total / speed:.1f} times as fast")


if __name__ == "__main__":
    sys.exit(main())
