"""Which figures there are, by name, for a study and for a single run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from evaluation.cli.errors import UserError
from evaluation.cli.values import suggestion
from evaluation.plots import (
    aggregates,
    curvature_figures,
    diagnostic_figures,
    gradient_figures,
    learned_figures,
    scores,
    single_run,
    trial_curves,
    tuning,
)
from evaluation.plots.figure import Figure, Omitted
from evaluation.plots.learned_figures import LearnedData
from evaluation.plots.single_run import RunData
from evaluation.plots.study_data import Found, StudyData

Maker = Callable[..., Figure | Omitted | Found]

# What makes a figure, or several, of (study, part), and the kinds of parts; without kinds, of all recorded gradients.
STUDY: Mapping[str, tuple[Maker, tuple[str, ...]]] = {
    "aggregates": (aggregates.aggregates, ("compare",)),
    "improvement": (aggregates.improvement, ("compare", "grid", "robustness", "ablation")),
    "performance-profiles": (aggregates.performance_profiles, ("compare",)),
    "learning-curves": (scores.learning_curves, ("compare",)),
    "final-scores": (scores.final_scores, ("compare",)),
    "time-to-target": (scores.time_to_target, ("compare",)),
    "time-to-target-profiles": (scores.time_to_target_profiles, ("compare",)),
    "stability": (scores.stability, ("compare",)),
    "learning-rate": (tuning.learning_rates, ("search", "grid", "robustness")),
    "best-of-trials": (trial_curves.best_of_trials, ("search",)),
    "robustness": (tuning.robustness, ("robustness",)),
    "ablations": (tuning.ablations, ("ablation",)),
    "gradients": (gradient_figures.magnitudes, ()),
    "thresholds": (gradient_figures.thresholds, ()),
    "clip-options": (gradient_figures.clip_options, ()),
    "sync-response": (gradient_figures.sync_response, ()),
    "diagnostics": (diagnostic_figures.diagnostics, ("compare",)),
    "curvature": (curvature_figures.side_by_side, ("compare",)),
}
RUN: Mapping[str, Callable[[Any], Found]] = {
    "score": single_run.score,
    "training": single_run.training,
    "gradients": lambda run: gradient_figures.distributions(run.data),
    "thresholds": lambda run: gradient_figures.thresholds(run.data, single=True),
    "clip-options": lambda run: gradient_figures.clip_options(run.data, single=True),
    "sync-response": single_run.sync_response,
    "layers": single_run.layers,
    "diagnostics": single_run.diagnostics,
    "curvature": curvature_figures.curvature,
}

LEARNED: Mapping[str, Callable[[Any], Found]] = {
    "learned-options": learned_figures.options,
    "learning-returns": learned_figures.returns,
    "sensitivity": learned_figures.sensitivity,
}


def figures(source: StudyData | RunData | LearnedData, only: Collection[str] = ()) -> Iterator[tuple[str, Found]]:
    """(name, its figures or why there is none) of a study, a run or a meta-learning, in the order of the page; `only`
    these names.

    Raises:
        UserError: an unknown name.
    """
    makers: Mapping[str, Any] = STUDY
    if not isinstance(source, StudyData):
        makers = RUN if isinstance(source, RunData) else LEARNED
    for name in only:
        if name not in makers:
            raise UserError(f"--only {name}: no such figure{suggestion(name, list(makers))}")
    for name in makers:
        if not only or name in only:
            yield name, _of_study(source, name) if isinstance(source, StudyData) else makers[name](source)


def _of_study(study: StudyData, name: str) -> Found:
    make, kinds = STUDY[name]
    found: Found = []
    if not kinds:
        found = make(study.data)  # type: ignore[assignment]
        return sorted(
            found, key=lambda one: () if isinstance(one, Omitted) else study.place(one.panels[0].series[0].runs)[:2]
        )
    for part in study.parts(*kinds):
        try:
            made = make(study, part)
        except UserError as error:
            made = Omitted(name + part.suffix, str(error))
        found += made if isinstance(made, list) else [made]
    named = " or ".join([", ".join(kinds[:-1]), kinds[-1]] if len(kinds) > 1 else kinds)
    return found or [Omitted(name, f"the study has no finished runs of a part of kind {named}")]
