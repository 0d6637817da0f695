"""A small real trainer with the interface that studies expect of a program, for their tests.

`python descent.py train --run-dir R --task bowl --lr 0.1 --seed 1` descends a noisy quadratic with a run folder,
checkpoints and exact resume; `python descent.py check` checks lines of arguments. Scores are minus the loss.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

from evaluation.cli.errors import UserError, main_guard
from evaluation.runs import run_metrics as metrics
from evaluation.runs.run_folder import RunFolder, read_metrics

CURVATURES = {"bowl": (1.0, 1.0, 1.0), "valley": (1.0, 10.0, 0.1)}


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise UserError(message)


def parser() -> argparse.ArgumentParser:
    flags = Parser("descent", allow_abbrev=False)
    flags.add_argument("--run-dir")
    flags.add_argument("--resume", action="store_true")
    flags.add_argument("--task", default="bowl")
    flags.add_argument("--method", default="plain")
    flags.add_argument("--lr", type=float, default=0.1)
    flags.add_argument("--momentum", type=float, default=0.0)
    flags.add_argument("--noise", type=float, default=0.1)
    flags.add_argument("--seed", type=int, default=1)
    flags.add_argument("--steps", type=int, default=40)
    flags.add_argument("--pause", type=float, default=0.0, help="seconds a step: time to be killed in")
    flags.add_argument("--crash", default="", help="exit with this code at half of the steps, or raise")
    return flags


def faults(arguments: list[str]) -> list[str]:
    """All faults of a command line, an argument at a time."""
    found = []
    for argument in arguments:
        try:
            options = parser().parse_args([argument])
            if options.task not in CURVATURES:
                found.append(f"--task {options.task}: unknown")
        except UserError as error:
            found.append(str(error))
    return found


def configuration(options: argparse.Namespace) -> dict[str, object]:
    config = {key: value for key, value in vars(options).items() if key not in ("run_dir", "resume")}
    return {"optimizer": {"name": options.method}, **config}


def train(options: argparse.Namespace) -> None:
    if options.task not in CURVATURES:
        raise UserError(f"--task {options.task}: unknown")
    config = configuration(options)
    how = {"seeds": {"seed": options.seed}, "device": "cpu", "tensorboard": False, "resume": options.resume}
    with RunFolder(Path(options.run_dir), config, **how) as run:
        rng = np.random.default_rng(options.seed)
        curvature = np.array(CURVATURES[options.task])
        start, point, velocity = 0, rng.normal(size=3), np.zeros(3)
        if run.checkpoint is not None:
            state = json.loads((run.checkpoint.path / "state.json").read_text())
            start, point, velocity = state["step"], np.array(state["point"]), np.array(state["velocity"])
            rng.bit_generator.state = state["rng"]
        for step in range(start + 1, options.steps + 1):
            gradient = curvature * point + options.noise * rng.normal(size=3)
            velocity = options.momentum * velocity - options.lr * gradient
            point = np.clip(point + velocity, -1e6, 1e6)
            time.sleep(options.pause)
            if options.crash and step == options.steps // 2:
                sys.exit(int(options.crash))
            if step % 10 == 0 or step == options.steps:
                run.log(step, step, step * 0.01, "eval", {"score": float(-0.5 * (curvature * point * point).sum())})
                state = {
                    "step": step,
                    "point": point.tolist(),
                    "velocity": velocity.tolist(),
                    "rng": rng.bit_generator.state,
                }
                run.save_checkpoint(step, lambda folder, state=state: _write(folder / "state.json", state))
        evaluations = metrics.evaluations_from_rows(read_metrics(run.path), "eval", "score")
        signature = {"game": options.task, "protocol": "descent", "seed": options.seed}
        summary = metrics.summarize(evaluations, target=-0.05, last_k=2, signature=signature)
        run.finish({**summary, "wall_s": options.steps * 0.01})


def _write(path: Path, state: dict) -> None:
    path.write_text(json.dumps(state))


@main_guard
def main(argv: list[str]) -> int:
    command, *rest = argv
    if command == "train":
        train(parser().parse_args(rest))
        return 0
    if rest == ["--defaults"]:
        print(json.dumps(configuration(parser().parse_args([]))))
        return 0
    lines = [json.loads(line) for line in sys.stdin]
    answers = [faults(line) for line in lines]
    for line, errors in zip(lines, answers, strict=True):
        known = {} if errors else {"config": configuration(parser().parse_args(line))}
        print(json.dumps({"ok": not errors, "errors": errors, **known}))
    return 2 if any(answers) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
