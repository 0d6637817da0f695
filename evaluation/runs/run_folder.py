"""The run folder: everything a run leaves behind and everything that reads runs.

    config.yaml       the whole configuration, re-runnable
    provenance.json   code, versions, machine, device, seeds, command; one entry more under "resumed" for each resume
    metrics.jsonl     one row a key (step, split, name): `metrics_file`
    tensorboard/      the same as TensorBoard events
    gradients/        recorded gradients, parquet: `recorder`
    tracking.json     which run it is in a tracking service, with `track`: `tracking`
    checkpoints/      the last two, atomic: `checkpoint`; removed once finished
    model.pt          the trainer's model, once finished; best.pt: of the best evaluation; models/: those of steps
                      that the trainer was asked to keep
    row.json          what analysis reads of a finished run: `analysis_row`
    summary.json      once finished, and only then
    lock              a second process is refused

A trainer writes it like this:

    with RunFolder(path, config, seeds={"seed": 1}, device="cpu") as run:               # resume=True: goes on
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
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.cli.config_file import differences, flatten, plain, read_config, write_config
from evaluation.cli.errors import DISK_FULL, UserError, reason
from evaluation.files import read_json, write_json
from evaluation.runs import provenance
from evaluation.runs.analysis_row import ROW, analysis_row
from evaluation.runs.checkpoint import Checkpoint, CheckpointStore, to_stderr
from evaluation.runs.closing import Closing
from evaluation.runs.lock import FolderLock
from evaluation.runs.metrics_file import MetricRow, MetricsWriter, read_prefix, read_rows
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
    """One run's folder, held by this process until `close`; a context manager that ends in it.

    Args:
        path: for a new run absent, empty, or left by a run killed before its config was written.
        config: the configuration, a mapping or dataclass.
        seeds: what is recorded of the seeds.
        device: in words.
        resume: go on with the run in `path` from its newest whole checkpoint, with the metrics cut to what that
            recorded; without any it starts over and says so.
        ignore: config keys that may differ on a resume (``("device",)``; a key stands for everything below it).
        defaults: every option that there is, with what it means where a config.yaml of an earlier version does not have
            it; options of config.yaml that are none of these are another version's, and are left out with a message.
        chosen: what was chosen for options that leave it to the machine ({"precision": "bf16"}), kept in the
            provenance (`chosen`): an option that says the same is no other configuration.
        track: a tracking service (`tracking`).
        message: shows a line to the user.

    Attributes:
        config: the plain mapping.
        checkpoint: what a resumed run goes on from; None: from the start.
        checkpoints: the `CheckpointStore`.
        watchers: who see every row: TensorBoard and the tracking service.

    Raises:
        UserError: the folder holds a run already (says what to type) or, to resume, none or one of another
            configuration (each differing key with both values); it is not a run folder, is a file, cannot be written,
            or is in use by another process; the tracking service's package is missing.
        RunFinishedError: the run to resume has finished.
    """

    def __init__(
        self,
        path: Path | str,
        config: Any,
        *,
        seeds: Mapping[str, int],
        device: str,
        resume: bool = False,
        ignore: Iterable[str] = (),
        defaults: Mapping[str, Any] | None = None,
        chosen: Mapping[str, Any] | None = None,
        tensorboard: bool = True,
        track: str = NONE,
        message: Callable[[str], None] = to_stderr,
    ) -> None:
        self.path = path = Path(path)
        self.config = plain(config)
        self.checkpoints = CheckpointStore(path / CHECKPOINTS, message=message)
        self.checkpoint: Checkpoint | None = None
        self.watchers = Watchers()
        self._message = message
        require(track)
        with _in_one_line(path):
            if resume and not path.exists():
                raise UserError(f"there is no run in {path}: nothing to resume; leave out --resume to start it")
            if not (resume and (path / CONFIG).is_file()):
                _refuse_existing(path)
            with _locked(path) as self._lock:
                goes_on = resume and (path / CONFIG).is_file()
                record = {**provenance.collect(seeds=seeds, device=device), "chosen": dict(chosen or {})}
                if goes_on:
                    self._go_on(ignore, defaults, record)
                else:
                    _refuse_existing(path)  # another process may have been faster
                    write_json(path / PROVENANCE, {**record, "resumed": []})
                    # Last of all, since it makes this a run folder: one killed before it may begin again.
                    write_config(path / CONFIG, self.config)
                if resume and self.checkpoint is None:
                    message(f"{path}: no checkpoint yet, so the run starts over")
                length = self.checkpoint.meta[METRICS_LENGTH] if self.checkpoint else 0
                before = _rows_before_the_cut(path / METRICS) if track != NONE else []
                self._metrics = MetricsWriter(path / METRICS, length=length)
                if tensorboard:
                    purge_step = self._from_step() if goes_on else None
                    kept = read_rows(path / METRICS)
                    mirror = TensorBoardMirror(path / TENSORBOARD, message, purge_step=purge_step, kept=kept)
                    self.watchers.members.append(mirror)
                if track != NONE:
                    kept = read_rows(path / METRICS)
                    service = TrackingMirror(track, path, self.config, message, kept=kept, before=before)
                    self.watchers.members.append(service)

    def _go_on(self, ignore: Iterable[str], defaults: Mapping[str, Any] | None, session: Mapping[str, Any]) -> None:
        """Take over the run that is there, with its configuration and newest checkpoint, and note the resume."""
        path, new, old = self.path, self.config, read_config(self.path / CONFIG)
        gone: list[str] = []  # options that are none here: of another version or, known, of other tasks
        if defaults is not None:
            gone = [key for key in flatten(old) if key not in flatten(new)]
            if unknown := [key for key in gone if key not in flatten(defaults)]:
                self._message(f"{path / CONFIG}: {', '.join(unknown)}: options of another version, left out")
        same = [key for key, value in chosen(path).items() if key in new and new[key] == value]
        _refuse_other_config(path, old, new, [*ignore, *gone, *same], defaults)
        self.checkpoints.clean()
        if is_finished(path):
            self.checkpoints.remove_all()  # a kill may have come between the summary and this
            raise RunFinishedError(f"the run in {path} has finished: nothing to resume")
        self.config, self.checkpoint = old, self.checkpoints.latest(self._check_metrics)
        changed = {key: list(values) for key, values in differences(old, new).items()}
        entry = {**session, "from_step": self._from_step(), "changed": changed}
        record = _provenance(path)
        write_json(path / PROVENANCE, {**record, "resumed": [*record.get("resumed", []), entry]})

    def _check_metrics(self, checkpoint: Checkpoint) -> None:
        """`UserError` unless the metrics up to a checkpoint are whole: what comes after it, the run makes again."""
        read_prefix(self.path / METRICS, checkpoint.meta[METRICS_LENGTH])

    def note(self, **facts: Any) -> None:
        """Add to what the provenance says of this session."""
        record = _provenance(self.path)
        (record["resumed"][-1] if record.get("resumed") else record).update(facts)
        write_json(self.path / PROVENANCE, record)

    def _from_step(self) -> int:
        return self.checkpoint.step if self.checkpoint else 0

    def log(self, step: int, samples: int, wall_s: float, split: str, values: Mapping[str, float]) -> None:
        """Record `values` (name -> number) at `step` in metrics.jsonl, and show the rows to the watchers.

        `samples` is what the trainer consumed so far, `wall_s` the run's seconds (`clock.Clock.wall_s`), `split` a
        word such as "train" or "eval". Log the first and the last step too. ValueError for a key (step, split, name)
        that is not past the last one of its split and name. Where the disk is full, rows are held until there is room.
        """
        held = bool(self._metrics.held)
        rows = self._metrics.log(step, samples, wall_s, split, values)
        if self._metrics.held and not held:
            self._message(f"warning: the disk is full: {self.path / METRICS} waits until there is room again")
        self.watchers.logged(rows)

    def flush(self) -> None:
        """Force all metrics onto the disk; OSError: there is no room."""
        self._metrics.length()

    def save_checkpoint(self, step: int, write: Callable[[Path], None]) -> Checkpoint:
        """Save what `write(directory)` writes as the newest checkpoint, with the present length of the metrics.

        Everything logged before it stays on a resume, everything logged after it goes. Raises as
        `CheckpointStore.save`.
        """
        self.checkpoint = self.checkpoints.save(step, write, {METRICS_LENGTH: self._metrics.length()})
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
        try:
            self.watchers.close(is_finished(self.path))
        finally:
            self._lock.release()


def read_metrics(run: Path | str) -> list[MetricRow]:
    """All rows of a run, finished or not, in the order logged; an unfinished last line is dropped."""
    path = _run_folder(run) / METRICS
    return list(read_rows(path)) if path.is_file() else []


def read_series(run: Path | str, split: str, name: str) -> dict[str, np.ndarray]:
    """One metric of a run, in order of its steps, as columns of equal length: "step", "samples" (int64), "wall_s",
    "value" (float64); empty ones when it was never logged."""
    rows = [row for row in read_metrics(run) if (row.split, row.name) == (split, name)]
    types = {"step": np.int64, "samples": np.int64, "wall_s": np.float64, "value": np.float64}
    return {column: np.array([getattr(row, column) for row in rows], dtype) for column, dtype in types.items()}


def load_config(run: Path | str) -> dict[str, Any]:
    """The configuration of a run as a plain nested mapping."""
    return read_config(_run_folder(run) / CONFIG)


def load_summary(run: Path | str) -> dict[str, Any]:
    """summary.json of a finished run; `UserError` when it has not finished."""
    folder = _run_folder(run)
    if not is_finished(folder):
        raise UserError(f"the run in {folder} has not finished: go on with --resume")
    return dict(read_json(folder / SUMMARY))


def is_run(path: Path | str) -> bool:
    """Whether a run has begun there."""
    return (Path(path) / CONFIG).is_file()


def is_finished(run: Path | str) -> bool:
    """Whether the run wrote its summary."""
    return (Path(run) / SUMMARY).is_file()


def chosen(run: Path | str) -> dict[str, Any]:
    """What the last session of a run chose for options that leave it to the machine: {} where nothing is known."""
    record = _provenance(Path(run))
    # Earlier versions noted the device alone: "cuda:0 (NVIDIA ...)".
    found = {"device": record["device"].split()[0]} if "device" in record else {}
    for session in (record, *record.get("resumed", [])):
        found |= session.get("chosen", {})
    return found


def newest_checkpoint(run: Path | str, message: Callable[[str], None] = to_stderr) -> Checkpoint | None:
    """The newest whole checkpoint of a run that has not finished (it may be running: it may go any moment)."""
    return CheckpointStore(_run_folder(run) / CHECKPOINTS, message=message).latest()


def _provenance(run: Path) -> dict[str, Any]:
    path = run / PROVENANCE
    try:
        return dict(read_json(path)) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"{path} is damaged ({reason(error)}): remove it to go on without it") from error


def _rows_before_the_cut(path: Path) -> list[MetricRow]:
    """What a tracking service may have been shown, as far as it can be read."""
    rows: list[MetricRow] = []
    with contextlib.suppress(UserError):
        rows.extend(read_rows(path) if path.is_file() else ())
    return rows


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
        remedy = "free some space" if error.errno in DISK_FULL else "choose another --run-dir"
        raise UserError(f"cannot write to {folder}: {reason(error)}; {remedy}") from error


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
            f"--resume {shlex.quote(str(folder))} alone goes on with it as it is; or choose another --run-dir"
        )
