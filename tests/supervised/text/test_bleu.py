"""Scores are those of sacreBLEU's command line, signatures included."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from evaluation.cli.errors import UserError
from supervised.text.bleu import scores

REFERENCES = ["Das ist ein kleiner Hund.", "Er geht heute Abend nicht nach Hause, sagt er.", "Ja, natürlich!"]
TRANSLATIONS = ["Das ist ein Hund.", "Er geht heute Abend nach Hause, sagt er.", "Ja, sicher!"]


def test_scores_are_those_of_sacrebleus_command_line(tmp_path: Path) -> None:
    pytest.importorskip("sacrebleu")
    for name, lines in (("ref", REFERENCES), ("hyp", TRANSLATIONS)):
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "sacrebleu", "ref", "-i", "hyp", "-m", "bleu", "chrf", "--width", "12"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    bleu, chrf = json.loads(done.stdout)
    found = scores(TRANSLATIONS, REFERENCES)
    assert found.bleu == pytest.approx(bleu["score"], abs=1e-9)
    assert found.chrf == pytest.approx(chrf["score"], abs=1e-9)
    assert 0 < found.bleu < found.chrf < 100
    # The program's name of the metric and its settings are one text there.
    assert f"BLEU|{found.bleu_signature}" == f"{bleu['name']}|{bleu['signature']}"
    assert f"chrF2|{found.chrf_signature}" == f"{chrf['name']}|{chrf['signature']}"


def test_a_perfect_translation_has_100() -> None:
    pytest.importorskip("sacrebleu")
    found = scores(REFERENCES, REFERENCES)
    assert (found.bleu, found.chrf) == (pytest.approx(100), pytest.approx(100))


def test_without_sacrebleu_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'asgc\[supervised\]'"):
        scores(["a"], ["a"])
