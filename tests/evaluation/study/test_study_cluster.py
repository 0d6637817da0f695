"""Studies through Ray, on a cluster of several nodes on this machine, one of which is killed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evaluation.main import main
from evaluation.study import program
from evaluation.study.driver import Driver
from evaluation.study.engines.base import Outcome
from evaluation.study.engines.ray import RayEngine
from evaluation.study.plan import Planner
from evaluation.study.progress import Progress, State
from evaluation.study.spec import load
from evaluation.study.study_folder import StudyFolder
from tests.evaluation.study.study_helpers import contents, write

ray = pytest.importorskip("ray", reason="needs the extra `cluster`")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without CPUs, to which tests add nodes of two."""
    from ray.cluster_utils import Cluster

    root = str(Path(__file__).parents[3])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]))
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        ray.init(address=made.address, log_to_driver=False, configure_logging=False)
        yield made
        ray.shutdown()
        made.shutdown()


class Killer:
    """A display that kills a node while a run goes on there that has reached a checkpoint."""

    def __init__(self, cluster: Any, node: Any, folder: Path) -> None:
        self.cluster, self.node, self.folder = cluster, node, folder
        self.killed = False

    def update(self, progress: Progress) -> None:
        if self.killed or not self._on_node():
            return
        self.cluster.remove_node(self.node, allow_graceful=False)
        self.killed = True

    def ended(self, outcome: Outcome, progress: Progress) -> None:
        assert outcome.failure is None, outcome

    def message(self, text: str) -> None:
        raise AssertionError(text)

    def _on_node(self) -> bool:
        raylet = self.node.all_processes["raylet"][0].process.pid
        for lock in self.folder.rglob("s*/lock"):
            owner = lock.read_text().split()
            checkpoint = any(lock.parent.glob("checkpoints/0*/manifest.json"))
            if owner and checkpoint and _parent(_parent(int(owner[1]))) == raylet:
                return True
        return False


def _parent(process: int) -> int:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:  # it has ended
        return 0
    return int(status.split("PPid:")[1].split()[0])


def test_a_node_killed_changes_nothing(tmp_path: Path, cluster: Any) -> None:
    parts = {"comparison": {"kind": "compare", "tasks": ["valley"], "seeds": [11, 12, 13]}}
    file = write(tmp_path / "fast.yaml", parts=parts, options={"steps": 80})
    assert main(["study", "run", str(file), "--dir", str(tmp_path / "local")]) == 0

    file = write(tmp_path / "tiny.yaml", parts=parts, options={"steps": 80, "pause": 0.05})
    nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
    cluster.wait_for_nodes()
    study = load(file)
    planner = Planner(study)
    with StudyFolder(tmp_path / "ray", study) as folder:
        engine = RayEngine(threads=1, retries=3)
        killer = Killer(cluster, nodes[1], tmp_path / "ray")
        progress = Driver(folder, planner, engine, program.resolve_all(study), killer).run()
        engine.close()
    assert killer.killed
    assert not progress.of(State.FAILED)
    assert len(progress.of(State.FINISHED)) == len(progress.states) == 6
    gave, expected = (contents(tmp_path / name) for name in ("ray", "local"))
    del gave["runs.jsonl"], expected["runs.jsonl"]  # one paused a while in every step
    assert gave == expected
    assert len(gave) == 2 * 6
    resumed = [json.loads(path.read_text())["resumed"] for path in (tmp_path / "ray").rglob("provenance.json")]
    assert any(entry["from_step"] > 0 for entries in resumed for entry in entries)


def test_no_cluster_is_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "tiny.yaml")
    start = time.monotonic()
    arguments = ["--engine", "ray", "--address", "localhost:1", "--dir", str(tmp_path / "s")]
    assert main(["study", "run", str(file), *arguments]) == 2
    assert "--address localhost:1: no Ray cluster there" in capsys.readouterr().err
    assert time.monotonic() - start < 60  # Ray's own patience is minutes


def test_a_run_must_fit_one_node(tmp_path: Path, cluster: Any, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.add_node(num_cpus=2)
    cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    file = write(tmp_path / "tiny.yaml")
    arguments = ["--engine", "ray", "--threads", "3", "--dir", str(tmp_path / "s")]
    assert main(["study", "run", str(file), *arguments]) == 2
    assert "no node of the cluster can hold a run of 3 CPUs" in capsys.readouterr().err
