"""`--track wandb|mlflow`: the metrics of a run, live in Weights & Biases or MLflow.

Offline unless told otherwise: W&B writes below the run folder (`wandb sync RUN/wandb/offline-run-*` uploads it later;
WANDB_MODE=online sends it at once), MLflow into `RUN/mlflow.db` (`mlflow ui --backend-store-uri sqlite:///RUN/mlflow.db`),
or to MLFLOW_TRACKING_URI. The services' other environment variables (WANDB_PROJECT, WANDB_RUN_GROUP,
MLFLOW_EXPERIMENT_NAME, ...) hold as well. Which of the service's runs it is stands in `RUN/tracking.json`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from evaluation.cli.config_file import flatten
from evaluation.cli.errors import UserError, reason
from evaluation.files import folder_name, read_json, sqlite_url, write_json
from evaluation.runs.metrics_file import MetricRow
from evaluation.runs.watchers import Watcher

NONE = "none"
IDENTITY = "tracking.json"
PROJECT = "asgc"
_AT_ONCE = 500  # metrics in one request
_ATTEMPTS = 3  # at opening MLflow's database
_LONGEST = 128  # bytes of a run's name in W&B


class Service(Protocol):
    """One run in a tracking service; `identity` finds it again."""

    identity: dict[str, str]

    def log(self, rows: Sequence[MetricRow]) -> None: ...
    def close(self, finished: bool) -> None: ...


class TrackingMirror(Watcher):
    """Shows every row in a tracking service. A mirror only: when it fails, one message, and the run goes on.

    Args:
        name: "wandb" or "mlflow" (`require` first).
        run: the run folder.
        config: the run's configuration, shown beside it.
        message: shows a line to the user.
        kept: rows of metrics.jsonl that a resumed run goes on from.
        before: rows that were in it before it was cut to these.

    A resumed run goes on in the service's same run. These services cannot take rows back, so what was logged after the
    checkpoint is not shown twice: rows of `before` are passed over when they come again (the same numbers, where runs
    are deterministic). In a service that the run has not been in so far, `kept` is shown first.
    """

    def __init__(
        self,
        name: str,
        run: Path,
        config: Mapping[str, Any],
        message: Callable[[str], None],
        *,
        kept: Iterable[MetricRow] = (),
        before: Iterable[MetricRow] = (),
    ) -> None:
        self._name = name
        self._message = message
        self._service: Service | None = None
        self._shown: set[tuple[int, str, str]] = set()
        with self._guard():
            path = run / IDENTITY
            identities = read_json(path) if path.is_file() else {}
            old = identities.get(name)
            self._service = SERVICES[name](run, config, old)
            write_json(path, {**identities, name: self._service.identity})
            if self._service.identity == old:
                self._shown = {(row.step, row.split, row.name) for row in before}
            else:
                self.logged(kept)

    def logged(self, rows: Iterable[MetricRow]) -> None:
        """Mirror `rows`."""
        new = [row for row in rows if (row.step, row.split, row.name) not in self._shown]
        if self._service is not None and new:
            with self._guard():
                self._service.log(new)

    def close(self, finished: bool = False) -> None:
        """End the session; `finished`: the run is complete."""
        service, self._service = self._service, None
        if service is not None:
            with self._guard():
                service.close(finished)

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of somebody else's library and network: anything can come
            self._message(f"{self._name} no longer follows this run ({reason(error)}); metrics.jsonl goes on")
            self.close()


def require(name: str) -> None:
    """`UserError` unless the package of a tracking service is there; to be called before a run starts."""
    if name != NONE and importlib.util.find_spec(name) is None:
        raise UserError(f"--track {name}: {name} is not installed; pip install 'asgc[tracking]' brings it")


class WandB:
    """A run of Weights & Biases. `old`: its identity, where the run has one already."""

    def __init__(self, run: Path, config: Mapping[str, Any], old: Mapping[str, str] | None) -> None:
        mode = os.environ.get("WANDB_MODE", "offline")
        if mode != "online":
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # the package's own reports go out otherwise
        import wandb

        self.identity = dict(old or {"id": secrets.token_hex(6)})
        settings = wandb.Settings(
            console="off", silent=True, disable_git=True, disable_code=True, x_disable_stats=True, init_timeout=30
        )
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=os.environ.get("WANDB_NAME", folder_name(run.resolve().name, _LONGEST)),
            id=self.identity["id"],
            config=dict(config),
            dir=str(run),
            mode=mode,  # type: ignore[arg-type]
            resume="allow",
            reinit="create_new",  # the user may have a run of their own in this process
            settings=settings,
        )
        # Steps of their own, since W&B's counter may not go back to a checkpoint.
        self._run.define_metric("*", step_metric="step")

    def log(self, rows: Sequence[MetricRow]) -> None:
        steps: dict[int, dict[str, float]] = {}
        for row in rows:
            values = steps.setdefault(row.step, {"step": row.step, "samples": row.samples, "wall_s": row.wall_s})
            values[f"{row.split}/{row.name}"] = row.value
        for values in steps.values():
            self._run.log(values)

    def close(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


class MLflow:
    """A run of MLflow. `old`: its identity, where the run has one already."""

    def __init__(self, run: Path, config: Mapping[str, Any], old: Mapping[str, str] | None) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        # A server that does not answer should cost seconds, not the minutes of MLflow's defaults.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        from mlflow.entities import Param
        from mlflow.store.db import utils
        from mlflow.tracking import MlflowClient

        # A database that cannot be opened should cost a second, not the 100 of MLflow's ten attempts with their texts.
        utils.MAX_RETRY_COUNT = _ATTEMPTS
        logging.getLogger("mlflow.store.db").setLevel(logging.ERROR)
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        given = os.environ.get("MLFLOW_TRACKING_URI")
        self._client = MlflowClient(tracking_uri=given or sqlite_url(run.resolve() / "mlflow.db"))
        place = given or "run folder"  # which may move
        if old is not None and old["place"] == place:
            self.identity = dict(old)
            self._client.update_run(old["id"], status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        created = self._client.create_run(number, run_name=run.resolve().name)
        self.identity = {"id": created.info.run_id, "place": place}
        params = [Param(key, str(value)) for key, value in flatten(dict(config)).items()]
        for start in range(0, len(params), 100):  # the most that a request may hold
            self._client.log_batch(self.identity["id"], params=params[start : start + 100])

    def log(self, rows: Sequence[MetricRow]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(f"{row.split}/{row.name}", row.value, now, row.step) for row in rows]
        for start in range(0, len(metrics), _AT_ONCE):
            self._client.log_batch(self.identity["id"], metrics=metrics[start : start + _AT_ONCE])

    def close(self, finished: bool) -> None:
        self._client.set_terminated(self.identity["id"], "FINISHED" if finished else "KILLED")


SERVICES: dict[str, Callable[[Path, Mapping[str, Any], Mapping[str, str] | None], Service]] = {
    "wandb": WandB,
    "mlflow": MLflow,
}
