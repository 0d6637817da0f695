"""row.json of a finished run: all that a table of many runs takes from its configuration, summary and provenance.

One small file in JSON in the place of three, one of them YAML, which takes a hundred times as long to read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluation.cli.config_file import flatten

ROW = "row.json"
ORIGIN = ("code", "versions", "device", "command")  # of provenance.json


def analysis_row(
    config: Mapping[str, Any], summary: Mapping[str, Any], provenance: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """{"config": dotted keys -> values (``optimizer.lr``), "summary": all of it, "provenance": `ORIGIN` of it}."""
    origin = {key: provenance[key] for key in ORIGIN if key in provenance}
    return {"config": flatten(dict(config)), "summary": dict(summary), "provenance": origin}
