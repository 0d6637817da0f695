"""Which figures there are, by name, for a study and for a single run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from evaluation.cli.errors import UserError
from evaluation.cli.values import suggestion
from evaluation.plots import aggregates, scores, single_run, tuning
from evaluation.plots import diagnostic_figures as diagnostics
from evaluation.plots import gradient_figures as gradients
from evaluation.plots.figure import Figure, Omitted
from evaluation.plots.single_run import RunData
from evaluation.plots.study_data import StudyData

Maker = Callable[[Any], list[Figure | Omitted]]

STUDY: Mapping[str, Maker] = {
    "aggregates": aggregates.aggregates,
    "improvement": aggregates.improvement,
    "performance-profiles": aggregates.performance_profiles,
    "learning-curves": scores.learning_curves,
    "final-scores": scores.final_scores,
    "time-to-target": scores.time_to_target,
    "time-to-target-profiles": scores.time_to_target_profiles,
    "stability": scores.stability,
    "learning-rate": tuning.learning_rates,
    "robustness": tuning.robustness,
    "ablations": tuning.ablations,
    "gradients": lambda study: _in_order(study, gradients.magnitudes(study.data)),
    "thresholds": lambda study: _in_order(study, gradients.thresholds(study.data)),
    "sync-response": lambda study: _in_order(study, gradients.sync_response(study.data)),
    "diagnostics": diagnostics.diagnostics,
}
RUN: Mapping[str, Maker] = {
    "score": single_run.score,
    "training": single_run.training,
    "gradients": gradients.distributions,
    "thresholds": lambda run: gradients.thresholds(run, single=True),
    "sync-response": lambda run: gradients.sync_response(run, single=True),
    "layers": single_run.layers,
    "diagnostics": single_run.diagnostics,
}
KIND = {"learning-rate": "search, grid or robustness", "robustness": "robustness", "ablations": "ablation"}


def _in_order(study: StudyData, found: list[Figure | Omitted]) -> list[Figure | Omitted]:
    """Figures of one task and setting each, in the study's order of tasks and settings."""

    def place(one: Figure | Omitted) -> tuple[int, ...]:
        runs = one.panels[0].series[0].runs if isinstance(one, Figure) else {}
        return tuple(
            names.index(runs[key]) if runs.get(key) in names else -1
            for key, names in (("task", study.tasks), ("setting", study.settings))
        )

    return sorted(found, key=place)


def figures(source: StudyData | RunData, only: Collection[str] = ()) -> Iterator[tuple[str, list[Figure | Omitted]]]:
    """(name, its figures or why there is none) of a study or run, in the order of the page; `only` these names.

    Raises:
        UserError: an unknown name.
    """
    makers = RUN if isinstance(source, RunData) else STUDY
    for name in only:
        if name not in makers:
            raise UserError(f"--only {name}: no such figure{suggestion(name, list(makers))}")
    for name, make in makers.items():
        if not only or name in only:
            kind = KIND.get(name, "compare")
            yield name, make(source) or [Omitted(name, f"the study has no finished runs of a part of kind {kind}")]
