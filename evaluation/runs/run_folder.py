"""The run folder: everything a run leaves behind and everything that reads runs.

    config.yaml       the whole configuration, re-runnable
    provenance.json   code, versions, machine, device, seeds, command; one entry more under "resumed" for each resume
    metrics.jsonl     one row a key (step, split, name): `metrics_file`
    tensorboard/      the same as TensorBoard events
    gradients/        recorded gradients, parquet: `recorder`
    tracking.json     which run it is in a tracking service, with `track`: `tracking`
    checkpoints/      the last two, atomic: `checkpoint`; removed once finished
    model.pt          the trainer's model, once finished
    row.json          what analysis reads of a finished run: `analysis_row`
    summary.json      once finished, and only then
    lock              a second process is refused

A trainer writes it like this:

    with RunFolder.create(path, config, seeds={"seed": 1}, device="cpu") as run:      # or RunFolder.resume
        if run.checkpoint is not None:
            load(run.checkpoint.path)                                                   # else: from the start
        ...
        run.log(step, samples, clock.wall_s, "train", {"loss": loss})
        run.save_checkpoint(step, write)
        ...
        run.finish(summary)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from evaluation.cli.config_file import differences, plain, read_config, write_config
from evaluation.cli.errors import UserError, reason
from evaluation.files import read_json, write_json
from evaluation.runs import provenance
from evaluation.runs.analysis_row import ROW, analysis_row
from evaluation.runs.checkpoint import Checkpoint, CheckpointStore, to_stderr
from evaluation.runs.closing import Closing
from evaluation.runs.lock import FolderLock
from evaluation.runs.metrics_file import MetricRow, MetricsWriter, read_rows
from evaluation.runs.tensorboard import TensorBoardMirror
from evaluation.runs.tracking import NONE, TrackingMirror, require
from evaluation.runs.watchers import Watchers

CONFIG, PROVENANCE, METRICS, SUMMARY = "config.yaml", "provenance.json", "metrics.jsonl", "summary.json"
MODEL, LOCK, CHECKPOINTS, TENSORBOARD = "model.pt", "lock", "checkpoints", "tensorboard"
METRICS_LENGTH = "metrics_length"
MAX_DIFFERENCES = 5  # named in the refusal of another configuration


class RunFinishedError(UserError):
    """The run to resume has finished: nothing is left to do. A trainer may catch it and show the summary."""


class RunFolder(Closing):
    """One run's folder, held by this process. Made by `create` or `resume`; a context manager that ends in `close`.

    Attributes: `path`; `config`, the plain mapping; `checkpoint`, what a resumed run goes on from (None: from the
    start); `checkpoints`, the `CheckpointStore`; `watchers`, who see every row: TensorBoard and the tracking service.
    """

    path: Path
    config: dict[str, Any]
    checkpoint: Checkpoint | None

    @classmethod
    def create(
        cls,
        path: Path | str,
        config: Any,
        *,
        seeds: Mapping[str, int],
        device: str,
        tensorboard: bool = True,
        track: str = NONE,
        message: Callable[[str], None] = to_stderr,
    ) -> Self:
        """Begin a new run in `path`, which must be absent, empty, or left by a run killed before its config was
        written.

        `config` is a mapping or dataclass, `seeds` what is recorded of the seeds, `device` the device in words,
        `track` a tracking service (`tracking`), `message` shows a line to the user. Raises `UserError`: the folder
        holds a run already (says what to type), is not a run folder, is a file, cannot be written, or is in use by
        another process; the tracking service's package is missing.
        """
        folder = Path(path)
        require(track)
        with _in_one_line(folder):
            _refuse_existing(folder)
            with _locked(folder) as lock:
                _refuse_existing(folder)  # another process may have been faster
                return cls(folder, lock, plain(config), None, seeds, device, tensorboard, track, message)

    @classmethod
    def resume(
        cls,
        path: Path | str,
        config: Any,
        *,
        seeds: Mapping[str, int],
        device: str,
        ignore: Iterable[str] = (),
        defaults: Mapping[str, Any] | None = None,
        tensorboard: bool = True,
        track: str = NONE,
        message: Callable[[str], None] = to_stderr,
    ) -> Self:
        """Go on with the run in `path` from its newest whole checkpoint; without any it starts over and says so.

        Metrics are cut to what the checkpoint recorded. `ignore` names config keys that may differ (``("device",)``;
        a key stands for everything below it); `defaults` are what options mean that its config.yaml, of an earlier
        version, does not have. Raises `UserError` as `create` does, when there is no run, and when the
        configuration is another one (each differing key with both values); `RunFinishedError` when the run has
        finished.
        """
        folder = Path(path)
        new = plain(config)
        require(track)
        with _in_one_line(folder):
            if not folder.exists():
                raise UserError(f"there is no run in {folder}: nothing to resume; leave out --resume to start it")
            if not (folder / CONFIG).is_file():
                _refuse_existing(folder)
            with _locked(folder) as lock:
                if not (folder / CONFIG).is_file():
                    message(f"{folder}: no checkpoint yet, so the run starts over")
                    return cls(folder, lock, new, None, seeds, device, tensorboard, track, message)
                old = read_config(folder / CONFIG)
                _refuse_other_config(folder, old, new, ignore, defaults)
                store = CheckpointStore(folder / CHECKPOINTS, message=message)
                store.clean()
                if is_finished(folder):
                    store.remove_all()  # a kill may have come between the summary and this
                    raise RunFinishedError(f"the run in {folder} has finished: nothing to resume")
                resumed = {"changed": {key: list(values) for key, values in differences(old, new).items()}}
                return cls(folder, lock, old, resumed, seeds, device, tensorboard, track, message)

    def __init__(
        self,
        path: Path,
        lock: FolderLock,
        config: dict[str, Any],
        resumed: dict[str, Any] | None,
        seeds: Mapping[str, int],
        device: str,
        tensorboard: bool,
        track: str,
        message: Callable[[str], None],
    ) -> None:
        """Use `create` or `resume`. `resumed` is None for a new run, else what its provenance entry says besides."""
        self.path = path
        self.config = config
        self.checkpoints = CheckpointStore(path / CHECKPOINTS, message=message)
        self.checkpoint = None if resumed is None else self.checkpoints.latest()
        self._lock = lock
        origin = provenance.collect(seeds=seeds, device=device)
        purge_step = None
        if resumed is None:
            write_json(path / PROVENANCE, {**origin, "resumed": []})
            # Last of all, since it makes this a run folder: a kill before it leaves a folder that `create` takes.
            write_config(path / CONFIG, config)
        else:
            purge_step = self.checkpoint.step if self.checkpoint else 0
            if self.checkpoint is None:
                message(f"{path}: no checkpoint yet, so the run starts over")
            record = read_json(path / PROVENANCE) if (path / PROVENANCE).is_file() else {}
            entry = {**origin, "from_step": purge_step, **resumed}
            write_json(path / PROVENANCE, {**record, "resumed": [*record.get("resumed", []), entry]})
        length = self.checkpoint.meta[METRICS_LENGTH] if self.checkpoint else 0
        before = list(read_rows(path / METRICS)) if track != NONE and (path / METRICS).is_file() else []
        self._metrics = MetricsWriter(path / METRICS, length=length)
        self.watchers = Watchers()
        if tensorboard:
            kept = read_rows(path / METRICS)
            self.watchers.members.append(
                TensorBoardMirror(path / TENSORBOARD, message, purge_step=purge_step, kept=kept)
            )
        if track != NONE:
            kept = read_rows(path / METRICS)
            self.watchers.members.append(TrackingMirror(track, path, config, message, kept=kept, before=before))

    @property
    def model_path(self) -> Path:
        """Where the finished model belongs; write it before `finish`, through `files.atomic_path`."""
        return self.path / MODEL

    def log(self, step: int, samples: int, wall_s: float, split: str, values: Mapping[str, float]) -> None:
        """Record `values` (name -> number) at `step` in metrics.jsonl, and show the rows to the watchers.

        `samples` is what the trainer consumed so far, `wall_s` the run's seconds (`clock.Clock.wall_s`), `split` a
        word such as "train" or "eval". Log the first and the last step too. ValueError for a key (step, split, name)
        that is not past the last one of its split and name; OSError when the disk is full.
        """
        self.watchers.logged(self._metrics.log(step, samples, wall_s, split, values))

    def save_checkpoint(
        self, step: int, write: Callable[[Path], None], meta: Mapping[str, Any] | None = None
    ) -> Checkpoint:
        """Save what `write(directory)` writes as the newest checkpoint, with the present length of the metrics.

        Everything logged before it stays on a resume, everything logged after it goes. Raises as
        `CheckpointStore.save`.
        """
        self.checkpoint = self.checkpoints.save(step, write, {**(meta or {}), METRICS_LENGTH: self._metrics.length()})
        return self.checkpoint

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write row.json, then summary.json, which makes the run a finished one; then remove its checkpoints."""
        self._metrics.length()
        write_json(self.path / ROW, analysis_row(self.config, summary, read_json(self.path / PROVENANCE)))
        write_json(self.path / SUMMARY, summary)
        self.checkpoints.remove_all()

    def close(self) -> None:
        """Close the files and free the lock; a second call does nothing."""
        self._metrics.close()
        self.watchers.close(is_finished(self.path))
        self._lock.release()


class Series(dict[str, np.ndarray]):
    """One metric of a run as columns of equal length: "step", "samples" (int64), "wall_s", "value" (float64)."""


def read_metrics(run: Path | str) -> list[MetricRow]:
    """All rows of a run, finished or not, in the order logged; an unfinished last line is dropped."""
    path = _run_folder(run) / METRICS
    return list(read_rows(path)) if path.is_file() else []


def read_series(run: Path | str, split: str, name: str) -> Series:
    """One metric of a run, in order of its steps; empty columns when it was never logged."""
    rows = [row for row in read_metrics(run) if (row.split, row.name) == (split, name)]
    return Series(
        step=np.array([row.step for row in rows], dtype=np.int64),
        samples=np.array([row.samples for row in rows], dtype=np.int64),
        wall_s=np.array([row.wall_s for row in rows], dtype=np.float64),
        value=np.array([row.value for row in rows], dtype=np.float64),
    )


def load_config(run: Path | str) -> dict[str, Any]:
    """The configuration of a run as a plain nested mapping."""
    return read_config(_run_folder(run) / CONFIG)


def load_provenance(run: Path | str) -> dict[str, Any]:
    """provenance.json of a run."""
    return dict(read_json(_run_folder(run) / PROVENANCE))


def load_summary(run: Path | str) -> dict[str, Any]:
    """summary.json of a finished run; `UserError` when it has not finished."""
    folder = _run_folder(run)
    if not is_finished(folder):
        raise UserError(f"the run in {folder} has not finished: go on with --resume")
    return dict(read_json(folder / SUMMARY))


def is_finished(run: Path | str) -> bool:
    """Whether the run wrote its summary."""
    return (Path(run) / SUMMARY).is_file()


def newest_checkpoint(run: Path | str, message: Callable[[str], None] = to_stderr) -> Checkpoint | None:
    """The newest whole checkpoint of a run that has not finished (it may be running: it may go any moment)."""
    return CheckpointStore(_run_folder(run) / CHECKPOINTS, message=message).latest()


def _run_folder(run: Path | str) -> Path:
    folder = Path(run)
    if not (folder / CONFIG).is_file():
        raise UserError(
            f"{folder} is not a run folder: " + (f"it has no {CONFIG}" if folder.is_dir() else "no such folder")
        )
    return folder


def _refuse_existing(folder: Path) -> None:
    """`UserError` unless a new run may begin in `folder`."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: choose another --run-dir")
    if is_finished(folder):
        raise UserError(f"{folder} holds a finished run: choose another --run-dir")
    if (folder / CONFIG).exists():
        raise UserError(f"{folder} holds a run already: add --resume to go on with it, or choose another --run-dir")
    entries = [entry.name for entry in folder.iterdir()] if folder.exists() else []
    others = [name for name in entries if name not in {LOCK, PROVENANCE} and not name.endswith(".tmp")]
    if others:
        raise UserError(f"{folder} exists and is not a run folder (it holds {min(others)}): choose another --run-dir")


@contextlib.contextmanager
def _in_one_line(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {reason(error)}; choose another --run-dir") from error


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[FolderLock]:
    """Make the folder where needed and take its lock, which is freed only if the block fails."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(folder / LOCK)
    try:
        for leftover in folder.glob(".*.tmp"):  # of `files.atomic_path`, when its process was killed
            leftover.unlink(missing_ok=True)
        yield lock
    except BaseException:
        lock.release()
        raise


def _refuse_other_config(
    folder: Path, old: Any, new: Any, ignore: Iterable[str], defaults: Mapping[str, Any] | None
) -> None:
    found = differences(old, new, ignore, defaults)
    if found:
        shown = [f"{key} {before!r} -> {after!r}" for key, (before, after) in list(found.items())[:MAX_DIFFERENCES]]
        more = [f"{len(found) - len(shown)} more"] if len(found) > len(shown) else []
        raise UserError(
            f"{folder} holds a run of another configuration ({', '.join(shown + more)}): "
            "leave these options out to resume it, or choose another --run-dir"
        )
