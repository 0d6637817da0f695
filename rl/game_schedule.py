"""Runs that play one game or mode after another: what is played from which step on.

    --game Pong --game-schedule "Breakout@200000, Pong:mode=1:difficulty=2@400000"

The network keeps one set of actions. Games have different minimal sets, so a schedule of several games is played with
all 18 actions of the console (`env.full_actions`); one of several modes of a game keeps the game's own, which ALE gives
for every mode alike.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evaluation.cli.errors import UserError
from rl import tasks
from rl.tasks import EnvConfig

if TYPE_CHECKING:
    from rl.config import TrainConfig

_STAGE = re.compile(r"(?P<game>[^:@]+)(?P<flavour>(?::(?:mode|difficulty)=\d+)*)@(?P<step>\d[\d_]*)")
FORM = "must be GAME[:mode=M][:difficulty=D]@STEP, several separated by commas, such as Breakout@200000"


@dataclass(frozen=True)
class Stage:
    """A part of a run: from `step` on, `game` is played in this mode and difficulty (None: the game's default)."""

    step: int
    game: str
    mode: int | None = None
    difficulty: int | None = None

    @property
    def label(self) -> str:
        """The game and what of its flavour is not the default, as in a schedule."""
        flavour = {"mode": self.mode, "difficulty": self.difficulty}
        return ":".join([self.game, *(f"{name}={value}" for name, value in flavour.items() if value is not None)])

    @property
    def split(self) -> str:
        """Of its evaluations among the metrics: letters, digits and spaces, which every tracking service takes."""
        return f"eval {self.label.replace(':', ' ').replace('=', ' ')}"

    def environments(self, env: EnvConfig) -> EnvConfig:
        """A configuration of environments with the stage's flavour."""
        return dataclasses.replace(env, mode=self.mode, difficulty=self.difficulty)


def stages(config: TrainConfig) -> tuple[Stage, ...]:
    """What a run plays, in order; the first stage begins at step 0.

    Raises:
        UserError: the schedule cannot be read, or names an unknown game.
    """
    first = Stage(0, tasks.find(config.game).name, config.env.mode, config.env.difficulty)
    found = [] if config.game_schedule is None else [_stage(text.strip()) for text in config.game_schedule.split(",")]
    return tuple(found) if found and found[0].step == 0 else (first, *found)


def stage_at(config: TrainConfig, step: int) -> Stage:
    """What a run plays after `step` environment steps."""
    return next(stage for stage in reversed(stages(config)) if stage.step <= step)


def trained_at(config: TrainConfig, step: int) -> Stage:
    """What the advance that ended at `step` was trained on: at the step of a switch it is what came before."""
    return stage_at(config, max(0, step - config.env.num_envs))


def played_at(config: TrainConfig, step: int | None) -> tuple[str, EnvConfig]:
    """The game and the environments of a run's agent of this step; None: of the run's end."""
    stage = trained_at(config, config.total_steps if step is None else step)
    return stage.game, stage.environments(config.env)


def faults(config: TrainConfig) -> Iterator[str]:
    """What is wrong with a schedule; sets `env.full_actions` for one of several games."""
    try:
        found = stages(config)
    except UserError as error:
        yield config.wrong("game_schedule", str(error))
        return
    if found[0].game != config.game:
        yield config.wrong("game_schedule", f"begins with another game than --game {config.game}")
    for before, stage in itertools.pairwise(found):
        if stage.step <= before.step:
            yield config.wrong("game_schedule", f"the steps must grow, {stage.label}@{stage.step} does not come later")
        if stage.step >= config.total_steps:
            end = f"--total-steps {config.total_steps}"
            yield config.wrong(
                "game_schedule", f"{stage.label}@{stage.step} must come before the end of the run, {end}"
            )
        if stage.label == before.label:
            yield config.wrong("game_schedule", f"{stage.label}@{stage.step} is what is played already")
    for stage in found:
        family = tasks.find(stage.game).family
        if family.name != "atari":
            yield config.wrong("game_schedule", f"{stage.game} is {family.title}: schedules are of Atari games")
            return
    if len({stage.game for stage in found}) > 1 and not config.env.full_actions:
        config.env.full_actions = True
        config.notes += ("several games, so all 18 actions of the console: --env.full-actions",)


def _stage(text: str) -> Stage:
    match = _STAGE.fullmatch(text)
    if match is None:
        raise UserError(FORM)
    flavour = dict(part.split("=") for part in match["flavour"].split(":") if part)
    numbers = {name: int(value) for name, value in flavour.items()}
    return Stage(int(match["step"].replace("_", "")), tasks.find(match["game"].strip()).name, **numbers)
