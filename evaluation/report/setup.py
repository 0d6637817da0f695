"""What was run: the question, tasks, settings, optimizers, search space, budgets and seeds of a study."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evaluation.analysis.data.run_reader import SEPARATOR
from evaluation.cli.errors import UserError
from evaluation.plots.study_data import StudyData
from evaluation.report.sections import Line, Sheet, count, word
from evaluation.study import spec


def definition(study: StudyData) -> spec.Study | None:
    """The study's definition, or None for plain runs and where it cannot be read."""
    data = study.data
    if not data.definition:
        return None
    try:
        return spec.parse(data.definition, name=data.name, where=data.name)
    except UserError:
        return None


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
    """Tables of the set-up."""
    found = [_parts(study), _spaces(study), _variants(study), _tasks(study)]
    found += [_named(study, "settings"), _named(study, "optimizers"), _used(study)]
    return [sheet for sheet in found if sheet.lines]


def _parts(study: StudyData) -> Sheet:
    defined = definition(study)
    columns = [("part", ""), ("kind", ""), ("runs", "finished ones"), ("tasks", ""), ("settings", "")]
    columns += [("optimizers", ""), ("seeds", ""), ("use", "runs that choose hyperparameters, or that are reported")]
    columns += [("how", "")]
    lines = []
    for part in study.parts("search", "compare", "grid", "robustness", "ablation"):
        rows = study.of(part)
        how = _how(defined.parts[part.name]) if defined is not None and part.name in defined.parts else ""
        cells = [word(part.name), word(part.kind), count(len(rows))]
        for column, order in (("task", study.tasks), ("setting", study.settings), ("optimizer", study.optimizers)):
            names = {row[column] for row in rows}
            cells.append(word(", ".join(name for name in order if name in names)))
        purpose = {"tune": "tuning", "test": "test"}[rows[0]["purpose"]]
        cells += [word(ranges({row["seed"] for row in rows})), word(purpose), word(how)]
        lines.append(Line(cells, {"part": part.name}))
    seeds = {use: {row["seed"] for row in study.runs if row["purpose"] == use} for use in ("tune", "test")}
    shared = seeds["tune"] & seeds["test"]
    note = "Tuning seeds and test seeds are apart: no reported run has a seed that chose its hyperparameters."
    if shared:
        note = f"Seeds {ranges(shared)} were used for tuning and for testing: scores of these runs are optimistic."
    elif not seeds["tune"]:
        note = ""
    return Sheet("setup-parts", "", "Parts of the study", columns, lines, note)


def _how(part: spec.Part) -> str:
    """What is special about a part, in words."""
    words = [part.note] if part.note else []
    if part.kind == "search":
        chosen = {"final": "the final score", "curve": "the mean score over the run"}[part.objective]
        words.append(f"{part.trials} trials for every optimizer, task and setting ({part.sampler}); {chosen} decides")
    if part.kind == "robustness":
        words.append(f"{part.draws} random settings")
    words += [f"{name} in {_list(values)}" for name, values in part.values.items()]
    words += [f"{name} times {_list(values)}" for name, values in part.multiply.items()]
    if part.tuned is not None:
        at = f" at {part.tuned_setting}" if part.tuned_setting else ""
        words.append(f"hyperparameters: the best of {part.tuned}{at}")
    return "; ".join(words)


def _spaces(study: StudyData) -> Sheet:
    """What searches and random settings choose from."""
    defined = definition(study)
    columns = [("part", ""), ("option", ""), ("range", ""), ("drawn", ""), ("optimizers", "")]
    lines = []
    for part in defined.parts.values() if defined is not None else ():
        for one in part.space:
            values = _list(one.choices) if one.choices else f"{one.low:g} to {one.high:g}"
            how = "evenly" if one.choices else "uniform in the logarithm" if one.log else "uniform"
            cells = [part.name, one.name, values, how + (", whole numbers" if one.integer else "")]
            lines.append(
                Line([word(text) for text in (*cells, ", ".join(one.optimizers) or "all")], {"part": part.name})
            )
    return Sheet("setup-spaces", "", "Search spaces", columns, lines)


def _variants(study: StudyData) -> Sheet:
    """What each variant of an ablation changes."""
    defined = definition(study)
    lines = [
        Line(
            [word(part.name), word(name), word(_options(options) or "unchanged")], {"part": part.name, "variant": name}
        )
        for part in (defined.parts.values() if defined is not None else ())
        for name, options in part.variants.items()
    ]
    return Sheet("setup-variants", "", "Variants", [("part", ""), ("variant", ""), ("options", "")], lines)


def _tasks(study: StudyData) -> Sheet:
    """Each task with the protocol of its scores, its budget and the references of normalized scores."""
    references: dict[str, str] = {}
    for part in study.parts("compare", "ablation", "grid", "robustness"):
        try:
            references |= study.comparison(part, "final").references
        except UserError:
            continue  # the page says so where the comparison is missing
    columns = [("task", ""), ("steps of a run", ""), ("target", "score whose first reaching is timed")]
    columns += [("protocol of the scores", ""), ("normalized scores", "what counts as 0 and as 1")]
    lines = []
    for task in study.tasks:
        rows = [row for row in study.runs if row["task"] == task]
        steps = sorted({row["total_steps"] for row in rows})
        targets = sorted(
            {row["target"] for row in rows if row["target"] is not None and row["target"] == row["target"]}
        )
        protocols = sorted({row["protocol"].replace(SEPARATOR, ", ") for row in rows})
        cells = [word(task), word(_list([f"{number:,}" for number in steps])), word(_list(targets))]
        lines.append(Line([*cells, word(" | ".join(protocols)), word(references.get(task, ""))], {"task": task}))
    return Sheet("setup-tasks", "", "Tasks and protocols", columns, lines)


def _named(study: StudyData, key: str) -> Sheet:
    """The settings or optimizers with the options that define them."""
    defined = definition(study)
    label = key[:-1]
    names = study.settings if key == "settings" else study.optimizers
    given: Mapping[str, Mapping[str, Any]] = getattr(defined, key) if defined is not None else {}
    lines = [
        Line([word(name), word(_options(given[name]) or "unchanged")], {label: name}) for name in names if name in given
    ]
    common = _options(defined.options) if defined is not None else ""
    note = f"Options of every run: {common}." if common and key == "settings" else ""
    return Sheet(f"setup-{key}", "", key.capitalize(), [(label, ""), ("options", "")], lines, note)


def _used(study: StudyData) -> Sheet:
    """The hyperparameters that the compared runs had, as far as they differ between optimizers, tasks or settings."""
    found: dict[tuple[str, str, str, str], list[dict[str, Any]]] = {}
    for row in (row for part in study.parts("compare") for row in study.of(part)):
        key = (row["part"], row["task"], row["setting"], row["optimizer"])
        options = {"optimizer.lr": row["lr"], **json.loads(row["options"] or "{}")}
        found.setdefault(key, []).append(options)
    same = _common([options for some in found.values() for options in some])
    columns = [
        ("part", ""),
        ("task", ""),
        ("setting", ""),
        ("optimizer", ""),
        ("learning rate", ""),
        ("other options", ""),
    ]
    lines = []
    for (part, task, setting, optimizer), some in found.items():
        rates = sorted({options["optimizer.lr"] for options in some if options["optimizer.lr"] is not None})
        shared = _common(some)
        others = {key: value for key, value in shared.items() if key not in same and key != "optimizer.lr"}
        labels = {"part": part, "task": task, "setting": setting, "optimizer": optimizer}
        cells = [word(part), word(task), word(setting), word(optimizer), word(_list([f"{rate:.4g}" for rate in rates]))]
        lines.append(Line([*cells, word(_options(others))], labels))
    note = "Options that all of them have are left out."
    return Sheet("setup-used", "", "Hyperparameters of the compared runs", columns, lines, note)


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
