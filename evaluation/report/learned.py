"""What a meta-learning's page says beside its figures: facts, what was learned, how it came about."""

from __future__ import annotations

from asgc.meta import Preset
from evaluation.analysis.data.run_key import NOBODY
from evaluation.meta.preset_words import fixed, option_names, shown
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
    lines = []
    for name in option_names(preset):
        cells = [Entry(shown(preset, kind, name), value=own.get(name)) for kind, own in preset.values.items()]
        lines.append(Line([Entry(name), *cells], NOBODY))
    columns = [(label, "") for label in ("option", *preset.values)]
    note = f"Fixed: {fixed(preset)}" if preset.options else ""
    return Sheet("learned-values", "", "Options by kind of layer", columns, lines, note)


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
