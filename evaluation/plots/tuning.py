"""How a study's scores depend on what is chosen: learning rate, random settings, parts of the method."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from evaluation.aggregate import interquartile_mean
from evaluation.plots import estimates
from evaluation.plots.figure import Axis, Figure, Mark, Omitted, Panel, Series, seeds_in_words, series
from evaluation.plots.scores import TARGET
from evaluation.plots.study_data import Found, Part, Row, StudyData, figure_or_reason, which
from evaluation.study.spec import flatten

MAX_RATES, MIN_RUNS = 12, 3  # more rates, or fewer runs a rate on average: near ones are put together
PER_DECADE = 3  # ... so many in a decade
FULL = ("full", "default", "both")  # the names of the whole method among the variants of an ablation
PROFILE_POINTS = 101


def learning_rates(study: StudyData) -> Found:
    """Final score by learning rate: interquartile mean and band over the runs at (or near) each rate."""
    return [_learning_rates(study, part) for part in study.parts("search", "grid", "robustness")]


def _learning_rates(study: StudyData, part: Part) -> Figure | Omitted:
    factors = sorted({1.0, *_factors(study, part)})
    relative = len(factors) > 1
    panels, grouped, n = [], False, []
    for task, setting, cell in study.cells(study.of(part)):
        lines: list[Series] = []
        for optimizer, rows in cell.items():
            usual = study.compared(task, setting, optimizer) if relative else []
            tuned = {row["lr"] for row in usual}
            if relative and len(tuned) != 1:
                continue
            unit = tuned.pop() if relative else 1.0
            groups, near = _by_rate([row for row in [*rows, *usual] if row["lr"] is not None and row["lr"] > 0], unit)
            grouped |= near
            if len(groups) < 2:
                continue
            finals = [[row["final"] for row in group] for group in groups.values()]
            points = [estimates.point(interquartile_mean, scores, study) for scores in finals]
            how: dict[str, Any] = {"low": [at.low for _, at in points], "high": [at.high for _, at in points]}
            how |= {"n": [len(scores) for scores in finals], "runs": which(part, task, setting, optimizer)}
            lines.append(series(optimizer, list(groups), [middle for middle, _ in points], **how))
            n += how["n"]
        marks = tuple(Mark("y", target) for target in study.targets(cell))
        x = Axis("learning rate", log=True)
        if relative:
            ticks = tuple((factor, f"{factor:g}") for factor in factors)
            x = Axis("learning rate / tuned one", log=True, share="x", ticks=ticks)
        panels.append(Panel(task, setting, x, Axis("return", share=task), tuple(lines), marks))
    together = f" (runs whose rates lie in the same 1/{PER_DECADE} of a decade are put together)" if grouped else ""
    same = "at 1, the runs of the comparison" if relative else "other options may vary with the rate"
    caption = (
        f"Interquartile mean of the final score at each learning rate{together} and its {estimates.words(study)}; a "
        f"single run has none. {seeds_in_words(n, 'run')} a point, of the part {part.name!r} ({part.kind}): {same}. "
        f"{TARGET}"
    )
    reason = f"no optimizer has runs at two or more learning rates in {part.name!r}"
    columns = ("lr_factor" if relative else "lr", "iqm_return")
    title = f"Learning rate ({part.name})"
    return figure_or_reason(f"learning-rate{part.suffix}", panels, reason, title, caption, columns=columns)


def _factors(study: StudyData, part: Part) -> list[float]:
    """What a grid multiplies the tuned learning rates by; then their multiples are what is comparable."""
    multiplied = flatten(dict(study.definition_of(part).get("multiply") or {})) if part.kind == "grid" else {}
    return [float(factor) for key, factors in multiplied.items() if key.endswith("lr") for factor in factors]


def _by_rate(rows: Sequence[Row], unit: float) -> tuple[dict[float, list[Row]], bool]:
    """Runs by learning rate (in units of `unit`), in its order; and whether near rates were put together, each at the
    middle of its part of a decade."""
    rates = {row["lr"] for row in rows}
    near = len(rates) > MAX_RATES or len(rows) < MIN_RUNS * len(rates)
    groups: dict[float, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["lr"]):
        rate = row["lr"] / unit
        if near:
            rate = 10 ** ((math.floor(math.log10(rate) * PER_DECADE) + 0.5) / PER_DECADE)
        groups[float(f"{rate:.4g}")].append(row)
    return dict(groups), near


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
