"""A study goes on elsewhere from an archive of what it has made so far."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from evaluation.analysis.data.archive import export
from evaluation.analysis.data.dataset import load
from evaluation.main import main
from evaluation.study.study_folder import StudyFiles
from tests.evaluation.study.study_helpers import DEFINITION, write

COLUMNS = "run, study, part, kind, optimizer, variant, seed, options, final, std, steps, protocol"
AUC = {**DEFINITION["parts"], "tuning": DEFINITION["parts"]["tuning"] | {"objective": "auc"}}
RUNS = 22


def run(*arguments: object) -> int:
    return main(["study", "run", *map(str, arguments)])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study's folder; not to be changed."""
    folder = tmp_path_factory.mktemp("whole")
    assert run(write(folder / "tiny.yaml", parts=AUC), "--dir", folder / "s") == 0
    return folder / "s"


@pytest.fixture(scope="module")
def archive(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of its first three trials: a search in the middle, and nothing that waits for it. Not to be changed."""
    folder = tmp_path_factory.mktemp("partly")
    partly = shutil.copytree(whole, folder / "s")
    for path in (partly / "comparison", partly / "rates", *partly.rglob("trial-003")):
        shutil.rmtree(path)
    with load(partly) as data:
        return export(data, folder / "results")


def table(folder: Path) -> list[dict[str, Any]]:
    with load(folder) as data:
        assert data.problems == []
        assert data.definition["name"] == "tiny"
        evaluations = data.rows("SELECT run, step, value FROM evaluations ORDER BY run, step")
        return data.rows(f"SELECT {COLUMNS} FROM runs ORDER BY run") + evaluations


def test_elsewhere_only_what_the_archive_lacks_is_run_and_all_is_as_if_made_here(
    whole: Path, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, here = write(tmp_path / "tiny.yaml", parts=AUC), tmp_path / "s"
    assert run(file, "--dir", here, "--archive", archive) == 0
    out = capsys.readouterr().out
    assert f"12 runs taken from {archive}" in out
    assert f"{RUNS} of {RUNS} runs finished" in out
    made = {str(path.parent.relative_to(here)) for path in here.rglob("summary.json")}
    assert {one for one in made if one.startswith("tuning")} == {
        f"tuning/valley/default/{optimizer}/trial-003/s{seed}" for optimizer in ("plain", "heavy") for seed in (1, 2)
    }
    assert len(made) == RUNS - 12
    assert table(here) == table(whole)

    assert run(file, "--dir", here) == 0  # nothing is left
    assert main(["study", "status", str(file), "--dir", str(here), "--once"]) == 0
    assert f"{RUNS} of {RUNS}" in capsys.readouterr().out
    with load(here) as data:
        again = export(data, tmp_path / "again")
    assert table(again) == table(whole)


def test_from_archive_to_archive(whole: Path, archive: Path, tmp_path: Path) -> None:
    """A study that needs three machines: what the second exports holds the first one's runs."""
    file = write(tmp_path / "tiny.yaml", parts=AUC)
    assert run(file, "--dir", tmp_path / "second", "--archive", archive, "--parts", "tuning") == 0
    with load(tmp_path / "second") as data:
        assert data.rows("SELECT count(*) AS n FROM runs") == [{"n": 16}]
        assert len(data.problems) == 6  # the comparison's and the grid's, which are missing
        second = export(data, tmp_path / "results")
    assert run(file, "--dir", tmp_path / "third", "--archive", second) == 0
    assert len(list((tmp_path / "third").rglob("summary.json"))) == 6
    assert table(tmp_path / "third") == table(whole)


def test_an_archive_of_other_options_is_refused(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And leaves nothing behind: the right one can be given next."""
    other = write(tmp_path / "other.yaml", parts=AUC, options={"steps": 30})
    assert run(other, "--dir", tmp_path / "s", "--archive", archive) == 2
    error = capsys.readouterr().err
    assert "holds a study of another definition" in error
    assert "tuning/valley/default/plain/trial-000/s1 steps 20 -> 30" in error
    fewer = write(tmp_path / "fewer.yaml", parts={"comparison": {"kind": "compare", "seeds": [11]}})
    assert run(fewer, "--dir", tmp_path / "f", "--archive", archive) == 2
    assert "is not in this one" in capsys.readouterr().err
    assert StudyFiles(tmp_path / "s").archived == StudyFiles(tmp_path / "f").archived == {}
    assert run(write(tmp_path / "tiny.yaml", parts=AUC), "--dir", tmp_path / "s", "--archive", archive) == 0


def test_what_is_no_archive_of_this_study_is_refused_in_one_line(
    whole: Path, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "tiny.yaml", parts=AUC)

    def refused(what: Path, folder: Path, words: str, *more: str) -> None:
        assert run(file, "--dir", folder, "--archive", what, *more) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1

    here = tmp_path / "s"
    refused(tmp_path / "nowhere", here, "is not an exported archive: `asgc-eval export` makes one")
    refused(whole, here, "is not an exported archive")
    refused(archive, shutil.copytree(whole, tmp_path / "both"), "both have tuning/valley/default/heavy/trial-000/s1")
    refused(archive, here, "leave it out with --dry-run", "--dry-run")

    other = shutil.copytree(archive, tmp_path / "other")
    (other / "study.yaml").write_text("name: another\n")
    refused(other, here, "is an archive of another, not of the study tiny")

    damaged = shutil.copytree(archive, tmp_path / "damaged")
    (damaged / "evaluations.parquet").write_bytes(b"PAR1 cut off")
    refused(damaged, here, f"{damaged}: cannot read the archive")
    assert not here.exists()  # nothing was begun

    assert run(file, "--dir", here, "--archive", archive, "--parts", "tuning") == 0
    capsys.readouterr()
    refused(archive, here, "is known already")
    assert len(StudyFiles(here).archived) == 12
    (next((here / "archives").iterdir()) / "runs.parquet").unlink()
    assert run(file, "--dir", here) == 2
    assert "cannot read the archive" in capsys.readouterr().err
