"""How a study's scores depend on what is chosen: learning rate, random settings, parts of the method."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from evaluation.analysis.comparisons.robustness import sensitivity
from evaluation.analysis.stats.aggregate import interquartile_mean
from evaluation.cli.errors import UserError
from evaluation.plots import estimates
from evaluation.plots.figure import Axis, Figure, Mark, Omitted, Panel, Series, seeds_in_words, series
from evaluation.plots.scores import TARGET
from evaluation.plots.study_data import Found, Part, Row, StudyData, figure_or_reason, which
from evaluation.study.entry import flatten

Point = tuple[float, float, float, float, int]  # learning rate, IQM, its interval, runs
FULL = ("full", "default", "both")  # the names of the whole method among the variants of an ablation
PROFILE_POINTS = 101


def learning_rates(study: StudyData) -> Found:
    """Final score by learning rate: interquartile mean and band over the runs at (or near) each rate."""
    return [_learning_rates(study, part) for part in study.parts("search", "grid", "robustness")]


def _learning_rates(study: StudyData, part: Part) -> Figure | Omitted:
    name = f"learning-rate{part.suffix}"
    try:
        table = sensitivity(study.data, part.name, seed=study.seed, repetitions=study.repetitions)
    except UserError as error:
        return Omitted(name, str(error))
    factors = sorted({1.0, *_factors(study, part)})
    relative = len(factors) > 1
    panels, n = [], []
    for task, setting, cell in study.cells(study.of(part)):
        lines: list[Series] = []
        for optimizer in cell:
            rows = [row for row in table if (row.task, row.setting, row.optimizer) == (task, setting, optimizer)]
            points = [(row.value, row.iqm, row.low, row.high, row.n) for row in rows if row.value > 0]
            if relative:
                points = _multiples(study, points, study.compared(task, setting, optimizer))
            if len(points) < 2:
                continue
            rates, middle, low, high, counts = np.array(points).T
            ends = {"low": np.where(counts > 1, low, np.nan), "high": np.where(counts > 1, high, np.nan)}
            how = which(part, task, setting, optimizer)
            lines.append(series(optimizer, rates, middle, **ends, n=counts, runs=how))
            n += counts.astype(int).tolist()
        marks = tuple(Mark("y", target) for target in study.targets(cell))
        x = Axis("learning rate", log=True)
        if relative:
            ticks = tuple((factor, f"{factor:g}") for factor in factors)
            x = Axis("learning rate / tuned one", log=True, share="x", ticks=ticks)
        panels.append(Panel(task, setting, x, Axis("return", share=task), tuple(lines), marks))
    binned = any(row.value_low < row.value_high for row in table)
    together = " (rates of random settings are put together in bins)" if binned else ""
    same = "at 1, the runs of the comparison" if relative else "other options may vary with the rate"
    caption = (
        f"Interquartile mean of the final score at each learning rate{together} and its {estimates.words(study)}; a "
        f"single run has none. {seeds_in_words(n, 'run')} a point, of the part {part.name!r} ({part.kind}): {same}. "
        f"{TARGET}"
    )
    reason = f"no optimizer has runs at two or more learning rates in {part.name!r}"
    columns = ("lr_factor" if relative else "lr", "iqm_return")
    return figure_or_reason(name, panels, reason, f"Learning rate ({part.name})", caption, columns=columns)


def _multiples(study: StudyData, points: list[Point], tuned: Sequence[Row]) -> list[Point]:
    """Points whose learning rates are multiples of the one of the runs `tuned`, and those runs at 1."""
    rates = {row["lr"] for row in tuned}
    if len(rates) != 1:
        return []
    middle, interval = estimates.point(interquartile_mean, [row["final"] for row in tuned], study)
    rate = rates.pop()
    found = [(float(f"{at / rate:.4g}"), *rest) for at, *rest in points]
    return sorted([(1.0, middle, *interval, len(tuned)), *found])  # type: ignore[list-item]


def _factors(study: StudyData, part: Part) -> list[float]:
    """What a grid multiplies the tuned learning rates by; then their multiples are what is comparable."""
    multiplied = flatten(dict(study.definition_of(part).get("multiply") or {})) if part.kind == "grid" else {}
    return [float(factor) for key, factors in multiplied.items() if key.endswith("lr") for factor in factors]


def robustness(study: StudyData) -> Found:
    """Distribution of final scores over random settings: share of the draws above each score."""
    return [_robustness(study, part) for part in study.parts("robustness")]


def _robustness(study: StudyData, part: Part) -> Figure | Omitted:
    panels, n = [], []
    for task, setting, cell in study.cells(study.of(part)):
        finals = {name: _by_variant(rows) for name, rows in cell.items()}
        every = np.concatenate([list(scores.values()) for scores in finals.values()])
        at = np.linspace(every.min(), every.max(), PROFILE_POINTS)
        lines = []
        for optimizer, scores in finals.items():
            share, low, high = estimates.profile(list(scores.values()), at, study)
            how = {"low": low, "high": high, "n": len(scores), "runs": which(part, task, setting, optimizer)}
            lines.append(series(optimizer, at, share, kind="step", **how))
            n.append(len(scores))
        marks = tuple(Mark("x", target) for target in study.targets(cell))
        y = Axis("share of draws above", low=-0.03, high=1.03, share="share")
        panels.append(Panel(task, setting, Axis("final return"), y, tuple(lines), marks))
    caption = (
        f"Share of the random settings of {part.name!r} whose final score (mean over the draw's seeds) is above the "
        f"value below; further right and higher is better. Band: pointwise {estimates.words(study)}. "
        f"{seeds_in_words(n, 'draw')} for each optimizer, from the same ranges. {TARGET}"
    )
    columns = ("final_return", "share_above")
    title = part.title("Robustness to random settings")
    return figure_or_reason(f"robustness{part.suffix}", panels, "no runs", title, caption, columns=columns)


def _by_variant(rows: Sequence[Row]) -> dict[str, float]:
    groups: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        groups[row["variant"]].append(row["final"])
    return {variant: float(np.mean(scores)) for variant, scores in sorted(groups.items())}


def ablations(study: StudyData) -> Found:
    """Each variant's final score less the whole method's: difference of interquartile means and its interval."""
    return [_ablations(study, part) for part in study.parts("ablation")]


def _ablations(study: StudyData, part: Part) -> Figure | Omitted:
    rows = study.of(part)
    panels, n, reference = [], [], ""
    variants = tuple(_variants(study, part))
    several = len({row["optimizer"] for row in rows}) > 1
    for task, setting, cell in study.cells(rows):
        for optimizer, runs in cell.items():
            own = {name: [row for row in runs if row["variant"] == name] for name in {row["variant"] for row in runs}}
            full = next((own[name] for name in FULL if name in own), None)
            reference = "the full method's runs of the same part"
            if full is None:
                full = study.compared(task, setting, optimizer)
                reference = "the same optimizer's runs in the comparison"
            points = []
            for name in variants:
                if full and name in own:
                    pair = ([row["final"] for row in own[name]], [row["final"] for row in full])
                    middle, interval = estimates.difference(interquartile_mean, *pair, study)
                    how: dict[str, Any] = {"low": interval.low, "high": interval.high, "n": len(own[name])}
                    how["runs"] = which(part, task, setting, optimizer) | {"variant": name}
                    points.append(series(name, middle, variants.index(name), **how))
                    n.append(len(own[name]))
            note = "" if points else "no runs of the full method to compare with"
            column = f"{setting}, {optimizer}" if several else setting
            x, y = Axis("return less the full method's"), Axis(share="variants")
            panels.append(Panel(task, column, x, y, tuple(points), (Mark("x", 0.0),), variants, note=note))
    caption = (
        "Difference of the interquartile means of the final score: the variant less the full method (left of the line: "
        f"worse than it). Bars: {estimates.words(study)}, each on its own. Compared with {reference}. "
        f"{seeds_in_words(n)} a variant."
    )
    how = {"columns": ("difference", "variant"), "per_panel": (2.3, max(1.0, 0.55 + 0.17 * len(variants)))}
    reason = "no variant has runs of the full method to compare with"
    return figure_or_reason(f"ablations{part.suffix}", panels, reason, part.title("Ablations"), caption, **how)


def _variants(study: StudyData, part: Part) -> list[str]:
    """The variants less the whole method, as the definition orders them."""
    given = list(study.definition_of(part).get("variants") or {})
    names = {row["variant"] for row in study.of(part)} - set(FULL)
    return sorted(names, key=lambda name: (given.index(name) if name in given else len(given), name))
