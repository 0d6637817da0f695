"""What was evaluated again after a run, kept beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evaluation.cli.errors import reason, tell
from evaluation.files import to_json

RESULTS = "evaluations.jsonl"  # in the run folder: one JSON object a line, as `--json` prints it


def keep(run: Path, result: Mapping[str, Any]) -> None:
    """Append a result to those of a run, whole or not at all; where it cannot be written, say so and go on."""
    line = (json.dumps(to_json(result), allow_nan=False) + "\n").encode()
    path = run / RESULTS
    try:
        with path.open("ab", buffering=0) as file:  # appending: two at a time do not mix
            written = file.write(line)
            if written < len(line):
                file.truncate(os.fstat(file.fileno()).st_size - written)
                raise OSError("the disk is full")
    except OSError as error:
        tell(f"the result is not kept in {path}: {reason(error)}")
