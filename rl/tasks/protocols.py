"""The protocols of Atari games: named sets of environment rules."""

from __future__ import annotations

from dataclasses import dataclass

from rl.tasks.task import Protocol

FRAME_SKIP = 4  # Atari frames per environment step, in all protocols


@dataclass(frozen=True, kw_only=True)
class AtariProtocol(Protocol):
    """The rules under which an Atari game is played.

    Attributes:
        noop_max: a game starts with 1 to `noop_max` no-op frames (0 to `noop_max - 1` and one FIRE with `fire_reset`).
            EnvPool crashes on 0, so 1, one frame that is always the same, stands for "no no-ops".
        episodic_life: as in `Protocol` (with `fire_reset` the environments of an evaluation end episodes at lost lives,
            too, so that FIRE is pressed after them).
        repeat_action_probability: probability per frame that the emulator repeats the previous action.
        full_action_space: all 18 actions instead of the game's minimal set.
        max_episode_steps: environment steps (`FRAME_SKIP` frames each) after which a game is cut.
        fire_reset: press FIRE once when a game or, with `episodic_life`, a life starts, in games that have FIRE.
    """

    noop_max: int = 30
    repeat_action_probability: float = 0.0
    full_action_space: bool = False
    max_episode_steps: int = 108_000 // FRAME_SKIP  # 30 minutes at 60 frames/s
    fire_reset: bool = False


# Mnih et al. (2015), Human-level control through deep reinforcement learning: 5 minutes, no FIRE.
NATURE = AtariProtocol(name="nature", eval_epsilon=0.05, episodic_life=True, max_episode_steps=18_000 // FRAME_SKIP)
# OpenAI Baselines' wrappers, as in Stable-Baselines3 and CleanRL, whose published scores are of this kind; their
# FireResetEnv starts a game that waits for FIRE.
CLASSIC = AtariProtocol(name="classic", eval_epsilon=0.01, episodic_life=True, fire_reset=True)
# Machado et al. (2018), Revisiting the Arcade Learning Environment, with Dopamine's minimal actions and epsilon.
STICKY = AtariProtocol(name="sticky", eval_epsilon=0.001, noop_max=1, repeat_action_probability=0.25)
PROTOCOLS = {protocol.name: protocol for protocol in (NATURE, CLASSIC, STICKY)}
