"""The picture of a finished run, drawn at its end without being asked: `learning_curve.png` in its folder.

`asgc-eval plot RUN` draws all figures of a run.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from evaluation.analysis.data.run_reader import STUDY
from evaluation.cli.errors import reason, tell
from evaluation.runs.watchers import Watcher

NAME = "learning_curve"
OF_TASK = "eval "  # before the task's name in a split of metrics.jsonl
SIZE = (5.2, 2.4)  # inches, of a panel


class LearningCurve(Watcher):
    """Draws the curve of a run when it has finished. Where that is not possible a line says why: a picture ends no run.

    A study's runs get none: `asgc-eval plot STUDY` draws them together, and a second for each would add up.
    """

    def __init__(self) -> None:
        self._run: Path | None = None

    def start(self, info: Mapping[str, Any]) -> None:
        self._run = Path(info["run_dir"])

    def close(self, finished: bool) -> None:
        if self._run is None or not finished:
            return
        if any((folder / STUDY).is_file() for folder in self._run.resolve().parents):
            return
        if importlib.util.find_spec("matplotlib") is None:
            tell(f"no {NAME}.png: pictures need matplotlib: pip install 'asgc[study]'")
            return
        try:
            path = draw(self._run)
        except Exception as error:  # the run has finished, whatever happens here
            tell(f"no {NAME}.png: {reason(error)}")
            return
        if path is not None:
            tell(f"drawn: {path}")


def draw(run: Path) -> Path | None:
    """Write the picture of a run's evaluations and training returns into its folder; None: it has logged none. Of a run
    that switches tasks, whose evaluations are also logged under "eval TASK", each task has a panel."""
    from evaluation.plots import matplotlib_files, single_run
    from evaluation.plots.figure import Axis, Figure, Panel, series
    from evaluation.plots.study_data import steps_axis

    data = single_run.RunData(run)
    x, y = steps_axis(data.words.steps), Axis(data.words.score)
    (figure,) = single_run.score(data)
    if not isinstance(figure, Figure):
        return None
    panels = [replace(figure.panels[0], column="evaluation")]
    tasks = [split for split in dict.fromkeys(row.split for row in data.metrics) if split.startswith(OF_TASK)]
    if tasks:
        scores = [(split.removeprefix(OF_TASK), data.values(split, "score")) for split in tasks]
        lines = [(name, series(data.optimizer, list(found), list(found.values()), n=1)) for name, found in scores]
        panels = [Panel("", name, x, y, (line,)) for name, line in lines]
    returns = data.values("train", "return")
    if returns:
        line = series(data.optimizer, list(returns), list(returns.values()), n=1)
        panels.append(Panel("", "training games", x, y, (line,)))
    picture = replace(figure, name=NAME, title="Learning curve", panels=tuple(panels), per_panel=SIZE)
    (path,) = matplotlib_files.save(picture, run, ["png"], data.looks)
    return path
