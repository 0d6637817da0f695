"""The runs behind the numbers: compact enough for thousands of them, complete enough to re-run each."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from evaluation.analysis.comparisons.selection import Row
from evaluation.analysis.data.protocol import Protocol
from evaluation.analysis.data.run_key import RunKey

ORIGINS = ("commit", "dirty", "version", "envpool", "torch", "device")
COMMANDED = ("compare", "ablation", "grid")  # kinds whose groups keep the command of their first run


def groups(rows: Iterable[Row]) -> dict[str, Any]:
    """Runs by their labels: {"groups": [...], "protocols": [...], "origins": [...]}.

    A group has its labels, "kind", "purpose", its seeds and final scores (in the same order), the folder of its first
    run, the options that the study set, the index of its protocol and of each run's origin (code and machine), and the
    command of its first run.
    """
    found: dict[RunKey, list[Row]] = {}
    for row in rows:
        found.setdefault(RunKey.of_row(row), []).append(row)
    protocols: dict[str, int] = {}
    origins: dict[tuple[Any, ...], int] = {}
    made = []
    for key, runs in found.items():
        runs.sort(key=lambda row: row["seed"])
        first = runs[0]
        codes = [origins.setdefault(tuple(row.get(key) for key in ORIGINS), len(origins)) for row in runs]
        group: dict[str, Any] = {**asdict(key), "kind": first["kind"], "purpose": first["purpose"]}
        group |= {"seeds": [row["seed"] for row in runs], "path": first["path"]}
        group["protocol"] = protocols.setdefault(first["protocol"], len(protocols))
        group["origin"] = codes[0] if len(set(codes)) == 1 else codes
        options = json.loads(first["options"] or "{}")
        group["options"] = " ".join(f"{key}={value}" for key, value in options.items())
        if first["kind"] in COMMANDED and first.get("command"):
            group["command"] = command(first["command"])
        made.append(group)
    return {
        "groups": made,
        "protocols": [Protocol.read(key).words() for key in protocols],
        "origins": [dict(zip(ORIGINS, origin, strict=True)) for origin in origins],
    }


def command(text: str) -> str:
    """A command as it is typed: the program without its folder and interpreter, without where the run was put."""
    words = shlex.split(text) if text.count("'") % 2 == 0 else text.split()
    names = [word.rpartition("/")[2] for word in words]
    start = next((index for index, name in enumerate(names) if name.startswith("asgc-")), 0)
    kept, skip = [names[start]], False
    for word in words[start + 1 :]:
        if word.startswith("--run-dir"):
            skip = "=" not in word
        elif skip:
            skip = False
        else:
            kept.append(word)
    return " ".join(kept)
