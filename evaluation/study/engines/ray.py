"""The Ray engine: one run a task on a cluster, its CPUs and GPUs declared; a lost node's runs resume elsewhere.

The study folder must lie on storage that all nodes share, and the toolkit be installed on them: a task executes the
same command as the local engine does.
"""

from __future__ import annotations

import logging
import math
import socket
from typing import Any

from evaluation.cli.errors import UserError, reason
from evaluation.runs.run_folder import is_finished
from evaluation.study.engines.base import Engine, Job, Outcome
from evaluation.study.engines.local import LocalEngine
from evaluation.study.run_id import RunId

CONNECT_S = 5.0


class RayEngine(Engine):
    """Runs jobs as Ray tasks.

    Args:
        address: "auto" (the cluster that this machine belongs to), "local" (a new one on this machine), "HOST:PORT".
        jobs: runs handed to the cluster at a time; None: twice what its CPUs and GPUs hold, so that it is never idle.
        threads: CPUs of a run.
        gpus: GPUs of a run, also a fraction.
        retries: how often Ray starts a task again whose worker or node was lost.

    Raises:
        UserError: ray is not installed, or there is no such cluster.
    """

    def __init__(
        self, address: str = "auto", *, jobs: int | None = None, threads: int = 1, gpus: float = 0.0, retries: int = 1
    ) -> None:
        try:
            import ray
        except ImportError as error:
            raise UserError("--engine ray: ray is not installed; pip install 'asgc[cluster]'") from error
        _check_reachable(address)
        self._ray, self._started = ray, not ray.is_initialized()
        if self._started:
            try:
                where = None if address == "local" else address
                ray.init(where, log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
            except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
                raise _no_cluster(address, error) from error
        places = sum(_places(node["Resources"], threads, gpus) for node in ray.nodes() if node["Alive"])
        if places < 1:
            raise UserError(
                f"--engine ray: no node of the cluster can hold a run of {threads} CPUs and {gpus:g} GPUs; "
                "lower --threads or --gpu-share"
            )
        super().__init__(jobs or 2 * places)
        self._task = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=retries)(_execute)

    def submit(self, job: Job) -> None:
        """Hand a job to the cluster."""
        self._running[job.run] = self._task.options(name=str(job.run)).remote(job)

    def wait(self, seconds: float) -> list[Outcome]:
        ready, _ = self._ray.wait(list(self._running.values()), num_returns=1, timeout=seconds)
        ended = [run for run, reference in self._running.items() if reference in ready]
        return [self._outcome(run, self._running.pop(run)) for run in ended]

    def _outcome(self, run: RunId, reference: Any) -> Outcome:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            return Outcome(run, f"lost by Ray: {reason(error)}")

    def close(self) -> None:
        """Have Ray kill what still runs, and leave the cluster."""
        while self._running:
            self._ray.cancel(self._running.popitem()[1], force=True)
        if self._started:
            self._ray.shutdown()


def _places(resources: dict[str, float], threads: int, gpus: float) -> int:
    """How many runs a node holds at a time: a run's CPUs and GPUs must lie on one node."""
    places = int(resources.get("CPU", 0) // threads)
    return min(places, int(resources.get("GPU", 0) / gpus + 1e-9)) if gpus else places


def _check_reachable(address: str) -> None:
    """Ray itself goes on trying for minutes when nothing listens at an address."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> UserError:
    where = f"--address {address}: no Ray cluster there ({reason(error)})"
    return UserError(f"{where}; start one with `ray start --head`, or use --address local")


def _execute(job: Job) -> Outcome:
    """On a node: carry out the job if this node sees the study folder."""
    study = job.log.parent
    if not study.is_dir():
        return Outcome(job.run, f"{study} is not on storage that this node shares", final=True)
    if is_finished(job.folder):
        return Outcome(job.run)
    with LocalEngine(jobs=1) as engine:
        engine.submit(job)
        return engine.wait(math.inf)[0]
