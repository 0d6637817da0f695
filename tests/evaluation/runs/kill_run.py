"""Child of test_runs: a whole run killed before each of its file operations, then resumed. Argument: a folder."""

import contextlib
import shutil
import sys
from pathlib import Path

from killing import survive_every_kill

from evaluation.files import read_json
from evaluation.runs import provenance
from evaluation.runs.run_folder import RunFinishedError, RunFolder, is_finished, load_summary

provenance.collect = lambda **_: {"time": "now"}  # asks git: a dozen processes for each of hundreds of runs
home = Path(sys.argv[1]) / "run"
saved = Path(sys.argv[1]) / "saved"  # the step of the last checkpoint whose save returned
config = {"steps": 4}


def durable() -> int:
    return int(saved.read_text() or 0) if saved.exists() else 0


def train(resume: bool) -> None:
    messages: list[str] = []
    how = {"seeds": {}, "device": "cpu", "tensorboard": False, "resume": resume}
    with RunFolder(home, config, **how, message=messages.append) as run:
        total, first = 0, 1
        if run.checkpoint is not None:
            step, total = map(int, (run.checkpoint.path / "state").read_text().split())
            assert step == run.checkpoint.step
            first = step + 1
            assert step >= durable(), "steps before the last checkpoint were lost"
        else:
            assert durable() == 0, "the last checkpoint was lost"
            assert not resume or messages == [f"{home}: no checkpoint yet, so the run starts over"]
        for step in range(first, config["steps"] + 1):
            total += step
            run.log(step, step, float(step), "train", {"total": total, "again": total})
            if step % 2 == 0:
                text = f"{step} {total}"
                run.save_checkpoint(step, lambda folder, text=text: (folder / "state").write_text(text) and None)
                saved.write_text(str(step))
        (run.path / "model.pt").write_text(str(total))
        run.finish({"total": total})


def prepare() -> None:
    shutil.rmtree(home, ignore_errors=True)
    saved.unlink(missing_ok=True)


def check(operation: int) -> None:
    if home.exists():
        with contextlib.suppress(RunFinishedError):
            train(resume=True)
    else:
        train(resume=False)
    assert is_finished(home)
    assert load_summary(home) == {"total": 10}
    assert (home / "metrics.jsonl").read_text() == expected, operation
    assert read_json(home / "provenance.json")["time"] == "now"
    names = sorted(path.name for path in home.iterdir())
    files = ["config.yaml", "lock", "metrics.jsonl", "model.pt", "provenance.json", "row.json", "summary.json"]
    assert names == files, (
        operation,
        names,
    )


prepare()
train(resume=False)
expected = (home / "metrics.jsonl").read_text()
print(f"{survive_every_kill(lambda: train(resume=False), check, prepare)} kills")
