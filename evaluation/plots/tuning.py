"""How a study's scores depend on what is chosen: learning rate, random settings, parts of the method."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from evaluation.analysis.comparisons.robustness import LEARNING_RATE, sensitivity
from evaluation.analysis.comparisons.selection import Row
from evaluation.analysis.stats.aggregate import interquartile_mean
from evaluation.analysis.stats.bootstrap import Band, Estimate
from evaluation.plots.figure import Axis, Figure, Mark, Omitted, Panel, behind, curve, dot, seeds_in_words
from evaluation.plots.scores import TARGET
from evaluation.plots.study_data import (
    Found,
    Part,
    StudyData,
    apart,
    as_listed,
    figure_or_reason,
    profiles,
    target_marks,
)
from evaluation.study.entry import flatten

Point = tuple[float, Estimate, int]  # learning rate, IQM, runs
FULL = ("full", "default", "both")  # the names of the whole method among the variants of an ablation
PROFILE_POINTS = 101


def learning_rates(study: StudyData, part: Part) -> Found:
    """Final score by learning rate: interquartile mean and band over the runs at (or near) each rate."""
    table = sensitivity(study.data, part.name, how=study.how)
    factors = sorted({1.0, *_factors(study, part)})
    relative = len(factors) > 1
    panels = []
    for cell, runs_of in study.cells(part):
        lines = []
        for key in runs_of:
            rows = [row for row in table if (row.cell, row.optimizer) == (cell, key.optimizer)]
            points: list[Point] = [(row.value, row.iqm, row.n) for row in rows if row.value > 0]
            if relative:
                points = _multiples(study, points, study.compared(key))
            if len(points) >= 2:
                rates, estimates, counts = zip(*points, strict=True)
                lines.append(curve(key, rates, Band(*np.array(estimates).T), n=counts))
        marks = target_marks("y", runs_of)
        x = Axis("learning rate", log=True)
        if relative:
            ticks = tuple((factor, f"{factor:g}") for factor in factors)
            x = Axis("learning rate / tuned one", log=True, share="x", ticks=ticks)
        y = Axis(study.words[cell.task].score, share=cell.task)
        panels.append(Panel(cell.task, cell.setting, x, y, tuple(lines), marks))
    binned = any(row.value_low < row.value_high for row in table)
    together = " (rates of random settings are put together in bins)" if binned else ""
    same = "at 1, the runs of the comparison" if relative else "other options may vary with the rate"
    caption = (
        f"Interquartile mean of the final score at each learning rate{together} and its {study.how.words}. "
        f"{seeds_in_words(behind(panels), 'run')} a point, of the part {part.name!r} "
        f"({part.kind}): {same}. {TARGET}"
    )
    reason = f"no optimizer has runs at two or more learning rates in {part.name!r}"
    name, title = f"learning-rate{part.suffix}", f"Learning rate ({part.name})"
    names = ("task", "setting", "lr_factor" if relative else "lr", "iqm_score")
    return apart(figure_or_reason(name, panels, reason, title, caption, names=names), study.baseline(part))


def _multiples(study: StudyData, points: list[Point], tuned: Sequence[Row]) -> list[Point]:
    """Points whose learning rates are multiples of the one of the runs `tuned`, and those runs at 1."""
    rates = {row["lr"] for row in tuned}
    if len(rates) != 1:
        return []
    rate = rates.pop()
    own = study.how.estimate(interquartile_mean, [row["final"] for row in tuned])
    return sorted([(1.0, own, len(tuned)), *((float(f"{at / rate:.4g}"), iqm, n) for at, iqm, n in points)])


def _factors(study: StudyData, part: Part) -> list[float]:
    """What a grid multiplies the tuned learning rates by; then their multiples are what is comparable."""
    given = study.data.part_definition(part.name).get("multiply") if part.kind == "grid" else None
    return [float(factor) for factor in flatten(dict(given or {})).get(LEARNING_RATE, ())]


def robustness(study: StudyData, part: Part) -> Found:
    """Distribution of final scores over random settings: share of the draws above each score."""
    panels = []
    for cell, runs_of in study.cells(part):
        finals = {key: [float(np.mean(of)) for _, of in sorted(_finals(runs).items())] for key, runs in runs_of.items()}
        every = np.concatenate(list(finals.values()))
        at = np.linspace(every.min(), every.max(), PROFILE_POINTS)
        lines = profiles(study, finals, at)
        y = Axis("share of draws above", low=-0.03, high=1.03, share="share")
        panels.append(Panel(cell.task, cell.setting, Axis("final return"), y, lines, target_marks("x", runs_of)))
    caption = (
        f"Share of the random settings of {part.name!r} whose final score (mean over the draw's seeds) is above the "
        f"value below; further right and higher is better. Band: pointwise {study.how.words}. "
        f"{seeds_in_words(behind(panels), 'draw')} for each optimizer, from the same ranges. {TARGET}"
    )
    title, names = "Robustness to random settings", ("task", "setting", "final_return", "share_above")
    return apart(part.figure("robustness", title, panels, caption, "no runs", names=names), study.baseline(part))


def _finals(runs: Sequence[Row]) -> dict[str, list[float]]:
    """The final scores of each variant."""
    found: dict[str, list[float]] = defaultdict(list)
    for row in runs:
        found[row["variant"]].append(row["final"])
    return found


def ablations(study: StudyData, part: Part) -> Figure | Omitted:
    """Each variant's final score less the whole method's: difference of interquartile means and its interval."""
    panels, reference = [], ""
    names = {row["variant"] for row in study.of(part)} - set(FULL)
    variants = tuple(as_listed(sorted(names), study.data.part_definition(part.name).get("variants")))
    several = len({row["optimizer"] for row in study.of(part)}) > 1
    for cell, runs_of in study.cells(part):
        for key, runs in runs_of.items():
            finals = _finals(runs)
            full = next((finals[name] for name in FULL if name in finals), None)
            reference = "the full method's runs of the same part"
            if full is None:
                full = [row["final"] for row in study.compared(key)]
                reference = "the same optimizer's runs in the comparison"
            points = []
            for place, name in enumerate(variants):
                if full and name in finals:
                    difference = study.how.difference(interquartile_mean, finals[name], full)
                    variant = replace(key, variant=name)
                    points.append(dot(name, difference, place, n=len(finals[name]), runs=variant))
            note = "" if points else "no runs of the full method to compare with"
            column = f"{cell.setting}, {key.optimizer}" if several else cell.setting
            x, y = Axis("return less the full method's"), Axis(share="variants")
            panels.append(Panel(cell.task, column, x, y, tuple(points), (Mark("x", 0.0),), variants, note=note))
    caption = (
        "Difference of the interquartile means of the final score: the variant less the full method (left of the line: "
        f"worse than it). Bars: {study.how.words}, each on its own. Compared with {reference}. "
        f"{seeds_in_words(behind(panels))} a variant."
    )
    columns, size = ("task", "setting", "difference", "variant"), (2.3, max(1.0, 0.55 + 0.17 * len(variants)))
    reason = "no variant has runs of the full method to compare with"
    return part.figure("ablations", "Ablations", panels, caption, reason, names=columns, per_panel=size)
