"""How fast run folders become tables: ``python -m benchmarks.load_runs --runs 10000 --rows 1000``.

It writes run folders into a temporary place, loads them from there (`dataset.load`, with every row of every file
in a table), takes a mean over all rows, and prints seconds and rows a second; then the same sum with Python's
`json`, line by line, on the first of the folders, as a yardstick of what a notebook would do. With ``--earlier`` the
folders are those of a version before row.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from unittest import mock

import numpy as np

from evaluation.analysis.data import dataset
from evaluation.cli.errors import UserError, main_guard
from evaluation.runs.analysis_row import ROW
from evaluation.runs.run_folder import METRICS

EVALUATIONS = 20  # of a run
MEANS = "SELECT split, name, step, avg(value), count(*) FROM metrics GROUP BY ALL"


def _write_tree(root: Path, runs: int, rows: int, earlier: bool) -> int:
    """`runs` run folders; returns the bytes of their metrics."""
    try:
        from tests.evaluation.run_trees import write_run
    except ImportError as error:
        raise UserError("the made-up runs belong to the tests: call this in a checkout of the repository") from error
    with mock.patch("os.fsync"):  # nothing here has to survive a power failure
        for number in range(runs):
            optimizer, seed = ("adam", "asgc", "sgd")[number % 3], number
            lr = float(10 ** np.random.default_rng(number).uniform(-5, -2))
            scores = np.random.default_rng(seed).normal(20.0 * np.arange(EVALUATIONS), 30.0).tolist()
            write_run(root / f"{optimizer}-s{seed}", seed=seed, scores=scores, rows=rows, optimizer=optimizer, lr=lr)
            if earlier:
                (root / f"{optimizer}-s{seed}" / ROW).unlink()
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
    parser.add_argument("--earlier", action="store_true", help="run folders of a version before row.json")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        size = _write_tree(root, arguments.runs, arguments.rows, arguments.earlier)
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
