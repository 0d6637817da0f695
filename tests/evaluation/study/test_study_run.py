"""Studies run for real, by `asgc-eval study`, with the small trainer of descent.py."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from evaluation.main import main
from evaluation.runs.lock import is_held
from evaluation.study import spec
from evaluation.study.engines.base import Job
from evaluation.study.engines.local import LocalEngine
from evaluation.study.run_id import RunId
from evaluation.study.study_folder import StudyFiles
from tests.evaluation.study.study_helpers import DEFINITION, DESCENT, contents, write

COMPARE = {"comparison": {"kind": "compare", "seeds": [11, 12]}}


def run(*arguments: object) -> int:
    return main(["study", "run", *map(str, arguments)])


def process(*arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "evaluation.main", "study", "run", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished study of the part COMPARE; not to be changed."""
    folder = tmp_path_factory.mktemp("compared")
    assert run(write(folder / "tiny.yaml", parts=COMPARE), "--dir", folder / "s") == 0
    return folder / "s"


@pytest.fixture
def finished(compared: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(compared, tmp_path / "s")


def until(condition: Any, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


RUN = "*/*/*/*/*/*"  # below a study; nothing deeper, where running runs remove old checkpoints while it is looked at


def summaries(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{RUN}/summary.json"))


def test_killed_twice_a_study_gives_what_it_gives_undisturbed(tmp_path: Path) -> None:
    file = write(tmp_path / "tiny.yaml", options={"steps": 20, "pause": 0.01})
    assert run(file, "--dir", tmp_path / "whole") == 0

    killed = tmp_path / "killed"
    for count in (3, 9):
        study = process(file, "--dir", killed)
        until(lambda count=count: len(summaries(killed)) >= count)
        study.send_signal(signal.SIGKILL)
        study.wait()
        until(lambda: not any(is_held(lock) for lock in killed.rglob("s*/lock")))  # its runs went with it
    stopped = len(summaries(killed))
    assert stopped < 22
    before = {path: path.stat().st_mtime_ns for path in summaries(killed)}
    assert run(file, "--dir", killed) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before  # what had finished was not run again
    assert contents(killed) == contents(tmp_path / "whole")
    assert len(contents(killed)) == 1 + 2 * 22

    import optuna

    for folder in (killed, tmp_path / "whole"):
        stored = optuna.study.get_all_study_summaries(f"sqlite:///{folder / 'search.db'}")
        assert {(one.study_name, one.n_trials) for one in stored} == {
            ("tiny/tuning/valley/default/plain", 4),
            ("tiny/tuning/valley/default/heavy", 4),
        }


def test_interrupted_it_stops_its_runs_and_says_how_to_go_on(tmp_path: Path) -> None:
    file = write(tmp_path / "tiny.yaml", parts=COMPARE, options={"steps": 400, "pause": 0.02})
    command = [sys.executable, "-m", "evaluation.main", "study", "run", str(file), "--dir", str(tmp_path / "s")]
    study = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until(lambda: any((tmp_path / "s").rglob("metrics.jsonl")))
    study.send_signal(signal.SIGINT)
    _, error = study.communicate(timeout=120)
    assert study.returncode == 130
    assert f"go on with: asgc-eval study run {file} --dir {tmp_path / 's'}" in error
    assert not any(is_held(lock) for lock in (tmp_path / "s").rglob("s*/lock"))


def test_more_seeds_and_optimizers_run_only_what_is_missing(tmp_path: Path, finished: Path) -> None:
    folder = finished
    before = {path: path.stat().st_mtime_ns for path in summaries(folder)}
    assert len(before) == 8
    optimizers = DEFINITION["optimizers"] | {"light": {"method": "light", "momentum": 0.1}}
    more = {"comparison": {"kind": "compare", "seeds": [11, 12, 13]}}
    assert run(write(tmp_path / "more.yaml", parts=more, optimizers=optimizers), "--dir", folder) == 0
    assert len(summaries(folder)) == 2 * 3 * 3
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_another_definition_is_refused_and_nothing_changed(
    tmp_path: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = finished
    before = contents(folder)
    other = write(tmp_path / "other.yaml", parts=COMPARE, options={"steps": 30})
    assert run(other, "--dir", folder) == 2
    error = capsys.readouterr().err
    assert "holds a study of another definition" in error
    assert "comparison/bowl/default/plain/default/s11 steps 20 -> 30" in error
    assert "and 3 more" in error
    fewer = write(tmp_path / "fewer.yaml", parts={"comparison": {"kind": "compare", "seeds": [11]}})
    assert run(fewer, "--dir", folder) == 2
    assert "s12 is not in this one" in capsys.readouterr().err
    assert contents(folder) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    assert run(write(tmp_path / "tiny.yaml", parts=COMPARE), "--dir", tmp_path / "mine") == 2
    assert "not a study folder (it holds letter.txt)" in capsys.readouterr().err


def test_runs_of_a_version_that_did_not_have_an_option_yet(
    tmp_path: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was as it is by default: the study goes on where it still is, and is refused where it is not."""

    def forget(option: str) -> None:
        for path in finished.rglob("config.yaml"):
            config = yaml.safe_load(path.read_text())
            del config[option]
            path.write_text(yaml.safe_dump(config))

    more = {"comparison": {"kind": "compare", "seeds": [11, 12, 13]}}
    file = write(tmp_path / "more.yaml", parts=more)
    forget("noise")
    assert run(file, "--dir", finished) == 0
    assert len(summaries(finished)) == 2 * 2 * 3
    forget("momentum")
    assert run(file, "--dir", finished) == 2
    error = capsys.readouterr().err
    assert "heavy/default/s11 momentum 0.0 -> 0.9" in error
    assert "plain/default/s11 momentum" not in error


def test_what_has_not_begun_may_change(tmp_path: Path) -> None:
    tuned = DEFINITION["parts"]
    file = write(tmp_path / "tiny.yaml")
    assert run(file, "--dir", tmp_path / "s", "--parts", "tuning") == 0  # the tuned parts are planned, and not begun
    fewer = {**tuned, "comparison": {**tuned["comparison"], "seeds": [12]}, "rates": {**tuned["rates"], "seeds": [13]}}
    assert run(write(tmp_path / "fewer.yaml", parts=fewer), "--dir", tmp_path / "s") == 0
    seeds = {path.parent.name for path in summaries(tmp_path / "s") if "tuning" not in path.parts}
    assert seeds == {"s12", "s13"}
    index = [json.loads(line)["id"] for line in (tmp_path / "s/runs.jsonl").read_text().splitlines()]
    assert len(index) == len(summaries(tmp_path / "s"))


def test_a_folder_stands_for_its_study(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run(finished, "--dry-run") == 0
    assert "0 runs to do, 8 finished" in capsys.readouterr().out


def test_killed_before_its_first_run_a_study_begins_again(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    (folder / "logs").mkdir(parents=True)
    (folder / "lock").touch()
    (folder / ".study.yaml.17.tmp").write_text("na")
    assert run(write(tmp_path / "tiny.yaml", parts=COMPARE), "--dir", folder) == 0


def test_a_changed_default_is_not_mixed_with_what_was_run(
    tmp_path: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The study's own options are the same, but the program now takes them for another configuration."""
    folder = finished
    changed = tmp_path / "descent.py"
    changed.write_text(
        Path(DESCENT[1]).read_text().replace('"--noise", type=float, default=0.1', '"--noise", type=float, default=0.2')
    )
    more = {"comparison": {"kind": "compare", "seeds": [11, 12, 13]}}
    file = write(tmp_path / "more.yaml", parts=more, program=[sys.executable, str(changed)])
    assert run(file, "--dir", folder) == 2
    assert "comparison/bowl/default/plain/default/s11 noise 0.1 -> 0.2" in capsys.readouterr().err
    assert len(summaries(folder)) == 8


def test_a_summary_that_cannot_be_read_is_named_and_stops_no_other_run(
    tmp_path: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "tiny.yaml", parts=COMPARE)
    damaged, missing = summaries(finished)[:2]
    (finished / "failed.json").write_bytes(b"\xff{")
    for content in (b"{}", b"[1]\xff"):
        damaged.write_bytes(content)
        shutil.rmtree(missing.parent)
        assert run(file, "--dir", finished) == 1
        assert missing.is_file()
        told = capsys.readouterr()
        assert f"failed: {damaged} is no summary of a run (" in told.err
        assert f"remove {damaged.parent} to run it again" in told.err
        assert "7 of 8 runs finished" in told.out
        assert main(["study", "status", str(file), "--dir", str(finished)]) == 0
        assert "1 runs to do" in capsys.readouterr().out
    shutil.rmtree(damaged.parent)
    assert run(file, "--dir", finished) == 0


def test_a_configuration_that_cannot_be_read_stops_no_other_run(tmp_path: Path, finished: Path) -> None:
    file = write(tmp_path / "tiny.yaml", parts=COMPARE)
    (summaries(finished)[0].parent / "config.yaml").write_text("{")
    shutil.rmtree(summaries(finished)[1].parent)
    assert run(file, "--dir", finished) == 0
    assert len(summaries(finished)) == 8


@pytest.mark.parametrize("folder", ["a?b", "a%41b #c{d}"])
def test_the_searches_database_lies_in_any_folder(tmp_path: Path, folder: str) -> None:
    one = {"tuning": {**DEFINITION["parts"]["tuning"], "trials": 1, "startup": 1, "seeds": [1]}}
    assert run(write(tmp_path / "tiny.yaml", parts=one, options={"steps": 2}), "--dir", tmp_path / folder) == 0
    assert (tmp_path / folder / "search.db").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.yaml", folder}


def test_names_that_are_too_long_for_a_folder_are_shortened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    long = "x" * 300
    file = write(tmp_path / "tiny.yaml", parts=COMPARE, name=long, tasks={long: {"task": "bowl"}}, seconds=None)
    assert run(file, "--dry-run") == 0
    folder = capsys.readouterr().out.split("/")[1]
    assert len(folder) == 255
    assert run(file) == 0
    (study,) = (tmp_path / "runs").iterdir()
    assert len(study.name) == 255
    assert len(summaries(study)) == 4
    labels = [json.loads(line) for line in (study / "runs.jsonl").read_text().splitlines()]
    assert {entry["task"] for entry in labels} == {long}
    capsys.readouterr()
    assert run(file, "--dir", tmp_path / "/".join(["y" * 200] * 20), "--dry-run") == 2
    assert "is too long: choose a shorter --dir" in capsys.readouterr().err


def test_results_are_found_where_the_study_was_run(
    tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = write(tmp_path / "mine.yaml", parts=COMPARE, name="own")
    capsys.readouterr()
    assert main(["compare", "mine.yaml"]) == 2
    assert "runs/own: no such folder; asgc-eval study run mine.yaml makes it" in capsys.readouterr().err
    for name in ("own", "smoke"):
        shutil.copytree(finished, tmp_path / "runs" / name)
    for name in (file.name, "own", "smoke", "runs/own"):
        folder = tmp_path / "runs" / ("smoke" if name == "smoke" else "own")
        assert spec.results(name).absolute() == folder
        assert main(["compare", name, "--baseline", "plain"]) == 0
        assert main(["export", name, "archive"]) == 0
        assert main(["report", name, "--baseline", "light"]) == 2
        assert "light" in capsys.readouterr().err
    assert main(["study", "status", "own"]) == 0
    single = summaries(finished)[0].parent
    for command in ("compare", "report", "export"):
        capsys.readouterr()
        assert main([command, str(single), *(["archive"] if command == "export" else [])]) == 2
        assert f"{single} is a single run: asgc-eval plot {single} draws it" in capsys.readouterr().err


def test_a_summary_of_an_earlier_version_has_its_area_under_another_name(finished: Path) -> None:
    file = summaries(finished)[0]
    summary = json.loads(file.read_text())
    summary["curve"] = summary.pop("auc")
    file.write_text(json.dumps(summary))
    files = StudyFiles(finished)
    (found,) = (one for one in files.begun() if files.run(one) == file.parent)
    assert files.objective(found, "auc") == summary["curve"]


def test_parts_that_wait_for_a_search_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(write(tmp_path / "tiny.yaml"), "--dir", tmp_path / "s", "--parts", "comparison") == 1
    assert "4 runs wait for the end of a search: comparison/valley/default/plain/default/s11" in capsys.readouterr().err


def test_unknown_options_fail_before_the_first_run_all_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(
        tmp_path / "tiny.yaml",
        options={"stepz": 20},
        tasks={"bowl": {"task": "bowl"}, "ball": {"task": "ball"}},
        optimizers={"plain": {"lr": "high"}},
        seconds=None,
        parts=COMPARE,
    )
    assert run(file, "--dir", tmp_path / "s") == 2
    error = capsys.readouterr().err
    assert "3 faults, nothing was run" in error
    for fault in ("--stepz=20", "--task ball: unknown", "--lr: invalid float value: 'high'"):
        assert fault in error, error
    assert not (tmp_path / "s").exists()


def test_a_failing_run_is_tried_again_and_told_while_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    optimizers = {"plain": {}, "crash": {"crash": "3"}, "refused": {"crash": "2"}}
    tasks = {"bowl": {"task": "bowl"}}
    file = write(tmp_path / "tiny.yaml", parts=COMPARE, optimizers=optimizers, tasks=tasks, seconds=None)
    folder = tmp_path / "s"
    assert run(file, "--dir", folder, "--retries", 2) == 1
    printed = capsys.readouterr()
    assert "2 of 6 runs finished" in printed.out
    assert printed.err.count("failed (trying again): comparison/bowl/default/crash/default/s11: exit code 3") == 2
    assert printed.err.count("failed (trying again): comparison/bowl/default/refused") == 0  # a user error: no use
    assert set(json.loads((folder / "failed.json").read_text())) == {
        f"comparison/bowl/default/{name}/default/s{seed}" for name in ("crash", "refused") for seed in (11, 12)
    }
    assert main(["study", "status", str(file), "--dir", str(folder)]) == 0
    status = capsys.readouterr().out
    assert "crash" in status
    assert "4 runs to do" in status


def test_a_run_that_is_killed_is_resumed_from_its_checkpoint(tmp_path: Path) -> None:
    """The first attempt dies by a signal in the middle; the second goes on and the study ends well."""
    one = {"comparison": {"kind": "compare", "seeds": [11], "optimizers": ["plain"], "tasks": ["bowl"]}}
    file = write(tmp_path / "tiny.yaml", parts=one, options={"steps": 60, "pause": 0.1})
    folder = tmp_path / "s"
    study = process(file, "--dir", folder)
    until(lambda: any(folder.glob(f"{RUN}/checkpoints/0*/manifest.json")))
    lock = next(folder.rglob("s11/lock"))
    os.kill(int(lock.read_text().split()[1]), signal.SIGKILL)
    assert study.wait(300) == 0
    provenance = json.loads(next(folder.rglob("s11/provenance.json")).read_text())
    assert [entry["from_step"] for entry in provenance["resumed"]] != [0]
    assert len(provenance["resumed"]) == 1


def test_a_second_process_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "tiny.yaml", parts=COMPARE, options={"steps": 400, "pause": 0.02})
    study = process(file, "--dir", tmp_path / "s")
    try:
        until(lambda: any((tmp_path / "s").rglob("metrics.jsonl")))
        assert run(file, "--dir", tmp_path / "s") == 2
        assert "is in use by process" in capsys.readouterr().err
        assert main(["study", "status", str(file), "--dir", str(tmp_path / "s")]) == 0
        assert "running" in capsys.readouterr().out
    finally:
        study.kill()
        study.wait()


def test_a_dry_run_prints_the_runs_and_their_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "tiny.yaml")
    assert run(file, "--dir", tmp_path / "s", "--dry-run", "--jobs", 4) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("tuning/valley/default/plain/trial-000/s1: ")
    assert "train --steps=20 --task=valley --method=plain --lr=" in lines[0]
    assert lines[-1] == "22 runs to do, 0 finished: 44 s of one core, 11 s with 4 runs at a time"
    assert len(lines) == 23
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--storage", "sqlite:////nowhere/at/all.db"], "cannot open the database"),
        (["--storage", "postgresql://me:secret@localhost:1/x"], "--storage postgresql://me:***@localhost:1/x"),
        (["--engine", "cloud"], "--engine cloud: there are local and ray"),
        (["--parts", "comparsion"], "did you mean 'comparison'?"),
        (["--jobs", "0"], "--jobs 0"),
    ],
)
def test_what_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], error: str
) -> None:
    file = write(tmp_path / "tiny.yaml")
    assert run(file, "--dir", tmp_path / "s", *arguments) == 2
    assert error in capsys.readouterr().err
    assert not summaries(tmp_path / "s")


def test_a_program_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(write(tmp_path / "tiny.yaml", program="asgc-nothing"), "--dir", tmp_path / "s") == 2
    assert "program 'asgc-nothing': not found" in capsys.readouterr().err


def test_runs_are_spread_over_gpus(tmp_path: Path) -> None:
    """Each job sees one GPU, and the GPUs have equally many jobs."""
    started: list[Job] = []

    class Sleeping(LocalEngine):
        def _start(self, job: Job) -> Any:
            started.append(job)

    engine = Sleeping(4, ["0", "3"])
    for seed in range(4):
        assert engine.free()
        run = RunId("part", "task", "setting", "optimizer", "variant", seed)
        engine.submit(Job(run, ("x",), (), tmp_path / str(seed), tmp_path / "log"))
    assert not engine.free()
    assert sorted(job.environment["CUDA_VISIBLE_DEVICES"] for job in started) == ["0", "0", "3", "3"]


def test_forked_runs_die_with_their_study_and_go_on_with_the_next(tmp_path: Path) -> None:
    """As the studies of descent.py above, but by forks of the server: killed with -9 once a checkpoint is there."""
    options = {"total_steps": 9000, "learning_starts": 200, "evaluation.interval": 3000, "checkpoint_interval": 600}
    changes: dict[str, Any] = {
        "program": "asgc-rl",
        "options": {**options, "evaluation.final_episodes": 5, "tensorboard": False},
        "tasks": {"CartPole": {"game": "CartPole"}},
        "optimizers": {"adam": {"optimizer": {"name": "adam"}}},
        "seconds": None,
        "parts": {"comparison": {"kind": "compare", "seeds": [11]}},
    }
    file = write(tmp_path / "tiny.yaml", **changes)
    folder = tmp_path / "s/comparison/CartPole/default/adam/default/s11"
    study = process(file, "--dir", tmp_path / "s")
    until(lambda: any(folder.glob("checkpoints/0*/manifest.json")))
    study.send_signal(signal.SIGKILL)
    study.wait()
    until(lambda: not is_held(folder / "lock"), seconds=3)  # the whole run takes longer
    assert not (folder / "summary.json").exists()
    assert process(file, "--dir", tmp_path / "s").wait(400) == 0
    resumed = json.loads((folder / "provenance.json").read_text())["resumed"]
    assert [entry["from_step"] > 0 for entry in resumed] == [True]
    assert process(file, "--dir", tmp_path / "whole").wait(400) == 0
    whole = tmp_path / "whole/comparison/CartPole/default/adam/default/s11"
    scores = [json.loads((run / "summary.json").read_text())["scores"] for run in (folder, whole)]
    assert scores[0] == scores[1]
