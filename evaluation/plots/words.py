"""What is called what on axes and in captions: scores and steps are other things for games than for data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evaluation.analysis.data.dataset import Dataset
from evaluation.analysis.data.protocol import Protocol

_METRICS = {
    "bleu": "BLEU",
    "accuracy": "right subwords, percent",
    "likelihood": "log-likelihood a subword, nats",
}


@dataclass(frozen=True)
class Words:
    """Attributes:
    score: on axes.
    steps: on axes.
    evaluation: the score of an evaluation, in captions.
    games: whether it is a mean over episodes.
    """

    score: str = "return"
    steps: str = "environment steps"
    evaluation: str = "mean return of the evaluation episodes"
    games: bool = True


GAMES = Words()


def words(protocol: Mapping[str, Any]) -> Words:
    """From how scores are made (`Protocol.fields`, a summary's signature); a run that plays nothing counts updates."""
    if "task" not in protocol:
        return GAMES
    score = _METRICS.get(str(protocol.get("metric")), str(protocol.get("score", "score")))
    return Words(score, "updates", score if score == "score" else f"score ({score})", games=False)


def of_tasks(data: Dataset) -> dict[str, Words]:
    """Of each task of a data set, by its first run."""
    rows = data.rows("SELECT task, min(protocol) AS protocol FROM runs GROUP BY task")
    return {row["task"]: words(Protocol.read(row["protocol"] or "").fields) for row in rows}
