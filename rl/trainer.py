"""Training an agent: environments, an algorithm, evaluations. The loop around it is `evaluation.runs.loop`'s."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from evaluation.files import write_json
from evaluation.runs import seeding
from evaluation.runs.loop import EvaluationResult, execute
from evaluation.runs.run_folder import RunFolder
from evaluation.runs.run_metrics import SCORE_STD
from evaluation.runs.schedule import Schedule
from evaluation.runs.watchers import Column, Watcher, Watchers
from rl import algorithms, tasks
from rl.algorithms.algorithm import Algorithm, Setup
from rl.config import TrainConfig
from rl.device import current, deterministic
from rl.evaluate import evaluate, signature
from rl.preflight import CHOSEN, check_resources, choose, default_run_dir, memory_named
from rl.profile import ACT, ENV, LEARN, OTHER, NoProfile, Profile
from rl.recording import DIAGNOSTICS, Recording
from rl.segment import Segment
from rl.step import Environments, EpisodeTracker

RECENT_GAMES = 20
PROFILE = "profile.json"  # in the run folder
COLUMNS = (Column("recent_return", "return", "return", ".2f"), Column("evaluation", "evaluation", "evaluation", ".2f"))


def train(config: TrainConfig, *, resume: bool = False, watchers: Iterable[Watcher] = ()) -> dict[str, Any]:
    """Train an agent and return the run's summary (what `summary.json` holds).

    Args:
        config: the run; see `TrainConfig.preset`.
        resume: go on with the run in `config.run_dir` from its newest checkpoint.
        watchers: a display (`evaluation.runs.display.make_display()`; silent without one), callbacks of your own.

    Raises:
        UserError: something about the settings or the machine that the user can mend, in one line.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP; a checkpoint was saved.
    """
    config.validate()
    with deterministic(config.deterministic), memory_named(config):
        return _train(config, resume, watchers)


def _train(config: TrainConfig, resume: bool, watchers: Iterable[Watcher]) -> dict[str, Any]:
    task = tasks.find(config.game)
    path = Path(config.run_dir) if config.run_dir else default_run_dir(config)
    full, lines = choose(config, path if resume else None)
    device, chosen = torch.device(full.device), {name: getattr(full, name) for name in CHOSEN}
    checkpoint_bytes = check_resources(full, device, path, resume=resume)
    task.check(config.env)
    everyone = Watchers(watchers)
    for line in (*config.notes, *lines):
        everyone.message(line)
    with current(device):
        return execute(
            lambda run, everyone: Trainer(full, run, device, everyone),
            config,
            path=path,
            device=device,
            resume=resume,
            defaults=TrainConfig().to_dict(),
            chosen=chosen,
            watchers=everyone.members,
            threads=chosen["threads"],
            info={"checkpoint_bytes": checkpoint_bytes},
        )


def schedule_of(config: TrainConfig) -> Schedule:
    """When what is due in the run of a configuration, in environment steps."""
    return Schedule(
        total=config.total_steps,
        stride=config.env.num_envs,
        log=config.log_interval,
        evaluation=config.evaluation.interval,
        checkpoint=config.checkpoint_interval,
        learning_starts=config.learns_after,
        train_every=config.train_every,
        gradient_steps=config.gradient_steps,
        shift=config.target_interval,
        segment=config.segment_steps,
    )


class Trainer:
    """The state of one run; `evaluation.runs.loop.Trainer` says what its methods do."""

    def __init__(self, config: TrainConfig, run: RunFolder, device: torch.device, watchers: Watchers) -> None:
        self.config, self.device, self.schedule = config, device, schedule_of(config)
        self._run = run
        self.task = tasks.find(config.game)
        self.step = 0  # environment steps so far
        seeding.seed_all(seeding.derive(config.seed, "global"))
        self.segment = Segment(self._make_envs)
        spec, num_actions = self.task.observation(config.env), self.segment.envs.num_actions
        self.profile = Profile(device) if config.profile else NoProfile()
        setup = Setup(config, spec, num_actions, device, self.schedule, watchers.shifted, self.profile)
        self.algorithm: Algorithm = algorithms.find(config.algorithm)(setup)
        self.recording = Recording(config, run.path, self.algorithm, self.schedule)
        self.algorithm.learner.around_step = lambda part: self.recording.around_step(
            self.step, self.algorithm.updates, part
        )
        self.algorithm.learner.watched = lambda: self.recording.watches(self.algorithm.updates)
        watchers.members.append(self.recording)
        self.tracker = EpisodeTracker(config.env.num_envs, window=RECENT_GAMES)
        self._watchers = watchers

    @property
    def samples(self) -> int:
        return self.algorithm.samples

    def start(self) -> None:
        """New games in all environments."""
        self.segment.start()
        self.algorithm.start(self.segment.observation)

    def advance(self) -> dict[str, dict[str, float]]:
        """One step of all environments and the learning that is due with it."""
        with self.profile(OTHER):
            return self._advance()

    def _advance(self) -> dict[str, dict[str, float]]:
        with self.profile(ACT):
            actions = self.algorithm.act(self.segment.observation, self.step)
        with self.profile(ENV):
            result = self.segment.step(actions)
        self.tracker.add(result)
        self.step += self.config.env.num_envs
        self.profile.steps += self.config.env.num_envs
        with self.profile(LEARN):
            self.algorithm.advance(actions, result, self.step)
        if self.schedule.due(self.step, self.schedule.segment) and not self.schedule.finished(self.step):
            self._renew(self.segment.number + 1)
        return self.recording.take()

    def _make_envs(self, segment: int) -> Environments:
        env = self.config.env
        seed = seeding.derive(self.config.seed, "environments", segment)
        return self.task.make(env, num_envs=env.num_envs, seed=seed, training=True)

    def _renew(self, segment: int) -> None:
        """Other environments; the games that ran in the present ones are cut and enter no return."""
        self.algorithm.cut()
        self.tracker.cut()
        self.segment.renew(segment)
        self.start()

    # What is told ---------------------------------------------------------------------------------------------------

    def training_values(self) -> dict[str, float]:
        return self.tracker.take() | self.algorithm.training_values(self.step)

    def progress(self) -> dict[str, Any]:
        return {"recent_return": self.tracker.recent_mean()} | self.algorithm.progress()

    def info(self) -> dict[str, Any]:
        config, learner = self.config, self.algorithm.learner
        return {
            "game": config.game,
            "protocol": config.env.protocol,
            "optimizer": config.optimizer.name,
            "device": str(self.device),
            "precision": learner.precision,
            "threads": torch.get_num_threads(),
            "seed": config.seed,
            "total_steps": config.total_steps,
            "run_dir": str(self._run.path),
            "parameters": sum(p.numel() for p in learner.network.parameters()),
            "columns": (*COLUMNS, *self.algorithm.columns),
        }

    def evaluate(self, number: int, *, final: bool) -> EvaluationResult:
        config, settings = self.config, self.config.evaluation
        episodes = settings.final_episodes if final else settings.episodes
        audit = self.recording.audit()
        scores = evaluate(
            audit.act if audit else self.algorithm.learner.act,
            config.game,
            config.env,
            episodes=episodes,
            seed=seeding.derive(config.seed, "evaluation", number),
            epsilon=settings.epsilon,
            watch=audit.watch if audit else None,
            tell=self._watchers.evaluating,
        )
        mean = float(scores.mean())
        return EvaluationResult(
            score=mean,
            words=f"mean of {episodes} evaluation games",
            values={SCORE_STD: float(scores.std()), "games": episodes},
            others={DIAGNOSTICS: self.recording.audited(audit, self.algorithm.updates)},
            summary={"scores": scores.tolist(), "mean_score": mean},
        )

    def measures(self) -> dict[str, Any]:
        config, settings = self.config, self.config.evaluation
        signed = signature(
            config.game, config.env, episodes=settings.episodes, seed=config.seed, epsilon=settings.epsilon
        )
        return {
            "target": self.task.target if settings.target is None else settings.target,
            "last_k": settings.last_k,
            "signature": signed | {"final_episodes": settings.final_episodes},
        }

    # Checkpoints ----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return self.algorithm.state_dict() | {"segment": self.segment.number, "tracker": self.tracker.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.algorithm.load_state_dict(state)
        # Versions before segments kept the finished games of the interval elsewhere.
        self.tracker.load_state_dict({"interval": state["interval"].get("scores", ())} | state["tracker"])
        self._saved_segment = state["segment"]

    def save(self, folder: Path) -> None:
        """Write the algorithm's memory and the environments' actions."""
        self.algorithm.save(folder)
        self.segment.save(folder)

    def load(self, folder: Path) -> None:
        """Read the memory, and play the actions again."""
        self.algorithm.load(folder)
        if not self.segment.load(folder, self._saved_segment, self._watchers.message):
            self._watchers.message(
                "the environments do not come back to where they were (saved by another version of this package or of "
                "EnvPool?): new games begin, so this is not the uninterrupted run's curve any more"
            )
            self._renew(self._saved_segment + 1)
            self._run.note(new_games_at=self.step)

    def save_model(self, path: Path) -> None:
        network = self.algorithm.learner.network.state_dict()
        torch.save({"network": network, "num_actions": self.segment.envs.num_actions, "step": self.step}, path)

    def close(self) -> None:
        self.segment.close()
        if self.profile.steps and self.config.profile:
            for line in self.profile.lines():
                self._watchers.message(line)
            write_json(self._run.path / PROFILE, self.profile.summary())
