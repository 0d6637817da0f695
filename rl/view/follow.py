"""A run that goes on, as far as its folder tells: read again and again, never written to."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

from evaluation.cli.errors import UserError
from evaluation.files import NON_FINITE
from evaluation.runs.lock import is_held
from evaluation.runs.run_folder import CONFIG, LOCK, METRICS, is_finished, is_run, load_config
from evaluation.runs.run_metrics import EVALUATION, EVALUATION_SECONDS, SCORE

WAITING, RUNNING, FINISHED, STOPPED = "waiting", "running", "finished", "stopped"
TRAIN = "train"
RECENT = 10  # logging intervals that the speed is taken over
Point = tuple[int, float]  # step, value


class FollowedRun:
    """What metrics.jsonl of a run says so far; `refresh` reads what has come since.

    Attributes:
        path: the run folder.
        state: "waiting" (nothing logged yet), "running", "finished", or "stopped" (no process works on it, and it has
            not finished: killed or interrupted).
        series: (split, name) -> its points, in order.
        step: of the newest row; `wall_s`: the run's clock there.
        total: steps of the run; None: its configuration is not there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.resolve().name
        self.title = self.name
        self.total: int | None = None
        self._forget()
        if not path.is_dir():
            raise UserError(f"{path}: no such folder; `asgc-rl watch` follows run folders of `asgc-rl train`")
        if not is_run(path) and not is_held(path / LOCK):
            raise UserError(f"{path} is not a run folder: it has no {CONFIG}, and no run is about to begin in it")

    def _forget(self) -> None:
        self._offset = 0
        self.series: dict[tuple[str, str], list[Point]] = defaultdict(list)
        self._clock: list[tuple[int, float]] = []  # step and wall_s of each logging interval
        self._evaluations: list[tuple[float, float]] = []  # wall_s at an evaluation's end, and its seconds
        self.step, self.wall_s = 0, 0.0
        self.state = WAITING

    def refresh(self) -> bool:
        """Read what is new; returns whether anything is."""
        if self.total is None and is_run(self.path):
            self._read_config()
        held = is_held(self.path / LOCK)  # looked at before the rows: a run that ends meanwhile is read to its end
        finished = is_finished(self.path)
        changed = self._read_rows()
        state = FINISHED if finished else STOPPED if not held else RUNNING if self._clock else WAITING
        changed |= state != self.state
        self.state = state
        return changed

    def latest(self, split: str, name: str) -> float | None:
        """The newest value of a metric; None: there is none."""
        points = self.series.get((split, name))
        return points[-1][1] if points else None

    @property
    def scores(self) -> list[Point]:
        """Of the evaluations."""
        return self.series.get((EVALUATION, SCORE), [])

    @property
    def steps_per_s(self) -> float | None:
        """Steps per second of training (evaluations excluded) over the last logging intervals."""
        if len(self._clock) < 2:
            return None
        first, last = self._clock[max(0, len(self._clock) - 1 - RECENT)], self._clock[-1]
        evaluating = sum(seconds for end, seconds in self._evaluations if first[1] < end <= last[1])
        seconds = last[1] - first[1] - evaluating
        return (last[0] - first[0]) / seconds if seconds > 0 else None

    @property
    def eta_s(self) -> float | None:
        """Seconds to the end, evaluations included, at the pace of the last intervals; None: not known."""
        if len(self._clock) < 2 or self.total is None:
            return None
        first, last = self._clock[max(0, len(self._clock) - 1 - 3 * RECENT)], self._clock[-1]
        if last[0] <= first[0]:
            return None
        return max(0.0, (self.total - last[0]) * (last[1] - first[1]) / (last[0] - first[0]))

    def _read_config(self) -> None:
        config = load_config(self.path)
        self.total = int(config["total_steps"]) if "total_steps" in config else None
        optimizer = config.get("optimizer")
        optimizer = optimizer.get("name") if isinstance(optimizer, dict) else optimizer
        parts = [config.get("game") or config.get("task"), optimizer, f"seed {config.get('seed', '?')}"]
        self.title = f"{self.name}: {' · '.join(str(part) for part in parts if part)}"

    def _read_rows(self) -> bool:
        path = self.path / METRICS
        size = path.stat().st_size if path.is_file() else 0
        if size < self._offset:  # a resume went back to its checkpoint
            self._forget()
        if size == self._offset:
            return False
        with path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        end = data.rfind(b"\n") + 1  # the rest is being written
        self._offset += end
        for line in data[:end].splitlines():
            self._take(line)
        return end > 0

    def _take(self, line: bytes) -> None:
        try:
            row = json.loads(line)
            step, wall_s, split, name = int(row["step"]), float(row["wall_s"]), row["split"], row["name"]
            value = NON_FINITE[row["value"]] if isinstance(row["value"], str) else float(row["value"])
        except (ValueError, KeyError, TypeError):
            return  # damaged: `evaluation.runs.metrics_file` says so where it matters
        self.series[split, name].append((step, value))
        if split == TRAIN and (not self._clock or step > self._clock[-1][0]):
            self._clock.append((step, wall_s))
        if (split, name) == (EVALUATION, EVALUATION_SECONDS):
            self._evaluations.append((wall_s, value))
        self.step, self.wall_s = max(self.step, step), wall_s
