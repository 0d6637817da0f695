"""The page: everything of a study's report put into one HTML file that needs no network."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from evaluation.analysis.comparisons.acting import acting, plain_methods
from evaluation.analysis.comparisons.best_of_k import best_of_k
from evaluation.analysis.comparisons.clipping import clipping
from evaluation.analysis.comparisons.matched import matched_grid, matched_steps
from evaluation.analysis.comparisons.robustness import robustness
from evaluation.analysis.comparisons.single_setting import single_setting
from evaluation.analysis.comparisons.trials import objective
from evaluation.analysis.comparisons.usable_range import is_grid, usable_range
from evaluation.analysis.result_table import Table
from evaluation.analysis.stats.bootstrap import Bootstrap
from evaluation.cli.config_file import dump_yaml
from evaluation.cli.errors import UserError
from evaluation.plots import catalog
from evaluation.plots.figure import Figure, Omitted
from evaluation.plots.learned_figures import LearnedData
from evaluation.plots.study_data import Part, StudyData
from evaluation.plots.style import ROLES
from evaluation.report import learned as of_preset
from evaluation.report import origins, payload, sections, setup
from evaluation.report.sections import Finding, Sheet

TEMPLATES = "templates"
LEADING = "improvement"  # the picture of a part's verdicts
PAGE, LEARNED, STYLE, SCRIPTS = "report.html.j2", "learned.html.j2", "report.css", ("charts.js", "page.js")


@dataclass
class Contents:
    """What the page shows. `missing` are (what, why it is not there)."""

    findings: list[tuple[Finding, list[Figure]]] = field(default_factory=list)  # of each part, with its picture
    figures: list[list[Figure]] = field(default_factory=list)  # the others, by family
    sheets: dict[str, list[Sheet]] = field(default_factory=dict)  # by part
    setup: list[Sheet] = field(default_factory=list)
    missing: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def families(self) -> list[list[Figure]]:
        """All figures in the order of the page."""
        return [*(picture for _, picture in self.findings if picture), *self.figures]


def build(study: StudyData, root: Path | None = None) -> str:
    """The report of a study as the text of an HTML file; the same data give the same text.

    Args:
        root: the study's folder; what was left out below it is named from there on.

    Raises:
        UserError: no finished runs, or a package is missing.
    """
    if not study.runs:
        raise UserError(f"{study.data.name} has no finished runs to report")
    contents = gather(study)
    data = {
        "figures": [figure for family in contents.families for figure in family],
        "looks": study.looks | ROLES,
        "provenance": origins.groups(study.runs),
    }
    return _render(
        PAGE,
        data,
        contents=contents,
        study=study,
        name=study.data.name,
        question=study.data.definition.get("question"),
        budget=str(study.data.definition.get("budget") or ""),
        facts=setup.facts(study),
        problems=[(problem.below([root] if root else []), problem.reason) for problem in study.data.problems],
        filters={"task": study.tasks, "setting": study.settings, "optimizer": study.optimizers},
    )


def of_learning(learned: LearnedData) -> str:
    """The page of a meta-learning, finished or not. `UserError`: a package is missing."""
    found = [figure for _, some in catalog.figures(learned) for figure in some]
    drawn = [figure for figure in found if isinstance(figure, Figure)]
    return _render(
        LEARNED,
        {"figures": drawn, "looks": learned.looks},
        name=learned.definition.name,
        question=learned.definition.question,
        facts=of_preset.facts(learned),
        learned=of_preset.values(learned.preset) if learned.preset else None,
        figures=drawn,
        provenance=of_preset.provenance(learned.preset) if learned.preset else [],
        definition=dump_yaml(learned.definition.values),
        missing=[(f"figure {one.name}", one.reason) for one in found if isinstance(one, Omitted)],
    )


def _render(template: str, data: dict[str, Any], *, name: str, question: Any, **values: Any) -> str:
    """A template with what every page has; `data` are its script's, with figures and looks as they are."""
    try:
        import jinja2
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise UserError(f"a report needs {error.name}: pip install 'asgc[study]'") from error
    made = {"looks": payload.looks(data["looks"]), "figures": [payload.figure(figure) for figure in data["figures"]]}
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("evaluation.report", TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template(template).render(
        name=name,
        question=" ".join(str(question or "").split()),
        style=_text(STYLE),
        scripts=[_text(script) for script in SCRIPTS],
        plotly=get_plotlyjs(),
        data=_json({"name": name, **data, **made}),
        **values,
    )
    return str(page)


def gather(study: StudyData) -> Contents:
    """Everything that the page shows; what cannot be made is in `missing` with its reason."""
    contents = Contents()
    parts = study.parts("compare", "grid", "robustness", "ablation")
    comparisons = []
    for part in parts:
        for metric in sections.METRICS if part.kind == "compare" else sections.METRICS[:1]:
            comparisons += _try(contents, f"{part.name}: {metric}", lambda: [study.comparison(part, metric)])  # noqa: B023
    contents.notes = list(dict.fromkeys(note for one in comparisons for note in one.notes))
    sheets = [sheet for one in comparisons for sheet in sections.sheets_of(one, study.place)]
    for what, make, *kinds in (
        ("matched step sizes", _matched, "compare"),
        ("best of k trials", _best_of_k, "search"),
        ("usable learning rates", _usable_range, "search"),
        ("one setting for all tasks", _single_setting, "search"),
        ("what acts", _acting, "search"),
        ("robustness", _robustness, "grid", "robustness"),
        ("clipping", _clipping, "compare", "ablation"),
        ("matched step sizes", _matched_grid, "grid"),
    ):
        for part in study.parts(*kinds):
            sheets += _try(contents, f"{part.name}: {what}", lambda: make(study, part))  # noqa: B023
    for part in [*parts, *study.parts("search")]:
        if mine := [sheet for sheet in sheets if sheet.part == part.name]:
            contents.sheets[part.name] = mine
    contents.setup = setup.sheets(study)
    families: dict[str, list[Figure]] = {}
    for one in (figure for _, some in catalog.figures(study) for figure in some):
        if isinstance(one, Omitted):
            contents.missing.append((f"figure {one.name}", one.reason))
        else:
            families.setdefault(one.family or one.name, []).append(one)
    for part in parts:
        if of_part := [one for one in comparisons if one.part == part.name and len(one.pairs)]:
            picture = families.pop(f"{LEADING}{part.suffix}", [])
            contents.findings.append((sections.finding(of_part, study.place), picture))
    contents.figures = list(families.values())
    contents.notes += [sections.RULE] if contents.findings else []
    return contents


def _matched(study: StudyData, part: Part) -> list[Sheet]:
    table = matched_steps(study.data, part.name, baseline=study.baseline(part), how=Bootstrap(study.how.seed))
    return [sections.sheet("matched", part.name, table, sections.MATCHED)] if len(table) else []


def _matched_grid(study: StudyData, part: Part) -> list[Sheet]:
    if not study.data.effective_steps():
        return []
    table = matched_grid(study.data, part.name, baseline=study.baseline(part), how=Bootstrap(study.how.seed))
    return [sections.sheet("matched", part.name, table, sections.MATCHED_GRID)]


def _best_of_k(study: StudyData, part: Part) -> list[Sheet]:
    return [sections.best_of_k(part.name, best_of_k(study.data, part.name, how=Bootstrap(study.how.seed)))]


def _usable_range(study: StudyData, part: Part) -> list[Sheet]:
    if not is_grid(study.data, part.name):
        return []
    metric = objective(study.data, part.name)
    table = usable_range(study.data, part.name, metric=metric, how=Bootstrap(study.how.seed))
    return _by_method(study, part, "usable learning rates", table, sections.USABLE_RANGE)


def _single_setting(study: StudyData, part: Part) -> list[Sheet]:
    if not is_grid(study.data, part.name):
        return []
    metric = objective(study.data, part.name)
    table = single_setting(study.data, part.name, metric=metric, how=Bootstrap(study.how.seed))
    return _by_method(study, part, "one setting", table, sections.SINGLE_SETTING) if len(table) else []


def _acting(study: StudyData, part: Part) -> list[Sheet]:
    """Beside each method that the definition calls plain; beside the baseline where it names none of the part's."""
    if not is_grid(study.data, part.name):
        return []
    metric, names = objective(study.data, part.name), {row["optimizer"] for row in study.of(part)}
    beside = [name for name in plain_methods(study.data) if name in names] or [str(study.baseline(part))]
    tables = {name: acting(study.data, part.name, baseline=name, metric=metric) for name in beside}
    return [
        sheet
        for name, table in tables.items()
        for sheet in _by_method(study, part, f"acting-{name}", table, sections.ACTING)
    ]


def _by_method(
    study: StudyData, part: Part, name: str, table: Table[Any], columns: Sequence[sections.Column]
) -> list[Sheet]:
    """A table with a line an optimizer, in the order of the page."""
    found = sections.sheet(name, part.name, table, columns, method="optimizer")
    found.lines.sort(key=lambda line: study.place(line.runs))
    return [found]


def _robustness(study: StudyData, part: Part) -> list[Sheet]:
    table = robustness(study.data, part.name, how=Bootstrap(study.how.seed))
    return [sections.sheet("robustness", part.name, table, sections.ROBUSTNESS, method="optimizer")]


def _clipping(study: StudyData, part: Part) -> list[Sheet]:
    table = clipping(study.data, part.name)
    found = sections.sheet("clipping", part.name, table, sections.CLIPPING)
    found.lines.sort(key=lambda line: study.place(line.runs))
    return [found] if found.lines else []


def _try(contents: Contents, what: str, make: Callable[[], list[Any]]) -> list[Any]:
    """What `make` returns; nothing where the data do not allow it, and why is noted."""
    try:
        return make()
    except UserError as error:
        contents.missing.append((what, str(error)))
        return []


def _json(value: Any) -> str:
    """JSON that may stand in a <script>: nothing in it can end the element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _text(name: str) -> str:
    return resources.files("evaluation.report").joinpath(TEMPLATES, name).read_text(encoding="utf-8")
