"""What a longer search is worth: the expected score of the best of k trials."""

from __future__ import annotations

import numpy as np

from evaluation.analysis.comparisons.best_of_k import BestOfRow, best_of_k, curves_by_search, shown_numbers
from evaluation.analysis.data.run_key import Cell
from evaluation.analysis.stats.bootstrap import Band
from evaluation.plots.figure import Axis, Figure, Omitted, Panel, Series, curve
from evaluation.plots.study_data import Part, StudyData, target_marks


def best_of_trials(study: StudyData, part: Part) -> Figure | Omitted:
    """Expected score of the best of k trials by k, of each optimizer: by task and setting, then over all of them."""
    table = best_of_k(study.data, part.name, how=study.how)
    curves = {(cell, method.optimizer): rows for (cell, method), rows in curves_by_search(table).items()}
    ticks = tuple((float(k), str(k)) for k in shown_numbers(table))
    panels: list[Panel] = []
    for cell, runs_of in [*study.cells(part), (Cell(), {})]:
        names = [name for name in study.optimizers if (cell, name) in curves]
        lines = tuple(_line(part, cell, name, curves[cell, name]) for name in names)
        if not lines and not cell.task:
            continue
        x = Axis("trials", log=True, share="x", ticks=ticks)
        y = Axis(study.words[cell.task].score if cell.task else "normalized score", share=cell.task)
        column = cell.setting if cell.task else panels[0].column
        panels.append(Panel(cell.task or "all tasks", column, x, y, lines, target_marks("y", runs_of)))
    seeds = {row.seeds for row in table}
    honest = "on a seed that had no part in the choice" if min(seeds, default=1) > 1 else "on the seed it was chosen by"
    caption = (
        f"Expected final score of the best of k trials of {part.name!r}, {honest}: mean over all choices of k of the "
        f"trials (Dodge et al. 2019). Where a curve still rises, more trials would help. Band: pointwise "
        f"{study.how.words}, over trials; {max((row.trials for row in table), default=0)} trials of "
        f"{max(seeds, default=0)} seeds."
    )
    names_of = ("task", "setting", "trials", "expected_return")
    return part.figure("best-of-trials", "Best of k trials", panels, caption, "no trials have finished", names=names_of)


def _line(part: Part, cell: Cell, name: str, rows: dict[int, BestOfRow]) -> Series:
    estimates = np.array([row.shown for row in rows.values()])
    return curve(part.runs(cell, name), list(rows), Band(*estimates.T), n=[row.trials for row in rows.values()])
