"""Training a DQN agent: the loop, and the run folder around it."""

from __future__ import annotations

import contextlib
import functools
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from evaluation.files import atomic_path
from evaluation.runs import run_metrics as metrics
from evaluation.runs import seeding
from evaluation.runs.checkpoint import Checkpoint
from evaluation.runs.clock import Clock
from evaluation.runs.run_folder import MODEL, RunFolder, read_metrics
from rl import tasks
from rl.algorithms.dqn import DQN, select_device
from rl.config import ExplorationConfig, TrainConfig
from rl.evaluate import evaluate, signature
from rl.preflight import check_resources, default_run_dir, enough_threads
from rl.progress import Display, IntervalStatistics, Silent, clipping
from rl.recording import DIAGNOSTICS, Recording
from rl.replay.ring import FrameReplay
from rl.step import Environments, EpisodeTracker

REPLAY = "replay"
STATE = "state.pt"
EVALUATION, SCORE = "eval", "score"  # the split and name of an evaluation's mean score
RECENT_GAMES = 20
TRANSITIONS_AT_ONCE = 512  # sampled and valued by the target network together
CLIPPING_EVERY = 16  # updates between two looks at the share of clipped gradients
STANDARDIZATION_FRAMES = 2048
MAY_CHANGE = ("tensorboard", "track")  # between a run and its resume: they do not change the numbers


class Interrupted(Exception):
    """Training was stopped by Ctrl-C or SIGTERM after saving; `run` is the folder to resume."""

    def __init__(self, run: Path, step: int) -> None:
        super().__init__(
            f"stopped at step {step:,} and saved; resume with: asgc-rl train --resume {run} "
            "(the extra checkpoint re-created the environments, so this is not the uninterrupted run's curve any more)"
        )
        self.run = run
        self.step = step


def epsilon_at(step: int, config: ExplorationConfig) -> float:
    """Linear epsilon schedule: `start` at step 0, `end` from `steps` on."""
    fraction = min(step / config.steps, 1.0)
    return config.start + fraction * (config.end - config.start)


def passed(step: int, advance: int, interval: int) -> bool:
    """Whether the last `advance` environment steps up to `step` reached a multiple of `interval`."""
    return step // interval > (step - advance) // interval


def train(config: TrainConfig, *, resume: bool = False, display: Display | None = None) -> dict[str, Any]:
    """Train a DQN agent and return the run's summary (what `summary.json` holds).

    Args:
        config: the run; see `TrainConfig.preset`.
        resume: go on with the run in `config.run_dir` from its newest checkpoint.
        display: where progress is shown; silent by default.

    Raises:
        UserError: something about the settings or the machine that the user can mend, in one line.
        Interrupted: Ctrl-C or SIGTERM; a checkpoint was saved.
    """
    config.validate()
    display = display or Silent()
    device = select_device(config.device)
    path = Path(config.run_dir) if config.run_dir else default_run_dir(config)
    checkpoint_bytes = check_resources(config, device, path)
    tasks.find(config.game).check(config.env)
    enter = functools.partial(RunFolder.resume, ignore=MAY_CHANGE) if resume else RunFolder.create
    with (
        enter(
            path,
            config.to_dict() | {"run_dir": None},  # the file can be run again, and the folder be moved
            seeds={"seed": config.seed},
            device=str(device),
            tensorboard=config.tensorboard,
            track=config.track,
            message=display.message,
        ) as run,
        enough_threads(config),
    ):
        trainer = Trainer(config, run, device, display)
        try:
            display.start(trainer.info() | {"checkpoint_bytes": checkpoint_bytes})
            return trainer.run()
        finally:
            display.stop()
            trainer.envs.close()


class Trainer:
    """The state of one run. Everything random comes from seeds derived from `config.seed`."""

    def __init__(self, config: TrainConfig, run: RunFolder, device: torch.device, display: Display) -> None:
        self.config = config
        self.run_folder = run
        self.display = display
        self.clock = Clock()
        self.step = 0  # environment steps so far
        self.updates = 0
        self.segment = 0  # environments are made anew at each checkpoint, with a seed made from this number
        self.evaluations = 0
        self.last_score: float | None = None
        self.rng = np.random.default_rng(seeding.derive(config.seed, "exploration"))
        self.replay_rng = np.random.default_rng(seeding.derive(config.seed, "replay"))
        seeding.seed_all(seeding.derive(config.seed, "global"))
        env = config.env
        self.task = tasks.find(config.game)
        self.envs = self._make_envs()
        spec = self.task.observation(env)
        self.learner = DQN(config, self.envs.num_actions, spec, device)
        self.replay = FrameReplay(
            config.replay_size,
            env.num_envs,
            spec.frame,
            spec.stack,
            config.n_step,
            config.gamma,
            device=device,
            dtype=spec.dtype,
        )
        self.recording = Recording(config, run.path, self.learner, self.replay)
        self.learner.around_step = lambda part: self.recording.around_step(self.step, self.updates, part)
        self.tracker = EpisodeTracker(env.num_envs, window=RECENT_GAMES)
        self.observation: NDArray[Any]  # from `start_environments` on
        self._interval = IntervalStatistics()
        self._stop = False
        if run.checkpoint is not None:
            self._restore(run.checkpoint)
        else:
            self.recording.start_over()

    # The loop ------------------------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Train up to `total_steps`; returns the summary."""
        config = self.config
        self.start_environments()
        with self._stop_on_signal():
            while self.step < config.total_steps:
                self.advance()
                first, finished = self.step == config.env.num_envs, self.step >= config.total_steps
                if first or finished or self._due(config.log_interval):
                    self._log()
                if self._due(config.evaluation.interval) and not finished:
                    self._evaluate(config.evaluation.episodes)
                if self._stop or finished or self._due(config.checkpoint_interval):
                    self._checkpoint()
                    if self._stop:
                        raise Interrupted(self.run_folder.path, self.step)
                    self.start_environments()
            return self._finish()

    def advance(self) -> None:
        """One step of all environments and the learning that is due with it."""
        actions = self.learner.act(self.observation, self._epsilon, self.rng)
        result = self.envs.step(actions)
        self.replay.add(actions, result)
        self._interval.add_scores(self.tracker.add(result))
        self.observation = result.observation
        self.step += self.envs.num_envs
        self._learn()
        if self._due(self.config.target_interval):
            self.learner.sync_target()
            self.recording.shift(self.updates)

    def start_environments(self) -> None:
        """New games in all environments, and in the replay."""
        self.observation = self.envs.reset()
        self.replay.start(self.observation)

    def _learn(self) -> None:
        """As many updates as are due: `gradient_steps` every `train_every` steps after `learning_starts`."""
        config = self.config
        due = max(0, self.step - config.learning_starts) // config.train_every * config.gradient_steps
        if self.updates == 0 < due and config.network.standardize:
            frames = self.replay.sample(STANDARDIZATION_FRAMES, self.replay_rng).observation[:, -1]
            self.learner.standardize(frames)
        at_once = max(1, TRANSITIONS_AT_ONCE // config.batch_size)
        while self.updates < due:
            count = min(due - self.updates, at_once)
            batch = self.replay.sample(count * config.batch_size, self.replay_rng)
            for values in self.learner.updates(batch, count):
                self._interval.add(values)
                if self.updates % CLIPPING_EVERY == 0:
                    self._interval.add(clipping(self.learner.optimizer))
                self.updates += 1
        for split, recorded in self.recording.take().items():
            self._write(split, recorded)

    def _due(self, interval: int) -> bool:
        return passed(self.step, self.config.env.num_envs, interval)

    # What is written ------------------------------------------------------------------------------------------------

    def _log(self) -> None:
        values = self._interval.take() | {"epsilon": self._epsilon}
        self._write("train", values)
        self.display.update(
            values
            | {
                "step": self.step,
                "updates": self.updates,
                "training_s": self.clock.training_s,
                "recent_return": self.tracker.recent_mean(),
                "replay": len(self.replay),
                "evaluation": self.last_score,
            }
        )

    def _evaluate(self, episodes: int) -> NDArray[np.float64]:
        """Play `episodes` games in environments of their own; the clock counts them as evaluation."""
        config = self.config
        before = self.clock.evaluation_s
        audit = self.recording.audit()
        with self.clock.evaluation():
            scores = evaluate(
                audit.act if audit else self.learner.act,
                config.game,
                config.env,
                episodes=episodes,
                seed=seeding.derive(config.seed, "evaluation", self.evaluations),
                epsilon=config.evaluation.epsilon,
                watch=audit.watch if audit else None,
            )
            diagnosed = self.recording.evaluated(audit, self.updates)
        self.evaluations += 1
        self.last_score = float(scores.mean())
        spread = {"score_std": float(scores.std()), "games": episodes}
        seconds = {metrics.EVALUATION_SECONDS: self.clock.evaluation_s - before}
        self._write(EVALUATION, {SCORE: self.last_score} | spread | seconds)
        self._write(DIAGNOSTICS, diagnosed)
        self.display.message(f"step {self.step:,}: score {self.last_score:.2f} (mean of {episodes} evaluation games)")
        return scores

    def _write(self, split: str, values: dict[str, float]) -> None:
        self.run_folder.log(self.step, self._samples, self.clock.wall_s, split, values)

    @property
    def _epsilon(self) -> float:
        return epsilon_at(self.step, self.config.exploration)

    @property
    def _samples(self) -> int:
        return self.updates * self.config.batch_size

    def _finish(self) -> dict[str, Any]:
        """The last evaluation, the model, the summary; the checkpoints go."""
        config = self.config
        scores = self._evaluate(config.evaluation.final_episodes)
        settings = config.evaluation
        summary = metrics.summarize(
            metrics.evaluations_from_rows(read_metrics(self.run_folder.path), EVALUATION, SCORE),
            target=self.task.target if settings.target is None else settings.target,
            last_k=settings.last_k,
            signature=signature(
                config.game,
                config.env,
                episodes=settings.episodes,
                seed=config.seed,
                epsilon=settings.epsilon,
            )
            | {"final_episodes": settings.final_episodes},
        )
        summary |= {"scores": scores.tolist(), "mean_score": float(scores.mean()), "wall_s": self.clock.wall_s}
        with atomic_path(self.run_folder.model_path) as path:
            self._save_model(path)
        self.run_folder.finish(summary)
        self.display.message(
            f"finished: score {scores.mean():.2f} (mean of {len(scores)} games); "
            f"play more with: asgc-rl eval {self.run_folder.path}"
        )
        return summary

    # Checkpoints ----------------------------------------------------------------------------------------------------

    def _checkpoint(self) -> None:
        """Save everything; the environments, which cannot be saved, are made anew, resumed or not."""
        self.replay.cut()
        self.tracker.cut()
        self.segment += 1
        self.recording.flush()
        state = {
            "step": self.step,
            "updates": self.updates,
            "segment": self.segment,
            "evaluations": self.evaluations,
            "last_score": self.last_score,
            "clock": self.clock.state_dict(),
            "interval": self._interval.state_dict(),
            "tracker": self.tracker.state_dict(),
            "rng": self.rng.bit_generator.state,
            "replay_rng": self.replay_rng.bit_generator.state,
            "global_rng": seeding.rng_state(),
            "learner": self.learner.state_dict(),
            "recording": self.recording.state_dict(),
        }

        def write(directory: Path) -> None:
            torch.save(state, directory / STATE)
            self._save_model(directory / MODEL)
            self.replay.save(directory / REPLAY)

        self.run_folder.save_checkpoint(self.step, write)
        self._renew_envs()

    def _restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint."""
        state = torch.load(checkpoint.path / STATE, map_location=self.learner.device, weights_only=False)
        self.step, self.updates, self.segment = state["step"], state["updates"], state["segment"]
        self.evaluations, self.last_score = state["evaluations"], state["last_score"]
        self.clock.load_state_dict(state["clock"])
        self._interval.load_state_dict(state["interval"])
        self.tracker.load_state_dict(state["tracker"])
        self.rng.bit_generator.state = state["rng"]
        self.replay_rng.bit_generator.state = state["replay_rng"]
        seeding.set_rng_state(state["global_rng"])
        self.learner.load_state_dict(state["learner"])
        self.recording.load_state_dict(state["recording"])
        self.replay.load(checkpoint.path / REPLAY)
        self._renew_envs()
        self.display.message(f"resumed at step {self.step:,}")

    def _save_model(self, path: Path) -> None:
        torch.save({"network": self.learner.network.state_dict(), "num_actions": self.envs.num_actions}, path)

    # Environments ---------------------------------------------------------------------------------------------------

    def _make_envs(self) -> Environments:
        seed = seeding.derive(self.config.seed, "environments", self.segment)
        env = self.config.env
        return self.task.make(env, num_envs=env.num_envs, seed=seed, training=True)

    def _renew_envs(self) -> None:
        self.envs.close()
        self.envs = self._make_envs()

    @contextlib.contextmanager
    def _stop_on_signal(self) -> Iterator[None]:
        """Let Ctrl-C and SIGTERM stop the loop after a whole step; a second one interrupts at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: object) -> None:
            if self._stop:
                raise KeyboardInterrupt
            self._stop = True
            self.display.message("stopping: saving a checkpoint (once more to stop at once, unsaved)")

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def info(self) -> dict[str, Any]:
        """What a display shows at the start."""
        config = self.config
        return {
            "game": config.game,
            "protocol": config.env.protocol,
            "optimizer": config.optimizer.name,
            "device": str(self.learner.device),
            "precision": self.learner.precision,
            "seed": config.seed,
            "total_steps": config.total_steps,
            "run_dir": str(self.run_folder.path),
            "replay_size": config.replay_size,
            "parameters": sum(p.numel() for p in self.learner.network.parameters()),
        }
