"""The loop that all trainers share: a run's folder, schedule, signals, evaluations, checkpoints, watchers, its end.

A trainer is its `advance` and its state. `execute` does the rest:

    summary = execute(make_trainer, config, path=path, device="cpu", resume=False, watchers=[make_display()])

Resumed is uninterrupted, wherever a run was stopped: a checkpoint changes nothing, and holds everything that the rest
of the run depends on. So checkpoints may come by the clock as well.

Several processes may train one model (`agreement`): the main one holds the folder and decides, the others follow.
"""

from __future__ import annotations

import contextlib
import shlex
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from evaluation.cli.errors import UserError, reason
from evaluation.cli.user_code import UserCodeError
from evaluation.files import atomic_path, atomic_write, is_write_error
from evaluation.runs import run_metrics, seeding
from evaluation.runs.agreement import Agreement, Alone
from evaluation.runs.checkpoint import Checkpoint
from evaluation.runs.clock import Clock
from evaluation.runs.followed_run import FollowedRun
from evaluation.runs.hardware import keep_freed_memory, torch_threads
from evaluation.runs.run_folder import MODEL, PROVENANCE, RunFolder, read_metrics
from evaluation.runs.run_metrics import EVALUATION, EVALUATION_SECONDS, SCORE, TRAIN_EVALUATION
from evaluation.runs.stopping import Left, stop_on_signal
from evaluation.runs.trainer_protocol import EvaluationResult, RunConfig, Trainer
from evaluation.runs.watchers import BestModel, Evaluated, Watcher, Watchers

STATE, BEST_MODEL = "state.pt", "best.pt"
TRACEBACK = "traceback.txt"  # of what the user's code raised, last
TRAINING = "train"  # split of what is logged while training
# Between a run and its resume. They do not change its numbers, `threads` but the order of sums; `device` does, where a
# machine is no longer there, and `device_batch` and `sharded` do where there is dropout or batch normalization: the
# trainer says so.
MAY_CHANGE = (
    *("tensorboard", "track", "checkpoint_interval", "checkpoint_minutes", "device", "threads"),
    *("callbacks", "env.patience", "env.processes"),
    *("cuda_graphs", "profile"),
    *("data.workers", "data.root", "device_batch", "sharded"),
)
SAVING_SHARE = 0.02  # of the time, at most, goes into checkpoints that are due by the clock
TELL_EVERY_S = 0.25  # between two calls of the watchers' `advanced`


class Interrupted(Exception):
    """Training was stopped by Ctrl-C, SIGTERM or SIGHUP after saving; `run` is the folder to resume."""

    def __init__(self, program: str, run: Path, step: int) -> None:
        super().__init__(f"stopped at step {step:,} and saved; resume with: {_again(program, run)}")
        self.run = run
        self.step = step


def execute(
    make: Callable[[RunFolder, Watchers], Trainer],
    config: RunConfig,
    *,
    path: Path,
    device: torch.device,
    resume: bool = False,
    defaults: Mapping[str, Any] | None = None,
    chosen: Mapping[str, Any] | None = None,
    watchers: Iterable[Watcher] = (),
    threads: int = 1,
    info: Mapping[str, Any] | None = None,
    program: str = "asgc-rl",
    launcher: str | None = None,
    agreement: Agreement | None = None,
) -> dict[str, Any]:
    """Train a run from its start, or from its newest checkpoint, to its end; returns what summary.json holds.

    Args:
        make: makes the trainer for a folder; it tells the watchers when its loss changes, and may add some of its own.
        path: the run folder.
        device: recorded in the provenance.
        resume: go on with the run in `path`.
        defaults, chosen: as of `RunFolder`.
        watchers: display and callbacks; closed at the end.
        threads: torch's.
        info: shown at the start beside the trainer's own.
        program: whose `train --resume` and `eval` the messages name; `launcher`: what `train --resume` is said to in
            its place.
        agreement: with the other processes that train this model, all of which call this function.

    Raises:
        UserError: as `RunFolder`.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP; a checkpoint was saved.
    """
    everyone, agreement = Watchers(watchers), agreement or Alone()
    keep_freed_memory()

    def opened() -> RunFolder:
        if agreement.rank > 0:
            return FollowedRun(path, agreement.told(None))
        run = RunFolder(
            path,
            config.to_dict() | {"run_dir": None},  # the file can be run again, and the folder be moved
            seeds={"seed": config.seed},
            device=str(device),
            resume=resume,
            ignore=MAY_CHANGE,
            defaults=defaults,
            chosen=chosen,
            tensorboard=config.tensorboard,
            track=config.track,
            message=everyone.message,
        )
        try:
            agreement.told(run.checkpoint)
        except BaseException:
            run.close()
            raise
        return run

    with torch_threads(threads), opened() as run:  # threads first: the provenance notes them
        if agreement.rank == 0:
            everyone.members += [*run.watchers.members, BestModel(run.path / BEST_MODEL, everyone.message)]
        run.watchers = everyone
        trainer = make(run, everyone)
        try:
            names = [member.name for member in everyone.members if member.name]
            if len(names) > len(set(names)):
                raise ValueError(f"watchers that have a state need names of their own, not {', '.join(names)}")
            loop = _Loop(run, trainer, everyone, config, agreement, (program, launcher or program))
            summary = loop.run(trainer.info() | dict(info or {}))
        finally:
            trainer.close()
        everyone.raise_failed()  # by what is told at the end
        return summary


class _Loop:
    """One session of a run."""

    def __init__(
        self,
        run: RunFolder,
        trainer: Trainer,
        watchers: Watchers,
        config: RunConfig,
        agreement: Agreement,
        programs: tuple[str, str],
    ) -> None:
        self.run_folder, self.trainer, self.watchers, self.agreement = run, trainer, watchers, agreement
        self.program, self.launcher = programs
        self.clock = Clock()
        self.evaluations = 0
        self.evaluation_due = False  # at the present step, and not made yet
        self.last_score: float | None = None
        self._seed, self._patience = config.seed, 60 * config.checkpoint_minutes
        self._saved, self._saving = time.monotonic(), 0.0  # when the last checkpoint was, and the seconds it took
        self._told = 0.0
        self._updates = 0  # that callbacks know of

    def run(self, info: Mapping[str, Any]) -> dict[str, Any]:
        """To the end of the run; returns the summary."""
        self._whole = self._finished = False  # nothing to be saved yet
        try:
            return self._run(info)
        except UserCodeError as error:
            raise self._left(error) from error

    def _run(self, info: Mapping[str, Any]) -> dict[str, Any]:
        trainer, schedule = self.trainer, self.trainer.schedule
        if self.run_folder.checkpoint is not None:
            self._restore(self.run_folder.checkpoint, info)
        else:
            self.watchers.start(info)
            self.watchers.load_state_dict({})
            trainer.start()
        self._whole = True
        self._updates = getattr(trainer, "updates", 0)
        with stop_on_signal(self.watchers, self.agreement) as stop:
            while not schedule.finished(trainer.step):
                if not self.evaluation_due:  # else the session before was stopped in it, or before it
                    self._advance()
                    self.watchers.raise_failed()
                asked, overdue = self.agreement.any(stop.asked, self._overdue())
                if self.evaluation_due and not asked:
                    self._evaluate()
                    asked, overdue = self.agreement.any(stop.asked, self._overdue())
                step = trainer.step
                due = schedule.finished(step) or schedule.due(step, schedule.checkpoint) or overdue
                if asked or due:
                    self._checkpoint(needed=asked)
                self.watchers.raise_failed()
                if asked:
                    raise Interrupted(self.launcher, self.run_folder.path, step)
            summary = self._finish()
            self.watchers.raise_failed()
            return summary

    def _advance(self) -> None:
        trainer, schedule = self.trainer, self.trainer.schedule
        for split, values in trainer.advance().items():
            self._log(split, values)
        step = trainer.step
        logs = schedule.logs(step)
        self.evaluation_due = schedule.due(step, schedule.evaluation) and not schedule.finished(step)
        now = time.monotonic()
        if logs or self.evaluation_due or now - self._told >= TELL_EVERY_S:
            self._told = now
            self.watchers.advanced(step, self.clock.training_s, self.clock.wall_s)
        if logs:
            self._report()
        self.watchers.stepped(step, getattr(trainer, "result", None))
        if (updates := getattr(trainer, "updates", 0)) > self._updates:
            self._updates = updates
            self.watchers.learned(updates)

    def _log(self, split: str, values: Mapping[str, float]) -> None:
        self.run_folder.log(self.trainer.step, self.trainer.samples, self.clock.wall_s, split, values)

    def _report(self) -> None:
        values = self.trainer.training_values()
        self._log(TRAINING, values)
        more = {"step": self.trainer.step, "training_s": self.clock.training_s, "evaluation": self.last_score}
        self.watchers.update(values | self.trainer.progress() | more)

    def _evaluate(self, final: bool = False) -> EvaluationResult | None:
        """Evaluate; None if a signal ended it. Then it is as if it had not begun: the resume makes it."""
        trainer, clock, rng = self.trainer, self.clock.state_dict(), seeding.rng_state()
        try:
            with self.clock.evaluation():
                result = trainer.evaluate(self.evaluations, final=final)
        except (Left, UserCodeError) as left:
            self.clock.load_state_dict(clock)
            seeding.set_rng_state(rng)
            if isinstance(left, UserCodeError):
                raise
            return None
        self.evaluation_due = False
        self.evaluations += 1
        self.last_score = result.score
        seconds = {EVALUATION_SECONDS: self.clock.evaluation_s - clock["evaluation_s"]}
        self._log(EVALUATION, {SCORE: result.score, **result.values, **seconds})
        for split, values in result.others.items():
            self._log(split, values)
        self._gather()
        self.watchers.message(f"step {trainer.step:,}: score {result.score:.2f} ({result.words})")
        self.watchers.evaluated(Evaluated(trainer.step, result.score, trainer.save_model))
        return result

    def _finish(self) -> dict[str, Any]:
        """The last evaluation, the model, the summary; the checkpoints go."""
        result = self._evaluate(final=True)
        if result is None:  # the last step has been saved
            raise Interrupted(self.launcher, self.run_folder.path, self.trainer.step)
        summary = self._completed(result) if self.agreement.rank == 0 else {}
        return self.agreement.told(summary)

    def _completed(self, result: EvaluationResult) -> dict[str, Any]:
        run = self.run_folder
        run.flush()
        evaluations = run_metrics.evaluations_from_rows(read_metrics(run.path), EVALUATION, SCORE, TRAIN_EVALUATION)
        summary = run_metrics.summarize(evaluations, **self.trainer.measures())
        summary |= {**result.summary, "wall_s": self.clock.wall_s}
        with atomic_path(run.path / MODEL) as path:
            self.trainer.save_model(path)
        run.finish(summary)
        self._finished = True
        again = f"evaluate it again with: {self.program} eval {shlex.quote(str(run.path))}"
        self.watchers.message(f"finished: score {result.score:.2f} ({result.words}); {again}")
        return summary

    # Checkpoints ----------------------------------------------------------------------------------------------------

    def _overdue(self) -> bool:
        """Whether a checkpoint is due by the clock: the main process's."""
        return self.agreement.rank == 0 and time.monotonic() - self._saved >= max(
            self._patience, self._saving / SAVING_SHARE
        )

    def _checkpoint(self, needed: bool) -> None:
        """Save. Where that fails, say so and go on, unless it is `needed`: another time there may be room."""
        started = time.monotonic()
        try:
            self._save()
        except (UserError, OSError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            if needed or cause is None or not is_write_error(cause):
                raise
            kept = self.run_folder.checkpoint
            last = "there is none yet" if kept is None else f"that of step {kept.step:,} is intact"
            self.watchers.message(
                f"warning: no checkpoint at step {self.trainer.step:,} ({reason(cause)}): the run goes on, {last}; "
                "free some space, it is tried again at the next interval"
            )
        self._saved = time.monotonic()
        self._saving = self._saved - started

    def _gather(self) -> None:
        """Bring what the processes hold together to the main one, which saves."""
        if (gather := getattr(self.trainer, "gather", None)) is not None:
            gather()

    def _save(self) -> None:
        self._gather()
        generators = self.agreement.gathered(seeding.rng_state())
        if self.agreement.rank > 0:
            return
        state = self.trainer.state_dict() | {
            "step": self.trainer.step,
            "evaluations": self.evaluations,
            "evaluation_due": self.evaluation_due,
            "last_score": self.last_score,
            "clock": self.clock.state_dict(),
            "global_rng": generators[0],
            "other_rngs": generators[1:],
            "watchers": self.watchers.state_dict(),
        }

        def write(folder: Path) -> None:
            torch.save(state, folder / STATE)
            self.trainer.save_model(folder / MODEL)
            self.trainer.save(folder)

        saved = self.run_folder.save_checkpoint(self.trainer.step, write)
        self.watchers.saved(self.trainer.step, saved.path)

    def _left(self, error: UserCodeError) -> UserError:
        """The user's code has failed: write down where, save what there is, and say so."""
        words, run = [str(error)], self.run_folder.path
        with contextlib.suppress(OSError):
            atomic_write(run / TRACEBACK, "".join(traceback.format_exception(error.__cause__ or error)))
            words.append(f"the traceback is in {run / TRACEBACK}")
        if self._finished:
            return UserError("; ".join([*words, "the run is finished all the same"]))
        step, kept = self.trainer.step, self.run_folder.checkpoint
        stands = "there is none before it" if kept is None else f"the checkpoint of step {kept.step:,} stands"
        if self._whole and getattr(self.trainer, "midway", False):
            words.append(f"step {step:,} was left in its middle and is not saved: {stands}")
        elif self._whole and self.agreement.ranks > 1:  # the others are elsewhere, and what they hold is needed
            words.append(f"step {step:,} is not saved: {stands}")
        elif self._whole:
            try:
                self._save()
            except Exception as failure:  # the first error is what counts
                words.append(f"step {step:,} could not be saved ({reason(failure)}): {stands}")
            else:
                words.append(f"saved at step {step:,}")
        words.append(f"go on with: {_again(self.launcher, run)}")
        return UserError("; ".join(words))

    def _restore(self, checkpoint: Checkpoint, info: Mapping[str, Any]) -> None:
        trainer, where = self.trainer, getattr(self.trainer, "loads_on", self.trainer.device)
        if not (checkpoint.path / STATE).is_file():
            raise UserError(
                f"{checkpoint.path} is not here: all processes need the run folder, on a disk that they share"
            )
        state = torch.load(checkpoint.path / STATE, map_location=where, weights_only=False)
        trainer.step = state["step"]
        self.evaluations, self.last_score = state["evaluations"], state["last_score"]
        self.evaluation_due = state.get("evaluation_due", False)  # versions before it saved after an evaluation
        self.watchers.start({**info, "step": trainer.step, "wall_s": state["clock"]["wall_s"]})
        try:
            trainer.load_state_dict(state)
            # Before `load`, which may have to tell them something. Versions before the watchers kept the recorder's
            # state beside the rest.
            self.watchers.load_state_dict(state.get("watchers") or {"recording": state.get("recording", {})})
            trainer.load(checkpoint.path)
        except torch.OutOfMemoryError:  # a RuntimeError, but none of the checkpoint's
            raise
        except (ValueError, KeyError, RuntimeError) as error:
            raise UserError(
                f"{checkpoint.path} does not fit this version of the program ({reason(error)}): go on with the version "
                f"that {self.run_folder.path / PROVENANCE} names, or start over in another --run-dir"
            ) from error
        self._restore_generators([state["global_rng"], *state.get("other_rngs", [])])
        self.clock.load_state_dict(state["clock"])  # last: the time that resuming takes is none of the run's
        self.watchers.message(f"resumed at step {trainer.step:,}")

    def _restore_generators(self, saved: list[dict[str, Any]]) -> None:
        rank, ranks = self.agreement.rank, self.agreement.ranks
        if len(saved) == ranks:
            return seeding.set_rng_state(saved[rank])
        # Of another number of processes: the trainer says what that means.
        seeding.seed_all(seeding.derive(self._seed, "global", self.trainer.step, rank))


def _again(program: str, run: Path) -> str:
    return f"{program} train --resume {shlex.quote(str(run))}"
