"""What analysis takes of a finished run, in one mapping that JSON can hold."""

from __future__ import annotations

import json
import math

from evaluation.files import from_json, to_json
from evaluation.runs.analysis_row import analysis_row


def test_dotted_configuration_whole_summary_and_the_origin():
    config = {"game": "Pong", "optimizer": {"name": "asgc", "clip_factor": math.inf, "betas": [0.9, 0.99]}, "env": {}}
    summary = {"final": 1.5, "stability": {"std": None}}
    provenance = {"code": {"commit": "abc"}, "versions": {"torch": "2"}, "device": "cpu", "command": ["a", "b"]}
    row = analysis_row(config, summary, provenance | {"cwd": "/somewhere", "resumed": []})
    assert row == {
        "config": {
            "game": "Pong",
            "optimizer.name": "asgc",
            "optimizer.clip_factor": math.inf,
            "optimizer.betas": [0.9, 0.99],
            "env": {},
        },
        "summary": summary,
        "provenance": provenance,
    }
    assert from_json(json.loads(json.dumps(to_json(row), allow_nan=False))) == row


def test_what_was_not_recorded_is_left_out():
    assert analysis_row({}, {}, {"device": "cpu"}) == {"config": {}, "summary": {}, "provenance": {"device": "cpu"}}
