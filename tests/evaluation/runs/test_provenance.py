"""Provenance names the code, the versions and the machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from evaluation.runs import provenance

CODE = "asgc", "evaluation"


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, text=True, capture_output=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "checkout"
    (folder / "evaluation").mkdir(parents=True)
    (folder / "evaluation" / "runs.py").write_text("x = 1\n")
    (folder / "notes.txt").write_text("")
    git(folder, "init", "-q")
    git(folder, "add", "evaluation")
    git(folder, "commit", "-qm", "first")
    return folder


def test_a_clean_checkout_has_its_commit(checkout, monkeypatch):
    expected = {"commit": git(checkout, "rev-parse", "HEAD"), "dirty": False}
    assert provenance.code_version(checkout / "evaluation") == expected  # notes.txt is no code
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # as in a hook of another repository
    assert provenance.code_version(checkout / "evaluation") == expected


def test_changed_and_new_code_is_dirty(checkout):
    here = checkout / "evaluation"
    (here / "new.py").write_text("")
    assert provenance.code_version(here)["dirty"] is True
    (here / "new.py").unlink()
    assert provenance.code_version(here)["dirty"] is False
    (here / "runs.py").write_text("x = 2\n")
    assert provenance.code_version(here)["dirty"] is True


def test_an_environment_inside_another_repository_is_not_its_code(checkout):
    site = checkout / ".venv" / "site-packages" / "evaluation"
    site.mkdir(parents=True)
    assert "dirty" not in provenance.code_version(site)


def test_installed_without_git_it_is_the_distribution(tmp_path, monkeypatch):
    info = tmp_path / "asgc-9.8.7.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: asgc\nVersion: 9.8.7\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert provenance.code_version(tmp_path) == {"version": "9.8.7"}
    (info / "direct_url.json").write_text(json.dumps({"url": "git+x", "vcs_info": {"vcs": "git", "commit_id": "abc"}}))
    assert provenance.code_version(tmp_path) == {"version": "9.8.7", "commit": "abc"}


def test_without_git_itself_nothing_breaks(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "dirty" not in provenance.code_version()


def test_collect_has_everything_and_is_json():
    record = provenance.collect(seeds={"seed": 3}, device="cpu")
    assert json.loads(json.dumps(record)) == record
    assert record["command"] == sys.orig_argv
    assert record["cwd"] == os.getcwd()  # noqa: PTH109
    assert record["versions"]["numpy"] == np.__version__
    assert record["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert "torch" in record["versions"]
    assert record["device"] == "cpu"
    assert record["seeds"] == {"seed": 3}
    assert record["time"].endswith("+00:00")
    assert record["machine"]["cpus"] >= 1
    assert record["machine"]["cpu"]
    assert provenance.collect(seeds={}, device="cpu", command=["asgc-rl", "train"])["command"] == ["asgc-rl", "train"]
