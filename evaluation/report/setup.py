"""What was run: the question, tasks, settings, optimizers, search space, budgets and seeds of a study."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evaluation.analysis.comparisons.robustness import LEARNING_RATE
from evaluation.analysis.data.protocol import Protocol
from evaluation.analysis.data.run_key import RunKey
from evaluation.cli.errors import UserError
from evaluation.plots.study_data import StudyData, targets
from evaluation.report.sections import Line, Sheet, entry
from evaluation.study import spec


def facts(study: StudyData) -> list[tuple[str, str]]:
    """The size of the study in a few numbers: (name, value)."""
    rows = study.runs
    seconds = sum(row["wall_s"] for row in rows if row["wall_s"] == row["wall_s"])
    tests = {row["seed"] for row in rows if row["purpose"] == "test"}
    tunes = {row["seed"] for row in rows if row["purpose"] == "tune"}
    found = [("runs", f"{len(rows):,}"), ("tasks", str(len(study.tasks))), ("settings", str(len(study.settings)))]
    found += [("optimizers", str(len(study.optimizers))), ("test seeds", ranges(tests) or "none")]
    found += [("tuning seeds", ranges(tunes))] if tunes else []
    found.append(("training time", duration(seconds)))
    return [*found, *([("left out", str(len(study.data.problems)))] if study.data.problems else [])]


def sheets(study: StudyData) -> list[Sheet]:
    """Tables of the set-up; without the definition's where there is none, as for plain runs, or it cannot be read."""
    data, defined = study.data, None
    with contextlib.suppress(UserError):
        defined = spec.parse(data.definition, name=data.name, where=data.name) if data.definition else None
    of_parts, named = [], []
    if defined is not None:
        of_parts = [_spaces(defined), _variants(defined)]
        note = f"Options of every run: {_options(defined.options)}." if defined.options else ""
        named = [_named("settings", "setting", study.settings, defined.settings, note)]
        named += [_named("optimizers", "optimizer", study.optimizers, defined.optimizers)]
    found = [_parts(study, defined), *of_parts, _tasks(study), *named, _used(study)]
    return [sheet for sheet in found if sheet.lines]


def _sheet(name: str, title: str, columns: Sequence[str], lines: Sequence[Line], note: str = "", **more: str) -> Sheet:
    """A table; `more` explains columns."""
    return Sheet(f"setup-{name}", "", title, [(column, more.get(column, "")) for column in columns], list(lines), note)


def _line(runs: RunKey, *values: str | int) -> Line:
    return Line([entry(value) for value in values], runs)


def _parts(study: StudyData, defined: spec.Study | None) -> Sheet:
    lines = []
    for part in study.parts("search", "compare", "grid", "robustness", "ablation"):
        rows = study.of(part)
        how = _how(defined.parts[part.name]) if defined is not None and part.name in defined.parts else ""
        names = [
            ", ".join(name for name in order if name in {row[column] for row in rows})
            for column, order in (("task", study.tasks), ("setting", study.settings), ("optimizer", study.optimizers))
        ]
        purpose = {"tune": "tuning", "test": "test"}[rows[0]["purpose"]]
        seeds = ranges({row["seed"] for row in rows})
        lines.append(_line(RunKey(part.name), part.name, part.kind, len(rows), *names, seeds, purpose, how))
    tune, test = ({row["seed"] for row in study.runs if row["purpose"] == use} for use in ("tune", "test"))
    note = "Tuning seeds and test seeds are apart: no reported run has a seed that chose its hyperparameters."
    if tune & test:
        note = f"Seeds {ranges(tune & test)} were used for tuning and for testing: scores of these runs are optimistic."
    elif not tune:
        note = ""
    columns = ("part", "kind", "runs", "tasks", "settings", "optimizers", "seeds", "use", "how")
    more = {"runs": "finished ones", "use": "runs that choose hyperparameters, or that are reported"}
    return _sheet("parts", "Parts of the study", columns, lines, note, **more)


def _how(part: spec.Part) -> str:
    """What is special about a part, in words."""
    words = [part.note] if part.note else []
    if part.kind == "search":
        chosen = {"final": "the final score", "auc": "the mean score over the run"}[part.objective]
        words.append(f"{part.trials} trials for every optimizer, task and setting ({part.sampler}); {chosen} decides")
    if part.kind == "robustness":
        words.append(f"{part.draws} random settings")
    words += [f"{name} in {_list(values)}" for name, values in part.values.items()]
    words += [f"{name} times {_list(values)}" for name, values in part.multiply.items()]
    by_words: dict[str, list[str]] = {}
    for name, one in part.tuned.items():
        by_words.setdefault(str(one), []).append(name)
    for best, names in by_words.items():
        whose = "" if len(names) == len(part.optimizers) else f" of {', '.join(names)}"
        words.append(f"hyperparameters{whose}: the best of {best}")
    return "; ".join(words)


def _spaces(defined: spec.Study) -> Sheet:
    """What searches and random settings choose from."""
    lines = []
    for part in defined.parts.values():
        for one in part.space:
            values = _list(one.choices) if one.choices else f"{one.low:g} to {one.high:g}"
            how = "evenly" if one.choices else "uniform in the logarithm" if one.log else "uniform"
            how += ", whole numbers" if one.integer else ""
            optimizers = ", ".join(one.optimizers) or "all"
            lines.append(_line(RunKey(part.name), part.name, one.name, values, how, optimizers))
    return _sheet("spaces", "Search spaces", ["part", "option", "range", "drawn", "optimizers"], lines)


def _variants(defined: spec.Study) -> Sheet:
    """What each variant of an ablation changes."""
    lines = [
        _line(RunKey(part.name, variant=name), part.name, name, _options(options) or "unchanged")
        for part in defined.parts.values()
        for name, options in part.variants.items()
    ]
    return _sheet("variants", "Variants", ["part", "variant", "options"], lines)


def _tasks(study: StudyData) -> Sheet:
    """Each task with the protocol of its scores, its budget and the references of normalized scores."""
    references: dict[str, str] = {}
    for part in study.parts("compare", "ablation", "grid", "robustness"):
        with contextlib.suppress(UserError):  # the page says so where the comparison is missing
            references |= {task: str(to) for task, to in study.comparison(part, "final").references.items()}
    lines = []
    for task in study.tasks:
        rows = [row for row in study.runs if row["task"] == task]
        steps = _list(f"{number:,}" for number in sorted({row["total_steps"] for row in rows}))
        timed = _list(targets(rows))
        protocols = sorted({", ".join(Protocol.read(row["protocol"]).words()) for row in rows})
        lines.append(_line(RunKey(task=task), task, steps, timed, " | ".join(protocols), references.get(task, "")))
    columns = ("task", "steps of a run", "target", "protocol of the scores", "normalized scores")
    more = {"target": "score whose first reaching is timed", "normalized scores": "what counts as 0 and as 1"}
    return _sheet("tasks", "Tasks and protocols", columns, lines, **more)


def _named(
    name: str, label: str, order: Iterable[str], given: Mapping[str, Mapping[str, Any]], note: str = ""
) -> Sheet:
    """The settings or optimizers with the options that define them."""
    lines = [_line(RunKey(**{label: one}), one, _options(given[one]) or "unchanged") for one in order if one in given]
    return _sheet(name, name.capitalize(), [label, "options"], lines, note)


def _used(study: StudyData) -> Sheet:
    """The hyperparameters that the compared runs had, as far as they differ between optimizers, tasks or settings."""
    found: dict[RunKey, list[dict[str, Any]]] = {}
    for row in (row for part in study.parts("compare") for row in study.of(part)):
        key = RunKey(row["part"], row["task"], row["setting"], row["optimizer"])
        found.setdefault(key, []).append({LEARNING_RATE: row["lr"], **json.loads(row["options"] or "{}")})
    same = _common([options for some in found.values() for options in some])
    lines = []
    for key, some in found.items():
        rates = sorted({options[LEARNING_RATE] for options in some if options[LEARNING_RATE] is not None})
        others = {name: value for name, value in _common(some).items() if name not in (*same, LEARNING_RATE)}
        shown = _list(f"{rate:.4g}" for rate in rates), _options(others)
        lines.append(_line(key, *key.labels().values(), *shown))
    columns = ["part", "task", "setting", "optimizer", "learning rate", "other options"]
    note = "Options that all of them have are left out."
    return _sheet("used", "Hyperparameters of the compared runs", columns, lines, note)


def _common(some: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all mappings have."""
    first = some[0] if some else {}
    return {key: value for key, value in first.items() if all(other.get(key, some) == value for other in some)}


def ranges(numbers: Iterable[int]) -> str:
    """ "1-3, 7" of {1, 2, 3, 7}."""
    found: list[list[int]] = []
    for number in sorted(set(numbers)):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(str(low) if low == high else f"{low}\u2013{high}" for low, high in found)


def duration(seconds: float) -> str:
    """Seconds in words: "45 s", "12 min", "2.5 h", "3.1 days"."""
    for unit, length, digits in (("days", 86_400, 1), ("h", 3_600, 1), ("min", 60, 0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.{digits}f} {unit}"
    return f"{seconds:.0f} s"


def _options(options: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={_value(value)}" for key, value in options.items())


def _value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _list(values: Iterable[Any]) -> str:
    return ", ".join(_value(value) for value in values)
