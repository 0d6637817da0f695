"""What a meta-learning's page says beside its figures: facts, what was learned, how it came about."""

from __future__ import annotations

from asgc.meta import Preset
from evaluation.analysis.data.run_key import NOBODY
from evaluation.meta.preset_cli import shown
from evaluation.plots.learned_figures import LearnedData
from evaluation.report.sections import Entry, Line, Sheet
from evaluation.study.status import duration


def facts(learned: LearnedData) -> list[tuple[str, str]]:
    """(name, value)."""
    found, preset = learned.definition, learned.preset
    how = found.learner
    facts = [("rule", found.rule), ("learner", how.name), ("steps", f"{len(learned.steps)} of {how.steps}")]
    facts += [("learned from", ", ".join(found.tasks)), ("held out", ", ".join(found.held_out) or "nothing")]
    if preset is not None:
        facts += [("learning rate", f"{preset.lr:.4g}")] if preset.lr is not None else []
        if seconds := preset.provenance.get("core_seconds"):
            facts += [("runs", f"{preset.provenance['runs']:,}"), ("cost", f"{duration(seconds)} of one core")]
    return facts


def values(preset: Preset) -> Sheet:
    """Options by kind of layer."""
    names = dict.fromkeys(name for own in preset.values.values() for name in own)
    lines = []
    for name in names:
        cells = [Entry(name)]
        for kind, own in preset.values.items():
            cells.append(Entry(shown(preset, kind, name), value=own.get(name)))
        lines.append(Line(cells, NOBODY))
    fixed = ", ".join(f"{name} {value}" for name, value in preset.options.items())
    note = f"Fixed: {fixed}" if fixed else ""
    return Sheet(
        "learned-values",
        "",
        "Options by kind of layer",
        [("option", ""), *((kind, "") for kind in preset.values)],
        lines,
        note,
    )


def provenance(preset: Preset) -> list[tuple[str, str]]:
    """(name, value), all but what stands elsewhere on the page."""
    known = dict(preset.provenance)
    if known.pop("dirty", False):
        known["commit"] = f"{known.get('commit', 'unknown')}, with uncommitted changes"
    return [
        (key, str(value))
        for key, value in known.items()
        if key not in ("definition", "question", "runs", "core_seconds")
    ]
