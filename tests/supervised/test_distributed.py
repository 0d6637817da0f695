"""Several processes: the runs of ``ranks.py``, one test for each thing that they show, and one under `torchrun`."""

from __future__ import annotations

import fcntl
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from asgc import optimizers
from evaluation.cli.errors import UserError
from evaluation.runs.run_folder import newest_checkpoint, read_metrics
from supervised.config import TrainConfig
from supervised.distributed import ALONE, Group, joined
from supervised.model import load
from supervised.order import pieces, share

pytest.importorskip("sklearn")
pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch without gloo")

ROOT = Path(__file__).parents[2]
CLOCKED = {"evaluation_s", "data_wait"}  # metrics that no two runs have the same


@dataclass(frozen=True)
class Runs:
    """Attributes: folder: of all runs; codes: {name: exit code of each process}."""

    folder: Path
    codes: dict[str, list[int]]

    def log(self, name: str, rank: int = 0) -> str:
        return (self.folder / "logs" / f"{name}-{rank}.txt").read_text()

    def errors(self, name: str) -> list[str]:
        """The lines of all processes that say what went wrong."""
        lines = "\n".join(self.log(name, rank) for rank in range(len(self.codes[name]))).splitlines()
        return [line for line in lines if line.startswith(("error:", "Traceback"))]

    def numbers(self, name: str) -> dict[tuple[int, int, str, str], float]:
        """All metrics of a finished run."""
        assert set(self.codes[name]) == {0}, (self.codes[name], self.log(name))
        rows = read_metrics(self.folder / name)
        return {(row.step, row.samples, row.split, row.name): row.value for row in rows if row.name not in CLOCKED}

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        return load(self.folder / name, "cpu").weights

    def equal(self, one: str, other: str) -> None:
        """To the last bit."""
        assert self.numbers(one) == self.numbers(other)
        ours, theirs = self.weights(one), self.weights(other)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours | theirs)

    def close(self, one: str, other: str, rtol: float = 1e-4, atol: float = 2e-6) -> None:
        """But for the order of sums."""
        ours, theirs = self.numbers(one), self.numbers(other)
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            assert theirs[key] == pytest.approx(value, rel=rtol, abs=1e-6), key
        mine, its = self.weights(one), self.weights(other)
        for name in mine | its:
            torch.testing.assert_close(mine[name], its[name], rtol=rtol, atol=atol)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Made once, also where the tests of this file go to several workers of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "supervised-ranks"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "codes.json").exists():
            command = [sys.executable, "-m", "tests.supervised.ranks", str(folder)]
            done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=600)
            assert done.returncode == 0, done.stderr
    return Runs(folder, json.loads((folder / "codes.json").read_text()))


def environment() -> dict[str, str]:
    found = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return found | ({"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {})


# The same numbers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("several", ["two", "two-passes"])
def test_two_processes_compute_what_one_does(runs: Runs, several: str) -> None:
    """An update is of 67 images: 34 and 33, at once or in three passes."""
    runs.close("one", several)


def test_a_process_without_samples_takes_part(runs: Runs) -> None:
    """An update is of 3 images, in two passes of one image each: the second one's last pass has none."""
    assert [len(part) for part in pieces(share(torch.arange(3).numpy(), 1, 2), 2)] == [1, 0]
    runs.close("tiny-one", "tiny-two")


@pytest.mark.parametrize("several", ["average-two", "sharded"])
def test_asgc_and_a_weight_average_are_the_same_spread_over_processes(runs: Runs, several: str) -> None:
    runs.close("average", several, rtol=1e-3, atol=2e-5)  # Adam divides by small numbers


@pytest.mark.parametrize("several", ["text-two", "text-sharded"])
def test_a_translation_model_is_the_same_spread_over_processes(runs: Runs, several: str) -> None:
    """An update's pairs are shared by number, so that the processes have different numbers of tokens."""
    pytest.importorskip("sentencepiece")
    runs.close("text-one", several)


# Interrupted and resumed --------------------------------------------------------------------------------------------


def test_killed_and_stopped_it_goes_on_bit_for_bit_dropout_included(runs: Runs) -> None:
    """One process killed at step 8, both at 12 after a resume, then one asked to stop there."""
    assert runs.codes["kill-1"][1] == runs.codes["kill-2"][0] == runs.codes["kill-2"][1] == -signal.SIGKILL
    assert "resumed at step 5" in runs.log("kill-2")
    assert "resumed at step 10" in runs.log("stop")
    assert runs.codes["stop"] == [130, 130]
    again = "resume with: torchrun --nproc-per-node 2 -m supervised.cli train --resume killed"
    assert f"stopped at step 13 and saved; {again}" in runs.log("stop")
    assert not runs.log("stop", 1)
    assert "resumed at step 13" in runs.log("killed")
    runs.equal("dropout", "killed")


def test_dropout_is_each_processs_own(runs: Runs) -> None:
    numbers, without = runs.numbers("dropout"), runs.numbers("two-passes")
    first = (1, 67, "train", "loss")
    assert numbers[first] != pytest.approx(without[first], rel=1e-3)
    states = [torch.load(file, weights_only=False) for file in sorted(runs.folder.glob("states/dropout-*.pt"))]
    assert len(states) == 2
    assert not torch.equal(states[0]["torch"], states[1]["torch"])


def test_with_fewer_processes_it_goes_on_with_the_same_samples(runs: Runs) -> None:
    assert "resumed at step 5" in runs.log("fewer")
    assert "2 processes before, 1 now: it goes on with the same samples" in runs.log("fewer")
    runs.close("one", "fewer")


@pytest.mark.parametrize(
    ("resumed", "whole"), [("sharded-resumed", "average"), ("unsharded", "average"), ("resharded", "one")]
)
def test_a_sharded_run_goes_on_sharded_or_not_and_one_that_is_not_sharded(runs: Runs, resumed: str, whole: str) -> None:
    """The last one's optimizer, SGD, has other kernels for shards."""
    assert "resumed at step 5" in runs.log(resumed)
    runs.close(whole, resumed, rtol=1e-3, atol=2e-5)


def test_every_optimizer_is_the_same_sharded_or_is_refused(runs: Runs) -> None:
    assert runs.codes["optimizers"] == [0, 0], runs.log("optimizers")
    differences = json.loads(runs.log("optimizers").splitlines()[-1])
    assert {name for name, difference in differences.items() if difference is None} == {
        *("adagc", "gradient-noise", "gradient-stabilizer", "divgrad", "obgd"),
        *(f"{rule}{clip}" for rule in ("soap", "shampoo", "lamb") for clip in ("", "+clip", "+clip-value")),
        *("asgc+soap", "asgc+shampoo", "asgc+lamb"),
    }
    assert set(differences) == set(optimizers.names())
    assert max(difference for difference in differences.values() if difference is not None) < 1e-5  # of 4e-3


def test_sharded_models_are_saved_in_whole_under_their_own_names(runs: Runs) -> None:
    state = torch.load(runs.folder / "sharded" / "best.pt", weights_only=True)["model"]
    assert {name: (type(value), value.shape) for name, value in state.items()} == {
        name: (torch.Tensor, value.shape) for name, value in runs.weights("average").items()
    }


def test_options_that_only_the_reference_has_are_refused_sharded() -> None:
    config = TrainConfig.preset("digits", optimizer={"name": "asgc", "ceiling": 0.1}, sharded=True)
    with pytest.raises(UserError, match=r"--sharded: not with --optimizer asgc and ceiling=0\.1"):
        config.validate()


def test_an_optimizer_that_adapts_is_refused_sharded() -> None:
    config = TrainConfig.preset("digits", optimizer={"name": "asgc", "adapt": "hypergradient"}, sharded=True)
    with pytest.raises(UserError, match=r"--sharded: not with --optimizer asgc --optimizer\.adapt, which needs whole"):
        config.validate()


# Errors and signals -------------------------------------------------------------------------------------------------


def test_one_processs_error_is_one_line(runs: Runs) -> None:
    assert runs.errors("full-disk") == ["error: process 1 of 2: the disk of this machine is full"]
    assert runs.codes["full-disk"][1] == 2
    assert runs.codes["full-disk"][0] != 0


@pytest.mark.parametrize(
    ("name", "line"), [("wrong", r"error: --batch-size 0: must be at least 1"), ("no-data", r"error: .*nowhere")]
)
def test_an_error_of_all_processes_is_one_line(runs: Runs, name: str, line: str) -> None:
    (error,) = runs.errors(name)
    assert re.match(line, error)
    assert runs.codes[name][0] == 2


def test_only_the_main_process_prints(runs: Runs) -> None:
    for name in ("two", "two-passes", "average-two", "sharded", "killed"):
        assert not runs.log(name, 1), name


def test_a_signal_ends_an_evaluation_in_all_processes_wherever_they_are_in_it(runs: Runs) -> None:
    """One is told of 3 batches, the other of 7 and to stop at its sixth, when the first waits for the sum."""
    for rank in (0, 1):
        assert json.loads(runs.log("left", rank)) == [[3.0, {"0": "x", "1": "x"}], "left"]


def test_torchrun_is_asked_to_stop_and_the_run_goes_on_alone(tmp_path: Path) -> None:
    """With processes that read ahead, which the signal reaches as well."""
    run = tmp_path / "run"
    options = "--preset fashion-mnist --data digits --threads 1 --precision fp32 --total-steps 100000 --no-tensorboard"
    options += f" --batch-size 64 --log-interval 5 --evaluation.interval 100000 --data.workers 1 --run-dir {run}"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "supervised.cli", "train"]
    log = tmp_path / "log.txt"
    with log.open("w") as output:
        process = subprocess.Popen([*command, *options.split()], env=environment(), stdout=output, stderr=output)
        try:
            end = time.monotonic() + 120
            while "step=5 " not in log.read_text() and process.poll() is None and time.monotonic() < end:
                time.sleep(0.1)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 1  # torchrun's
        finally:
            process.kill()
    found = re.findall(r"^stopped at step (\d+) and saved; resume with: (.*)$", log.read_text(), re.MULTILINE)
    assert len(found) == 1, log.read_text()
    ((step, again),) = found
    assert again == f"torchrun --nproc-per-node 2 -m supervised.cli train --resume {run}"
    assert "DataLoader worker" not in log.read_text()
    checkpoint = newest_checkpoint(run)
    assert checkpoint is not None
    assert checkpoint.step == int(step) >= 5


# The environment ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2"}, "RANK and WORLD_SIZE are set, but not LOCAL_RANK and MASTER_ADDR and"),
        ({"RANK": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "RANK=2, WORLD_SIZE=2, LOCAL_RANK=0 are no ranks"),
        ({"RANK": "0", "WORLD_SIZE": "two", "LOCAL_RANK": "0"}, "WORLD_SIZE=two, LOCAL_RANK=0 are no ranks"),
    ],
)
def test_a_part_of_what_torchrun_sets_is_refused(given: dict[str, str], line: str) -> None:
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"} if "LOCAL_RANK" in given else {}
    with pytest.raises(UserError, match=f"{line}.*torchrun --nproc-per-node N"), joined(given | address):
        pass


@pytest.mark.parametrize("given", [{}, {"MASTER_ADDR": "here"}, {"WORLD_SIZE": "1", "RANK": "0"}])
def test_one_process_is_alone(given: dict[str, str]) -> None:
    with joined(given) as group:
        assert group is ALONE
    assert ALONE.launcher is None


def test_a_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert Group(5, 8, 1, 4).device("cuda") == torch.device("cuda:1")
    assert chosen == [1]
    assert Group(5, 8, 3, 4).device("cpu") == torch.device("cpu")
    assert Group().device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UserError, match="4 processes for 2 GPUs: torchrun --nproc-per-node 2"):
        Group(5, 8, 3, 4).device("cuda")
    with pytest.raises(UserError, match="--device cuda:1: several processes have one GPU each"):
        Group(0, 2, 0, 2).device("cuda:1")


def test_what_starts_so_many_processes_again() -> None:
    assert Group(0, 2, 0, 2).launcher == "torchrun --nproc-per-node 2 -m supervised.cli"
    assert Group(0, 16, 0, 8).launcher == "torchrun --nnodes 2 --nproc-per-node 8 -m supervised.cli"


def test_processes_that_read_know_their_share() -> None:
    group = pickle.loads(pickle.dumps(Group(1, 2, 1, 2, object())))
    assert (group, group.store) == (Group(1, 2, 1, 2), None)
