"""Runs of `asgc-sup train` on several processes of one machine: forked from one process, so that all is imported once.

`python -m tests.supervised.ranks FOLDER` makes the runs of `scenarios` one after another. As `torchrun` does, it ends
the processes of a run when one of them fails. What each of them printed is in FOLDER/logs/NAME-RANK.txt, their exit
codes are in FOLDER/codes.json.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sklearn import datasets  # noqa: F401 - imported before the fork, as all that is slow
from torch.distributed.tensor import DTensor  # noqa: F401
from torch.nn import functional as F

from asgc import optimizers
from evaluation.cli.errors import UserError
from evaluation.plots import learning_curve
from evaluation.runs import seeding
from evaluation.runs.watchers import Watcher
from supervised import cli, sharded, trainer
from supervised.config import TrainConfig
from supervised.distributed import joined
from supervised.vision.models import SmallCNN

STEPS = 14
COMMON = f"""
    train --preset fashion-mnist --data digits --data.augment none --precision fp32 --threads 1 --no-tensorboard
    --no-gradients.enabled --log-interval 1 --evaluation.train-subset 100 --evaluation.interval 7 --evaluation.last-k 2
    --checkpoint-interval 5 --total-steps {STEPS}
""".split()
SGD = ("--batch-size", "67", "--optimizer", "sgd", "--optimizer.lr", "0.05")
ASGC = ("--batch-size", "67", "--optimizer", "asgc", "--optimizer.lr", "0.002", "--ema-decay", "0.8")
DROPOUT = 0.3
TEXT = f"""
    train --task wmt14 --data prepared --model tiny --model.dropout 0 --precision fp32 --threads 1
    --no-tensorboard --no-gradients.enabled --log-interval 1 --evaluation.metric likelihood --evaluation.interval 7
    --evaluation.train-subset 20 --evaluation.last-k 2 --lr-schedule.warmup 2 --batch-size 150 --total-steps {STEPS}
    --optimizer sgd --optimizer.lr 0.1
""".split()


@dataclass(frozen=True)
class Scenario:
    """A command on some processes.

    Attributes:
        run: folder; None: that of `name`.
        fails: (rank, step, what it does there); all ranks where the rank is None.
        dropout: whether the model has one.
    """

    name: str
    ranks: int
    options: Sequence[str]
    run: str | None = None
    fails: tuple[int | None, int, Callable[[], None]] | None = None
    dropout: bool = False
    common: Sequence[str] = tuple(COMMON)


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def asked_to_stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def full_disk() -> None:
    raise UserError("the disk of this machine is full")


def scenarios() -> list[Scenario]:
    tiny = ("--batch-size", "3", "--optimizer", "sgd", "--optimizer.lr", "0.01")
    passes = ("--device-batch", "12")  # three, of shares of 34 and 33
    return [
        Scenario("one", 1, SGD),
        Scenario("two", 2, SGD),
        Scenario("two-passes", 2, (*SGD, *passes)),
        Scenario("tiny-one", 1, tiny),
        Scenario("tiny-two", 2, (*tiny, "--device-batch", "1")),
        # Killed in an epoch's middle: one process, then both, then asked to stop; each time resumed with two.
        Scenario("dropout", 2, (*SGD, *passes), dropout=True),
        Scenario("kill-1", 2, (*SGD, *passes), "killed", (1, 8, killed), dropout=True),
        Scenario("kill-2", 2, ("--resume", "killed"), "killed", (None, 12, killed), dropout=True),
        Scenario("stop", 2, ("--resume", "killed"), "killed", (1, 12, asked_to_stop), dropout=True),
        Scenario("killed", 2, ("--resume", "killed"), "killed", dropout=True),
        # Interrupted with two processes, resumed with one.
        Scenario("fewer-1", 2, SGD, "fewer", (0, 8, killed)),
        Scenario("fewer", 1, ("--resume", "fewer"), "fewer"),
        Scenario("average", 1, ASGC),
        Scenario("average-two", 2, ASGC),
        Scenario("sharded", 2, (*ASGC, "--sharded")),
        Scenario("sharded-1", 2, (*ASGC, "--sharded", *passes), "sharded-resumed", (1, 6, killed)),
        Scenario("sharded-resumed", 2, ("--resume", "sharded-resumed"), "sharded-resumed"),
        Scenario("unsharded-1", 2, (*ASGC, "--sharded"), "unsharded", (1, 6, killed)),
        Scenario("unsharded", 1, ("--resume", "unsharded"), "unsharded"),
        Scenario("resharded-1", 1, SGD, "resharded", (0, 6, killed)),
        Scenario("resharded", 2, ("--resume", "resharded", "--sharded"), "resharded"),
        Scenario("text-one", 1, (), common=TEXT),
        Scenario("text-two", 2, ("--device-batch", "50"), common=TEXT),
        Scenario("text-sharded", 2, ("--sharded",), common=TEXT),
        Scenario("full-disk", 2, SGD, fails=(1, 3, full_disk)),
        Scenario("wrong", 2, ("--batch-size", "0")),
        Scenario("no-data", 2, (*SGD, "--data", "nowhere")),
    ]


def command(scenario: Scenario) -> list[str]:
    if "--resume" in scenario.options:
        return ["train", *scenario.options]
    return [*scenario.common, "--run-dir", scenario.run or scenario.name, *scenario.options]


def prepare_text() -> int:
    """Made-up pairs of very different lengths, so that two processes' shares of a batch have different tokens."""
    from supervised.text.corpora import open_corpus
    from supervised.text.prepare import prepare

    words = [first + second for first in "bdfgklmn" for second in ("a", "e", "i", "o", "u", "ara")]
    for split, count in (("train", 400), ("valid", 30), ("test", 30)):
        chosen = [[words[(k * k + 7 * j) % len(words)] for j in range(1 + k % 9)] for k in range(count)]
        for language, turned in (("en", 1), ("de", -1)):
            lines = "".join(" ".join(sentence[::turned]) + "\n" for sentence in chosen)
            Path("text", f"{split}.{language}").write_text(lines)
    prepare(open_corpus("text"), Path("prepared"), vocab_size=300, processes=1)
    return 0


def prepare(scenario: Scenario) -> None:
    """In a forked process: a model with dropout, a failure, no picture at the end."""
    learning_curve.LearningCurve = Watcher  # type: ignore[misc,assignment]
    if scenario.name == "dropout":
        close = trainer.Trainer.close

        def closing(self: trainer.Trainer) -> None:
            torch.save(seeding.rng_state(), f"states/dropout-{self.group.rank}.pt")
            close(self)

        trainer.Trainer.close = closing  # type: ignore[method-assign]
    if scenario.dropout:
        forward = SmallCNN.forward
        SmallCNN.forward = lambda self, images: forward(self, F.dropout(images, DROPOUT, self.training))  # type: ignore[method-assign]
    if scenario.fails is not None:
        rank, step, fail = scenario.fails
        advance = trainer.Trainer.advance

        def failing(self: trainer.Trainer) -> Any:
            if self.step == step and rank in (None, self.group.rank):
                fail()
            return advance(self)

        trainer.Trainer.advance = failing  # type: ignore[method-assign]


def forked(name: str, rank: int, ranks: int, port: int, main: Callable[[], int]) -> int:
    """The process id of a new process `rank` of `ranks` in which `main` runs."""
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        signal.alarm(120)  # what hangs ends
        log = os.open(f"logs/{name}-{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if ranks > 1:
            here = {"RANK": rank, "WORLD_SIZE": ranks, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": ranks}
            address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            os.environ.update({key: str(value) for key, value in (here | address).items()})
        code = main()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def together(name: str, ranks: int, main: Callable[[], int]) -> list[int]:
    """Exit codes of `main` in so many processes; negative: the signal that ended one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = [forked(name, rank, ranks, port, main) for rank in range(ranks)]
    codes: dict[int, int] = {}
    while len(codes) < ranks:
        child, status = os.wait()
        codes[child] = os.waitstatus_to_exitcode(status)
        if codes[child] != 0:
            time.sleep(0.1)  # as often as torchrun looks
            for other in set(children) - codes.keys():
                os.kill(other, signal.SIGTERM)
    return [codes[child] for child in children]


def evaluation_is_left() -> int:
    """Processes that evaluate different numbers of batches: a sum, then one is asked to stop, and all leave."""
    from evaluation.runs.stopping import Left, Stop

    with joined() as group:
        ends = []
        for asks in (False, True):
            stop = Stop(group)
            try:
                for k in range(3 + 4 * group.rank):
                    stop.asked = asks and group.rank == 1 and k == 5
                    stop.evaluating(k, 10)
                total = group.sum(torch.tensor(1.0 + group.rank)).item()
                ends.append((total, group.merged({group.rank: "x"})))
            except Left:
                ends.append("left")
        print(json.dumps(ends))
    return 0


def every_optimizer() -> int:
    """Four updates of a small model, its state saved and loaded after two: sharded, against one process's."""
    generator = torch.Generator().manual_seed(1)
    batches = [(torch.randn(8, 1, 8, 8, generator=generator), torch.arange(8) % 5) for _ in range(4)]

    def model() -> torch.nn.Module:
        torch.manual_seed(0)
        layers = (torch.nn.Conv2d(1, 8, 3), torch.nn.Flatten(), torch.nn.Linear(288, 67), torch.nn.Linear(67, 5))
        return torch.nn.Sequential(*layers)

    with joined() as group:
        differences: dict[str, float | None] = {}
        for name in optimizers.names():
            if list(
                TrainConfig.preset("digits", optimizer={"name": name, "lr": 1e-3}, sharded=True).faults_beside(True)
            ):
                differences[name] = None
                continue
            whole, cut = model(), model()
            own = optimizers.build(name, whole.parameters(), lr=1e-3)
            sharding = sharded.Sharding(cut, torch.device("cpu"), group)
            theirs = optimizers.build(name, cut.parameters(), lr=1e-3)
            for k, (images, labels) in enumerate(batches):
                F.cross_entropy(whole(images), labels).backward()
                own.step()
                own.zero_grad()
                F.cross_entropy(cut(images[group.rank :: 2]), labels[group.rank :: 2]).backward()
                theirs.step()
                theirs.zero_grad()
                if k == 1:
                    state = group.told(sharding.whole(theirs.state_dict()))
                    theirs = optimizers.build(name, cut.parameters(), lr=1e-3)
                    sharding.load_optimizer(theirs, state)
            weights = sharding.whole(cut.state_dict())
            if weights is not None:
                expected = whole.state_dict()
                differences[name] = max((expected[key] - weights[key]).abs().max().item() for key in expected)
        print(json.dumps(differences))
    return 0


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    os.chdir(folder)
    for name in ("logs", "states", "text"):
        Path(name).mkdir()
    assert together("prepare", 1, prepare_text) == [0], Path("logs/prepare-0.txt").read_text()
    codes = {"left": together("left", 2, evaluation_is_left), "optimizers": together("optimizers", 2, every_optimizer)}
    for scenario in scenarios():

        def run(scenario: Scenario = scenario) -> int:
            prepare(scenario)
            return cli.main(command(scenario))

        codes[scenario.name] = together(scenario.name, scenario.ranks, run)
    Path("codes.json").write_text(json.dumps(codes))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
