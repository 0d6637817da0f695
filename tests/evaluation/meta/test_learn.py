"""Learning a preset: what is found, going on after a kill, and what is wrong in a line."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from asgc.meta import Preset
from evaluation.cli.errors import UserError
from evaluation.main import main as eval_main
from evaluation.meta import class_task, definition, learners
from evaluation.meta.learn_cli import learn_command
from evaluation.meta.meta_cli import main
from evaluation.meta.particles import Journal, Particles
from evaluation.study.engines.base import Engine, Job, Outcome
from evaluation.study.spec import StudyFaults

TOYS = "tests.evaluation.meta.toy_tasks"
PEAKS = {"one": {"class": f"{TOYS}:Peak"}, "two": {"class": f"{TOYS}:Peak", "options": {"scale": 100.0}}}
EVOLUTION = {
    "learn": ["lr", "clip_factor"],
    "kinds": [],
    "learner": {"name": "evolution", "steps": 3, "pairs": 2, "lr": 0.2},
    "tasks": PEAKS,
}
UNROLLED = {
    "rule": "sgd",
    "options": {"noise_scale": 0},
    "learn": ["lr", "clip_factor"],
    "start": {"lr": 1e-2},
    "kinds": ["vectors"],
    "learner": {"name": "unrolled", "steps": 6, "truncation": 4, "runs": 2, "lr": 0.2},
    "tasks": {"bowl": {"class": f"{TOYS}:Bowl"}, "steep": {"class": f"{TOYS}:Bowl", "options": {"curvature": 4.0}}},
}
PERSISTENT = UNROLLED | {"learner": UNROLLED["learner"] | {"name": "persistent", "pairs": 3}}  # type: ignore[operator]


def parsed(values: dict[str, Any], **changed: Any) -> definition.Definition:
    return definition.parse({**values, **changed}, name="toy", where="toy.yaml")


class InProcess(Engine):
    """Carries a job out where it is, one at a time; interrupted before the job of this number."""

    def __init__(self, interrupted: int | None = None, lost: int = 0) -> None:
        super().__init__(1)
        self.done, self._interrupted, self._lost = 0, interrupted, lost
        self.failed: list[Outcome] = []

    def submit(self, job: Job) -> None:
        if self.done == self._interrupted:
            raise KeyboardInterrupt
        self.done += 1
        self._running[job.run] = job

    def wait(self, seconds: float) -> list[Outcome]:
        outcomes = []
        for run, job in list(self._running.items()):
            del self._running[run]
            if self._lost > 0:
                self._lost -= 1
                outcomes.append(Outcome(run, "killed by SIGKILL"))
                continue
            try:
                class_task.train_command([f"--run-dir={job.folder}", *job.arguments])
                outcomes.append(Outcome(run, seconds=0.5))
            except UserError as error:
                outcomes.append(Outcome(run, str(error), final=True))
        return outcomes

    def close(self) -> None:
        self._running.clear()


def learned(found: definition.Definition, folder: Path, engine: InProcess | None = None) -> torch.Tensor:
    folder.mkdir(exist_ok=True)
    path = learners.PathFile(found, folder)
    particles = None
    if found.learner.name == "evolution":
        programs = dict.fromkeys(found.tasks, ("asgc-meta",))
        journal = Journal(folder / "returns.jsonl")
        own = engine or InProcess()
        particles = Particles(found, folder, journal, lambda: own, programs)
    return learners.learn(found, folder, particles, path.add)


def options_of(found: definition.Definition, vector: torch.Tensor) -> tuple[float, float]:
    preset = learners.preset_of(found, vector)
    assert preset.lr is not None
    return preset.lr, preset.values["head"]["clip_factor"]


def test_evolution_finds_the_peak_of_tasks_whose_returns_differ_a_hundredfold(tmp_path: Path) -> None:
    learner = {"name": "evolution", "steps": 50, "pairs": 4, "lr": 0.15, "sigma": 0.2}
    found = parsed(EVOLUTION, learner=learner, start={"lr": 1e-3, "clip_factor": 8.0})
    lr, clip_factor = options_of(found, learned(found, tmp_path))
    assert 0.01 < lr < 0.09
    assert 0.6 < clip_factor < 1.7
    path = json.loads((tmp_path / "path.json").read_text())
    assert len(path) == 50
    assert path[0]["lr"] == pytest.approx(1e-3)
    assert path[0]["values"]["head"]["clip_factor"] == pytest.approx(8.0)
    assert path[-1]["returns"]["one"] > path[0]["returns"]["one"]


@pytest.mark.parametrize("values", [UNROLLED, PERSISTENT], ids=["unrolled", "persistent"])
def test_both_learners_over_truncations_find_a_good_rate(tmp_path: Path, values: dict[str, Any]) -> None:
    """Whole runs of new seeds with what was learned, against those with where it began and with a grid of rates."""
    found = parsed(values, learner=values["learner"] | {"steps": 40, "lr": 0.05, "runs": 1})
    preset = learners.preset_of(found, learned(found, tmp_path))
    tasks = [class_task.make(one.cls, one.options, name) for name, one in found.tasks.items()]

    def loss(lr: float) -> float:
        runs = [class_task.run(task, preset, lr, seed) for task in tasks for seed in (91, 92)]
        return -sum(runs) / len(runs)

    assert preset.lr is not None
    mine, start, best = loss(preset.lr), loss(1e-2), min(map(loss, (0.03, 0.1, 0.2, 0.3, 0.5, 0.8)))
    assert mine < 0.4 * start
    assert mine < 1.5 * best


@pytest.mark.parametrize("values", [UNROLLED, PERSISTENT], ids=["unrolled", "persistent"])
def test_a_learning_that_was_cut_short_goes_on_as_if_it_had_not(tmp_path: Path, values: dict[str, Any]) -> None:
    found = parsed(values)
    whole = learned(found, tmp_path / "whole")
    folder = tmp_path / "cut"
    folder.mkdir()

    class Cut(Exception):
        pass

    path = learners.PathFile(found, folder)

    def stop(step: learners.Step) -> None:
        if step.number == 3:
            raise Cut
        path.add(step)

    with pytest.raises(Cut):
        learners.learn(found, folder, None, stop)
    assert torch.equal(learned(found, folder), whole)
    assert (folder / "path.json").read_text() == (tmp_path / "whole" / "path.json").read_text()


def test_evolution_goes_on_from_its_journal_and_makes_no_run_twice(tmp_path: Path) -> None:
    found = parsed(EVOLUTION)
    engine = InProcess()
    whole = learned(found, tmp_path / "whole", engine)
    assert engine.done == 3 * 4 * 2
    first = InProcess(interrupted=11)
    with pytest.raises(KeyboardInterrupt):
        learned(found, tmp_path / "cut", first)
    journal = tmp_path / "cut" / "returns.jsonl"
    assert len(journal.read_text().splitlines()) == 11
    with journal.open("a") as file:
        file.write('{"step": 1, "par')  # a kill in the middle of a line
    second = InProcess(lost=1)  # one worker is killed: it is tried again
    assert torch.equal(learned(found, tmp_path / "cut", second), whole)
    assert second.done == 24 - 11 + 1
    assert (tmp_path / "cut" / "path.json").read_text() == (tmp_path / "whole" / "path.json").read_text()


def test_particles_of_a_step_share_a_seed_and_steps_do_not(tmp_path: Path) -> None:
    """Peak's return holds its seed: with seeds of their own, ranks would be luck."""
    found = parsed(EVOLUTION, learner={"steps": 8, "pairs": 2, "sigma": 1e-9, "lr": 1e-9})
    learned(found, tmp_path)
    rows = Journal(tmp_path / "returns.jsonl").rows
    by_step = [{round(rows[step, particle, "one"].value, 3) for particle in range(4)} for step in range(8)]
    assert all(len(values) == 1 for values in by_step)
    assert len(set.union(*by_step)) > 2


def test_what_diverges_counts_as_the_worst(tmp_path: Path) -> None:
    learner = {"steps": 30, "pairs": 3, "sigma": 0.2, "lr": 0.2}
    found = parsed(EVOLUTION, tasks={"far": {"class": f"{TOYS}:Far"}}, learner=learner, start={"lr": 0.03})
    lr, _ = options_of(found, learned(found, tmp_path))
    assert 0.003 < lr < 0.021  # it has left what diverges, and stays near its edge, where returns are highest
    assert any(math.isnan(row.value) for row in Journal(tmp_path / "returns.jsonl").rows.values())


def test_a_task_that_raises_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    tasks = PEAKS | {"broken": {"class": f"{TOYS}:Broken"}}
    with pytest.raises(UserError, match=r"task broken: .*RuntimeError: the environment has gone .*toy_tasks.py:\d+"):
        learned(parsed(EVOLUTION, tasks=tasks), tmp_path)
    assert len(Journal(tmp_path / "returns.jsonl").rows) == 2
    with pytest.raises(UserError, match=r"task one: killed by SIGKILL \(log: .*\); what is done is kept"):
        learned(parsed(EVOLUTION), tmp_path / "lost", InProcess(lost=2))
    (tmp_path / "returns.jsonl").write_text('{"step": 0}\n')
    with pytest.raises(UserError, match=r"returns.jsonl is damaged in line 1"):
        Journal(tmp_path / "returns.jsonl")


def faults(values: dict[str, Any], **changed: Any) -> list[str]:
    with pytest.raises(StudyFaults) as caught:
        parsed(values, **changed)
    return list(caught.value.faults)


def test_all_that_is_wrong_with_a_definition_is_told_at_once() -> None:
    found = "\n".join(
        faults(
            UNROLLED,
            learn=["lr", "clip_facto"],
            options={"momentum": 2, "lr": 0.1},
            start={"lr": "fast", "sharpness": 1},
            kinds=["heads"],
            by_share="often",
            learner={"name": "unrolled", "steps": 0, "sigma": -1, "seed": -1, "pair": 2},
            tasks={"run": {"program": "asgc-rl"}, "both": {"program": "asgc-rl", "class": "a:b"}, "none": {}},
            held_out={"run": {"program": "asgc-rl", "options": {"optimizer": {"name": "adam"}, "seed": 1}}},
            seconds={"walk": 1},
        )
    )
    for fault in (
        "learn: unknown name 'clip_facto'; did you mean 'clip_factor'?",
        "options.lr: is learned: say where it begins at `start`",
        "start.lr 'fast': must be a number",
        "start.sharpness: is not learned",
        "kinds: unknown name 'heads'; did you mean 'head'?",
        "by_share 'often': must be true or false",
        "learner.steps 0: must be a whole number of at least 1",
        "learner.sigma -1: must be a number above 0",
        "learner.seed -1: must be a whole number of at least 0",
        "learner.pair: unknown key; did you mean 'pairs'?",
        "tasks.run: unrolled needs a class whose loss is differentiable",
        "tasks.both: give a program (asgc-rl, asgc-sup), or a class as package.module:Class",
        "tasks.none: give a program",
        "held_out.run: is one of the tasks that are learned from",
        "held_out.run.options.optimizer: is the learner's to set",
        "held_out.run.options.seed: is the learner's to set",
        "seconds.walk: must be a number of seconds",
    ):
        assert fault in found, fault
    assert (
        faults(UNROLLED, learn=["eps_scale"], options={"lr": 0.1})
        == [
            "learn: eps_scale needs a rule that has an eps, not 'sgd'",
            "start.lr: is not learned",
        ][::-1]
    )
    assert faults(UNROLLED, learn=["clip_factor"], start={}) == ["options.lr: is missing, as lr is not learned"]
    assert "sgd has no option 'eps'" in "\n".join(faults(UNROLLED, options={"eps": 1e-3})).replace("'sgd'", "sgd")


@pytest.mark.parametrize(
    ("cls", "options", "error"),
    [
        ("nowhere.at_all:Task", {}, "there is no module 'nowhere'"),
        (f"{TOYS}:Pea", {}, "has no 'Pea'; did you mean 'Peak'?"),
        (f"{TOYS}:NoTask", {}, "has neither run nor start, batch, loss: it is no task"),
        (f"{TOYS}:Peak", {"height": 3}, "TypeError.*unexpected keyword argument 'height'"),
    ],
)
def test_a_class_that_cannot_be_made_is_told_before_anything_runs(
    tmp_path: Path, cls: str, options: dict[str, Any], error: str
) -> None:
    write(tmp_path, EVOLUTION | {"tasks": {"it": {"class": cls, "options": options}}})
    with pytest.raises(UserError, match=error):
        learn_command([str(tmp_path / "toy.yaml"), "--dry-run", "--dir", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def write(folder: Path, values: dict[str, Any]) -> Path:
    (folder / "toy.yaml").write_text(json.dumps(values))
    return folder / "toy.yaml"


def test_the_command_learns_shows_and_applies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, folder = write(tmp_path, UNROLLED), tmp_path / "out"
    assert main(["show", str(folder)]) == 2
    assert main(["learn", str(file), "--dir", str(folder)]) == 0
    said = capsys.readouterr()
    assert "unrolled, 6 steps of 16 inner steps each" in said.err
    assert "step 6 of 6: bowl -" in said.err
    preset = Preset.load(folder / "toy.json")
    assert preset.provenance["definition"]["tasks"] == UNROLLED["tasks"]
    assert preset.options == {"noise_scale": 0}
    assert main(["learn", str(write(tmp_path, UNROLLED | {"rule": "adam"})), "--dir", str(folder)]) == 2
    assert "was learned with another rule: choose another --dir" in capsys.readouterr().err
    assert main(["show", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "toy: asgc with rule sgd, learning rate" in shown
    assert "clip_factor" in shown
    assert eval_main(["plot", str(folder)]) == 0
    drawn = (folder / "plots" / "learned-options.csv").read_text().splitlines()
    assert len(drawn) == 1 + 6 * 3  # lr, and the clip_factor of the only kind with one of its own and of the others
    assert (folder / "plots" / "learning-returns.png").stat().st_size > 1000
    assert eval_main(["report", str(folder)]) == 0
    page = (folder / "report.html").read_text()
    assert "<h1>toy</h1>" in page
    assert f">{preset.values['vectors']['clip_factor']:.4g}</td>" in page
    assert "<dt>steps</dt><dd>6 of 6</dd>" in page
    (folder / "toy.json").unlink()
    assert eval_main(["report", str(folder)]) == 0
    assert "Not learned to the end yet" in (folder / "report.html").read_text()
    preset.save(folder / "toy.json")
    assert eval_main(["report", str(folder), "--baseline", "adam"]) == 2
    path = (folder / "path.json").read_text()
    for damaged in ('{"a": 1}', "[1]", '[{"step": 0}]', "["):
        (folder / "path.json").write_text(damaged)
        assert eval_main(["report", str(folder)]) == 2
        assert "path.json is damaged" in capsys.readouterr().err
    (folder / "path.json").write_text(path)
    words: list[str] = []
    monkeypatch.setattr("evaluation.meta.preset_cli._become", lambda found: words.extend(found) or 0)
    assert main(["apply", str(folder), "asgc-rl", "train", "--game", "Pong"]) == 0
    given = [f"--optimizer.preset={folder / 'toy.json'}", "--optimizer.name=asgc"]
    assert words[1:] == ["train", *given, "--game", "Pong"]
    assert main(["apply", str(folder), "asgc-rl", "fly"]) == 2


def test_some_of_the_tasks_alone_and_presets_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = UNROLLED["tasks"] | {"other": UNROLLED["tasks"]["bowl"]}  # type: ignore[index, operator]
    values = UNROLLED | {"tasks": tasks, "held_out": {"third": tasks["other"]}, "seconds": {"bowl": 1}}
    file, folders = str(write(tmp_path, values | {"kinds": ["head"]})), [str(tmp_path / name) for name in ("a", "b")]
    for chosen, folder in zip(("bowl", "third, other,third"), folders, strict=True):
        assert main(["learn", file, "--tasks", chosen, "--dir", folder]) == 0
    one, two = (Preset.load(tmp_path / name) for name in ("a/toy-bowl.json", "b/toy-third-other.json"))
    assert list(one.provenance["definition"]["tasks"]) == ["bowl"]
    assert list(two.provenance["definition"]["tasks"]) == ["third", "other"]
    assert set(two.provenance["definition"]["held_out"]) == set(tasks) - {"other"}
    capsys.readouterr()
    assert main(["show", folders[0], "--beside", f"{folders[1]},{folders[0]}"]) == 0
    shown = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if "│" in line]
    rows = [[cell.strip() for cell in cells] for cells in shown]
    assert ["lr", "all", *(f"{preset.lr:.4g}" for preset in (one, two, one))] in rows
    for kind in ("head", "weights"):
        cells = [f"{preset.values[kind]['clip_factor']:.4g}" for preset in (one, two, one)]
        assert ["clip_factor", kind, *cells] in rows
    assert one.provenance["command"] == f"asgc-meta learn {file} --tasks bowl"
    assert ["rule", "all", "sgd", "sgd", "sgd"] in rows
    assert main(["show", folders[0], "--beside", ",".join(folders * 6)]) == 0  # wider than a terminal
    assert "…" not in capsys.readouterr().out
    assert main(["learn", file, "--tasks", " ,"]) == 2
    assert "--tasks: name at least one" in capsys.readouterr().err
    assert main(["learn", file, "--tasks", "bow"]) == 2
    assert "--tasks bow: no such task; did you mean 'bowl'?" in capsys.readouterr().err


def test_killed_in_the_middle_and_resumed_is_the_same_as_undisturbed(tmp_path: Path) -> None:
    """The programs themselves, on two workers."""
    file = write(tmp_path, EVOLUTION | {"learner": {"steps": 2, "pairs": 1}})
    program = [sys.executable, "-m", "evaluation.meta.meta_cli", "learn", str(file), "--jobs", "2", "--dir"]
    environment = os.environ | {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
    subprocess.run([*program, str(tmp_path / "whole")], env=environment, check=True, timeout=300, capture_output=True)
    journal = tmp_path / "cut" / "returns.jsonl"
    log = (tmp_path / "log").open("w")
    running = subprocess.Popen([*program, str(tmp_path / "cut")], env=environment, stdout=log, stderr=log)
    end = time.monotonic() + 240
    while not (journal.is_file() and journal.read_text().count("\n") >= 3):
        assert time.monotonic() < end
        assert running.poll() is None
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert journal.read_text().count("\n") < 8
    subprocess.run([*program, str(tmp_path / "cut")], env=environment, check=True, timeout=300, capture_output=True)
    assert (tmp_path / "cut" / "path.json").read_text() == (tmp_path / "whole" / "path.json").read_text()
    presets = [Preset.load(tmp_path / name / "toy.json") for name in ("cut", "whole")]
    assert presets[0].values == presets[1].values
    assert presets[0].lr == presets[1].lr
