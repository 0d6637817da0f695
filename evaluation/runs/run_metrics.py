"""The metrics of one run: pure functions from its evaluations to numbers, the same for every task.

Shapes: E is the number of evaluations of the run, in order. A *score* is what the task counts (a return, an accuracy,
BLEU); higher is better. `aggregate` has what is computed across runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluation.runs.metrics_file import MetricRow

Vector = NDArray[np.float64]
EVALUATION, SCORE, SCORE_STD = "eval", "score", "score_std"  # split and names of evaluations in metrics.jsonl
EVALUATION_SECONDS = "evaluation_s"
TRAIN_EVALUATION = "train_eval"  # split of the same scores on the training side, where a task measures them
COMPARED_SCORE = "compared_score"  # in `EVALUATION`: measured as on the training side, where `SCORE` is not


@dataclass(frozen=True)
class Evaluation:
    """One scheduled evaluation: where it was and what it gave.

    `wall_s` is the run's clock at its end (all earlier evaluations included), `evaluation_s` what this one took of it;
    `train_value` the same metric on the training side, measured the same way (None: not measured), or as `compared` is,
    where `value` cannot be measured so there (None: it can).
    """

    step: int
    samples: int
    wall_s: float
    evaluation_s: float
    value: float
    train_value: float | None = None
    compared: float | None = None


def evaluations_from_rows(
    rows: Sequence[MetricRow], split: str, name: str, train_split: str | None = None
) -> list[Evaluation]:
    """The evaluations of a run from its metrics: the rows `split`/`name`, in order of their steps.

    The evaluation's duration is the row `split`/evaluation_s of the same step (0 if absent), its training value the row
    `train_split`/`name` of the same step, what that is compared with the row `split`/compared_score, if there is one.
    """
    seconds = {row.step: row.value for row in rows if (row.split, row.name) == (split, EVALUATION_SECONDS)}
    train = {row.step: row.value for row in rows if (row.split, row.name) == (train_split, name)}
    compared = {row.step: row.value for row in rows if (row.split, row.name) == (split, COMPARED_SCORE)}
    found = [
        Evaluation(
            *(row.step, row.samples, row.wall_s, seconds.get(row.step, 0.0), row.value),
            *(train.get(row.step), compared.get(row.step)),
        )
        for row in rows
        if (row.split, row.name) == (split, name)
    ]
    return sorted(found, key=lambda evaluation: evaluation.step)


def final_performance(values: ArrayLike, last_k: int) -> float:
    """Mean score (E,) over the last `last_k` evaluations; over all of them when there are fewer."""
    return float(np.mean(_last(values, last_k)))


def area_under_curve(values: ArrayLike, at: ArrayLike) -> float:
    """Mean score (E,) over the run: the area under the learning curve over the axis `at` (E,), trapezoidal, divided by
    the curve's length; the only score of a run with one evaluation."""
    scores, axis = _vector(values), _vector(at)
    length = axis[-1] - axis[0]
    areas = np.diff(axis) * (scores[1:] + scores[:-1]) / 2
    return float(areas.sum() / length) if length > 0 else float(scores[0])


def time_to_threshold(values: ArrayLike, at: ArrayLike, target: float) -> float:
    """Where on the axis `at` (E,) (steps, samples or `training_seconds`) a score of `values` (E,) first meets `target`.

    Infinite when none does: the run is censored at its end, never dropped. A score that is not finite meets no target.
    Scores are those of scheduled evaluations, not interpolated between them.
    """
    scores, axis = _vector(values), _vector(at)
    if scores.shape != axis.shape:
        raise ValueError(f"values {scores.shape} and at {axis.shape} differ in shape")
    reached = np.flatnonzero((scores >= target) & np.isfinite(scores))
    return float(axis[reached[0]]) if reached.size else math.inf


def training_seconds(wall_s: ArrayLike, evaluation_s: ArrayLike) -> Vector:
    """Seconds of training (E,) at each evaluation: the clock at its end less all evaluations so far, itself
    included."""
    return _vector(wall_s) - np.cumsum(_vector(evaluation_s))


def stability(values: ArrayLike, last_k: int) -> float:
    """Standard deviation (K - 1 degrees of freedom) of the score (E,) over the last `last_k` evaluations.

    NaN with fewer than two evaluations or a score that is not finite. A run that still improves has a large one: see
    `detrended_stability`.
    """
    last = _last(values, last_k)
    return float(np.std(last, ddof=1)) if last.size >= 2 and np.isfinite(last).all() else math.nan


def detrended_stability(values: ArrayLike, last_k: int, at: ArrayLike | None = None) -> float:
    """Standard deviation about the least-squares line of the last `last_k` scores (E,) over `at` (E,) (default: 0, 1,
    ..).

    K - 2 degrees of freedom, since the line takes two: for independent noise on any line it estimates the noise's
    variance without bias. NaN with fewer than three evaluations or a non-finite score.
    """
    last = _last(values, last_k)
    axis = np.arange(last.size, dtype=np.float64) if at is None else _last(at, last_k)
    if last.size < 3 or not np.isfinite(last).all():
        return math.nan
    x, y = axis - axis.mean(), last - last.mean()
    residual = y - x * (x @ y) / (x @ x)
    return float(np.sqrt(residual @ residual / (last.size - 2)))


def generalization_gap(train: ArrayLike, validation: ArrayLike, last_k: int) -> float:
    """Train minus validation score, (E,) each, mean over the last `last_k` evaluations; both measured in evaluation
    mode.

    Positive means better on the training side when higher is better. In RL the validation side is the other modes and
    difficulties of the game.
    """
    return float(np.mean(_last(train, last_k) - _last(validation, last_k)))


def summarize(
    evaluations: Sequence[Evaluation],
    *,
    target: float | None,
    last_k: int,
    signature: Mapping[str, Any],
) -> dict[str, Any]:
    """The metrics of a run for its summary.json.

    `target` is the score whose first reaching is timed (None: not asked for). `signature` says how the numbers were
    made (protocol, seeds, episodes, version) and is passed through. Censored times are infinite and `reached` is
    False; what too few evaluations cannot give is NaN. ValueError without any evaluation.
    """
    if not evaluations:
        raise ValueError("a run without evaluations has no metrics")
    values, steps, samples, wall_s, evaluation_s = (
        np.array([getattr(evaluation, name) for evaluation in evaluations], dtype=np.float64)
        for name in ("value", "step", "samples", "wall_s", "evaluation_s")
    )
    seconds = training_seconds(wall_s, evaluation_s)
    train = [evaluation.train_value for evaluation in evaluations[-last_k:]]
    summary: dict[str, Any] = {
        "final": final_performance(values, last_k),
        "last": float(values[-1]),
        "auc": area_under_curve(values, steps),
        "time_to_threshold": None,
        "stability": {"std": stability(values, last_k), "detrended_std": detrended_stability(values, last_k, steps)},
        "generalization_gap": None,
        "last_k": last_k,
        "evaluations": len(evaluations),
        "steps": int(steps[-1]),
        "samples": int(samples[-1]),
        "training_s": float(seconds[-1]),
        "evaluation_s": float(evaluation_s.sum()),
        "signature": dict(signature),
    }
    if target is not None:
        axes = {"seconds": seconds, "steps": steps, "samples": samples}
        times = {name: time_to_threshold(values, axis, target) for name, axis in axes.items()}
        summary["time_to_threshold"] = {"target": target, "reached": math.isfinite(times["steps"]), **times}
    if all(value is not None for value in train):
        like = [one.value if one.compared is None else one.compared for one in evaluations]
        summary["generalization_gap"] = generalization_gap(np.array(train, dtype=np.float64), like, last_k)
    return summary


def _vector(values: ArrayLike) -> Vector:
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1:
        raise ValueError(f"expected one value an evaluation, got an array of shape {vector.shape}")
    return vector


def _last(values: ArrayLike, last_k: int) -> Vector:
    vector = _vector(values)
    if last_k < 1:
        raise ValueError(f"last_k must be at least 1, not {last_k}")
    if vector.size == 0:
        raise ValueError("no evaluations")
    return vector[-last_k:]
