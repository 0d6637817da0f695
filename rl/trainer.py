"""Training an agent: environments, an algorithm, evaluations. The loop around it is `evaluation.runs.loop`'s."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from evaluation.cli.errors import reason
from evaluation.cli.user_code import UserCodeError
from evaluation.curvature.measure import SPLIT as CURVATURE
from evaluation.curvature.measure import Curvature
from evaluation.files import atomic_path, write_json
from evaluation.runs import seeding
from evaluation.runs.callbacks import load_callbacks
from evaluation.runs.hardware import deterministic
from evaluation.runs.kept_models import model_path
from evaluation.runs.loop import execute
from evaluation.runs.run_folder import RunFolder, read_series
from evaluation.runs.run_metrics import EVALUATION, SCORE, SCORE_STD
from evaluation.runs.schedule import Schedule
from evaluation.runs.trainer_protocol import EvaluationResult
from evaluation.runs.watchers import BestModel, Column, Watcher, Watchers
from rl import algorithms, backends, tasks
from rl.algorithms.algorithm import Algorithm, Setup
from rl.algorithms.pathologies import ValueAudit
from rl.config import TrainConfig
from rl.curvature import training_loss
from rl.device import current
from rl.evaluate import evaluate, signature
from rl.game_schedule import Stage, stage_at, stages, trained_at
from rl.preflight import CHOSEN, check_resources, choose, default_run_dir, memory_named, playing_threads
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
        watchers: a display (`evaluation.runs.display.make_display()`; silent without one), callbacks of your own
            (`rl.Callback`), besides those that `config.callbacks` names.

    Raises:
        UserError: something about the settings or the machine that the user can mend, in one line.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP; a checkpoint was saved.
    """
    config.validate()
    with deterministic(config.deterministic), memory_named(config):
        return _train(config, resume, watchers)


def _train(config: TrainConfig, resume: bool, watchers: Iterable[Watcher]) -> dict[str, Any]:
    kind = backends.trainer(config)
    task = tasks.find(config.game)
    path = Path(config.run_dir) if config.run_dir else default_run_dir(config)
    full, lines = choose(config, path if resume else None)
    device, chosen = torch.device(full.device), {name: getattr(full, name) for name in CHOSEN}
    checkpoint_bytes = check_resources(full, device, path, resume=resume)
    task.check(config.env)
    everyone = Watchers([*watchers, *load_callbacks(config.callbacks or ())])
    for line in (*config.notes, *lines):
        everyone.message(line)
    everyone.raise_failed()
    with current(device):
        return execute(
            lambda run, everyone: kind(full, run, device, everyone),
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
        segment=config.segment_steps,
        switches=tuple(stage.step for stage in stages(config)[1:]),
        **algorithms.find(config.algorithm).timing(config),
    )


class Trainer:
    """The state of one run; `evaluation.runs.trainer_protocol.Trainer` says what its methods do."""

    def __init__(self, config: TrainConfig, run: RunFolder, device: torch.device, watchers: Watchers) -> None:
        self.config, self.device, self.schedule = config, device, self._make_schedule(config)
        self._run = run
        self.task = tasks.find(config.game)
        self.step = 0  # environment steps so far
        self.midway = False
        self._stages = stages(config)
        seeding.seed_all(seeding.derive(config.seed, "global"))
        self.segment = self._make_segment()
        spec, num_actions = self.task.observation(config.env), self.segment.envs.num_actions
        self.profile = Profile(device) if config.profile else NoProfile()
        setup = Setup(config, spec, num_actions, device, self.schedule, watchers.shifted, self.profile)
        self.algorithm: Algorithm = self._make_algorithm(setup)
        self.recording = Recording(config, run.path, self.algorithm, self.schedule)
        learner = self.algorithm.learner
        learner.around_step = lambda part, ahead: self.recording.around_step(
            self.step, self.algorithm.updates + ahead, part
        )
        learner.watched = lambda count: self.recording.watches(self.algorithm.updates, count)
        watchers.members.append(self.recording)
        self._curvature = Curvature(config.curvature, run.path, config.seed, watchers.message, watchers.evaluating)
        self.tracker = EpisodeTracker(config.env.num_envs, window=RECENT_GAMES)
        self._watchers = watchers

    @property
    def samples(self) -> int:
        return self.algorithm.samples

    @property
    def updates(self) -> int:
        return self.algorithm.updates

    def start(self) -> None:
        """New games in all environments."""
        self.segment.start()
        self.algorithm.start(self.segment.observation)

    def advance(self) -> dict[str, dict[str, float]]:
        """One step of all environments, and what is due with it."""
        self.midway = True
        with self.profile(OTHER):
            values = self._advance()
        self.midway = False
        return values

    def _advance(self) -> dict[str, dict[str, float]]:
        self._play()
        self.profile.steps += self.config.env.num_envs
        if self.schedule.due(self.step, self.config.keep_models):
            self._keep_model()
        switched = self.schedule.switched(self.step)
        if (switched or self.schedule.due(self.step, self.schedule.segment)) and not self.schedule.finished(self.step):
            self._renew(self.segment.number + 1)
            if switched:
                self._switched()
        return self.recording.take()

    @property
    def stage(self) -> Stage:
        """What is played at the present step."""
        return stage_at(self.config, self.step) if len(self._stages) > 1 else self._stages[0]

    # What other libraries' trainers do otherwise.

    def _play(self) -> None:
        """One step of all environments and the learning that is due with it."""
        before, updates = self.algorithm.rng.bit_generator.state, self.algorithm.updates
        with self.profile(ACT):
            actions = self.algorithm.act(self.segment.observation, self.step)
        try:
            with self.profile(ENV):
                self.result = self.segment.step(actions, self._meanwhile)
        except UserCodeError:  # what is saved then acts once more in this step
            self.algorithm.rng.bit_generator.state = before
            # Neither what was learned meanwhile nor the noise that was drawn can be taken back.
            self.midway = self.algorithm.updates > updates or self.config.network.noisy
            raise
        self.tracker.add(self.result)
        self.step += self.config.env.num_envs
        with self.profile(LEARN):
            self.algorithm.advance(actions, self.result, self.step)

    def _meanwhile(self) -> None:
        with self.profile(LEARN):
            self.algorithm.meanwhile()

    def _make_schedule(self, config: TrainConfig) -> Schedule:
        return schedule_of(config)

    def _make_segment(self) -> Segment:
        return Segment(self._make_envs)

    def _make_algorithm(self, setup: Setup) -> Algorithm:
        algorithm: Algorithm = algorithms.find(self.config.algorithm)(setup)
        return algorithm

    def _make_envs(self, segment: int) -> Environments:
        env, stage = replace(self.config.env, threads=playing_threads(self.config)), self.stage
        seed = seeding.derive(self.config.seed, "environments", segment)
        task = tasks.find(stage.game)
        return task.make(stage.environments(env), num_envs=env.num_envs, seed=seed, training=True)

    def _switched(self) -> None:
        """Another game or mode has begun: no mean is of two of them."""
        learner = self.algorithm.learner
        learner.shift()
        if learner.average is not None:
            learner.average.restart()
        self._watchers.shifted(self.algorithm.updates)
        self.tracker.forget()
        self._watchers.message(f"step {self.step:,}: from here on {self.stage.label}")

    def _keep_model(self) -> None:
        path = model_path(self._run.path, self.step)
        try:
            path.parent.mkdir(exist_ok=True)
            with atomic_path(path) as temporary:
                self.save_model(temporary)
        except (OSError, RuntimeError) as error:  # torch meets a full disk as a RuntimeError
            self._watchers.message(f"the model of step {self.step:,} is not kept: {reason(error)}")

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
        stage = trained_at(self.config, self.step)
        episodes = self.config.evaluation.final_episodes if final else self.config.evaluation.episodes
        audit = self.recording.audit()
        scores = self._scores(stage, number, episodes, audit)
        mean = float(scores.mean())
        others: dict[str, dict[str, float]] = {DIAGNOSTICS: self.recording.audited(audit, self.algorithm.updates)}
        if self._curvature.due(number, final=final):
            others[CURVATURE] = self._look_at_curvature(number)
        summary: dict[str, Any] = {"scores": scores.tolist(), "mean_score": mean}
        if len(self._stages) > 1:
            played = {stage.label: (stage, scores)}
            if final:  # what is left of the games before, too
                before = {one.label: one for one in self._stages if one.label != stage.label}
                played |= {label: (one, self._scores(one, number, episodes)) for label, one in before.items()}
                summary["games"] = {label: self._summary_of(*found) for label, found in played.items()}
            others |= {one.split: {SCORE: found.mean(), SCORE_STD: found.std()} for one, found in played.values()}
            self._forget_best_of_others(stage)
        return EvaluationResult(
            score=mean,
            words=f"mean of {episodes} evaluation games" + (f" of {stage.label}" if len(self._stages) > 1 else ""),
            values={SCORE_STD: float(scores.std()), "games": episodes},
            others=others,
            summary=summary,
        )

    def _look_at_curvature(self, number: int) -> dict[str, float]:
        rng = np.random.default_rng(seeding.derive(self.config.seed, "curvature samples", number))
        with training_loss(self.algorithm, self._curvature.samples, rng) as problem:
            if problem is None:
                return {}
            return self._curvature.look(self.step, problem, self.algorithm.learner.optimizer)

    def _scores(self, stage: Stage, number: int, episodes: int, audit: ValueAudit | None = None) -> NDArray[np.float64]:
        """Scores (episodes,) of what is learned so far in a stage's game."""
        learner = self.algorithm.learner
        with learner.evaluated():
            return evaluate(
                audit.act if audit else learner.act,
                stage.game,
                stage.environments(self.config.env),
                episodes=episodes,
                seed=seeding.derive(self.config.seed, "evaluation", number),
                epsilon=self.config.evaluation.epsilon,
                watch=audit.watch if audit else None,
                tell=self._watchers.evaluating,
            )

    def _summary_of(self, stage: Stage, scores: NDArray[np.float64]) -> dict[str, Any]:
        """Of a stage's game: its last scores, and the step at which an evaluation first met its target."""
        mean, target = float(scores.mean()), tasks.find(stage.game).target
        known = read_series(self._run.path, stage.split, SCORE)
        curve = [*zip(known["step"].tolist(), known["value"].tolist(), strict=True), (self.step, mean)]
        reached = None if target is None else next((step for step, value in curve if value >= target), None)
        return {"mean_score": mean, "scores": scores.tolist(), "target": target, "reached_at_step": reached}

    def _forget_best_of_others(self, stage: Stage) -> None:
        """The best model is the best of this game: scores of two games are not compared."""
        for member in self._watchers.members:
            if not isinstance(member, BestModel) or member.step is None:
                continue
            if trained_at(self.config, member.step).label != stage.label:
                member.forget()

    def measures(self) -> dict[str, Any]:
        config, settings = self.config, self.config.evaluation
        signed = signature(
            config.game, config.env, episodes=settings.episodes, seed=config.seed, epsilon=settings.epsilon
        )
        target, last_k = settings.target, settings.last_k
        if len(self._stages) == 1:
            target = self.task.target if target is None else target
        else:  # each game has its own; means are over evaluations of the last one
            signed["game_schedule"] = config.game_schedule
            last = trained_at(config, self.step)
            steps = read_series(self._run.path, EVALUATION, SCORE)["step"].tolist()
            last_k = min(last_k, sum(trained_at(config, step) == last for step in steps))
        return {
            "target": target,
            "last_k": last_k,
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
        with self.algorithm.learner.evaluated() as network:
            model = {"network": network.state_dict(), "num_actions": self.segment.envs.num_actions, "step": self.step}
        torch.save(model, path)

    def close(self) -> None:
        self.segment.close()
        if self.profile.steps and self.config.profile:
            for line in self.profile.lines():
                self._watchers.message(line)
            write_json(self._run.path / PROFILE, self.profile.summary())
