"""BLEU and chrF by sacrebleu, with the signatures that say how they were computed (Post, arXiv 1804.08771)."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.cli.errors import UserError


@dataclass(frozen=True)
class TranslationScores:
    """Of a corpus, both from 0 to 100, with sacrebleu's signatures."""

    bleu: float
    bleu_signature: str
    chrf: float
    chrf_signature: str


def check_installed() -> None:
    """Raise `UserError` where sacrebleu is not installed."""
    if importlib.util.find_spec("sacrebleu") is None:
        raise UserError("BLEU needs sacrebleu (or choose another --evaluation.metric): pip install 'asgc[supervised]'")


def scores(translations: Sequence[str], references: Sequence[str]) -> TranslationScores:
    """Scores of translations against one reference each: text as it is written, not cut into subwords.

    Raises:
        UserError: sacrebleu is not installed.
    """
    check_installed()
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    bleu, chrf = BLEU(), CHRF()
    found = [metric.corpus_score(translations, [references]) for metric in (bleu, chrf)]
    signatures = [str(metric.get_signature()) for metric in (bleu, chrf)]
    return TranslationScores(found[0].score, signatures[0], found[1].score, signatures[1])
