"""The mirrors in W&B and MLflow, with the real packages offline."""

from __future__ import annotations

import json
import math
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evaluation.cli.errors import UserError
from evaluation.runs import tracking
from evaluation.runs.metrics_file import MetricRow
from evaluation.runs.run_folder import RunFolder, read_metrics
from evaluation.runs.tracking import TrackingMirror

CONFIG = {"game": "Pong", "optimizer": {"name": "asgc", "lr": 0.1}}
HISTORY = [("train/loss", step, 10.0 * step) for step in range(1, 8)]


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_NAME", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An MLflow database for several tests: making one takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'shared.db'}"


def wandb_records(run: Path) -> Iterator[Any]:
    """Records of W&B's offline files: protocol buffers in LevelDB's log format behind 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    for path in sorted(run.glob("wandb/offline-run-*/*.wandb")):
        data, position, parts = path.read_bytes(), 7, b""
        while position + 7 <= len(data):
            left = 32_768 - position % 32_768
            if left < 7:  # no room for a header: the rest of the block is padding
                position += left
                continue
            _, length, kind = struct.unpack_from("<IHB", data, position)
            parts += data[position + 7 : position + 7 + length]
            position += 7 + length
            if kind in (1, 4):  # whole, or the last part
                record = Record()
                record.ParseFromString(parts)
                yield record
                parts = b""


def wandb_history(run: Path) -> list[tuple[str, int, float]]:
    found = []
    for record in wandb_records(run):
        if record.WhichOneof("record_type") == "history":
            row = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            found += [(key, row["step"], float(value)) for key, value in row.items() if "/" in key]
    return found


def mlflow_history(run: Path, uri: str | None = None) -> list[tuple[str, int, float]]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri or f"sqlite:///{run / 'mlflow.db'}")
    identity = json.loads((run / tracking.IDENTITY).read_text())["mlflow"]["id"]
    keys = client.get_run(identity).data.metrics
    rows = [row for key in keys for row in client.get_metric_history(identity, key)]
    return sorted((row.key, row.step, row.value) for row in rows)


def killed_and_resumed(path: Path, first: str, second: str) -> None:
    """Seven steps with a checkpoint at the fourth, as if killed; then on from there to the seventh and the end."""
    options: dict[str, Any] = {"seeds": {}, "device": "cpu", "tensorboard": False, "message": pytest.fail}
    run = RunFolder(path, CONFIG, track=first, **options)
    for step in range(1, 8):
        if step < 7:
            run.log(step, step, 0.5, "train", {"loss": 10.0 * step})
        if step == 4:
            run.save_checkpoint(step, lambda folder: None)
    run.close()
    with RunFolder(path, CONFIG, resume=True, track=second, **options) as run:
        for step in range(5, 8):
            run.log(step, step, 0.5, "train", {"loss": 10.0 * step})
        run.finish({"final": 1.0})


def test_wandb_shows_every_row_once_over_a_kill_in_one_run(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    killed_and_resumed(tmp_path / "run", "wandb", "wandb")
    end = time.monotonic() + 30  # W&B's own process may write its last rows after `finish` has returned
    while len(wandb_history(tmp_path / "run")) < len(HISTORY) and time.monotonic() < end:
        time.sleep(0.2)
    assert wandb_history(tmp_path / "run") == HISTORY
    runs = [record.run for record in wandb_records(tmp_path / "run") if record.WhichOneof("record_type") == "run"]
    assert len({run.run_id for run in runs}) == 1
    assert (runs[0].project, runs[0].display_name) == ("asgc", "run")
    config = {item.key: json.loads(item.value_json) for item in runs[0].config.update if item.key in CONFIG}
    assert config == CONFIG
    assert len(list((tmp_path / "run" / "wandb").glob("offline-run-*"))) == 2


def test_mlflow_shows_every_row_once_over_a_kill_in_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str
) -> None:
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.chdir(tmp_path)
    killed_and_resumed(tmp_path / "run", "mlflow", "mlflow")
    assert mlflow_history(tmp_path / "run", store) == HISTORY
    client = MlflowClient(tracking_uri=store)
    identity = json.loads((tmp_path / "run" / tracking.IDENTITY).read_text())["mlflow"]["id"]
    shown = client.get_run(identity)
    assert (shown.info.run_name, shown.info.status) == ("run", "FINISHED")
    assert shown.data.params == {"game": "Pong", "optimizer.name": "asgc", "optimizer.lr": "0.1"}
    assert [path.name for path in tmp_path.iterdir()] == ["run"]  # nothing elsewhere


def test_mlflow_keeps_to_the_run_folder_by_default_also_when_that_has_moved(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    (tmp_path / "old").mkdir()
    row = MetricRow(1, 1, 0.0, "train", "loss", 1.0)
    mirror = TrackingMirror("mlflow", tmp_path / "old", CONFIG, pytest.fail)
    mirror.logged([row])
    mirror.close(False)
    (tmp_path / "old").rename(tmp_path / "new")
    mirror = TrackingMirror("mlflow", tmp_path / "new", CONFIG, pytest.fail, kept=[row], before=[row])
    mirror.logged([row._replace(step=2, value=math.nan)])
    mirror.close(False)
    history = mlflow_history(tmp_path / "new")
    assert history[0] == ("train/loss", 1, 1.0)
    assert history[1][:2] == ("train/loss", 2)
    assert math.isnan(history[1][2])


def test_another_service_on_resume_shows_the_run_from_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    killed_and_resumed(tmp_path / "run", "none", "mlflow")
    assert mlflow_history(tmp_path / "run", store) == HISTORY


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_one_line_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    for resume in (False, True):
        with pytest.raises(UserError, match=rf"--track {name}.*asgc\[tracking\]"):
            RunFolder(tmp_path / "run", CONFIG, seeds={}, device="cpu", track=name, resume=resume)
    assert not (tmp_path / "run").exists()


class Broken:
    """A service that breaks at the second row."""

    def __init__(self, run: Path, config: Any, old: Any) -> None:
        self.identity = {"id": "1"}
        self.rows: list[MetricRow] = []
        self.closed: list[bool] = []
        Broken.last = self

    last: Broken

    def log(self, rows: list[MetricRow]) -> None:
        if self.rows:
            raise ConnectionError("the network is gone\nsince noon")
        self.rows += rows

    def close(self, finished: bool) -> None:
        self.closed.append(finished)


def test_a_service_that_fails_is_said_once_and_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "require", lambda name: None)
    monkeypatch.setattr("evaluation.runs.run_folder.require", lambda name: None)
    monkeypatch.setitem(tracking.SERVICES, "wandb", Broken)
    said: list[str] = []
    with RunFolder(
        tmp_path / "run", CONFIG, seeds={}, device="cpu", tensorboard=False, track="wandb", message=said.append
    ) as run:
        for step in range(5):
            run.log(step, step, 0.0, "train", {"loss": 1.0})
        run.finish({})
    assert said == ["wandb no longer follows this run (the network is gone); metrics.jsonl goes on"]
    assert [row.step for row in Broken.last.rows] == [0]
    assert Broken.last.closed == [False]
    assert len(read_metrics(tmp_path / "run")) == 5


def test_a_service_that_cannot_start_is_said_once_and_the_run_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nobody listens at the discard port
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        options: dict[str, Any] = {"seeds": {}, "device": "cpu", "tensorboard": False, "message": said.append}
        with RunFolder(tmp_path / "run", CONFIG, track="mlflow", **options) as run:
            run.log(1, 1, 0.0, "train", {"loss": 1.0})
    assert len(said) == 1
    assert said[0].startswith("mlflow no longer follows this run (")
    assert len(read_metrics(tmp_path / "run")) == 1


def test_a_finished_run_ends_as_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluation.runs.run_folder.require", lambda name: None)
    monkeypatch.setitem(tracking.SERVICES, "wandb", Broken)
    for finished in (True, False):
        run = RunFolder(tmp_path / str(finished), CONFIG, seeds={}, device="cpu", tensorboard=False, track="wandb")
        if finished:
            run.finish({})
        run.close()
        assert Broken.last.closed == [finished]


@pytest.mark.parametrize("folder", ["a?b", "a%41b"])
def test_mlflows_database_lies_in_any_folder(tmp_path: Path, folder: str) -> None:
    pytest.importorskip("mlflow")
    (tmp_path / folder).mkdir()
    mirror = TrackingMirror("mlflow", tmp_path / folder, {}, pytest.fail)
    mirror.close()
    assert (tmp_path / folder / "mlflow.db").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [folder]


def test_a_database_that_cannot_be_opened_costs_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    (tmp_path / "taken").mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/taken")
    said: list[str] = []
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    TrackingMirror("mlflow", tmp_path, {}, said.append)
    assert len(said) == 1
    assert sum(pauses) < 1
