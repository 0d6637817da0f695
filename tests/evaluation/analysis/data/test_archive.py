"""An exported data set is read back as it was, small enough to commit."""

from __future__ import annotations

import json
import math
from unittest import mock

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from evaluation.analysis.comparisons.clipping import clipping
from evaluation.analysis.comparisons.compare import compare
from evaluation.analysis.data import archive, dataset
from evaluation.analysis.data.archive import export
from evaluation.analysis.stats.bootstrap import Bootstrap
from evaluation.cli.errors import UserError
from tests.evaluation.run_trees import Planned, write_gradients, write_study

ROUNDED = ("training_s", "wall_s")


@pytest.fixture
def study(tmp_path):
    generator = np.random.default_rng(0)
    runs = [
        Planned(name, seed, generator.normal(size=6).tolist(), target=1.5)
        for name in ("adam", "asgc")
        for seed in range(4)
    ]
    write_study(tmp_path / "tiny", runs)
    for run in runs:
        write_gradients(tmp_path / "tiny" / run.path, update_to_weight=run.seed / 1000, updates=20)
    (tmp_path / "tiny" / runs[0].path / "summary.json").unlink()
    with dataset.load(tmp_path / "tiny") as data:
        yield data


def table(data, query):
    """Rows in which NaN equals NaN."""
    return [{name: "NaN" if value != value else value for name, value in row.items()} for row in data.rows(query)]


def test_the_tables_come_back(study, tmp_path):
    folder = export(study, tmp_path / "results" / "tiny")
    with dataset.load(folder) as data:
        assert (data.name, data.definition) == (study.name, study.definition)
        problem = study.problems[0]
        assert data.problems == [dataset.Problem("comparison/CartPole/plain/adam/default/s0", problem.reason)]
        assert data.effective_steps() == pytest.approx(study.effective_steps(), rel=1e-6)
        for name, key, rounded in (
            ("runs", "run", ROUNDED),
            ("evaluations", "run, step", ("wall_s", "evaluation_s")),
            ("gradients", "run, step, layer", ()),
        ):
            query = f"SELECT * EXCLUDE ({', '.join(rounded)})" if rounded else "SELECT *"
            same = f"{query} FROM {name} ORDER BY {key}"
            expected, found = table(study, same), table(data, same)
            if name == "gradients":  # 32 bits are enough for pictures
                assert [row["before"] for row in found] == [row["before"] for row in expected]
                assert [row["update_to_weight"] for row in found] == pytest.approx(
                    [row["update_to_weight"] for row in expected], rel=1e-6
                )
            else:
                assert found == expected
            for column in rounded:
                close = f"SELECT {column} FROM {name} ORDER BY {key}"
                assert data.columns(close)[column] == pytest.approx(study.columns(close)[column], abs=6e-4)
        assert math.inf in data.columns("SELECT ttt_steps FROM runs")["ttt_steps"]
        evaluations = "SELECT run, step, name, value FROM metrics WHERE split = 'eval' ORDER BY ALL"
        names, values = (
            [[row["name"] for row in one.rows(evaluations)] for one in (study, data)],
            [[row["value"] for row in one.rows(evaluations)] for one in (study, data)],
        )
        assert names[0] == names[1]
        assert values[0] == pytest.approx(values[1], rel=1e-6)


def test_gradients_of_earlier_versions_lack_columns_and_are_read(study, tmp_path):
    (root,) = study.roots
    parts = sorted(root.rglob("gradients/*.parquet"))
    count = len(table(study, "SELECT 1 FROM gradients"))
    later = ["clip_factor", "clip_sharpness"]
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(parts[1]).drop_columns(later), parts[1])
    with dataset.load(root) as data:
        assert data.problems == study.problems
        folder = export(data, tmp_path / "archive")
        rows = table(data, "SELECT clip_factor, clip_sharpness, grad_rms FROM gradients")
    assert len(rows) == count
    assert {"NaN", True} == {value if value == "NaN" else value > 0 for row in rows for value in row.values()}
    file = folder / "gradients.parquet"
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(file).drop_columns(later), file)
    with dataset.load(folder) as data:
        assert {row["clip_factor"] for row in table(data, "SELECT clip_factor FROM gradients")} == {"NaN"}


def test_what_diverged_beyond_32_bits_is_infinite(tmp_path):
    runs = [Planned("sgd", seed, [0.0, 1.0]) for seed in range(2)]
    folder = write_study(tmp_path / "tiny", runs)
    write_gradients(folder / runs[0].path, update_to_weight=1e40)
    write_gradients(folder / runs[1].path, update_to_weight=1e-3)
    with dataset.load(folder) as data:
        assert max(data.effective_steps().values()) == pytest.approx(1e40)
        archive_folder = export(data, tmp_path / "archive")
    with dataset.load(archive_folder) as data:
        assert sorted(data.effective_steps().values()) == [pytest.approx(1e-3), math.inf]
        assert set(data.columns("SELECT update_to_weight FROM gradients")["update_to_weight"]) >= {math.inf}


def test_commands_hold_no_folder_of_this_machine(study, tmp_path):
    run = study.rows("SELECT run FROM runs ORDER BY run")[0]["run"]
    root = study.roots[0].resolve()
    typed = f"/opt/venv/bin/asgc-rl train --run-dir={root}/{run} --game=CartPole --config=/data/x.yaml"
    study.connection.execute("UPDATE runs SET command = ? WHERE run = ?", [typed, run])
    with dataset.load(export(study, tmp_path / "archive")) as data:
        (row,) = data.rows("SELECT command FROM runs WHERE run = ?", run)
    shown = f"asgc-rl train --run-dir={root.name}/{run} --game=CartPole --config=/data/x.yaml"
    assert row["command"] == shown


def test_an_archive_leads_to_the_same_claims(study, tmp_path):
    with dataset.load(export(study, tmp_path / "archive")) as data:
        for metric in ("final", "auc", "ttt_steps"):
            expected, found = (compare(one, metric=metric, how=Bootstrap(repetitions=200)) for one in (study, data))
            assert found.pairs.rows() == expected.pairs.rows()
            assert found.cells.csv() == expected.cells.csv()


def test_an_archive_beside_others(study, tmp_path):
    export(study, tmp_path / "all" / "one")
    write_study(tmp_path / "all" / "other", [Planned("sgd", 1)])
    with dataset.load(tmp_path / "all") as data:
        counts = {row["run"].split("/")[0]: row["n"] for row in data.rows(
            "SELECT run, count(*) AS n FROM metrics GROUP BY run"
        )}  # fmt: skip
        assert set(counts) == {"one", "other"}
        assert data.rows("SELECT count(DISTINCT run) AS n FROM gradients WHERE run LIKE 'one/%'") == [{"n": 7}]


def test_exporting_again_replaces_and_other_folders_are_refused(study, tmp_path):
    folder = export(study, tmp_path / "archive")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    export(study, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="is not an archive: choose another folder"):
        export(study, tmp_path / "mine")
    study.connection.execute("DELETE FROM runs")
    with pytest.raises(UserError, match="no finished runs"):
        export(study, tmp_path / "nothing")


def test_an_export_that_breaks_off_leaves_the_earlier_archive_as_it_was(study, tmp_path, monkeypatch):
    folder = export(study, tmp_path / "archive")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(archive, "write_json", lambda *_: 1 / 0)  # what is written last
        with pytest.raises(ZeroDivisionError):
            export(study, folder, max_bytes=50_000)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    (tmp_path / "new" / ".archive-left").mkdir(parents=True)  # by an export that was killed
    assert (export(study, tmp_path / "new") / "archive.json").is_file()


def test_gradients_are_thinned_until_they_fit(study, tmp_path):
    folder = export(study, tmp_path / "archive", max_bytes=10_000)
    assert (folder / archive.FILES["gradients"][0]).stat().st_size <= 10_000
    kept = json.loads((folder / archive.ABOUT).read_text())["kept"][archive.FILES["gradients"][0]]
    with dataset.load(folder) as data:
        rows = data.rows(
            "SELECT run, list(DISTINCT step ORDER BY step) AS steps FROM gradients GROUP BY run ORDER BY run"
        )
        assert len(rows) < 7
        for row in rows:
            assert len(row["steps"]) == min(kept["updates"], 20) < 20
            assert row["steps"][-1] == 2000  # the last
            assert max(np.diff(row["steps"])) <= 2 * min(np.diff(row["steps"]))  # evenly
        # Each optimizer keeps its first seeds (adam's seed 0 is unfinished).
        assert "comparison/CartPole/plain/adam/default/s1" in [row["run"] for row in rows]
        assert "comparison/CartPole/plain/asgc/default/s0" in [row["run"] for row in rows]


def test_gradient_summaries_of_every_seed_stay(study, tmp_path):
    expected = study.gradient_summaries()
    runs = {row["run"] for row in study.rows("SELECT run FROM runs")}
    assert {row["run"] for row in expected} == runs
    assert len(expected) == 3 * len(study.rows("SELECT DISTINCT run, layer FROM gradients"))
    folder = export(study, tmp_path / "archive", max_bytes=10_000)
    assert (folder / "summaries.parquet").stat().st_size < 10_000
    with dataset.load(folder) as data:
        kept = {row["run"] for row in data.rows("SELECT DISTINCT run FROM gradients")}
        assert kept < runs  # their records are not all there
        assert data.gradient_summaries() == expected
        again = export(data, tmp_path / "again")
    with dataset.load(again) as data:
        assert data.gradient_summaries() == expected


def test_summaries_are_the_means_of_the_phases(tmp_path):
    folder = write_study(tmp_path / "tiny", [run := Planned("asgc", 1)])
    path = write_gradients(folder / run.path, updates=30)
    rows = pyarrow.parquet.read_table(path).to_pylist()
    for row in rows:
        row |= {"clipped": row["update"] / 100, "noise_std": 0.2, "grad_rms": 2.0, "update_to_weight": 1e40}
        row["threshold"] = math.inf if row["update"] < 15 else 1.0
        row["event"] = "shift" if row["update"] == 29 else "interval"
    rows[0]["attenuation"] = math.nan
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    last = max(row["update"] for row in rows) + 1
    with dataset.load(folder) as data:
        found = [row for row in data.gradient_summaries() if row["layer"] == rows[0]["layer"]]
    assert [row["phase"] for row in found] == list(dataset.PHASES)
    for third, summary in enumerate(found):
        mine = [row for row in rows if row["layer"] == summary["layer"] and row["event"] == "interval"]
        mine = [row for row in mine if row["update"] * 3 // last == third]
        assert summary["records"] == len(mine)
        assert summary["clipped"] == pytest.approx(np.mean([row["clipped"] for row in mine]), rel=5e-3)
        assert summary["attenuation"] == pytest.approx(np.nanmean([row["attenuation"] for row in mine]), rel=5e-3)
        assert summary["noise_to_gradient"] == 0.1
        assert summary["update_to_weight"] == 1e40
    assert [row["threshold"] for row in found] == [None, 1.0, 1.0]  # infinite: there is none


def test_earlier_archives_have_no_summaries_and_are_read(study, tmp_path):
    folder = export(study, tmp_path / "archive", max_bytes=10_000)
    (folder / "summaries.parquet").unlink()
    with dataset.load(folder) as data:
        assert data.problems == [dataset.Problem("comparison/CartPole/plain/adam/default/s0", study.problems[0].reason)]
        kept = {row["run"] for row in data.rows("SELECT DISTINCT run FROM gradients")}
        assert {row["run"] for row in data.gradient_summaries()} == kept  # of the records that are there


def test_an_archive_leads_to_the_same_clipping_table(study, tmp_path):
    expected = clipping(study, "comparison")
    assert [row.n for row in expected] == [3, 4]
    with dataset.load(export(study, tmp_path / "archive", max_bytes=10_000)) as data:
        assert clipping(data, "comparison").csv() == expected.csv()


def test_updates_around_a_sync_stay_together_and_trials_are_left_out(tmp_path):
    run = Planned("adam", 1)
    trial = Planned("adam", 2, part="tuning", kind="search", variant="trial-0")
    folder = write_study(tmp_path / "tiny", [run, trial])
    for planned in (run, trial):
        path = write_gradients(folder / planned.path, updates=60)
        rows = pyarrow.parquet.read_table(path).to_pylist()
        for row in rows:
            if row["update"] % 10 in (0, 1, 2):  # a sync every ten updates, each with two updates after it
                row |= {"event": "shift", "since_shift": row["update"] % 10}
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    with dataset.load(folder) as data, mock.patch("evaluation.analysis.data.archive.THINNING", ((1, 5, 2),)):
        export(data, tmp_path / "archive")
    with dataset.load(tmp_path / "archive") as data:
        rows = data.rows('SELECT DISTINCT run, "update", event FROM gradients ORDER BY ALL')
        assert {row["run"] for row in rows} == {run.path}
        assert [row["update"] for row in rows if row["event"] == "shift"] == [30, 31, 32, 60]
        intervals = [row["update"] for row in rows if row["event"] == "interval"]
        assert len(intervals) == 5
        assert intervals[-1] == 59
        assert set(data.effective_steps()) == {run.path, trial.path}  # known for all, as matching needs
        phases = {row["run"]: [] for row in data.gradient_summaries()}
        for row in data.gradient_summaries():
            phases[row["run"]].append((row["phase"], row["records"]))
        layers = len(phases[trial.path])
        assert phases[trial.path] == [("whole", 42)] * layers  # a search's, which are many, without phases
        assert [phase for phase, _ in phases[run.path]] == [*dataset.PHASES] * layers


@pytest.mark.parametrize("file", ["runs.parquet", "evaluations.parquet"])
def test_a_damaged_archive(study, tmp_path, file):
    folder = export(study, tmp_path / "archive")
    (folder / file).write_bytes((folder / file).read_bytes()[:-20])
    with dataset.load(folder) as data:
        assert [problem.path for problem in data.problems if "corrupt archive" in problem.reason] == [str(folder)]
        assert data.rows("SELECT * FROM runs") == data.rows("SELECT * FROM metrics") == []


def test_damaged_records_leave_the_rest(study, tmp_path):
    folder = export(study, tmp_path / "archive")
    content = bytearray((folder / archive.FILES["gradients"][0]).read_bytes())
    content[100:400] = bytes(300)
    (folder / archive.FILES["gradients"][0]).write_bytes(content)
    for table in ("records", "gradient_summaries"):
        (folder / archive.FILES[table][0]).write_bytes(b"PAR1")
    (folder / archive.ABOUT).write_text("{}")
    with dataset.load(folder) as data:
        assert sorted(problem.path.rpartition("/")[2] for problem in data.problems) == [
            archive.ABOUT,
            archive.FILES["gradients"][0],
            archive.FILES["records"][0],
            archive.FILES["gradient_summaries"][0],
        ]
        assert len(data.rows("SELECT run FROM runs")) == 7
        assert data.rows("SELECT * FROM gradients") == []


def test_a_thousand_short_runs_fit_in_a_megabyte(tmp_path):
    # Scores as of 10 episodes of a control task: means of whole numbers.
    generator = np.random.default_rng(1)
    runs = [
        Planned(name, seed, (generator.integers(100, 5000, size=20) / 10).tolist(), task=task, lr=1e-3)
        for name in ("adam", "asgc", "sgd", "rmsprop", "adagrad")
        for task in ("CartPole", "Acrobot")
        for seed in range(20)
    ]
    with dataset.load(write_study(tmp_path / "tiny", runs)) as data:
        folder = export(data, tmp_path / "archive")
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert size * 1000 / len(runs) < 1e6
