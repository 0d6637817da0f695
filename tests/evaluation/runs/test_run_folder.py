"""The run folder: what it holds, what it refuses, and that a killed run goes on as if nothing had happened."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from evaluation.cli.errors import UserError
from evaluation.files import read_json
from evaluation.runs import run_folder as runs
from evaluation.runs.run_folder import RunFinishedError, RunFolder
from tests.evaluation.runs.test_checkpoint import child, flip_a_bit

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
CONFIG = {"game": "Pong", "seed": 1, "device": "auto", "optimizer": {"name": "asgc", "lr": 1e-5}, "layers": [32, 64]}


def create(path, config=CONFIG, **options):
    options = {"seeds": {"seed": 1}, "device": "cpu", "tensorboard": False, "message": pytest.fail, **options}
    return RunFolder(path, config, **options)


def resume(path, config=CONFIG, **options):
    options = {"seeds": {"seed": 1}, "device": "cpu", "tensorboard": False, "message": pytest.fail, **options}
    return RunFolder(path, config, resume=True, **options)


def state(text: str):
    return lambda folder: (folder / "state").write_text(text) and None


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs" / "study" / "a"


def test_the_config_is_complete_and_comes_back(path):
    @dataclasses.dataclass
    class Optimizer:
        name: str = "asgc"
        lr: float = 2.5e-7
        betas: tuple[float, float] = (0.9, 0.999)
        clip_factor: float | None = math.inf
        max_norm: float | None = None

    @dataclasses.dataclass
    class Config:
        game: str = "Pong: the ü game"
        optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
        run_dir: Path = Path("runs/x")

    with create(path, Config()):
        pass
    expected = {
        "game": "Pong: the ü game",
        "optimizer": {"name": "asgc", "lr": 2.5e-7, "betas": [0.9, 0.999], "clip_factor": math.inf, "max_norm": None},
        "run_dir": "runs/x",
    }
    assert yaml.safe_load((path / "config.yaml").read_text()) == expected
    assert runs.load_config(path) == expected
    messages = []
    with resume(path, Config(), message=messages.append) as run:
        assert run.config == expected
    assert messages == [f"{path}: no checkpoint yet, so the run starts over"]


def test_resume_goes_on_from_the_checkpoint_and_cuts_the_metrics(path):
    with create(path) as run:
        assert run.checkpoint is None
        run.log(1, 4, 0.5, "train", {"loss": 1.0})
        run.save_checkpoint(1, state("one"))
        run.log(2, 8, 1.0, "train", {"loss": 2.0})
    with resume(path) as run:
        assert run.checkpoint.step == 1
        assert (run.checkpoint.path / "state").read_text() == "one"
        run.log(2, 8, 1.0, "train", {"loss": 3.0})
    assert [(row.step, row.value) for row in runs.read_metrics(path)] == [(1, 1.0), (2, 3.0)]
    series = runs.read_series(path, "train", "loss")
    assert {name: column.tolist() for name, column in series.items()} == {
        "step": [1, 2], "samples": [4, 8], "wall_s": [0.5, 1.0], "value": [1.0, 3.0],
    }  # fmt: skip
    assert runs.read_series(path, "eval", "loss")["value"].size == 0


def test_a_damaged_newest_checkpoint_takes_the_metrics_back_with_it(path):
    with create(path) as run:
        for step in (1, 2):
            run.log(step, step, 1.0, "train", {"loss": float(step)})
            run.save_checkpoint(step, state(str(step)))
        newest = run.checkpoint.path
    flip_a_bit(newest / "state")
    messages = []
    with resume(path, message=messages.append) as run:
        assert run.checkpoint.step == 1
    assert "damaged" in messages[0]
    assert [row.step for row in runs.read_metrics(path)] == [1]


def test_without_a_checkpoint_it_starts_over_and_says_so(path):
    with create(path) as run:
        run.log(1, 1, 1.0, "train", {"loss": 1.0})
    messages = []
    with resume(path, message=messages.append) as run:
        assert run.checkpoint is None
    assert messages == [f"{path}: no checkpoint yet, so the run starts over"]
    assert runs.read_metrics(path) == []


def test_resume_removes_what_a_killed_save_left(path):
    with create(path) as run:
        run.save_checkpoint(1, state("one"))
    half_written = path / "checkpoints" / ".tmp-000001-step-2"
    half_written.mkdir()
    with resume(path):
        assert not half_written.exists()


def test_a_finished_run_keeps_its_model_and_is_left_alone(path):
    with create(path) as run:
        run.log(1, 1, 1.0, "train", {"loss": 1.0})
        run.save_checkpoint(1, state("one"))
        (run.path / "model.pt").write_text("model")
        assert not runs.is_finished(path)
        with pytest.raises(UserError, match="has not finished: go on with --resume"):
            runs.load_summary(path)
        run.finish({"final": math.inf})
    assert runs.is_finished(path)
    assert runs.load_summary(path) == {"final": math.inf}
    assert not (path / "checkpoints").exists()
    before = {file: file.read_bytes() for file in path.iterdir() if file.name != "lock"}
    with pytest.raises(RunFinishedError, match="has finished: nothing to resume"):
        resume(path)
    with pytest.raises(UserError, match="holds a finished run: choose another --run-dir"):
        create(path)
    assert {file: file.read_bytes() for file in path.iterdir() if file.name != "lock"} == before


def test_an_existing_run_is_not_overwritten(path):
    with create(path):
        pass
    with pytest.raises(UserError) as caught:
        create(path)
    assert str(caught.value) == (
        f"{path} holds a run already: add --resume to go on with it, or choose another --run-dir"
    )


def test_another_configuration_is_refused_with_every_key_and_both_values(path):
    with create(path) as run:
        run.log(1, 1, 1.0, "train", {"loss": 1.0})
        run.save_checkpoint(1, state("one"))
    before = (path / "metrics.jsonl").read_bytes()
    other = {
        **CONFIG,
        "device": "cuda",
        "optimizer": {"name": "adam", "lr": 1e-5},
        "layers": [32],
        "new": 0,
        "later": None,
    }
    del other["seed"]
    with pytest.raises(UserError) as caught:
        resume(path, other, ignore=("device",))
    message = str(caught.value)
    assert "(seed 1 -> '(absent)', optimizer.name 'asgc' -> 'adam', layers [32, 64] -> [32], new '(absent)' -> 0)" in (
        message
    )
    assert "device" not in message
    assert "lr" not in message
    assert (path / "metrics.jsonl").read_bytes() == before


def test_keys_that_may_differ_are_noted_in_the_provenance(path):
    with create(path) as run:
        run.save_checkpoint(0, state(""))
    other = {**CONFIG, "device": "cuda", "optimizer": {"name": "adam", "lr": 1}}
    with resume(path, other, ignore=("device", "optimizer")) as run:
        assert run.config == CONFIG
    assert runs.load_config(path) == CONFIG
    changed = read_json(path / "provenance.json")["resumed"][0]["changed"]
    assert changed == {"device": ["auto", "cuda"], "optimizer.name": ["asgc", "adam"], "optimizer.lr": [1e-5, 1]}


def test_a_configuration_of_another_version_goes_on(path):
    """What it lacks meant today's default; what is unknown today is left out, and said."""
    defaults = {**CONFIG, "double": True, "optimizer": {**CONFIG["optimizer"], "eps": 1e-8}}
    with create(path, {**CONFIG, "dueling": False, "old": {"a": 1, "b": 2}}) as run:
        run.save_checkpoint(4, state(""))
    messages = []
    with resume(path, defaults, defaults=defaults, message=messages.append) as run:
        assert run.checkpoint.step == 4
    assert messages == [f"{path / 'config.yaml'}: dueling, old.a, old.b: options of another version, left out"]
    for other in ({**defaults, "double": False}, {**defaults, "seed": 2}):
        with pytest.raises(UserError) as caught:
            resume(path, other, defaults=defaults, message=messages.append)
        assert str(caught.value).endswith(
            f"--resume {path} alone goes on with it as it is; or choose another --run-dir"
        )
    # Options of other tasks: earlier versions wrote them all.
    with resume(path, defaults, defaults={**defaults, "old": {"a": 1, "b": 3}, "dueling": True}):
        pass


def test_what_was_chosen_is_kept_and_may_be_said(path):
    assert runs.chosen(path) == {}
    with create(path, chosen={"device": "cpu", "precision": "bf16"}) as run:
        run.save_checkpoint(4, state(""))
    assert runs.chosen(path) == {"device": "cpu", "precision": "bf16"}
    with pytest.raises(UserError, match="device 'auto' -> 'cuda'"):
        resume(path, {**CONFIG, "device": "cuda"})
    with resume(path, {**CONFIG, "device": "cpu"}, chosen={"device": "cuda", "precision": "bf16"}) as run:
        run.note(new_games_at=4)
    assert runs.chosen(path) == {"device": "cuda", "precision": "bf16"}
    record = read_json(path / "provenance.json")
    assert (record["chosen"]["device"], record["resumed"][0]["new_games_at"]) == ("cpu", 4)


def test_of_an_earlier_versions_run_the_device_is_known(path):
    with create(path) as run:
        run.save_checkpoint(4, state(""))
    record = read_json(path / "provenance.json")
    del record["chosen"]
    (path / "provenance.json").write_text(json.dumps({**record, "device": "cuda:0 (NVIDIA H100)"}))
    assert runs.chosen(path) == {"device": "cuda:0"}
    (path / "provenance.json").write_text("")
    with pytest.raises(UserError, match=r"provenance.json is damaged .*: remove it to go on without it"):
        runs.chosen(path)


@pytest.mark.parametrize("damage", ["line", "short"])
def test_damaged_metrics_are_made_again_from_the_checkpoint_before(path, damage):
    with create(path) as run:
        for step in (1, 2, 3):
            run.log(step, step, 1.0, "train", {"loss": float(step)})
            run.save_checkpoint(step, state(str(step)))
        run.log(4, 4, 1.0, "train", {"loss": 4.0})
    file = path / "metrics.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    if damage == "line":
        lines[2] = b"\0" * (len(lines[2]) - 1) + b"\n"
        file.write_bytes(b"".join(lines))
    else:
        file.write_bytes(b"".join(lines[:2]))
    messages = []
    with resume(path, message=messages.append) as run:
        assert run.checkpoint.step == 2
        assert "000002-step-3 cannot serve" in messages[0]
        assert [row.step for row in runs.read_metrics(path)] == [1, 2]
        for step in (3, 4):
            run.log(step, step, 1.0, "train", {"loss": float(step)})
        run.save_checkpoint(4, state("4"))
    assert file.read_bytes().splitlines()[2:] == [line.rstrip() for line in lines[2:]] or damage == "line"
    assert [row.step for row in runs.read_metrics(path)] == [1, 2, 3, 4]
    with resume(path) as run:
        assert run.checkpoint.step == 4


def test_metrics_that_no_checkpoint_can_make_again_say_what_to_do(path):
    with create(path) as run:
        for step in (1, 2, 3):
            run.log(step, step, 1.0, "train", {"loss": float(step)})
            run.save_checkpoint(step, state(str(step)))
    file = path / "metrics.jsonl"
    file.write_bytes(b"\0" * 10 + file.read_bytes()[10:])
    messages = []
    with pytest.raises(
        UserError, match=r"line 1: not a row of metrics; to go on without it: LC_ALL=C sed -i '1s/"
    ) as caught:
        resume(path, message=messages.append)
    assert messages == []  # the error says it
    subprocess.run(str(caught.value).partition("without it: ")[2], shell=True, check=True)
    with resume(path) as run:
        assert run.checkpoint.step == 3
        assert [row.step for row in runs.read_metrics(path)] == [2, 3]


def test_damage_past_the_checkpoint_is_cut_off_also_with_a_tracking_service(path, monkeypatch):
    class Mirror(runs.Watchers):
        def __init__(self, *arguments, kept, before):
            super().__init__()
            seen.append(([row.step for row in kept], [row.step for row in before]))

    seen = []
    monkeypatch.setattr(runs, "TrackingMirror", Mirror)
    monkeypatch.setattr(runs, "require", lambda name: None)
    with create(path) as run:
        run.log(1, 1, 1.0, "train", {"loss": 1.0})
        run.save_checkpoint(1, state("1"))
        run.log(2, 2, 1.0, "train", {"loss": 2.0})
    with (path / "metrics.jsonl").open("ab") as file:
        file.write(b"garbage\nmore\n")
    with resume(path, track="wandb"):
        assert seen == [([1], [1, 2])]


def test_each_resume_adds_to_the_provenance(path):
    with create(path, seeds={"seed": 7, "envs": 8}) as run:
        run.save_checkpoint(4, state(""))
    for _ in range(2):
        with resume(path):
            pass
    record = read_json(path / "provenance.json")
    assert record["seeds"] == {"seed": 7, "envs": 8}
    assert [entry["from_step"] for entry in record["resumed"]] == [4, 4]
    assert record["resumed"][0]["command"] == sys.orig_argv


def test_folders_that_are_none(path, tmp_path):
    path.mkdir(parents=True)
    with create(path):  # empty is fine
        pass
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("")
    for enter in (create, resume):
        with pytest.raises(UserError, match=r"is not a run folder \(it holds thesis.tex\): choose another --run-dir"):
            enter(other)
        with pytest.raises(UserError, match="is a file: choose another --run-dir"):
            enter(other / "thesis.tex")
    assert [file.name for file in other.iterdir()] == ["thesis.tex"]
    with pytest.raises(UserError, match=r"cannot write to .*thesis.tex/run: Not a directory; choose another --run-dir"):
        create(other / "thesis.tex" / "run")
    with pytest.raises(UserError, match=r"cannot write to .*: File name too long"):
        create(tmp_path / ("x" * 300))
    with pytest.raises(UserError, match=r"there is no run in .*: nothing to resume; leave out --resume"):
        resume(tmp_path / "absent")
    for reader in (runs.read_metrics, runs.load_config, runs.load_summary, runs.newest_checkpoint):
        with pytest.raises(UserError, match="is not a run folder: no such folder"):
            reader(tmp_path / "absent")
        with pytest.raises(UserError, match=r"is not a run folder: it has no config.yaml"):
            reader(other)


UNWRITABLE = """
import os, sys
from evaluation.cli.errors import main_guard
from evaluation.runs.run_folder import RunFolder
if os.getuid() == 0:
    os.setgid(65534); os.setuid(65534)  # root may write everywhere
@main_guard
def main():
    RunFolder(sys.argv[1], {}, seeds={}, device="cpu", tensorboard=False, resume=sys.argv[2] == "resume")
sys.exit(main())
"""


def test_an_unwritable_folder_is_one_line(path, tmp_path):
    with create(path, {}):
        pass
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    secret = tmp_path / "secret"
    secret.mkdir(mode=0o000)
    for parent in (tmp_path, *tmp_path.parents[:-1]):
        if os.getuid() == 0 and parent.name.startswith("pytest-"):
            parent.chmod(0o755)
    (path / "lock").chmod(0o444)
    for folder, mode in ((closed / "run", "create"), (secret / "run", "create"), (path, "resume")):
        done = child("-c", UNWRITABLE, folder, mode)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"error: cannot write to {folder}: Permission denied; choose another --run-dir\n"


HOLD = """
import sys, time
from evaluation.runs.run_folder import RunFolder
run = RunFolder(sys.argv[1], {}, seeds={}, device="cpu", tensorboard=False)
print("ready", flush=True)
time.sleep(60)
"""


def test_a_second_process_is_refused_with_the_first_ones_id_until_that_is_killed(path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as first:
        assert first.stdout.readline() == b"ready\n"
        with pytest.raises(UserError, match=f"{path} is in use by process {first.pid} on "):
            resume(path, {})
        first.send_signal(signal.SIGKILL)
    with resume(path, {}, message=lambda _: None):
        pass


def test_the_same_process_is_refused_too(path):
    with create(path), pytest.raises(UserError, match=f"{path} is in use by process {os.getpid()} on "):
        resume(path)


def test_a_refused_resume_frees_the_lock(path):
    with create(path):
        pass
    for _ in range(2):
        with pytest.raises(UserError, match="another configuration"):
            resume(path, {})


def test_a_run_killed_before_any_of_its_file_operations_ends_as_if_it_had_not_been(tmp_path):
    done = child(HERE / "kill_run.py", tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) > 50


def test_what_was_written_is_json_and_one_row_a_key(path):
    with create(path) as run:
        run.log(0, 0, 0.0, "train", {"loss": math.nan})
        with pytest.raises(ValueError, match="already logged"):
            run.log(0, 0, 0.0, "train", {"loss": 1.0})
    assert json.loads((path / "metrics.jsonl").read_text())["value"] == "NaN"
