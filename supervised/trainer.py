"""Training a model on a supervised task. The loop around it is `evaluation.runs.loop`'s."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from evaluation.cli.errors import UserError, reason
from evaluation.curvature.measure import SPLIT as CURVATURE
from evaluation.curvature.measure import Curvature
from evaluation.files import atomic_path
from evaluation.runs import recorder, seeding
from evaluation.runs.callbacks import load_callbacks
from evaluation.runs.hardware import deterministic
from evaluation.runs.interval_means import IntervalMeans, clipping_on_device
from evaluation.runs.kept_models import model_path
from evaluation.runs.loop import execute
from evaluation.runs.recorder import GradientRecorder
from evaluation.runs.run_folder import RunFolder
from evaluation.runs.run_metrics import COMPARED_SCORE, SCORE, TRAIN_EVALUATION
from evaluation.runs.schedule import Schedule
from evaluation.runs.trainer_protocol import EvaluationResult
from evaluation.runs.watchers import Column, Watcher, Watchers
from supervised import backends, resumed, tasks
from supervised.config import TrainConfig
from supervised.curvature import training_loss
from supervised.distributed import Group, joined
from supervised.learner import Learner
from supervised.model import save
from supervised.preflight import CHOSEN, check_resources, choose, data_workers, default_run_dir, long_warmup, updates_of
from supervised.stream import Stream
from supervised.tasks.task import TRAIN_SUBSET, VALIDATION, Scores, Task, united

COLUMNS = (
    Column("loss", "loss", "loss", ".4f"),
    Column("data_wait", "data_wait", "waiting for data", ".1%"),
    Column("evaluation", "evaluation", "evaluation", ".2f"),
)
CLIPPING_EVERY = 16  # updates between two looks at the share of clipped gradients


class Recorder(Watcher):
    """Recorded gradients, as a watcher whose state is in the checkpoints."""

    name = "recording"

    def __init__(self, folder: Path, learner: Learner, interval: int) -> None:
        named = learner.model.named_parameters()
        self._recorder = GradientRecorder(folder, named, learner.optimizer, interval=interval, offsets=())

    def around_step(self, samples: int, update: int) -> AbstractContextManager[None]:
        """A context for the optimizer step of update number `update`, after so many samples."""
        event = self._recorder.due(update)
        return nullcontext() if event is None else self._recorder.record(samples, update, event)

    def state_dict(self) -> dict[str, Any]:
        self._recorder.flush()
        return self._recorder.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._recorder.load_state_dict(state or GradientRecorder.START)


def train(
    config: TrainConfig, *, resume: bool = False, watchers: Iterable[Watcher] = (), group: Group | None = None
) -> dict[str, Any]:
    """Train a model and return the run's summary (what `summary.json` holds).

    Args:
        config: the run; see `TrainConfig.preset`.
        resume: go on with the run in `config.run_dir` from its newest checkpoint.
        watchers: a display (`evaluation.runs.display.make_display()`; silent without one), callbacks of your own
            (`evaluation.runs.watchers.Watcher`), besides those that `config.callbacks` names.
        group: the processes that train it together, all of which call this; None: those that `torchrun` started.

    Raises:
        UserError: something about the settings, the data or the machine that the user can mend, in one line.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP; a checkpoint was saved.
    """
    with deterministic(config.deterministic), joined() if group is None else nullcontext(group) as here:
        return _train(config, resume, watchers, here)


def _train(config: TrainConfig, resume: bool, watchers: Iterable[Watcher], group: Group) -> dict[str, Any]:
    config.validate()
    path = group.told(Path(config.run_dir) if config.run_dir else default_run_dir(config))
    full, lines = group.told(choose(config, path if resume else None, group) if group.main else (config, []))
    device, chosen = group.device(full.device), {name: getattr(full, name) for name in CHOSEN}
    everyone = Watchers([*watchers, *load_callbacks(config.callbacks or ())] if group.main else ())
    for line in (*config.notes, *lines):
        everyone.message(line)
    everyone.raise_failed()
    with group.first_on_each_machine():  # before the folder: without data there is no run
        task = tasks.find(config.task)(full, group, everyone.message)
    if warning := long_warmup(full, task):
        everyone.message(warning)
    checkpoint_bytes = check_resources(full, task, device, path, resume=resume) if group.main else 0
    return execute(
        lambda run, everyone: Trainer(full, run, device, everyone, task, group),
        config,
        path=path,
        device=device,
        resume=resume,
        defaults=TrainConfig().to_dict(),
        chosen=chosen,
        watchers=everyone.members,
        threads=chosen["threads"],
        info={"checkpoint_bytes": checkpoint_bytes},
        program="asgc-sup",
        launcher=group.launcher,
        agreement=group,
    )


def schedule_of(config: TrainConfig, task: Task) -> Schedule:
    """When what is due in the run of a configuration, in updates."""
    epoch, total = task.order.updates_per_epoch, updates_of(config, task)
    return Schedule(
        total=total,
        stride=1,
        log=config.log_interval,
        evaluation=min(config.evaluation.interval or epoch, total),
        checkpoint=config.checkpoint_interval or epoch,
    )


def _summarized(scores: Scores) -> dict[str, Any]:
    return {"score": scores.score, **scores.values, **scores.summary}


class Trainer:
    """The state of one run; `evaluation.runs.trainer_protocol.Trainer` says what its methods do."""

    def __init__(
        self, config: TrainConfig, run: RunFolder, device: torch.device, watchers: Watchers, task: Task, group: Group
    ) -> None:
        self.config, self.device, self.task, self.group = config, device, task, group
        self.schedule = schedule_of(config, task)
        self.step = 0  # updates so far
        self._run, self._watchers = run, watchers
        seeding.seed_all(seeding.derive(config.seed, "global"))
        self.learner = backends.learner_class(config)(config, task, device, group, self.schedule.total)
        if not group.main:  # the same model, but dropout of its own
            seeding.seed_all(seeding.derive(config.seed, "global", group.rank))
        self._say_what_several_processes_mean()
        self._means = IntervalMeans()
        self._stream: Stream | None = None
        self._training_s = 0.0  # of the interval
        self._recorder: Recorder | None = None
        if config.gradients.enabled and group.main and not self.learner.sharded:
            self._recorder = Recorder(run.path / recorder.FOLDER, self.learner, config.gradients.interval)
            watchers.members.append(self._recorder)
        self.learner.around_step = self._around_step
        self._curvature = Curvature(config.curvature, run.path, config.seed, watchers.message, watchers.evaluating)
        self._skipped: dict[str, list[int]] = {}  # samples that some process could not read
        self._contents = task.contents() if group.main else {}
        if group.main:
            task.keep(run.path)

    @property
    def samples(self) -> int:
        return self.task.order.samples(self.step)

    @property
    def updates(self) -> int:
        return self.step

    def start(self) -> None:
        """Nothing to be done: the stream of data opens at the first update of a session."""

    def advance(self) -> dict[str, dict[str, float]]:
        """One update."""
        started = time.monotonic()
        if self._stream is None:
            workers = data_workers(self.config, self.task, self.group)
            self._stream = Stream(self.task, self.group, self.device, self.step, self.schedule.total, workers)
        batches, items = self._stream.next()
        self._means.add(self.learner.update(batches, items))
        self.step += 1
        if self.step % CLIPPING_EVERY == 0:
            self._means.add(clipping_on_device(self.learner.optimizer))
        self._training_s += time.monotonic() - started
        if self.schedule.due(self.step, self.config.keep_models):
            self._keep_model()
        return {}

    def _say_what_several_processes_mean(self) -> None:
        config, ranks = self.config, self.group.ranks
        batch_norms = [one for one in self.learner.model.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
        if ranks > 1 and any(not isinstance(one, nn.SyncBatchNorm) for one in batch_norms):
            self._watchers.message(f"batch normalization: each of {ranks} processes has its own samples' statistics")
        if config.sharded and ranks == 1:
            self._watchers.message("--sharded: there is one process, so nothing is spread")
        if ranks > 1 and config.curvature.every is not None:
            self._watchers.message("--curvature.every: not with several processes")
        if self.learner.sharded and config.gradients.enabled:
            self._watchers.message("--sharded: gradients are not recorded")

    def _around_step(self) -> AbstractContextManager[None]:
        return nullcontext() if self._recorder is None else self._recorder.around_step(self.samples, self.step)

    def _keep_model(self) -> None:
        self.gather()
        if not self.group.main:
            return
        path = model_path(self._run.path, self.step)
        try:
            path.parent.mkdir(exist_ok=True)
            with atomic_path(path) as temporary:
                self.save_model(temporary)
        except (OSError, RuntimeError) as error:  # torch meets a full disk as a RuntimeError
            self._watchers.message(f"the model of step {self.step:,} is not kept: {reason(error)}")

    # What is told ---------------------------------------------------------------------------------------------------

    def training_values(self) -> dict[str, float]:
        values = self._means.take() | self.learner.lr_schedule.values()
        if self._stream is not None and self._training_s > 0:
            values["data_wait"] = self._stream.waited_s / self._training_s
            self._stream.waited_s = self._training_s = 0.0
        return values | {"epoch": self.step / self.task.order.updates_per_epoch}

    def progress(self) -> dict[str, Any]:
        return {}

    def info(self) -> dict[str, Any]:
        config = self.config
        return {
            "task": config.task,
            "data": config.data.name,
            "model": config.model.name,
            "optimizer": config.optimizer.name,
            "device": str(self.device),
            "precision": config.precision,
            "threads": torch.get_num_threads(),
            "seed": config.seed,
            "total_steps": self.schedule.total,
            "run_dir": str(self._run.path),
            "parameters": sum(p.numel() for p in self.learner.model.parameters()),
            "columns": (*COLUMNS, *self.task.columns),
        }

    def evaluate(self, number: int, *, final: bool) -> EvaluationResult:
        splits = [VALIDATION, *([TRAIN_SUBSET] if self.config.evaluation.train_subset else [])]
        splits += self.task.others if final else ()
        self.task.updates = self.step
        with self.learner.evaluated() as model:
            found = {
                split: self.task.evaluate(model, split, final=final, tell=self._watchers.evaluating) for split in splits
            }
        validation = found[VALIDATION]
        others = {
            {TRAIN_SUBSET: TRAIN_EVALUATION}.get(split, split): {SCORE: scores.score, **scores.values}
            for split, scores in found.items()
            if split != VALIDATION
        }
        if self.group.ranks == 1 and self._curvature.due(number, final=final):
            with training_loss(self.learner, self.task, self.step, self._curvature.samples) as problem:
                others[CURVATURE] = self._curvature.look(self.step, problem, self.learner.optimizer)
        compared = {} if validation.compared is None else {COMPARED_SCORE: validation.compared}
        return EvaluationResult(
            score=validation.score,
            words=validation.words,
            values=dict(validation.values) | compared,
            others=others,
            summary={"mean_score": validation.score, **validation.values, **validation.summary}
            | {split: _summarized(found[split]) for split in self.task.others if final}
            | (self.task.summary() if final else {}),
        )

    def measures(self) -> dict[str, Any]:
        from asgc import __version__

        settings, config = self.config.evaluation, self.config
        about = {"task": config.task, "data": config.data.name, **self.task.signature()}
        return {
            "target": self.task.target if settings.target is None else settings.target,
            "last_k": settings.last_k,
            "signature": about | {"seed": config.seed, "version": __version__},
        }

    # Checkpoints ----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        options = resumed.options_of(self.config)
        own = {"means": self._means.state_dict(), "data": self._data(), "options": options, "skipped": self._skipped}
        return self.learner.state_dict() | own

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        known = state["data"]  # without contents, where an earlier version saved
        differ = [name for name, value in self._data().items() if known.get(name, value) != value]
        if other := self.group.told(differ):  # the main process knows the contents
            raise UserError(
                f"{self.config.data.name} is not the data that {self._run.path} was begun with (other "
                f"{' and '.join(other)}): give it that, or train anew in another --run-dir"
            )
        self.learner.load_state_dict(state)
        self._means.load_state_dict(state["means"])
        self.task.skip(state.get("skipped", {}))
        before, ranks = state.get("options", {}), 1 + len(state.get("other_rngs", ()))
        if line := resumed.said(before, self.config, ranks, self.group.ranks, self.learner.model):
            self._watchers.message(line)

    def _data(self) -> dict[str, Any]:
        """What a run cannot be resumed without."""
        order = self.task.order
        number = order.samples(order.updates_per_epoch)
        return self.task.facts() | {"number of training samples": number} | self._contents

    @property
    def loads_on(self) -> torch.device:
        """A sharded model need not fit on one device."""
        return torch.device("cpu") if self.learner.sharded else self.device

    def gather(self) -> None:
        self.learner.gather()
        self._skipped = united(self.group.gathered(self.task.skipped()))

    def save(self, folder: Path) -> None:
        """Nothing is too large for `state_dict`."""

    def load(self, folder: Path) -> None:
        """Nothing was."""

    def save_model(self, path: Path) -> None:
        save(path, self.learner.weights(), self.task.facts(), self.step)

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
